"""Keyword search: by BM25 (keywords), by vectors, and by both together (hybrid), as served.

Magento Luma: each item has to be found by a part of its title, two or three consecutive words of which one has a typo.
Any item with that title is correct; the measure is the mean reciprocal rank in the first ten (MRR@10).

homedepot-titles: queries as users typed them. All products are ranked, and products without a judgment count as wrong;
gain = grade - 1, linear. The measure is NDCG@10 over the queries that have any gain. The product learns the fusion
weights from half of the queries (pairs graded 2.67 or more stand for clicks), and the figures are those of the other
half; k1, b and the weights of terms were chosen on the first half too. `judged` ranks the judged products only, where a
random order already has 0.92. `*_equal` uses equal weights. `*_bm25s` is the library bm25s (extra bench) with Snowball
stems, on the same half.

Set VETRINA_BENCH to a folder to keep the store of the 53,489 products there: encoding takes minutes.
"""

import csv
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from report import report
from rich.console import Console
from rich.progress import track

from embed.behaviour import Event
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query import Query
from serve.engine.search_engine import SearchEngine
from serve.jobs.build import build
from serve.live.replica import open_engine
from serve.storage.event_log import open_event_log

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data"))
SEED, K = 0, 10
VECTORS = ("image", "text")
CLICKED = 2.67  # the grade that stands for a click
DISCOUNTS = 1 / np.log2(np.arange(2, K + 2))


def main() -> None:
    figures = luma() | homedepot()
    report("keyword_search", figures, SEED, ("bm25s", "pystemmer", "rapidfuzz"))


def luma() -> dict[str, float]:
    """Return MRR@10 of hybrid, keyword and vector search on Magento Luma."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(store=Path(folder) / "store", mapping=Path(__file__).parents[1] / "data" / "luma.toml")
        build(settings, DATA / "magento-luma" / "catalog.csv")
        engine = open_engine(settings)
        catalogue = engine.snapshot.release.catalogue
        titles = [title or "" for title in catalogue.column("title").to_pylist()]
        random = np.random.default_rng(SEED)
        pieces = [piece(title, random) for title in titles]
        figures = {"luma_queries": float(len(pieces))}
        for name, spaces in (("hybrid", ()), ("keywords", ("keywords",)), ("vector", VECTORS)):
            gains = []
            for title, typed in zip(titles, pieces, strict=True):
                found = engine.search(Query(k=K, text=typed, spaces=spaces))
                ranks = [rank for rank, hit in enumerate(found, 1) if titles[hit.item_index] == title]
                gains.append(1 / ranks[0] if ranks else 0.0)
            figures[f"{name}_mrr10"] = round(float(np.mean(gains)), 4)
        return figures


def piece(title: str, random: np.random.Generator) -> str:
    """Return two or three words of a title, with a typo in the longest."""
    words = title.lower().replace("&trade;", "").replace("&reg;", "").split()
    length = min(len(words), int(random.integers(2, 4)))
    start = int(random.integers(0, len(words) - length + 1))
    chosen = words[start : start + length]
    at = max(range(len(chosen)), key=lambda index: len(chosen[index]))
    chosen[at] = misspelled(chosen[at], random)
    return " ".join(chosen)


def misspelled(word: str, random: np.random.Generator) -> str:
    """Return a word with one letter removed, inserted, replaced, or swapped with the next."""
    at = int(random.integers(0, max(1, len(word) - 1)))
    letter = chr(97 + int(random.integers(26)))
    ways = (
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
        word[:at] + letter + word[at + 1 :],
        word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :],
    )
    return ways[int(random.integers(4))]


def homedepot() -> dict[str, float]:
    """Return the figures of homedepot-titles."""
    queries, judged = judgments(DATA / "homedepot-titles")
    half = np.random.default_rng(SEED).permutation([query for query in queries if max(judged[query].values()) > 0])
    tune, test = half[: len(half) // 2].tolist(), half[len(half) // 2 :].tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("VETRINA_BENCH", temporary)) / "homedepot"
        for left in folder.glob("events.sqlite*"):  # of an earlier run
            left.unlink()
        settings = Settings(store=folder, keep_releases=1)
        build(settings, DATA / "homedepot-titles" / "products.csv")
        figures = {"homedepot_queries": float(len(test))}
        figures |= measure("{}_equal", open_engine(settings), queries, judged, test, ("hybrid",))
        log = open_event_log(settings)
        log.add(
            [
                Event(f"{query}-{item}", f"u{query}", item, "click", 1767225600.0, query=queries[query].casefold())
                for query in tune
                for item, grade in judged[query].items()
                if grade + 1 >= CLICKED
            ]
        )
        log.close()
        learned = build(settings).manifest.fusion_weights
        assert learned is not None
        Console(stderr=True).print(learned)
        engine = open_engine(settings)
        figures |= {f"weight_{name}": weight for name, weight in learned.weights.items()}
        figures |= measure("{}", engine, queries, judged, test, ("hybrid", "keywords", "vector"))
        titles = engine.snapshot.release.catalogue
        figures |= bm25s_figures(
            titles.ids().to_pylist(),
            [title or "" for title in titles.column("title").to_pylist()],
            queries,
            judged,
            test,
        )
    return figures


def judgments(folder: Path) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Return the queries by id, and the gains of the judged products by query."""
    with (folder / "queries.csv").open() as file:
        queries = {row["query_id"]: row["query"] for row in csv.DictReader(file)}
    judged: dict[str, dict[str, float]] = defaultdict(dict)
    with (folder / "judgments.csv").open() as file:
        for row in csv.DictReader(file):
            judged[row["query_id"]][row["item_id"]] = float(row["grade"]) - 1
    return queries, judged


def measure(
    named: str,
    engine: Engine,
    queries: dict[str, str],
    judged: dict[str, dict[str, float]],
    test: list[str],
    ways: Sequence[str],
) -> dict[str, float]:
    """Return NDCG@10 of each kind of search; `named` is the pattern of the figures' names."""
    spaces = {"hybrid": (), "keywords": ("keywords",), "vector": ("text",)}
    figures = {}
    for way in ways:

        def ranked(query: str, way: str = way) -> list[str]:
            found = engine.search(Query(k=K, text=queries[query], spaces=spaces[way]))
            return [engine.snapshot.item_id(one.item_index) for one in found]

        figures[f"homedepot_{named.format(way)}_ndcg10"] = mean_ndcg(ranked, judged, test, way)
    if "vector" in ways:

        def among_judged(query: str) -> list[str]:
            scores = engine.scores_by_retriever(queries[query])
            numbers = {item: engine.snapshot.item_index(item) for item in judged[query]}
            present = {item: number for item, number in numbers.items() if number is not None}
            weights = SearchEngine(engine.context).query_weights
            from serve.search.fusion import standardise

            total = sum(weights[name] * standardise(values, values) for name, values in scores.items())
            return sorted(present, key=lambda item: -total[present[item]])[:K]

        figures["homedepot_judged_ndcg10"] = mean_ndcg(among_judged, judged, test, "judged")
    return figures


def bm25s_figures(
    ids: list[str], titles: list[str], queries: dict[str, str], judged: dict[str, dict[str, float]], test: list[str]
) -> dict[str, float]:
    """Return NDCG@10 of bm25s on the same titles, with its own tokenizer, English stop words and Snowball stems."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=1.2, b=0.75)
    index.index(bm25s.tokenize(titles, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)

    def ranked(query: str) -> list[str]:
        tokens = bm25s.tokenize([queries[query]], stopwords="en", stemmer=stemmer, show_progress=False)
        found, _ = index.retrieve(tokens, k=K, show_progress=False)
        return [ids[number] for number in found[0].tolist()]

    return {"homedepot_bm25s_ndcg10": mean_ndcg(ranked, judged, test, "bm25s")}


def mean_ndcg(
    ranked: Callable[[str], list[str]], judged: dict[str, dict[str, float]], test: list[str], label: str
) -> float:
    """Return the mean NDCG@10 of the test queries."""
    total = 0.0
    for query in track(test, label, console=Console(stderr=True)):
        gains = judged[query]
        got = sum(gains.get(item, 0.0) * discount for item, discount in zip(ranked(query), DISCOUNTS, strict=False))
        best = sorted(gains.values(), reverse=True)[:K]
        total += got / sum(gain * discount for gain, discount in zip(best, DISCOUNTS, strict=False))
    return round(total / len(test), 4)


if __name__ == "__main__":
    main()
