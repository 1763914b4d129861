"""The OpenAPI document: what FastAPI generates, completed.

Added are the schemas of the search request, tags, required scopes, the errors each operation can return, and a curl
call for each operation. The curl calls are built from the operations' own examples, so the tests run what the page
shows.
"""

import json
import shlex
from typing import Any
from urllib.parse import quote

from serve.http.permissions import ANY_KEY, required_scope
from serve.http.request_parsing import SEARCH_SCHEMAS
from serve.schemas.common import ErrorEnvelope

BASE_URL = "http://127.0.0.1:8000"
EXAMPLES = {"item_id": "SNK-0007", "user_id": "u00001", "release": "RELEASE", "q": "hoo"}
KEY = "vetrinaKey"
DESCRIPTION = """Multimodal search and recommendations for shops.

In paths, ids are percent-encoded (`/v1/items/a%2Fb/similar`); in bodies they are sent as they are. The body of every
error is `{"error": {"code", "message", "field"}}`. A status of 4xx means that the request must be changed, 5xx that
the service failed.
"""
TAGS = [
    {"name": "Search", "description": "Search by text, photo, example items or relations, and autocompletion."},
    {"name": "Recommend", "description": "Recommendations for users, candidates and ranking for other services."},
    {"name": "Items", "description": "Items of the catalogue and their live changes."},
    {"name": "Events", "description": "User events, from which the service learns."},
    {"name": "Users", "description": "Stored data and preferences of users, and their erasure."},
    {"name": "Releases", "description": "Releases of the index: list, activate, compare."},
    {"name": "Campaigns", "description": "Audiences and texts for campaigns."},
    {"name": "Operations", "description": "Health, metrics, permissions, reports for operators."},
]
_ERRORS = {
    400: "Malformed body: invalid JSON, form or gzip data.",
    401: "Missing or unknown API key.",
    403: "The API key lacks the required scope, or the request must not be sent without a key.",
    404: "Unknown item or release.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "Unsupported content encoding.",
    422: "Invalid value: `field` names it.",
    429: "Rate limit of the API key exceeded: retry after `Retry-After` seconds.",
    503: "Server overloaded, or no active release: retry after `Retry-After` seconds.",
}
_ALWAYS_AVAILABLE = {"/healthz", "/metrics", "/v1/me"}


def _error_response(status: int) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{ErrorEnvelope.__name__}"}
    return {"description": _ERRORS[status], "content": {"application/json": {"schema": reference}}}


NOT_FOUND: dict[int | str, dict[str, Any]] = {404: _error_response(404)}
"""The additional response of an operation that names an item or a release."""


def complete_document(document: dict[str, Any], root_path: str) -> dict[str, Any]:
    """Complete the document that FastAPI generates, in place.

    Args:
        document: FastAPI's document.
        root_path: prefix of all paths at the proxy, empty for none.
    """
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors, which the service replaces
        schemas.pop(name, None)
    schemas.update(SEARCH_SCHEMAS)
    error = ErrorEnvelope.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update({**error.pop("$defs"), ErrorEnvelope.__name__: error})
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["components"]["securitySchemes"] = {
        KEY: {
            "type": "http",
            "scheme": "bearer",
            "description": 'API key of `vetrina keys create`. A store with `auth = "none"` needs none on its machine.',
        }
    }
    document["servers"] = [{"url": root_path or "/", "description": "this service"}]
    document["tags"] = TAGS
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method.upper(), path, operation, schemas, root_path)
    return document


def _complete_operation(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any], root_path: str
) -> None:
    scope = required_scope(method, path)
    if scope is None:
        needs = "Needs no API key."
    else:
        operation["security"] = [{}, {KEY: []}]  # {}: no key, in a store that needs none
        needs = "Needs any API key." if scope == ANY_KEY else f"Needs an API key with scope `{scope}`."
    statuses: set[int] = set()
    if scope is not None:
        statuses |= {401, 403, 429, 503}
    if path not in _ALWAYS_AVAILABLE:
        statuses |= {503}
    if "requestBody" in operation:
        statuses |= {400, 408, 413, 415, 422}
    if any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
        statuses |= {422}
    responses = {status: body for status, body in operation["responses"].items() if status != "422"}
    operation["responses"] = dict(
        sorted((responses | {str(status): _error_response(status) for status in statuses}).items())
    )
    operation["responses"]["200"]["description"] = operation["responses"]["200"]["description"].replace(
        "Successful Response", "Success."
    )
    call = curl_call(method, path, operation, schemas, scope is not None, root_path)
    operation["description"] = f"{operation['description']}\n\n{needs}\n\n```bash\n{call}\n```"
    operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": call}]


def curl_call(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any], with_key: bool, root_path: str = ""
) -> str:
    """Return a call of an operation that can be pasted into a shell.

    Args:
        method: HTTP method.
        path: path with parameters in braces.
        operation: the operation's part of the document.
        schemas: the document's schemas, whose examples are sent.
        with_key: whether to send the key in `$VETRINA_KEY`.
        root_path: prefix of the path at the proxy.
    """
    query = []
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(EXAMPLES[name], safe=""))
        elif parameter.get("required"):
            query.append(f"{name}={quote(EXAMPLES[name])}")
    url = f"{BASE_URL}{root_path}{path}{'?' + '&'.join(query) if query else ''}"
    command = ["curl", *(["-X", method] if method not in ("GET", "POST") else []), shlex.quote(url)]
    lines = [" ".join(command)]
    if with_key:
        lines.append('-H "authorization: Bearer $VETRINA_KEY"')
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        (example, *_) = schemas[schema]["examples"]
        lines += ["-H 'content-type: application/json'", f"-d {shlex.quote(json.dumps(example))}"]
    elif method == "POST":
        lines[0] = lines[0].replace("curl", "curl -X POST", 1)
    return " \\\n  ".join(lines)
