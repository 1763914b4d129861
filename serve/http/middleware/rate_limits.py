"""Rate limits of API keys, with their response headers (draft-ietf-httpapi-ratelimit-headers-10)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.core.errors import ErrorResponse
from serve.http.middleware.refusals import Header, refuse
from serve.security.rate_limiter import BURST_SECONDS, Allowance, RateLimiter, max_burst


class RateLimits:
    """Refuses requests of keys that exceed their rate. Requests without a key have no limit.

    Args:
        app: the next layer.
        limiter: counts the requests of each key.
        default_rate: requests a second of a key without a rate of its own.
    """

    def __init__(self, app: ASGIApp, limiter: RateLimiter, default_rate: float) -> None:
        self._app, self._limiter, self._default_rate = app, limiter, default_rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (key := scope["state"]["caller"].key) is None:
            await self._app(scope, receive, send)
            return
        rate = key.rate or self._default_rate
        allowance = self._limiter.take(key.number, rate)

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", []).extend(_headers(allowance, rate))
            await send(message)

        if allowance.ok:
            await self._app(scope, receive, send_with_rate)
        else:
            message = f"key {key.name!r} is limited to {rate:g} requests a second: wait as Retry-After states"
            await refuse(send_with_rate, ErrorResponse(429, "too_many_requests", message, "authorization"))


def _headers(allowance: Allowance, rate: float) -> list[Header]:
    wait = -(-allowance.wait // 1)
    headers = [
        (b"ratelimit-policy", f'"key";q={max_burst(rate)};w={BURST_SECONDS:g}'.encode()),
        (b"ratelimit", f'"key";r={allowance.remaining};t={wait:.0f}'.encode()),
    ]
    return headers if allowance.ok else [*headers, (b"retry-after", f"{max(1, wait):.0f}".encode())]
