"""Tuning of the towers' settings by Optuna: trials on the validation time, bad ones cut short, and resumable.

The study lies in STORE/towers/tuning.sqlite; a trial that was killed counts as failed and is not repeated. Nothing
uses what is found by itself: it is printed for `vetrina.toml`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed.behaviour import collect, split_by_time
from embed.encode_job import SpaceVectors
from embed.towers.settings import TowerSettings
from embed.towers.training import fit
from embed.training_loop import State
from serve.core.settings import Settings
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.training.tower_validation import Progress
from serve.training.towers_job import check_enough, training_data_of

RANGES: dict[str, tuple[Any, Any]] = {
    "dim": (16, 256),
    "blocks": (1, 3),
    "dropout": (0.1, 0.7),
    "item_dropout": (0.0, 0.5),
    "learning_rate": (1e-3, 0.03),
    "weight_decay": (1e-3, 0.3),
}
STEADY = 5  # epochs and trials before a trial may be cut short


@dataclass(frozen=True)
class TuningReport:
    """The best settings so far and how validation measured them; trials in all, and how many were cut short."""

    settings: TowerSettings
    ndcg10: float
    trials: int
    pruned: int


def tune_towers(
    settings: Settings,
    release: Release,
    spaces: Sequence[SpaceVectors],
    trials: int,
    progress: Progress | None = None,
) -> TuningReport:
    """Try so many settings more, the first of a study being those that are set."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    events = open_event_log(settings)
    interactions, _ = collect((batch for _, batch in events.batches()), release.catalogue.ids(), settings.signal)
    events.close()
    split = split_by_time(interactions, validation=0.1, test=0.1)  # the test stays unseen, for `vetrina evaluate`
    check_enough(split, interactions)
    folder = settings.store / "towers"
    folder.mkdir(exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'tuning.sqlite'}",
        study_name=f"towers {release.name}",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=settings.towers.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STEADY, n_warmup_steps=STEADY),
    )
    if not study.trials:
        first = {name: getattr(settings.towers, name) for name in RANGES}
        study.enqueue_trial(
            {name: value for name, value in first.items() if RANGES[name][0] <= value <= RANGES[name][1]}
        )
    with training_data_of(settings, release, spaces, folder / "tuning") as training_data:

        def run(trial: optuna.Trial) -> float:
            tried = {
                "dim": trial.suggest_int("dim", *RANGES["dim"], step=16),
                "blocks": trial.suggest_int("blocks", *RANGES["blocks"]),
                "dropout": trial.suggest_float("dropout", *RANGES["dropout"]),
                "item_dropout": trial.suggest_float("item_dropout", *RANGES["item_dropout"]),
                "learning_rate": trial.suggest_float("learning_rate", *RANGES["learning_rate"], log=True),
                "weight_decay": trial.suggest_float("weight_decay", *RANGES["weight_decay"], log=True),
            }
            chosen = TowerSettings(**{**settings.towers.model_dump(), **tried})

            def told(epoch: int, measured: dict[str, float]) -> None:
                trial.report(measured["ndcg10"], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            with tempfile.TemporaryDirectory() as work:
                trainer = training_data.trainer(chosen, split.train)
                state: State = fit(trainer, split.validation, Path(work), told=told)
            return state.curve[state.best_epoch - 1]["ndcg10"]

        done = 0
        if progress:
            progress("tune towers", 0, trials, "trials")
        while done < trials:
            study.optimize(run, n_trials=1)
            done += 1
            if progress:
                progress("tune towers", done, trials, "trials")
    best = {**settings.towers.model_dump(), **study.best_params}
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    return TuningReport(TowerSettings(**best), study.best_value, len(study.trials), pruned)
