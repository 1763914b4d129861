"""Messy requests: bodies of searches, and URLs that must not be fetched."""

import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from helpers.messy.workspace import ASKED, IMAGES, JSON, Row, Shop, vetrina
from helpers.service import good, refused


@dataclass(frozen=True)
class Request(Row):
    """A search that is refused for this `field`; without one it is answered with ten items, none of the excluded.

    HTTP: as it is. Command line: `search` with the same words and -k; what is excluded is a filter there, which has a
    limit of its own.
    """

    field: str = ""

    def http(self, shop: Shop, path: Path) -> None:
        response = shop.service.client.post("/v1/search", content=path.read_bytes(), headers=JSON)
        if self.field:
            assert refused(response)["field"] == self.field
            return
        found = [item["item_id"] for item in good(response)["items"]]
        assert len(found) == 10
        assert not {*found} & {*json.loads(path.read_bytes())["exclude"]}
        assert {"7", "70", "700"} <= {*shop.service.ids(text="red shoe")}

    def command(self, shop: Shop, path: Path) -> None:
        asked = json.loads(path.read_bytes())
        excluded = {"not": {"item_id": {"in": asked["exclude"]}}} if "exclude" in asked else {}
        arguments = ("search", asked["text"], "-k", str(asked["k"]), "--filter", json.dumps(excluded))
        error_response = vetrina(*arguments, "--store", shop.store, "--json").error_response()
        assert {"k": "-k", "text": "blank"}.get(self.field, "at most 5,000") in error_response


@dataclass(frozen=True)
class Urls(Row):
    """Addresses that are refused before anything is asked of anybody.

    HTTP: as the photo of a search, and as the image of an item that is put, where images are fetched. Command line:
    in a feed, through `ingest` and `encode`.
    """

    def http(self, shop: Shop, path: Path) -> None:
        for url in path.read_text().splitlines():
            item = {"item_id": "put", "title": "put", "image": url}
            (put,) = good(shop.put(orjson.dumps({"items": [item]})))["items"]
            (warning,) = put["warnings"]
            assert (httpx.URL(url).host or url) in warning
            assert refused(shop.service.search(image=url))["field"] == "image"
        assert {port for _, port in ASKED} <= {shop.service.client.base_url.port}
        shop.delete(["put"])

    def command(self, shop: Shop, path: Path) -> None:
        urls = path.read_text().splitlines()
        rows = [{"item_id": url, "title": f"number {number}", "image": url} for number, url in enumerate(urls)]
        rows.append({"item_id": "good", "image": str(IMAGES.resolve() / "reference_ok.jpg")})
        Path("feed.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        vetrina("ingest", "feed.jsonl", "--store", "store")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VETRINA_ALLOW_HTTP_IMAGES", "true")
            images, texts = vetrina("encode", "--store", "store", "--images", IMAGES, "--json").json
        failures = [json.loads(line) for line in Path(images["failures"]).read_text().splitlines()]
        assert [failure["image"] for failure in failures] == urls
        assert {failure["code"] for failure in failures} == {"fetch_forbidden"}
        assert (images["failed"], images["rows"], texts["rows"]) == (len(urls), 1, len(urls))
        assert ASKED == []
