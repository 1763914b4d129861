"""Changing an encoder: planned, compared before it is published, and undone without encoding."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers.command import Run

from embed import encode_job
from embed.alignment.pairs import TextImagePairs
from embed.catalogue import Catalogue
from embed.encoders import Device, EncoderOptions, Vectors
from embed.encoders.encoder import EncodedTexts, make_fingerprint, unit_rows
from embed.encoders.encoder_registry import ENCODERS, EncoderEntry, register
from embed.errors import BadInput
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.engine.query import Query
from serve.engine.query_encoders import Encoders
from serve.evaluation.encoder_comparison import Retrieval, first_ranks
from serve.evaluation.text_probe import FOLDS, SEED, SHRINKAGES, held_out_queries
from serve.jobs.build import BuildReport, build, plan_build, publish
from serve.jobs.doctor import examine
from serve.jobs.encode import load_encoders
from serve.jobs.encoding_plan import EncodingPlan, plan_encoding
from serve.jobs.import_events import import_events
from serve.jobs.train import train
from serve.live.replica import open_engine
from serve.live.runtime import ServiceRuntime
from serve.release.repository import current_name, list_manifests, make_current, open_current, release_before

ITEMS, PHOTOS = 150, 203
CELLS = 4  # in a row of the grid
DIM = 3 * CELLS * CELLS
encoded: list[int] = []
"""Photos of each call of an encoder of this file."""


class GridEncoder:
    """Mean colours of a photo's parts: what is drawn alike is near."""

    name, kind = "grid", "grid"
    shrink_to, batch = 64, 16
    details: ClassVar[dict[str, str]] = {}

    def __init__(self, device: Device, options: EncoderOptions) -> None:
        self.dim = options.truncate_dim or DIM
        self.fingerprint = make_fingerprint(kind=self.name, dim=str(self.dim))

    def prepare(self, pixels: Vectors) -> Vectors:
        parts = [part for rows in np.array_split(pixels, CELLS) for part in np.array_split(rows, CELLS, axis=1)]
        return np.concatenate([part.mean((0, 1)) if part.size else np.zeros(3) for part in parts]).astype(np.float32)

    def encode_images(self, prepared: Sequence[Vectors]) -> Vectors:
        encoded.append(len(prepared))
        return unit_rows(np.stack(prepared)[:, : self.dim] - 128)


class TurnedEncoder(GridEncoder):
    """The same with every second dimension negated: other vectors, equal cosines."""

    name = "turned"

    def encode_images(self, prepared: Sequence[Vectors]) -> Vectors:
        return super().encode_images(prepared) * np.where(np.arange(self.dim) % 2, -1, 1).astype(np.float32)


class NoiseEncoder(GridEncoder):
    """Random vectors: equal photos are near, and no others."""

    name = "noise"

    def encode_images(self, prepared: Sequence[Vectors]) -> Vectors:
        encoded.append(len(prepared))
        seeds = [np.frombuffer(photo.tobytes(), np.uint32) for photo in prepared]
        return unit_rows(np.stack([np.random.default_rng(seed).normal(size=self.dim) for seed in seeds]))


class NoiseTextEncoder:
    """Random vectors of texts: equal texts are near, and no others."""

    name, dim, fingerprint = "noise", 64, "noise"
    details: ClassVar[dict[str, str]] = {}

    def __init__(self, device: Device) -> None:
        pass

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        return EncodedTexts(unit_rows(np.stack([self.vector(text) for text in texts])), 0)

    def vector(self, text: str) -> Vectors:
        vector: Vectors = np.random.default_rng(list(text.encode()) or [0]).normal(size=self.dim).astype(np.float32)
        return vector


class WordsEncoder(NoiseTextEncoder):
    """The sum of a random vector for each word: texts that share words are near."""

    name = fingerprint = "words"

    def vector(self, text: str) -> Vectors:
        return sum((super(WordsEncoder, self).vector(word) for word in text.lower().split()), np.zeros(64, np.float32))


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    before = list(ENCODERS)
    register(EncoderEntry("grid", __name__, "GridEncoder", takes=("image",), options=("truncate_dim",)))
    register(EncoderEntry("noise", __name__, "NoiseEncoder", takes=("image",), options=("truncate_dim",)))
    register(EncoderEntry("turned", __name__, "TurnedEncoder", takes=("image",), options=("truncate_dim",)))
    register(EncoderEntry("noise", __name__, "NoiseTextEncoder", takes=("text",)))
    register(EncoderEntry("words", __name__, "WordsEncoder", takes=("text",)))
    yield
    ENCODERS[:] = before


@pytest.fixture(scope="module")
def first(_registered: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store of 150 drawn items with their events and a release of them; read it, never write it."""
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder, items=ITEMS, users=120)
    settings = Settings(store=folder / "store", image_root=folder, image_encoder="grid", text_encoder="words")
    import_events(settings, folder / "events.jsonl")
    build(settings, folder / "catalog.csv")
    return settings


@pytest.fixture
def settings(first: Settings, tmp_path: Path) -> Settings:
    """The same store, to be changed."""
    encoded.clear()
    shutil.copytree(first.store, tmp_path / "store", symlinks=True)
    return first.model_copy(update={"store": tmp_path / "store"})


def using(settings: Settings, **changed: Any) -> Settings:
    return Settings.model_validate(settings.model_dump(exclude_unset=True) | changed)


def answers(settings: Settings) -> list[int]:
    return [hit.item_index for hit in open_engine(settings).search(Query(k=5, text="red shoes"))]


def image_checks(report: BuildReport) -> dict[str, Any]:
    return {check.name: check for check in report.checks if check.space == "image"}


def files(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_an_encoder_is_changed_and_changed_back(settings: Settings) -> None:
    old, expected = current_name(settings.store), answers(settings)
    turned = using(settings, image_encoder="turned")
    plans: list[EncodingPlan] = []

    def announced(plan: EncodingPlan) -> None:
        plans.append(plan)
        assert (current_name(settings.store), answers(turned)) == (old, expected)
        assert not (settings.store / "vectors" / "image" / make_fingerprint(kind="turned", dim=str(DIM))).exists()

    service = ServiceRuntime(turned)
    service.refresh()
    report = build(turned, announce=announced)
    assert report.published
    assert report.plan is plans[0]
    image, text = report.plan.spaces
    assert (image.before, image.encoder, image.reason) == ("grid", "turned", "another encoder")
    assert (image.contents, image.bytes) == (PHOTOS, PHOTOS * DIM * 4)
    assert image.per_second is not None
    assert image.per_second > 0
    assert (text.reason, text.contents) == ("", 0)
    entry = open_current(settings.store).manifest.spaces["image"]
    assert (entry.encoder, entry.encoded, entry.dim) == ("turned", PHOTOS, DIM)
    compared = image_checks(report)
    tests = ("photos by photo", "photos by name", "next items by image")
    assert list(compared) == [f"{metric} of {test}" for test in tests for metric in ("MRR", "recall@10")]
    assert compared["MRR of photos by photo"].cases == 53
    assert compared["MRR of photos by name"].cases == ITEMS
    assert [check for check in report.manifest.checks if check.space] == list(compared.values())
    assert all(check.parent == check.release > 0 for check in compared.values())
    assert not any("not compared" in note for note in report.notes)

    assert [hit.item_index for hit in service.engine.search(Query(k=5, text="red shoes"))] == expected
    encoded.clear()
    make_current(settings.store, release_before(settings.store))  # as vetrina rollback does
    assert (current_name(settings.store), answers(turned)) == (old, expected)
    assert not build(settings).published  # the settings as they were: nothing is encoded, nothing to release
    assert encoded == []
    service.refresh()
    assert [hit.item_index for hit in service.engine.search(Query(k=5, text="red shoes"))] == expected
    make_current(settings.store, report.manifest.release)
    with pytest.raises(BadRequest, match="has other encoders than the active one and was not compared with it"):
        publish(settings, str(old))


def test_a_worse_encoder_is_not_published_unless_forced(settings: Settings, run: Run) -> None:
    old, expected = current_name(settings.store), answers(settings)
    noise = using(settings, image_encoder="noise", text_encoder="noise")
    report = build(noise)
    assert report.refused
    assert {check.name for check in report.checks if check.worse} >= {
        "MRR of photos by photo",
        "MRR of photos by name",
        "MRR of descriptions by name",
    }
    for check in report.checks:
        assert check.high is None or check.worse == (check.high < 0)
    assert (current_name(settings.store), answers(noise)) == (old, expected)

    encoded.clear()
    (Path.cwd() / "vetrina.toml").write_text('image_encoder = "noise"\ntext_encoder = "noise"\n')
    code, printed, errors = run("build", "--store", settings.store)
    assert (code, sum(encoded)) == (1, 0)
    assert "grid -> noise (another encoder)" in errors
    assert "0 photos to encode" in errors
    assert "the active release serves with its own encoders" in errors
    assert "MRR of photos by photo" in printed
    assert "measures worse than the active one and was not published" in " ".join(printed.split())
    assert len(list_manifests(settings.store)) == 2
    with pytest.raises(BadRequest, match="are not those of release"):
        train(noise)

    assert not publish(noise, report.manifest.release)[1]
    assert build(noise, force=True).published
    assert open_current(settings.store).manifest.spaces["text"].encoder == "noise"


def test_a_plan_changes_nothing(settings: Settings, run: Run) -> None:
    before = files(settings.store)
    Path("vetrina.toml").write_text('image_encoder = "turned"\ntext_encoder = "words"\n')
    code, printed, errors = run("build", "--plan", "--store", settings.store)
    assert (code, errors) == (0, "")
    assert f"{PHOTOS} photos to encode at" in printed
    assert "text: words, as in the active release; only new content is encoded" in printed
    code, printed, errors = run("build", "--plan", "--store", settings.store, "--json")
    assert (code, errors) == (0, "")
    image, text = json.loads(printed)["spaces"]
    assert (image["contents"], image["bytes"], image["reason"]) == (PHOTOS, PHOTOS * DIM * 4, "another encoder")
    assert text["reason"] == ""
    code, printed, errors = run("build", settings.image_root / "catalog.csv", "--plan", "--store", settings.store)
    assert (code, printed) == (2, "")
    assert "vetrina ingest" in errors
    assert files(settings.store) == before
    new = using(settings, store=settings.store.parent / "new")
    run("ingest", settings.image_root / "catalog.csv", "--store", new.store)
    assert [space.before for space in plan_build(new).spaces] == [None, None]
    assert plan_build(new).spaces[1].contents == 2 * ITEMS


def test_other_options_are_another_encoder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan_build(settings).spaces[0].reason == ""
    shorter = using(settings, align=False, encoders={"grid": {"truncate_dim": 24}})
    (image, _) = plan_build(shorter).spaces
    assert (image.before, image.encoder, image.reason) == ("grid", "grid", "other options: truncate_dim")
    assert image.bytes == PHOTOS * 24 * 4
    assert answers(shorter) == answers(settings)  # the release's options answer, not those of the settings
    monkeypatch.setattr("serve.evaluation.encoder_comparison.MIN_CASES", 100)
    report = build(shorter)
    assert report.published
    assert report.notes == ["photos by photo not compared: 53 cases, 100 are needed"]
    assert open_current(settings.store).manifest.spaces["image"].dim == 24


def test_a_plan_says_why(settings: Settings) -> None:
    manifest = open_current(settings.store).manifest
    catalogue, encoders = Catalogue.current(settings.store), load_encoders(settings)

    def reason(**changed: Any) -> str:
        entry = manifest.spaces["image"].model_copy(update=changed)
        active = manifest.model_copy(update={"spaces": manifest.spaces | {"image": entry}})
        return plan_encoding(settings, catalogue, encoders, active).spaces[0].reason

    assert reason() == reason(options=None) == ""
    assert reason(fingerprint="x") == "its files, or the code that runs them, have changed"
    assert reason(fingerprint="x", options=None).startswith("the active release was made by an earlier version")
    assert reason(fingerprint="x", encoder="bundled", options=None) == "another encoder"


def test_files_that_change_under_one_name_end_the_old_space(
    settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("vetrina.toml").write_text(
        f'image_root = "{settings.image_root}"\nimage_encoder = "grid"\ntext_encoder = "words"\n'
    )
    old = current_name(settings.store)
    monkeypatch.setattr(WordsEncoder, "fingerprint", "other words")
    assert plan_build(settings).interrupted == ["text"]
    code, printed, errors = run("build", "--store", settings.store)
    assert code == 0
    assert "the active release cannot search text any more, but in processes that" in " ".join(errors.split())
    printed = " ".join(printed.split())
    assert "descriptions by name not compared: the active release's encoder words cannot be loaded any more" in printed
    new = current_name(settings.store)
    code, printed, errors = run("rollback", "--store", settings.store)
    assert (code, printed, current_name(settings.store)) == (1, "", new)
    assert "but here it has fingerprint other words" in " ".join(errors.split())
    assert all(finding.state != "wrong" or "encoder" not in finding.subject for finding in examine(settings))
    code, _, _ = run("rollback", "--force", "--store", settings.store)
    assert (code, current_name(settings.store)) == (0, old)
    (wrong,) = [finding for finding in examine(settings) if finding.subject == "encoder of text"]
    assert wrong.state == "wrong"


def test_code_of_a_model_runs_only_while_the_settings_trust_it(settings: Settings) -> None:
    manifest = open_current(settings.store).manifest
    trusted = manifest.spaces["text"].model_copy(update={"options": EncoderOptions(trust_remote_code=True)})
    manifest = manifest.model_copy(update={"spaces": manifest.spaces | {"text": trusted}})
    with pytest.raises(StoreUnavailable, match="which the settings do not trust") as caught:
        Encoders(Device("cpu", 1), {}).encoder(manifest, "text")
    assert caught.value.field == "encoders.words.trust_remote_code"
    encoders = Encoders(Device("cpu", 1), {"words": EncoderOptions(trust_remote_code=True)})
    with pytest.raises(BadInput, match="does not take the option"):  # it was let through to the encoder
        encoders.encoder(manifest, "text")


def test_a_killed_encoding_goes_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_job, "PART_SIZE", 32)
    turned, old = using(settings, image_encoder="turned"), current_name(settings.store)
    real, left = GridEncoder.encode_images, [0]

    def killed(self: GridEncoder, prepared: Sequence[Vectors]) -> Vectors:
        left[0] -= len(prepared)
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, prepared)

    monkeypatch.setattr("serve.jobs.encoding_plan.measure_image_rate", lambda *_: 1.0)
    monkeypatch.setattr(GridEncoder, "encode_images", killed)
    left[0] = 100
    with pytest.raises(KeyboardInterrupt):
        build(turned)
    assert current_name(settings.store) == old
    monkeypatch.setattr(GridEncoder, "encode_images", real)
    encoded.clear()
    report = build(turned, force=True)
    assert report.plan is not None
    assert 0 < report.plan.spaces[0].contents == sum(encoded) <= PHOTOS - 64
    assert report.plan.spaces[0].seconds == sum(encoded)


def test_models_of_the_old_vectors_are_left_out_and_said(copied: Settings) -> None:
    assert open_current(copied.store).behaviour.towers is not None
    grid = using(copied, image_encoder="grid")
    (note,) = plan_build(grid).notes
    assert "run vetrina train towers, vetrina train scorer and vetrina build" in note
    report = build(grid, force=True)
    assert note in report.notes
    assert open_current(copied.store).behaviour.towers is None
    make_current(copied.store, release_before(copied.store))
    assert open_current(copied.store).behaviour.towers is not None


def test_live_changes_reach_the_new_space_and_the_old_one(settings: Settings) -> None:
    shorter = using(settings, align=False, encoders={"grid": {"truncate_dim": 24}})
    service = ServiceRuntime(settings)
    service.refresh()
    photo = Catalogue.current(settings.store).item(0).images[0]
    service.items.put([{"item_id": "before", "title": "a lilac kettle", "image": photo}])
    build(shorter, force=True)
    service.refresh()
    service.items.put([{"item_id": "after", "title": "a lilac teapot", "image": photo}])
    for name in (current_name(settings.store), release_before(settings.store)):
        make_current(settings.store, str(name))
        snapshot = open_engine(shorter).snapshot
        dim = snapshot.release.manifest.spaces["image"].dim
        for item_id in ("before", "after"):
            labels, vectors = snapshot.spaces["image"].item_rows(snapshot.item_index(item_id) or 0)
            assert (len(labels), vectors.shape) == (1, (1, dim))


def test_ranks_are_those_of_every_candidate_and_ties_count_half() -> None:
    random = np.random.default_rng(0)
    candidates = unit_rows(random.integers(-1, 2, (40, 3)).astype(np.float32) + 0.5)
    group, skip = random.integers(0, 12, 40), random.permutation(40)[:20]
    test = Retrieval(np.arange(40), group, group[skip], skip)
    for query, rank in zip(skip, first_ranks(candidates[skip], candidates, test), strict=True):
        scores = {row: float(candidates[row] @ candidates[query]) for row in range(40) if row != query}
        right = max((score for row, score in scores.items() if group[row] == group[query]), default=-np.inf)
        wrong = [score for row, score in scores.items() if group[row] != group[query]]
        ties = sum(abs(score - right) < 1e-6 for score in wrong)
        assert rank == 1 + sum(score > right + 1e-6 for score in wrong) + ties / 2
    constant = np.ones((40, 1), np.float32)
    assert first_ranks(constant[skip], constant, test).min() > 10


@pytest.mark.parametrize("joint", [False, True])
def test_the_probe_is_a_ridge_regression_that_never_saw_what_it_is_asked(joint: bool) -> None:
    random = np.random.default_rng(0)
    number = np.arange(40)
    words = unit_rows(random.normal(size=(120, 6))).reshape(3, 40, 6)
    images = unit_rows(words[1] @ random.normal(size=(6, 6)))
    pairs = TextImagePairs(images, words, number // 2, number, number[None] + 40 * np.arange(3)[:, None])
    found = held_out_queries(pairs, joint, number, 1)
    other = images.copy()
    other[:2] = random.normal(size=(2, 6))  # of product 0
    again = held_out_queries(replace(pairs, images=other), joint, number, 1)
    np.testing.assert_array_equal(again[:, :2], found[:, :2])
    assert abs(again[:-1, 2:] - found[:-1, 2:]).max() > 1e-3

    mine = np.random.default_rng(SEED).permutation(20)[0::FOLDS]
    training = np.flatnonzero(~np.isin(number // 2, mine))
    asked = np.flatnonzero(np.isin(number // 2, mine))
    texts, targets = words[:, training].reshape(-1, 6).astype(np.float64), np.tile(images[training], (3, 1))
    mean = texts.mean(0)
    targets = targets - targets.mean(0) - (texts - mean if joint else 0)
    gram = (texts - mean).T @ (texts - mean)
    for queries, shrinkage in zip(found[:-1], SHRINKAGES[:-1], strict=True):
        matrix = np.linalg.solve(gram + shrinkage * np.trace(gram) / 6 * np.eye(6), (texts - mean).T @ targets)
        expected = (words[1, asked] - mean) @ matrix + (words[1, asked] if joint else 0)
        np.testing.assert_allclose(queries[asked], unit_rows(expected), atol=1e-5)
    np.testing.assert_allclose(found[-1], unit_rows(words[1]) if joint else np.zeros((40, 6)), atol=1e-6)
