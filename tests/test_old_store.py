"""A store that version 0.1 built opens unchanged and answers as it did.

`tests/data/store-0.1.tar.xz` is a store of 36 drawn items with towers, scorer, journal, rules, events, preferences and
an erasure. `store-0.1.json` holds requests, the responses of version 0.1 to them, and the moment at which it gave them.
"""

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers.service import Service, good, served

from serve.core.settings import Settings

FOLDER = Path(__file__).parent / "data"
RECORDED: dict[str, Any] = orjson.loads((FOLDER / "store-0.1.json").read_bytes())
RENAMED_SPACES = {"words": "keywords"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FOLDER / "store-0.1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    configured = Settings(store=folder / "store", online={"learn": False}, recall_probe_seconds=0)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:  # what is new fades with time
        patch.setattr(time, "time", lambda: RECORDED["moment"])
        with served(configured) as running:
            yield running


@pytest.mark.parametrize("asked", RECORDED["asked"], ids=lambda asked: f"{asked['method']} {asked['path']}")
def test_old_store_answers_as_before(service: Service, asked: dict[str, Any]) -> None:
    before = asked["answer"]
    after = good(service.client.request(asked["method"], asked["path"], json=asked["body"]))
    listed = "members" if "members" in before else "items"
    name = "user_id" if listed == "members" else "item_id"
    assert [one[name] for one in after.get(listed, [])] == [one[name] for one in before.get(listed, [])]
    for one, was in zip(after.get(listed, []), before.get(listed, []), strict=True):
        assert one["score"] == pytest.approx(was["score"], abs=2e-3)
        if "sources" in was:
            scores = {RENAMED_SPACES.get(space, space): score for space, score in was["sources"].items()}
            assert one["retriever_scores"] == pytest.approx(scores, abs=2e-3)
            assert one["sources"] == pytest.approx(was["sources"], abs=2e-3)  # the old name is sent for one version
    for same in ("suggestions", "item", "understood", "facets", "preferences", "unknown"):
        if same in before:
            assert after[same] == before[same]
    if "history" in before:
        assert (after["events"], after["history"]) == (before["events"], before["history"])
