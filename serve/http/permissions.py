"""The scope that each operation requires: one table of methods and paths.

A call that is not in the table requires `admin`, so an operation without an entry is never open by oversight.
"""

import re

from starlette._utils import get_route_path
from starlette.types import Scope as AsgiScope

from serve.security.api_keys import Scope

ANY_KEY = "any"
OPEN_PATHS = {"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/favicon.ico"}
_OPEN_FOLDERS = ("/console/", "/docs/")
PERMISSIONS: dict[tuple[str, str], Scope | str] = {
    ("GET", "/metrics"): ANY_KEY,
    ("GET", "/v1/me"): ANY_KEY,
    ("POST", "/v1/search"): "query",
    ("GET", "/v1/suggest"): "query",
    ("GET", "/v1/items/{item_id}"): "query",
    ("GET", "/v1/items/{item_id}/image"): "query",
    ("GET", "/v1/items/{item_id}/similar"): "query",
    ("GET", "/v1/items/{item_id}/related"): "query",
    ("POST", "/v1/items/{item_id}/copy"): "query",
    ("POST", "/v1/similar"): "query",
    ("POST", "/v1/recommend"): "query",
    ("POST", "/v1/rank"): "query",
    ("POST", "/v1/candidates"): "query",
    ("POST", "/v1/events"): "events",
    ("PUT", "/v1/users/{user_id}/preferences"): "events",
    ("PUT", "/v1/items"): "catalogue",
    ("PATCH", "/v1/items"): "catalogue",
    ("DELETE", "/v1/items"): "catalogue",
    ("DELETE", "/v1/items/{item_id}"): "catalogue",
    ("GET", "/v1/users"): "admin",
    ("GET", "/v1/users/{user_id}"): "admin",
    ("DELETE", "/v1/users/{user_id}"): "admin",
    ("POST", "/v1/audience"): "admin",
    ("GET", "/v1/releases"): "admin",
    ("GET", "/v1/releases/{release}"): "admin",
    ("POST", "/v1/releases/{release}/activate"): "admin",
    ("POST", "/v1/compare"): "admin",
    ("GET", "/v1/catalogue"): "admin",
    ("GET", "/v1/activity"): "admin",
    ("GET", "/v1/review"): "admin",
}


def required_scope(method: str, path: str) -> Scope | str | None:
    """Return the scope that a call requires: None for open paths, ANY_KEY where every key is sufficient.

    `path` is as sent, that is, percent-encoded, because requests are routed by it.
    """
    if method == "HEAD":
        method = "GET"
    scope = PERMISSIONS.get((method, path))
    if scope is not None:
        return scope
    if path in OPEN_PATHS or path.startswith(_OPEN_FOLDERS):
        return None
    patterns = _PATTERNS.get(method)
    match = patterns[0].fullmatch(path) if patterns else None
    if match is None or match.lastindex is None:
        return "admin"
    return patterns[1][match.lastindex - 1]  # type: ignore[index]  # patterns is set where a match is


def request_path(scope: AsgiScope) -> str:
    """Return the path by which a request is routed, without the prefix of a proxy (`root_path`)."""
    return get_route_path(scope)


def _compile_patterns() -> dict[str, tuple[re.Pattern[str], list[Scope | str]]]:
    """For each method one expression with a group a pattern, and the scopes in the order of the groups."""
    patterns: dict[str, list[tuple[str, Scope | str]]] = {}
    for (method, path), scope in PERMISSIONS.items():
        if "{" in path:  # others are found in the table itself; as in routes, a parameter is one segment of the path
            patterns.setdefault(method, []).append((re.sub(r"\{\w+\}", "[^/]+", path), scope))
    return {
        method: (re.compile("|".join(f"({path})" for path, _ in found)), [scope for _, scope in found])
        for method, found in patterns.items()
    }


_PATTERNS = _compile_patterns()
