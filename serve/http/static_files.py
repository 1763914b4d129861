"""The pages: the console at /, and the OpenAPI document at /docs. All their files are ours or of Python packages."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

HERE = Path(__file__).parent
SWAGGER = Path(fastapi_offline.__file__).parent / "static"
REVALIDATE = {"cache-control": "no-cache"}

router = APIRouter(include_in_schema=False)


class Files(StaticFiles):
    """Files that browsers keep and ask about each time, so that an update of the service is one of its pages too."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers.update(REVALIDATE)
        return response


CONSOLE = Files(directory=HERE / "console")


@router.get("/")
async def console() -> Response:
    return FileResponse(HERE / "console" / "index.html", headers=REVALIDATE)


@router.get("/docs")
async def docs() -> Response:
    return FileResponse(HERE / "docs" / "index.html", headers=REVALIDATE)


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    """Of our own start script and the two files of Swagger UI that it needs; there is no other."""
    files = {
        "start.js": HERE / "docs" / "start.js",
        "swagger-ui.css": SWAGGER / "swagger-ui.css",
        "swagger-ui-bundle.js": SWAGGER / "swagger-ui-bundle.js",
    }
    return FileResponse(files[name], headers=REVALIDATE) if name in files else Response(status_code=404)
