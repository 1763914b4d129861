"""A store in a temporary folder that ingests feeds written as text."""

import json
from pathlib import Path

from embed.catalogue import Catalogue, FeedMapping, IngestReport, Item, ingest

HEADER = "item_id,title,description,price,currency,category,image\n"


class FeedShop:
    """A store in a temporary folder, with feeds written and read in one call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"

    def feed(self, content: str | bytes, name: str = "feed.csv") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def ingest(self, content: str | bytes, name: str = "feed.csv", **options: object) -> IngestReport:
        report = ingest(self.feed(content, name), self.store, **options)  # type: ignore[arg-type]
        assert report.read == report.kept + report.rejected
        assert report.kept == len(Catalogue.current(self.store)) == len(self.items())
        assert report.rejected == len(self.rejects())
        return report

    def mapping(self, toml: str) -> FeedMapping:
        path = self.folder / "mapping.toml"
        path.write_text(toml)
        return FeedMapping.load(path)

    def items(self) -> dict[str, Item]:
        return {item.item_id: item for item in Catalogue.current(self.store).items()}

    def rejects(self) -> list[tuple[int, str]]:
        lines = (self.store / "catalogue/current/rejects.jsonl").read_text().splitlines()
        return [(reject["line"], reject["code"]) for reject in map(json.loads, lines)]
