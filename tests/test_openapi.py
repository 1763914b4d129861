"""The OpenAPI document: valid, complete, and its curl calls work as shown."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.service import served
from openapi_spec_validator import OpenAPIV31SpecValidator

from serve.core.settings import Settings
from serve.http.app import create_app
from serve.jobs.build import build
from serve.release.repository import current_name, open_current

OPERATIONS = {
    "searchItems": ("POST", "/v1/search", "Search"),
    "similarItems": ("POST", "/v1/similar", "Search"),
    "getSimilarItems": ("GET", "/v1/items/{item_id}/similar", "Search"),
    "getRelatedItems": ("GET", "/v1/items/{item_id}/related", "Search"),
    "autocompleteQuery": ("GET", "/v1/suggest", "Search"),
    "recommendItems": ("POST", "/v1/recommend", "Recommend"),
    "rankItems": ("POST", "/v1/rank", "Recommend"),
    "listCandidates": ("POST", "/v1/candidates", "Recommend"),
    "getItem": ("GET", "/v1/items/{item_id}", "Items"),
    "getItemImage": ("GET", "/v1/items/{item_id}/image", "Items"),
    "putItems": ("PUT", "/v1/items", "Items"),
    "patchItems": ("PATCH", "/v1/items", "Items"),
    "deleteItems": ("DELETE", "/v1/items", "Items"),
    "deleteItem": ("DELETE", "/v1/items/{item_id}", "Items"),
    "recordEvents": ("POST", "/v1/events", "Events"),
    "listActiveUsers": ("GET", "/v1/users", "Users"),
    "getUser": ("GET", "/v1/users/{user_id}", "Users"),
    "setPreferences": ("PUT", "/v1/users/{user_id}/preferences", "Users"),
    "eraseUser": ("DELETE", "/v1/users/{user_id}", "Users"),
    "listReleases": ("GET", "/v1/releases", "Releases"),
    "getRelease": ("GET", "/v1/releases/{release}", "Releases"),
    "activateRelease": ("POST", "/v1/releases/{release}/activate", "Releases"),
    "compareReleases": ("POST", "/v1/compare", "Releases"),
    "findAudience": ("POST", "/v1/audience", "Campaigns"),
    "writeItemCopy": ("POST", "/v1/items/{item_id}/copy", "Campaigns"),
    "getHealth": ("GET", "/healthz", "Operations"),
    "getReadiness": ("GET", "/readyz", "Operations"),
    "getMetrics": ("GET", "/metrics", "Operations"),
    "getCaller": ("GET", "/v1/me", "Operations"),
    "getCatalogueReport": ("GET", "/v1/catalogue", "Operations"),
    "getActivity": ("GET", "/v1/activity", "Operations"),
    "listHiddenItems": ("GET", "/v1/review", "Operations"),
}
"""Method, path and tag by operation id. Clients are generated from these names: do not change them."""

OLD_FIELDS = {"sources", "chances", "chance", "shoppers", "had", "answers", "answers_dropped", "personal"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(store=tmp_path_factory.mktemp("store"))).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_it_is_valid(document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_operations_have_stable_names_and_tags(document: dict[str, Any]) -> None:
    found = {
        operation["operationId"]: (method, path, *operation["tags"]) for method, path, operation in operations(document)
    }
    assert found == OPERATIONS
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert set(tags) == {tag for _, _, tag in OPERATIONS.values()}
    assert all(tags.values())
    assert document["servers"] == [{"url": "/", "description": "this service"}]


def test_everything_is_described(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert 1 < len(operation["summary"].split()) <= 6, (method, path)
        assert operation["description"].partition("\n")[0].endswith("."), (method, path)
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (method, path, parameter["name"])
            assert parameter["schema"]["title"], (method, path, parameter["name"])
        named = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    for name, schema in document["components"]["schemas"].items():
        assert schema["title"], name
        assert schema["description"], name
        for field, of in schema.get("properties", {}).items():
            assert of["description"], (name, field)
            assert name == "Preferences" or field not in OLD_FIELDS, (name, field)


def test_an_operation_lists_the_errors_it_can_return(document: dict[str, Any]) -> None:
    errors = {
        operation["operationId"]: {int(status) for status in operation["responses"]} - {200}
        for _, _, operation in operations(document)
    }
    keyed = {401, 403, 429}
    assert errors["getHealth"] == set()
    assert errors["getReadiness"] == {503}
    assert errors["listReleases"] == keyed | {503}
    assert errors["getItem"] == keyed | {404, 503}
    assert errors["autocompleteQuery"] == keyed | {422, 503}
    assert errors["searchItems"] == keyed | {400, 404, 408, 413, 415, 422, 503}
    assert errors["recordEvents"] == keyed | {400, 408, 413, 415, 422, 503}
    for _, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if status != "200":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorEnvelope"}, (path, status)


@pytest.fixture(scope="module")
def all_ids(built: Settings) -> list[str]:
    return [item.as_py() for item in open_current(built.store).catalogue.ids()]


def test_the_curl_call_of_every_operation_works_as_it_is_shown(copied: Settings, all_ids: list[str]) -> None:
    (copied.store / "relations.csv").write_text(f"item_id,relation,related_id\n{all_ids[0]},accessory,{all_ids[1]}\n")
    assert build(copied, force=True).published
    with served(copied) as service:
        base, release = str(service.client.base_url), current_name(copied.store) or ""
        shown = list(operations(service.client.get("/openapi.json").json()))
        for method, path, operation in sorted(shown, key=lambda each: each[0] == "DELETE"):  # deletions come last
            assert run_curl(operation, base, all_ids, release), f"{method} {path}"


def run_curl(operation: dict[str, Any], base: str, all_ids: list[str], release: str) -> bytes:
    """Run an operation's call in a shell, with items of the small shop in place of those of the large one."""
    call = operation["x-codeSamples"][0]["source"]
    assert call in operation["description"]
    spare = iter(item for item in all_ids if item not in call)
    for item_id in sorted(set(re.findall(r"\b[A-Z]{3}-\d{4}\b", call))):
        if item_id not in all_ids:
            call = call.replace(item_id, next(spare))
    call = call.replace("http://127.0.0.1:8000", base.rstrip("/")).replace("RELEASE", release)
    call = call.replace("curl", "curl -sS --fail-with-body", 1)
    ran = subprocess.run(["bash", "-c", call], capture_output=True, check=False)
    assert ran.returncode == 0, (call, ran.stdout, ran.stderr)
    return ran.stdout


def test_a_prefix_is_in_the_document(tmp_path: Path) -> None:
    document = create_app(Settings(store=tmp_path, root_path="/vetrina")).openapi()
    assert document["servers"][0]["url"] == "/vetrina"
    for _, path, operation in operations(document):
        assert "http://127.0.0.1:8000/vetrina/" in operation["x-codeSamples"][0]["source"], path
