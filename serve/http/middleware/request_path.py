"""The path that requests are routed by: as it was sent, without the prefix of a proxy."""

from starlette.types import ASGIApp, Receive, Scope, Send


class RequestPath:
    """Sets the path of a request to the percent-encoded one, so that an encoded slash in an id does not split it.

    Removes `root_path`, the prefix at which a proxy publishes the service, if the proxy has not done so. All other
    layers, routing and permissions alike, see the same path.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if b"%" in (scope.get("raw_path") or b""):
                path = scope["raw_path"].decode("latin-1")
            if self._root_path and (path == self._root_path or path.startswith(f"{self._root_path}/")):
                path = path[len(self._root_path) :] or "/"
            if path != scope["path"]:
                scope = {**scope, "path": path}
        await self._app(scope, receive, send)
