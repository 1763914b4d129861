"""The OpenAPI document, with what FastAPI does not see: the search request, who may call what, a curl call for each.

The curl calls are made of the operations' own examples, so that what the page shows is what the tests run.
"""

import json
import shlex
from typing import Any
from urllib.parse import quote

from serve.http.permissions import ANY, scope_of
from serve.http.request_parsing import SEARCH_SCHEMAS

BASE = "http://127.0.0.1:8000"
EXAMPLES = {"item_id": "SNK-0007", "user_id": "u00001", "release": "RELEASE", "q": "hoo"}
KEY = "vetrinaKey"


def described(document: dict[str, Any]) -> dict[str, Any]:
    """The document of an app of ours, completed."""
    parts = document["components"]
    parts["schemas"].update(SEARCH_SCHEMAS)
    parts["securitySchemes"] = {
        KEY: {"type": "http", "scheme": "bearer", "description": "a key of `vetrina keys create`; none on loopback"}
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = scope_of(method.upper(), path)
            if scope is None:
                needs = "Open to everybody."
            else:
                operation["security"] = [{}, {KEY: []}]  # {}: where there are no keys, none is needed
                needs = "Needs any key." if scope == ANY else f"Needs a key with scope `{scope}`."
            call = curl(method.upper(), path, operation, parts["schemas"], scope is not None)
            operation["description"] = f"{operation.get('description', '')}\n\n{needs}\n\n```bash\n{call}\n```"
            operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": call}]
    return document


def curl(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any], with_key: bool) -> str:
    """A call of an operation that can be pasted into a shell."""
    query = []
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(EXAMPLES[name], safe=""))
        elif parameter.get("required"):
            query.append(f"{name}={quote(EXAMPLES[name])}")
    address = f"{BASE}{path}{'?' + '&'.join(query) if query else ''}"
    words = ["curl", *(["-X", method] if method not in ("GET", "POST") else []), shlex.quote(address)]
    lines = [" ".join(words)]
    if with_key:
        lines.append('-H "authorization: Bearer $VETRINA_KEY"')
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        (example, *_) = schemas[schema]["examples"]
        lines += ["-H 'content-type: application/json'", f"-d {shlex.quote(json.dumps(example))}"]
    elif method == "POST":
        lines[0] = lines[0].replace("curl", "curl -X POST", 1)
    return " \\\n  ".join(lines)
