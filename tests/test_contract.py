"""The OpenAPI document promises what the service does: some requests of each operation, made by schemathesis."""

import pytest
from helpers.openapi_cases import ask
from helpers.service import served

from serve.core.settings import Settings
from serve.release.repository import open_current
from serve.security.api_keys import create_key

CASES = 250


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_answers_are_what_the_document_promises(copied: Settings) -> None:
    ids = open_current(copied.store).ids
    key = create_key(copied.store, "contract", ["admin"], rate=1_000_000)
    with served(copied) as service:
        base = str(service.client.base_url).rstrip("/")
        counts = ask(base, key, [ids.item_id(number) for number in range(len(ids))], CASES, start=1)
    assert counts["cases"] >= CASES
    assert (counts["server_errors"], counts["schema_violations"]) == (0, 0)
    assert min(counts["status_200"], counts["status_422"], counts["status_404"]) > 10
