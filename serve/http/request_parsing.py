"""Parsing of requests, and what all routes share: dependencies, path parameters, the response envelope."""

import re
import time
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import orjson
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from starlette.datastructures import UploadFile

from serve.core.errors import BadRequest
from serve.core.request_context import current
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.http.deprecated import add_deprecated_fields
from serve.live.runtime import ServiceRuntime
from serve.schemas.search import SearchRequest

Parameters = TypeVar("Parameters", bound=BaseModel)


def _model_schemas(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schemas of a model and of the models it refers to, by name, for an OpenAPI document."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), model.__name__: schema}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return a model's fields as query parameters of an OpenAPI document."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "description": field["description"]}
        | {"schema": {key: value for key, value in field.items() if key != "description"}}
        for name, field in schema["properties"].items()
    ]


SEARCH_SCHEMAS = _model_schemas(SearchRequest)
FORM_SCHEMA = {
    "type": "object",
    "title": "SearchForm",
    "description": "The fields of the JSON request. Repeat a field to send a list. `weights`, `filter` and `history` "
    "are JSON. `image` is a file.",
    "properties": SEARCH_SCHEMAS["SearchRequest"]["properties"]
    | {"image": {"type": "string", "format": "binary", "title": "Image", "description": "photo file"}},
}
ITEM_ID_PARAMETER = {
    "name": "item_id",
    "in": "path",
    "required": True,
    "description": "id of the item, percent-encoded",
    "schema": {"type": "string", "title": "Item Id"},
}
# All operations take this header. The document names it for the one with two content types, because there
# openapi-python-client (0.29) forgets to import its type of optional values unless a parameter is optional.
TRACEPARENT_PARAMETER = {
    "name": "traceparent",
    "in": "header",
    "required": False,
    "description": "trace that the request belongs to, as in W3C Trace Context; for services with OpenTelemetry",
    "schema": {"type": "string", "title": "Traceparent"},
}
_INTEGER = re.compile("-?[0-9]{1,9}")
_LIST_FIELDS = {"like", "unlike", "exclude", "spaces", "fields", "facets"}
_JSON_FIELDS = {"weights", "filter", "history"}


async def get_live(request: Request) -> ServiceRuntime:  # async: FastAPI runs plain functions in a thread
    """Return the runtime of the app."""
    live: ServiceRuntime = request.app.state.live
    return live


LiveRelease = Annotated[ServiceRuntime, Depends(get_live)]
# Routes match the path as it was sent, see `serve.http.middleware.request_path`, so ids are decoded here.
UserIdInPath = Annotated[str, Field(description="id of the user, percent-encoded"), AfterValidator(unquote)]
ReleaseInPath = Annotated[str, Field(description="name of the release")]
ItemIdInPath = Annotated[str, Field(description="id of the item, percent-encoded"), AfterValidator(unquote)]


async def read_search(request: Request) -> SearchRequest:
    """Parse a search request: JSON, or a multipart form with the photo as a file and lists as repeated fields."""
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await _read_form(request)
        return SearchRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise _invalid_request("body", error) from error


def read_query(request: Request, model: type[Parameters]) -> Parameters:
    """Parse the query string into a model; unknown parameters are rejected like any invalid value."""
    query = request.query_params
    values = {name: query.getlist(name) if name in _LIST_FIELDS else query[name] for name in query}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid_request("query", error) from error


def _invalid_request(part: str, error: ValidationError) -> RequestValidationError:
    return RequestValidationError([{**each, "loc": (part, *each["loc"])} for each in error.errors(include_url=False)])


async def _read_form(request: Request) -> SearchRequest:
    async with request.form(max_files=8, max_fields=1000) as form:
        values: dict[str, Any] = {}
        photo: bytes | None = None
        for name in form:
            parts = form.getlist(name)
            if len(parts) > 1 and name not in _LIST_FIELDS:
                raise BadRequest(f"{name} is sent {len(parts)} times: send it once", name)
            if name == "image":
                if not isinstance(parts[0], UploadFile):
                    raise BadRequest("image is not a file: in a form send -F image=@photo.jpg", "image")
                photo = await parts[0].read()
            elif name in _LIST_FIELDS:
                values[name] = parts
            elif name in _JSON_FIELDS:
                values[name] = _parse_json(str(parts[0]), name)
            else:
                values[name] = int(str(parts[0])) if name == "k" and _INTEGER.fullmatch(str(parts[0])) else parts[0]
        return SearchRequest.model_validate(values).model_copy(update={"image": photo})


def _parse_json(text: str, name: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{name} is not valid JSON: {error}", name) from error


def respond(engine: Engine, content: dict[str, Any], started: float) -> Response:
    """Build a JSON response: the fields of every response (`ResponseBase`), then `content`.

    Args:
        engine: the engine that produced the content.
        content: the other fields of the response.
        started: when processing started, by `time.perf_counter`.
    """
    took, context = round((time.perf_counter() - started) * 1000, 3), current()
    head = {"request_id": context.id, "release": engine.snapshot.release.name, "took_ms": took}
    partial = {"partial": context.partial} if context.partial else {}
    return Response(orjson.dumps(head | partial | add_deprecated_fields(content)), media_type="application/json")


def caller_name(request: Request) -> str:
    """Return the name of the caller for the audit log."""
    key = request.state.caller.key
    return f"key {key.name}" if key else "this machine, without a key"


def get_settings(request: Request) -> Settings:
    """Return the settings of the app."""
    settings: Settings = request.app.state.settings
    return settings
