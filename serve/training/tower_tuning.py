"""Tunes the settings of the towers with Optuna: trials on the validation time, bad ones pruned; resumable.

The study is in STORE/towers/tuning.sqlite; a trial that was killed counts as failed and is not repeated. The best
settings are printed for `vetrina.toml`, not applied.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed.behaviour import collect_interactions, split_by_time
from embed.encode_job import SpaceVectors
from embed.towers.tower_settings import TowerSettings
from embed.towers.tower_training import fit
from embed.training_loop import TrainingState
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.training.towers_job import check_enough, prepare_training_data

RANGES: dict[str, tuple[Any, Any]] = {
    "dim": (16, 256),
    "blocks": (1, 3),
    "dropout": (0.1, 0.7),
    "item_dropout": (0.0, 0.5),
    "learning_rate": (1e-3, 0.03),
    "weight_decay": (1e-3, 0.3),
}
MIN_BEFORE_PRUNING = 5  # epochs and trials before a trial may be pruned


@dataclass(frozen=True)
class TuningReport:
    """The best settings so far and their validation metric; the number of trials, and of pruned ones."""

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
    """Run more trials; the first one of a study has the current settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    events = open_event_log(settings)
    interactions, _ = collect_interactions(
        (batch for _, batch in events.batches()), release.catalogue.ids(), settings.signal
    )
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
        pruner=optuna.pruners.MedianPruner(n_startup_trials=MIN_BEFORE_PRUNING, n_warmup_steps=MIN_BEFORE_PRUNING),
    )
    if not study.trials:
        first = {name: getattr(settings.towers, name) for name in RANGES}
        study.enqueue_trial(
            {name: value for name, value in first.items() if RANGES[name][0] <= value <= RANGES[name][1]}
        )
    with prepare_training_data(settings, release, spaces, folder / "tuning") as training_data:

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

            def report_epoch(epoch: int, measured: dict[str, float]) -> None:
                trial.report(measured["ndcg10"], epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            with tempfile.TemporaryDirectory() as work:
                trainer = training_data.trainer(chosen, split.train)
                state: TrainingState = fit(trainer, split.validation, Path(work), on_epoch=report_epoch)
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
