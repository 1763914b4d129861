"""Trains towers and score model on the events of the store; resumable. The next build takes them into its release.

    STORE/towers/
      current -> FINGERPRINT
      FINGERPRINT/          see embed.towers.two_tower_model; its metadata has the score model and validation metrics
        chosen/FINGERPRINT/ the towers that know only the time before validation, with which the scorer learns
      training/             job.json, checkpoints while a job runs, and the TensorBoard log of the last one

The training data of a job are fixed when it begins, as new events keep arriving: a job that was killed resumes with the
same data.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from pydantic import BaseModel

from embed.behaviour import InteractionCounts, Interactions, Split, collect_interactions, split_by_time
from embed.durable import replace_link, write_file
from embed.encode_job import SpaceVectors
from embed.encoders import choose_device
from embed.errors import Missing
from embed.towers.tower_features import Content, Vocabulary
from embed.towers.two_tower_model import TrainedTowers
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.training.tower_validation import TrainingData, ValidatedTowers, choose, finish

CHOSEN = "chosen"
MIN_VALIDATION_USERS = 20  # below which validation selects nothing


class Job(BaseModel):
    """The training data of a job: a job that was killed resumes if they are equal, otherwise a new one begins."""

    events_until: int
    impressions_until: int = 0
    release: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class TrainingReport:
    """The result of a job: the validation metrics at the best epoch, the score model, and the size of its data."""

    fingerprint: str
    epochs: int
    validation: Mapping[str, float]
    score_model: LinearScoreModel
    collected: InteractionCounts
    split: Mapping[str, int | float]
    seconds: float


def current_towers(store: Path) -> TrainedTowers | None:
    """Open the towers that were trained last, None before the first; raises Missing or Damaged if unusable."""
    link = store / "towers" / "current"
    if not link.is_symlink():
        return None
    return TrainedTowers.open(link.parent / os.readlink(link))


def open_validation_towers(store: Path, fingerprint: str) -> TrainedTowers:
    """Open the towers that know only the time before validation; raises Missing or Damaged."""
    folder = store / "towers" / fingerprint / CHOSEN
    names = list(folder.glob("[!.]*"))
    if len(names) != 1:
        raise Missing(f"{folder} lacks the towers of the time before validation: train the towers again", CHOSEN)
    return TrainedTowers.open(names[0])


@contextmanager
def gathered(folder: Path, spaces: Sequence[SpaceVectors], items: int) -> Iterator[dict[str, Content]]:
    """Yield the vectors of each space as memory-mapped files, with the first row of each item."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {}
    for space in spaces:
        path = folder / f"{space.space}.npy"
        shape = (len(space.owners), space.dim)
        vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        space.gather(vectors)
        content[space.space] = Content.first_rows(vectors, space.owners, items)
    yield content
    for space in spaces:
        (folder / f"{space.space}.npy").unlink()


def train_towers(
    settings: Settings, release: Release, spaces: Sequence[SpaceVectors], progress: Progress | None = None
) -> TrainingReport:
    """Train towers and score model on all events of the store, and make them the current ones.

    `spaces` are the vectors of the release's catalogue. Raises BadRequest with too few events.
    """
    started = time.perf_counter()
    folder = settings.store / "towers" / "training"
    events = open_event_log(settings)
    try:
        job = begin(folder, events.last_sequence(), release.name, settings.towers.model_dump())
        interactions, collected = collect_interactions(
            (batch for _, batch in events.batches(until=job.events_until)), release.catalogue.ids(), settings.signal
        )
    finally:
        events.close()
    split = split_by_time(interactions, validation=0.1, test=0.0)
    try:
        check_enough(split, interactions)
    except BadRequest:
        (folder / "job.json").unlink()  # with more events it is another job
        raise
    with prepare_training_data(settings, release, spaces, folder) as training_data:
        chosen = choose(training_data, split, settings.towers, folder / "choose", progress)
        facts = _facts(job, chosen, split, collected)
        towers = finish(
            training_data, interactions, settings.towers, chosen.state.best_epoch, folder / "finish", facts, progress
        )
    saved = towers.save(settings.store / "towers")
    chosen.towers.save(saved / CHOSEN)
    replace_link(saved.parent / "current", saved.name)
    for part in ("choose", "finish"):
        (folder / part / "checkpoint.safetensors").unlink()
    (folder / "job.json").unlink()
    for other in saved.parent.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name not in (saved.name, "training"):
            shutil.rmtree(other)
    return TrainingReport(
        saved.name,
        chosen.state.best_epoch,
        facts["validation"],
        chosen.score_model,
        collected,
        split.report,
        round(time.perf_counter() - started, 1),
    )


@contextmanager
def prepare_training_data(
    settings: Settings,
    release: Release,
    spaces: Sequence[SpaceVectors],
    folder: Path,
    vocabulary: Vocabulary | None = None,
) -> Iterator[TrainingData]:
    """Yield the training data of a release besides interactions, in a given vocabulary or a new one."""
    device = choose_device(settings.device, settings.threads)
    torch.set_num_threads(device.threads)  # the last bits of the results depend on it
    with gathered(folder / "gathered", spaces, len(release.catalogue)) as content:
        dims = {space.space: (space.dim, space.fingerprint) for space in spaces}
        if vocabulary is None:
            vocabulary = Vocabulary.learn((item for batch in release.catalogue.batches() for item in batch), dims)
        features = vocabulary.features((item for batch in release.catalogue.batches() for item in batch), content)
        yield TrainingData(
            vocabulary,
            features,
            release.spaces,
            release.samples,
            {space: settings.space_weights.get(space, 1.0) for space in release.spaces},
            release.behaviour.first_seen,
            settings.half_lives,
            device.kind,
            release.behaviour.knowledge,
        )


def check_enough(split: Split, interactions: Interactions) -> None:
    """Raise BadRequest if validation has too few users."""
    if len(split.validation) < MIN_VALIDATION_USERS:
        raise BadRequest(
            f"too little behaviour to learn from: {len(interactions):,} interactions of "
            f"{len(interactions.users):,} users with items of the catalogue, {len(split.validation)} users for "
            f"validation ({MIN_VALIDATION_USERS} are needed): import events with vetrina events FILE",
            "events",
        )


def begin(folder: Path, events_until: int, release: str, settings: dict[str, Any], impressions_until: int = 0) -> Job:
    """Return the job that was killed, if its data are the same; else a new job in an emptied folder."""
    path = folder / "job.json"
    new = Job(events_until=events_until, impressions_until=impressions_until, release=release, settings=settings)
    if path.exists():
        killed = Job.model_validate_json(path.read_bytes())
        if (killed.release, killed.settings) == (new.release, new.settings):
            return killed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_file(path, new.model_dump_json().encode())
    return new


def _facts(job: Job, chosen: ValidatedTowers, split: Split, collected: InteractionCounts) -> dict[str, Any]:
    best = chosen.state.curve[chosen.state.best_epoch - 1]
    return {
        "job": orjson.loads(job.model_dump_json()),
        "epochs": chosen.state.best_epoch,
        "validation": {name: round(value, 4) for name, value in best.items()},
        "blend": chosen.score_model.model_dump(),
        "validation_from": split.validation_from,
        "split": split.report,
        "events": asdict(collected),
    }
