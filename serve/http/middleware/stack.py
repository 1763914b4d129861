"""The middleware that every request passes, composed in one place."""

from pathlib import Path

from starlette.types import ASGIApp

from serve.core.settings import Settings
from serve.http.middleware.access_log import AccessLog
from serve.http.middleware.authentication import Authentication
from serve.http.middleware.body_limits import BodyLimits
from serve.http.middleware.concurrency_limiter import ConcurrencyLimiter
from serve.http.middleware.gzip_bodies import GzipBodies
from serve.http.middleware.load_shedding import LoadShedding
from serve.http.middleware.rate_limits import RateLimits
from serve.http.middleware.security_headers import SecurityHeaders
from serve.http.tracing import RequestTracing
from serve.security.api_keys import ApiKeys
from serve.security.rate_limiter import RateLimiter


def add_middleware(
    app: ASGIApp, settings: Settings, keys: ApiKeys, limiter: ConcurrencyLimiter, rates: Path | None
) -> ASGIApp:
    """Wrap an app in the middleware of the service; a request passes it from the last line to the first.

    A refusal costs little, because a request is refused before its body is read, and by the cheapest checks first. It
    still gets a request id and the security headers, and is counted and logged.

    Args:
        app: the routes.
        settings: limits, timeouts and origins.
        keys: the API keys of the store.
        limiter: decides how many requests are processed at once.
        rates: file in which several processes count requests by key; None for one process.
    """
    app = GzipBodies(app, settings.max_request_bytes)
    app = BodyLimits(app, settings.max_request_bytes, settings.timeouts.body)
    app = RequestTracing(app)
    app = LoadShedding(app, limiter)
    app = RateLimits(app, RateLimiter(rates), settings.rate_limit)
    app = Authentication(app, keys, settings.host, settings.cors_origins)
    app = SecurityHeaders(app)
    return AccessLog(app, settings.timeouts.response, settings.access_log)
