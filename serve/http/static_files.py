"""Static files: the console at /, and Swagger UI for the OpenAPI document at /docs. Nothing comes from other hosts."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

HERE = Path(__file__).parent
SWAGGER = Path(fastapi_offline.__file__).parent / "static"
REVALIDATE = {"cache-control": "no-cache"}

router = APIRouter(include_in_schema=False)


class Files(StaticFiles):
    """Files that browsers cache and revalidate on each use, so that they update with the service."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers.update(REVALIDATE)
        return response


CONSOLE = Files(directory=HERE / "console")


@router.get("/")
async def get_console(request: Request) -> Response:
    """Return the console; its URLs are relative, so below a path prefix the address must end with a slash."""
    sent = request.scope["raw_path"].decode("latin-1")
    if not sent.endswith("/"):
        return RedirectResponse(f"{sent}/")
    return FileResponse(HERE / "console" / "index.html", headers=REVALIDATE)


@router.get("/docs")
async def get_docs() -> Response:
    """Return the page of Swagger UI."""
    return FileResponse(HERE / "docs" / "index.html", headers=REVALIDATE)


@router.get("/docs/{name}")
async def get_docs_file(name: str) -> Response:
    """Return the start script or one of the two files of Swagger UI that the page needs; 404 for any other."""
    files = {
        "start.js": HERE / "docs" / "start.js",
        "swagger-ui.css": SWAGGER / "swagger-ui.css",
        "swagger-ui-bundle.js": SWAGGER / "swagger-ui-bundle.js",
    }
    return FileResponse(files[name], headers=REVALIDATE) if name in files else Response(status_code=404)
