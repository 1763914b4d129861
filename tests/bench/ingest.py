"""Ingestion: how fast a feed of a million text rows becomes a catalogue, and its peak memory."""

import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent))
from report import report

ROWS = 1_000_000
SEED = 0

_CHILD = """
import json, resource, sys
from pathlib import Path
from embed.catalogue import ingest
done = ingest(Path(sys.argv[1]), Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"kept": done.kept, "rejected": done.rejected, "took_s": done.took_s, "peak_kib": peak}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        feed = Path(folder) / "feed.csv"
        write_feed(feed)
        print("ingesting in a separate process ...", flush=True)
        child = [sys.executable, "-c", _CHILD, str(feed), str(Path(folder) / "store")]
        root = Path(__file__).resolve().parents[2]
        done = json.loads(subprocess.run(child, check=True, capture_output=True, text=True, cwd=root).stdout)
        figures: dict[str, float | int | str | None] = {
            "rows": ROWS,
            "feed_mib": round(feed.stat().st_size / 2**20, 1),
            "kept": done["kept"],
            "rejected": done["rejected"],
            "took_s": round(done["took_s"], 1),
            "rows_per_s": round(ROWS / done["took_s"]),
            "peak_mib": round(done["peak_kib"] / 1024, 1),
        }
    report("ingest", figures, SEED, ("pyarrow", "numpy"))


def write_feed(path: Path) -> None:
    """Write a feed of ROWS products: titles and descriptions of realistic length, every hundredth id a duplicate."""
    source = random.Random(SEED)
    words = ["".join(source.choices("aeioulnrstmdpbk", k=source.randint(3, 10))) for _ in range(5000)]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "description", "category", "brand", "price", "currency", "image"])
        for number in track(range(ROWS), "writing a feed"):
            item_id = f"sku-{number - 50 if number % 100 == 99 else number:07d}"
            title = " ".join(source.choices(words, k=6)).capitalize()
            description = " ".join(source.choices(words, k=25)).capitalize() + "."
            category = f"Level {number % 7}/Sub {number % 61}"
            price = f"{source.random() * 200:.2f}"
            rows.writerow([item_id, title, description, category, words[number % 400], price, "EUR", f"{number}.jpg"])


if __name__ == "__main__":
    main()
