"""Continued training: the demo shop's scorer unchanged, continued by `vetrina learn`, and trained from scratch.

Towers and scorer are trained on the first 60 % of the shop's events. Then 15 % more events arrive, twice; after each,
the scorer continues training, and the release gate decides whether it is published. The last 10 % are the test: all
three scorers rank all items in the release that is active then, with the data known before. Only the scorer differs.
"""

import itertools
import shutil
import tempfile
import time
from pathlib import Path

import orjson
from cold_start import demo_store
from report import report
from rich.console import Console

from serve.cli import bars
from serve.cli.render import catalogue as show
from serve.core.settings import Settings
from serve.evaluation.release_gate import compare_releases
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import learn, train, train_scorer
from serve.release.repository import open_current
from serve.training.scorer_job import current_scorer

SEED = 0
CUTS = (0.0, 0.6, 0.75, 0.9, 1.0)


def main() -> None:
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as name, bars(quiet=False) as progress:
        folder = Path(name)
        settings = demo_store(folder, progress)
        parts = _parts(folder)
        _empty(settings)
        import_events(settings, parts[0])
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        first = current_scorer(settings.store)
        assert first is not None
        accepted, seconds = 0, 0.0
        for part in parts[1:3]:
            import_events(settings, part)
            started = time.perf_counter()
            outcome, _ = learn(settings, progress)
            seconds += time.perf_counter() - started
            console.print(show.checks(outcome.checks))
            accepted += outcome.accepted
        release = open_current(settings.store)
        learned = current_scorer(settings.store)
        assert learned is not None
        train_scorer(settings, progress)
        new = current_scorer(settings.store)
        assert new is not None
        import_events(settings, parts[3])
        over_first = compare_releases(settings, release.with_scorer(learned), release.with_scorer(first), progress)
        over_new = compare_releases(settings, release.with_scorer(learned), release.with_scorer(new), progress)
    console.print("continued / unchanged", show.checks(over_first), "continued / from scratch", show.checks(over_new))
    figures: dict[str, float | int | str | None] = {"kept": accepted, "seconds": round(seconds)}
    for other, checks in (("first", over_first), ("anew", over_new)):
        for check in checks:
            if check.low is not None:
                measure = {"NDCG@10": "ndcg10", "log-likelihood": "likelihood"}.get(check.name, check.name)
                figures[f"{measure}_learned"] = check.release
                figures[f"{measure}_{other}"] = check.parent
                figures[f"{measure}_over_{other}_low"] = check.low
                figures[f"{measure}_over_{other}_high"] = check.high
    report("learn", figures, SEED, ("torch", "onnxruntime"))


def _parts(folder: Path) -> list[Path]:
    """Split the shop's events by time into files; return their paths."""
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    lines.sort(key=lambda line: orjson.loads(line)["timestamp"])
    bounds = [int(share * len(lines)) for share in CUTS]
    paths = []
    for number, (start, end) in enumerate(itertools.pairwise(bounds)):
        paths.append(folder / f"part{number}.jsonl")
        paths[-1].write_bytes(b"".join(lines[start:end]))
    return paths


def _empty(settings: Settings) -> None:
    """Remove events, towers and scorer from the store."""
    for file in settings.store.glob("events.sqlite*"):
        file.unlink()
    for name in ("towers", "scorer"):
        shutil.rmtree(settings.store / name, ignore_errors=True)


if __name__ == "__main__":
    main()
