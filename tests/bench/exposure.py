"""Exposure of items in recommendations, and the cost of showing more of the tail: the demo shop and ml-100k.

The pipeline is evaluated as `vetrina evaluate` does, on the last tenth of the liked items, with a share of the
positions reserved for items of the tail (`tail_share`). The tail is all items less popular than the popular items that
together have half of the demand. The comparison is the same order without reserved positions. The Gini coefficient is
that of how often each item is in the first ten positions; the cost is the relative loss of NDCG@10.
"""

import tempfile
from pathlib import Path

from movies import movie_store
from report import report
from rich.console import Console

from serve.cli import bars
from serve.cli.render import learning as show_learning
from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.evaluation.evaluate import RERANKED, SERVED
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import evaluate

SEED = 0
SHARES = {"ml100k": 0.3, "demo": 0.2}


def main() -> None:
    figures: dict[str, float | int | str | None] = {}
    for name, share in SHARES.items():
        with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
            root = Path(folder)
            if name == "ml100k":
                settings = movie_store(root, progress)
            else:
                make_shop(root / "shop", items=720, users=2000)
                settings = Settings(store=root / "store")
                build(settings, root / "shop" / "catalog.csv", progress=progress)
                import_events(settings, root / "shop" / "events.jsonl", progress=progress)
            build(settings, progress=progress)
            with_tail = settings.model_copy(update={"tail_share": share, "new_share": 0.0})
            found = evaluate(with_tail, root / "work", progress=progress)
        Console(width=130).print(show_learning.evaluation(found))
        before, after = (found.systems[system].means["ndcg10"] for system in (RERANKED, SERVED))
        prefix = "" if name == "ml100k" else f"{name}_"
        figures |= {
            f"{prefix}tail_share": share,
            f"{prefix}gini_before": found.exposure.gini[RERANKED],
            f"{prefix}gini_after": found.exposure.gini[SERVED],
            f"{prefix}ndcg10_before": before,
            f"{prefix}ndcg10_after": after,
            f"{prefix}ndcg_cost": round(1 - after / before, 4),
            f"{prefix}coverage_before": found.systems[RERANKED].coverage,
            f"{prefix}coverage_after": found.systems[SERVED].coverage,
        }
    report("exposure", figures, SEED, ("torch",))


if __name__ == "__main__":
    main()
