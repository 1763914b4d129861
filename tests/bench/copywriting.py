"""Campaign texts for Magento Luma: unsupported statements in texts, and planted false statements that are caught.

`texts` are three styles for each item, as written by default. `unsupported` counts texts with a number, colour or
material that is not in the item's row of the feed; this is a plain string comparison with the row in the file, without
the fact checker. Then 100 false statements are inserted into correct texts: colours, materials, numbers, brands and
claims that the item's row does not have. `caught` counts those that the fact checker rejects.

`endpoint_*` are about texts of a real server with OpenAI's chat completions API in its own process, which adds a false
statement to every second text: how many of the returned texts are the server's, and how many contain the false one.
"""

import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import report
from rich.console import Console
from rich.progress import track

from embed.catalogue import Catalogue, FeedMapping, ingest
from serve.campaigns.copywriter import Copywriter, brands_of
from serve.campaigns.fact_checker import FactChecker
from serve.campaigns.templates import STYLES
from serve.core.settings_sections import CopySettings

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
SEED, PLANTED, ENDPOINT_ITEMS = 0, 100, 100
COLORS = ("black", "white", "red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "grey", "turquoise")
MATERIALS = ("cotton", "wool", "silk", "leather", "cashmere", "denim", "bamboo", "velvet", "suede", "titanium")
BRANDS = ("Nike", "Adidas", "Patagonia", "Gucci")
CLAIMS = (
    "waterproof",
    "organic",
    "vegan",
    "handmade",
    "hypoallergenic",
    "free shipping",
    "award winning",
    "the cheapest",
)
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
count = 0
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        global count
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        facts = json.loads(body["messages"][1]["content"].split("(JSON):\\n", 1)[1])
        count += 1
        text = f"Meet the {facts['title']}." + (" It is made of purest platinum, only 1 left!" if count % 2 else "")
        data = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    with (DATA / "catalog.csv").open(encoding="utf-8") as file:
        rows = {row["item_id"]: " ".join(row.values()).casefold() for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        ingest(DATA / "catalog.csv", store, mapping=FeedMapping.load(Path(__file__).parents[1] / "data" / "luma.toml"))
        catalogue = Catalogue.current(store)
        items = [item for batch in catalogue.batches() for item in batch]
    writer, checker = Copywriter(CopySettings(), brands_of(catalogue)), FactChecker(BRANDS)
    texts = [(item, style, writer.write(item, style, "en").text) for item in items for style in STYLES]
    unsupported = [(item.item_id, text) for item, _, text in texts if lacking(text, rows[item.item_id])]
    for each in unsupported[:5]:
        Console(stderr=True).print(each)
    random = np.random.default_rng(SEED)
    caught = 0
    for number in range(PLANTED):
        item, _, text = texts[int(random.integers(len(texts)))]
        statement = planted(number, rows[item.item_id], random)
        words = text.rstrip(".").split(" ")
        words.insert(int(random.integers(1, len(words) + 1)), statement)
        found = checker.check(" ".join(words), item)
        caught += bool(found)
        if not found:
            Console(stderr=True).print("not caught:", statement, "in", text)
    false_alarms = sum(bool(checker.check(text, item)) for item, _, text in texts)
    figures: dict[str, float | int | str | None] = {
        "texts": len(texts),
        "unsupported": len(unsupported),
        "planted": PLANTED,
        "caught": caught,
        "false_alarms": false_alarms,
    }
    report("copy", figures | endpoint(items[:ENDPOINT_ITEMS], brands_of(catalogue)), SEED)


def lacking(text: str, row: str) -> list[str]:
    """Return the numbers, colours and materials of a text that are not in the row of the feed."""
    words = re.findall(r"[a-z]+", text.casefold())
    numbers = [each.rstrip("0").rstrip(".") if "." in each else each for each in re.findall(r"\d+(?:\.\d+)?", text)]
    known = {each.rstrip("0").rstrip(".") if "." in each else each for each in re.findall(r"\d+(?:\.\d+)?", row)}
    return [word for word in words if word in (*COLORS, *MATERIALS) and word not in row] + [
        number for number in numbers if number not in known
    ]


def planted(number: int, row: str, random: np.random.Generator) -> str:
    """Return a false statement about an item, of one of five kinds in turn."""
    kinds = (COLORS, MATERIALS, tuple(str(each) for each in random.integers(1000, 9999, 20)), BRANDS, CLAIMS)
    usable = [
        word for word in kinds[number % 5] if word.casefold() not in row and (word != "grey" or "gray" not in row)
    ]
    return str(random.choice(usable))


def endpoint(items: list, brands: list[str]) -> dict[str, int]:  # type: ignore[type-arg]
    """Return the figures for texts of the endpoint."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        settings = CopySettings(endpoint=f"http://127.0.0.1:{port}/v1", model="m")
        writer = Copywriter(settings, brands)
        made = [writer.write(item, "reason", "en") for item in track(items, "endpoint", console=Console(stderr=True))]
        process.kill()
    return {
        "endpoint_texts": len(made),
        "endpoint_used": sum(each.by == "endpoint" for each in made),
        "endpoint_lies_out": sum("platinum" in each.text for each in made),
    }


if __name__ == "__main__":
    main()
