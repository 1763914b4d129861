"""How requests are read, and answers written: what all operations share."""

import re
import time
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import orjson
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ValidationError
from starlette.datastructures import UploadFile

from serve.core.errors import BadRequest
from serve.core.request_context import current
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.live.runtime import ServiceRuntime
from serve.schemas.search import SearchRequest

Parameters = TypeVar("Parameters", bound=BaseModel)


def _schemas_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schemas of a model and of those it refers to, by name, as the OpenAPI document keeps them."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), model.__name__: schema}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A model's fields as the OpenAPI document lists query parameters."""
    described = model.model_json_schema()
    required = described.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "description": of["description"], "schema": of}
        for name, of in described["properties"].items()
    ]


SEARCH_SCHEMAS = _schemas_of(SearchRequest)
FORM_SCHEMA = {
    "type": "object",
    "description": "the fields of the JSON request; lists are repeated fields, weights are JSON, the image is a file",
    "properties": SEARCH_SCHEMAS["SearchRequest"]["properties"] | {"image": {"type": "string", "format": "binary"}},
}
ITEM_ID_PARAMETER = {"name": "item_id", "in": "path", "required": True, "schema": {"type": "string"}}
_INTEGER = re.compile("-?[0-9]{1,9}")
_LIST_FIELDS = {"like", "unlike", "exclude", "spaces", "fields", "facets"}


async def live_of(request: Request) -> ServiceRuntime:  # async, as FastAPI sends plain functions through a thread
    live: ServiceRuntime = request.app.state.live
    return live


LiveRelease = Annotated[ServiceRuntime, Depends(live_of)]
UserIdInPath = Annotated[str, AfterValidator(unquote)]
ItemIdInPath = Annotated[str, AfterValidator(unquote)]  # the app routes on the path as sent


async def read_search(request: Request) -> SearchRequest:
    """The request from JSON, or from a multipart form whose `image` is a file and whose lists are repeated fields."""
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await _from_form(request)
        return SearchRequest.model_validate_json(await request.body())
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


def read_query(request: Request, model: type[Parameters]) -> Parameters:
    """The query string as a model; a parameter it does not have is refused like any other mistake."""
    given = request.query_params
    values = {name: given.getlist(name) if name in _LIST_FIELDS else given[name] for name in given}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [{**each, "loc": ("query", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


async def _from_form(request: Request) -> SearchRequest:
    async with request.form(max_files=8, max_fields=1000) as form:
        values: dict[str, Any] = {}
        photo: bytes | None = None
        for name in form:
            parts = form.getlist(name)
            if len(parts) > 1 and name not in _LIST_FIELDS:
                raise BadRequest(f"{name} comes {len(parts)} times: give it once", name)
            if name == "image":
                if not isinstance(parts[0], UploadFile):
                    raise BadRequest("in a form the image is a file: -F image=@photo.jpg", "image")
                photo = await parts[0].read()
            elif name in _LIST_FIELDS:
                values[name] = parts
            elif name in ("weights", "filter", "history"):
                values[name] = _json(str(parts[0]), name)
            else:
                values[name] = int(str(parts[0])) if name == "k" and _INTEGER.fullmatch(str(parts[0])) else parts[0]
        found = SearchRequest.model_validate(values)
        return found.model_copy(update={"image": photo})


def _json(text: str, name: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{name} is not JSON: {error}", name) from error


def respond(engine: Engine, body: dict[str, Any], started: float) -> Response:
    """An answer with what every answer has; `partial` names what it goes without, if anything."""
    took, answering = round((time.perf_counter() - started) * 1000, 3), current()
    head = {"request_id": answering.id, "release": engine.view.release.name, "took_ms": took}
    partial = {"partial": answering.partial} if answering.partial else {}
    return Response(orjson.dumps(head | partial | body), media_type="application/json")


def by_whom(request: Request) -> str:
    """Who calls, for the audit log."""
    key = request.state.caller.key
    return f"key {key.name}" if key else "this machine, without a key"


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings
