"""Which scope each call needs. What is not named needs `query`, so that nothing new is open by oversight."""

from serve.security.api_keys import Scope

ANY = "any"  # any valid key
OPEN = {"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/favicon.ico"}
_OPEN_FOLDERS = ("/console/", "/docs/")
_CHANGES = {"PUT", "PATCH", "POST", "DELETE"}
_ADMIN = ("releases", "users", "audience", "compare", "catalogue", "activity", "review")


def scope_of(method: str, path: str) -> Scope | str | None:
    """The scope that a call needs; None for what is open to everybody, ANY for what any key opens.

    `path` is as it was sent, that is, percent-encoded, as it is routed.
    """
    if path in OPEN or path.startswith(_OPEN_FOLDERS):
        return None
    if path in ("/metrics", "/v1/me"):
        return ANY
    parts = path.split("/")[1:]  # "/v1/items/a" -> v1, items, a
    if parts[0] != "v1":
        return "admin"
    name = parts[1] if len(parts) > 1 else ""
    if name == "events" or (name == "users" and method == "PUT" and parts[-1] == "preferences"):
        return "events"
    if name == "items" and (method in _CHANGES) and parts[-1] != "copy":
        return "catalogue"
    return "admin" if name in _ADMIN else "query"
