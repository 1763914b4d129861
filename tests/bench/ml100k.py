"""The whole pipeline on ml-100k with a global split in time, compared with popularity, item-kNN, iALS and BPR.

As a shop's engineer would run it: build, import the events, `vetrina evaluate`. The last tenth of all ratings of 4 or
more is the test. The tenth before it is validation, on which the settings of the pipeline and of the baselines are
chosen.
"""

import tempfile
from pathlib import Path

from movies import movie_store
from report import report
from rich.console import Console

from serve.cli import bars
from serve.cli.render import learning as show
from serve.evaluation.evaluate import FUSED, RERANKED
from serve.jobs.build import build
from serve.jobs.train import evaluate

SEED = 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = movie_store(Path(folder), progress)
        build(settings, progress=progress)
        found = evaluate(settings, Path(folder) / "work", ablate=True, progress=progress)
    Console(width=130).print(show.evaluation(found))
    best = max(found.baselines, key=lambda name: found.systems[name].means["ndcg10"])
    figures: dict[str, float | int | str | None] = {
        "pipeline_ndcg10": found.systems[FUSED].means["ndcg10"],
        "pipeline_ndcg10_low": found.systems[FUSED].intervals["ndcg10"][0],
        "pipeline_ndcg10_high": found.systems[FUSED].intervals["ndcg10"][1],
        "best_baseline": best,
        "best_baseline_ndcg10": found.systems[best].means["ndcg10"],
        "best_baseline_ndcg10_low": found.systems[best].intervals["ndcg10"][0],
        "best_baseline_ndcg10_high": found.systems[best].intervals["ndcg10"][1],
        "test_users": found.split["test_users"],
        "cold_test_shoppers": found.split["test_cold_users"],
    }
    for name, system in found.systems.items():
        figures[f"{name.replace(' ', '_')}_ndcg10"] = system.means["ndcg10"]
    single = max((name for name in found.lifts if name.startswith("best retriever")), default=None)
    if single is not None:
        (gain, low, high), retriever = found.lifts[single], single.rpartition(" ")[2]
        of_retriever = found.systems[retriever].means["ndcg10"]
        figures |= {
            "best_source": retriever,
            "reranked_over_best_source": round(found.systems[RERANKED].means["ndcg10"] / of_retriever, 4),
            "reranked_less_best_source": gain,
            "reranked_less_best_source_low": low,
            "reranked_less_best_source_high": high,
        }
    weights = found.chosen["score_model"]["weights"]
    figures["blend"] = str({name: round(weight, 3) for name, weight in weights.items()})
    report("ml100k", figures, SEED, ("torch", "implicit", "scipy"))


if __name__ == "__main__":
    main()
