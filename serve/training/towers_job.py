"""The training job: events of the store -> towers and blend, resumable; the next build takes them into its release.

    STORE/towers/
      current -> FINGERPRINT
      FINGERPRINT/          see embed.towers.two_tower_model; its facts hold the blend and how validation measured
        chosen/FINGERPRINT/ the towers that know the time before validation only, which the scorer learns with
      training/             job.json, checkpoints while a job runs, and what TensorBoard shows of the last

What the job learns from is fixed when it begins, as events keep coming: a job that was killed goes on with the same.
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

from embed.behaviour import Collected, Interactions, Split, collect, split_by_time
from embed.durable import point, write_file
from embed.encode_job import SpaceVectors
from embed.encoders import choose_device
from embed.errors import Missing
from embed.towers.features import Content, Vocabulary
from embed.towers.two_tower_model import TrainedTowers
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.recommend.retrieval.score_blend import LinearScoreModel
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.training.tower_validation import Progress, TrainingData, ValidatedTowers, choose, finish

CHOSEN = "chosen"
FEWEST = 20  # shoppers in validation, below which nothing can be chosen by it


class Job(BaseModel):
    """What a job learns from: so that one that was killed goes on, and any other begins anew."""

    events_until: int
    impressions_until: int = 0
    release: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class TrainingReport:
    """What came of a job: how validation measured at the best epoch, the blend, what there was to learn from."""

    fingerprint: str
    epochs: int
    validation: Mapping[str, float]
    score_model: LinearScoreModel
    collected: Collected
    split: Mapping[str, int | float]
    seconds: float


def current_towers(store: Path) -> TrainedTowers | None:
    """The towers trained last, or None before the first; raises Missing or Damaged where they cannot be used."""
    link = store / "towers" / "current"
    if not link.is_symlink():
        return None
    return TrainedTowers.open(link.parent / os.readlink(link))


def chosen_towers(store: Path, fingerprint: str) -> TrainedTowers:
    """The towers behind some trained ones that know the time before validation only; raises Missing or Damaged."""
    folder = store / "towers" / fingerprint / CHOSEN
    names = list(folder.glob("[!.]*"))
    if len(names) != 1:
        raise Missing(f"{folder} does not hold the towers of before validation: train the towers again", CHOSEN)
    return TrainedTowers.open(names[0])


@contextmanager
def gathered(folder: Path, spaces: Sequence[SpaceVectors], items: int) -> Iterator[dict[str, Content]]:
    """The vectors of each space as files mapped into memory, with the first row of each item."""
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
    """Train towers and blend on all events of the store, and make them the current ones.

    `spaces` are the vectors of the release's catalogue. Raises BadRequest where there is too little to learn from.
    """
    started = time.perf_counter()
    folder = settings.store / "towers" / "training"
    events = open_event_log(settings)
    try:
        job = begin(folder, events.last(), release.name, settings.towers.model_dump())
        interactions, collected = collect(
            (batch for _, batch in events.batches(until=job.events_until)), release.catalogue.ids(), settings.signal
        )
    finally:
        events.close()
    split = split_by_time(interactions, validation=0.1, test=0.0)
    try:
        check_enough(split, interactions)
    except BadRequest:
        (folder / "job.json").unlink()  # with more events the job is another one
        raise
    with training_data_of(settings, release, spaces, folder) as training_data:
        chosen = choose(training_data, split, settings.towers, folder / "choose", progress)
        facts = _facts(job, chosen, split, collected)
        towers = finish(
            training_data, interactions, settings.towers, chosen.state.best_epoch, folder / "finish", facts, progress
        )
    saved = towers.save(settings.store / "towers")
    chosen.towers.save(saved / CHOSEN)
    point(saved.parent / "current", saved.name)
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
def training_data_of(
    settings: Settings,
    release: Release,
    spaces: Sequence[SpaceVectors],
    folder: Path,
    vocabulary: Vocabulary | None = None,
) -> Iterator[TrainingData]:
    """What a release has to learn from besides its shoppers' behaviour; in a given vocabulary or its own."""
    device = choose_device(settings.device, settings.threads)
    torch.set_num_threads(device.threads)  # what is learned depends on it in the last bits
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
    """Raise BadRequest where validation has too few shoppers to choose anything by."""
    if len(split.validation) < FEWEST:
        raise BadRequest(
            f"there is too little behaviour to learn from: {len(interactions):,} interactions of "
            f"{len(interactions.users):,} shoppers with items of the catalogue, {len(split.validation)} shoppers to "
            f"validate with; at least {FEWEST} are needed: take events in with vetrina events FILE",
            "events",
        )


def begin(folder: Path, events_until: int, release: str, settings: dict[str, Any], impressions_until: int = 0) -> Job:
    """The job that was killed, if it is the same as the one asked for; else a new one, in an emptied folder."""
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


def _facts(job: Job, chosen: ValidatedTowers, split: Split, collected: Collected) -> dict[str, Any]:
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
