"""The guide to extending: its examples are added as the page shows them, each one module and one registry line."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from helpers.behaviour import NOW, interactions, user_history
from PIL import Image

from embed.encoders import choose_device, load_image_encoder, load_text_encoder
from embed.encoders.encoder import ImageEncoder
from embed.encoders.encoder_registry import ENCODERS
from embed.errors import BadInput
from serve.core.units import DAY
from serve.recommend.ranking.explanations import explain_totals
from serve.recommend.ranking.feature import FeatureContext
from serve.recommend.ranking.feature_builder import FeatureBuilder, FeatureLayout
from serve.recommend.ranking.feature_registry import FEATURES
from serve.recommend.ranking.item_signals import ItemSignals, ItemTags
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.ranking.scorer import FORMAT, Scorer
from serve.recommend.ranking.stage_registry import STAGES
from serve.recommend.retrieval.arrivals import score_arrivals
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.covisitation import Covisitation
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.recommend.retrieval.popularity import count_popularity
from serve.recommend.retrieval.retriever import RetrievalContext
from serve.recommend.retrieval.retriever_registry import RETRIEVERS, build_retrievers
from serve.recommend.retrieval.retriever_results import order_by_score

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
PARTS = ("encoder", "retriever", "feature", "stage")  # each has two blocks: its module, and its registry line


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leaves the registries and modules as they were."""
    lists: list[list[Any]] = [ENCODERS, FEATURES, STAGES]
    before, retrievers = [list(each) for each in lists], dict(RETRIEVERS)
    yield
    for each, entries in zip(lists, before, strict=True):
        each[:] = entries
    RETRIEVERS.clear()
    RETRIEVERS.update(retrievers)
    for path, _ in BLOCKS[::2]:
        sys.modules.pop(dotted(path), None)


def dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def add(part: str) -> None:
    """Add the example of a part: its module under its path, and the line to the registry."""
    (path, code), (registry, line) = BLOCKS[2 * PARTS.index(part) :][:2]
    module = ModuleType(dotted(path))
    sys.modules[module.__name__] = module
    exec(compile(code, path, "exec"), vars(module))  # noqa: S102
    exec(line, {**vars(module), Path(path).stem: module, **vars(import_module(dotted(registry)))})  # noqa: S102


def test_every_example_is_one_module_and_one_line() -> None:
    assert len(BLOCKS) == 2 * len(PARTS)
    assert [(ROOT / path).exists() for path, _ in BLOCKS] == [False, True] * len(PARTS)
    assert all(len(line.splitlines()) == 1 for _, line in BLOCKS[1::2])


def test_an_encoder() -> None:
    device = choose_device("cpu", 1)
    with pytest.raises(BadInput, match="image encoder 'colour' is unknown: use bundled, st:MODEL, open_clip:"):
        load_image_encoder("colour", device)
    add("encoder")
    encoder = load_image_encoder("colour", device)
    assert isinstance(encoder, ImageEncoder)
    photos = [np.asarray(Image.new("RGB", (90, 40), colour)) for colour in ("red", "navy", "red")]
    vectors = encoder.encode_images([encoder.prepare(photo) for photo in photos])
    assert vectors.shape == (3, encoder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors @ vectors.T, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    with pytest.raises(BadInput, match="text encoder 'colour' is unknown"):
        load_text_encoder("colour", device)
    with pytest.raises(BadInput, match="image encoder 'colour:x' is unknown"):
        load_image_encoder("colour:x", device)


ROWS = [(user, item, float(5 - item), 1.0) for user in range(3) for item in (1, 2, 4)]
COVISITATION = Covisitation.count(interactions(ROWS), NOW)


def generator() -> CandidateGenerator:
    """The retrievers that there are, over eight items, of which item 7 is new."""
    popularity = count_popularity(interactions(ROWS), NOW, 14.0)
    arrivals = score_arrivals(np.where(np.arange(8) == 7, NOW - DAY, np.nan), NOW, 14.0)
    behaviour: Any = SimpleNamespace(
        covisitation=COVISITATION,
        towers=None,
        knowledge=None,
        popularity_ranking=(popularity, order_by_score(popularity)),
        arrival_ranking=lambda now: (arrivals, order_by_score(arrivals)),
    )
    model = LinearScoreModel().scaled({"arrivals": 0.0})
    return CandidateGenerator(build_retrievers(RetrievalContext(behaviour, {}, {}, {})), model, 8)


def test_a_retriever() -> None:
    before = FeatureLayout(()).names
    assert "last_item" not in generator().generate(user_history([1, 2]), 8, np.array([1, 2])).scores
    add("retriever")
    assert LinearScoreModel().weights["last_item"] == 0.5
    assert LinearScoreModel().smoothing["last_item"] == 0.05
    assert LinearScoreModel().scaled({"last_item": 2.0}).weights["last_item"] == 1.0
    made = generator()
    found = made.generate(user_history([1, 2]), 8, np.array([], np.int64))
    expected = COVISITATION.score_pairs(np.array([2]), found.items)[:, 0]
    assert expected.any()
    np.testing.assert_allclose(found.scores["last_item"], expected)
    assert found.proposed["last_item"].tolist() == (expected > 0).tolist()
    np.testing.assert_allclose(made.score_parts(found)["last_item"], 0.5 * np.log(expected / 0.05 + 1), rtol=1e-5)
    (reasons,) = explain_totals({"last_item": [0.4]}, 1)
    assert reasons.sentence == "Because users often choose it right after the latest item."
    layout = FeatureLayout(())
    assert set(layout.names) - set(before) == {"last_item", "last_item_rank"}
    assert layout.names.index("last_item") in layout.groups["others"]


def features(items: list[int]) -> dict[str, float]:
    """The features of the first candidate for a user with these items."""
    unknown = np.full(8, np.nan)
    tags = ItemTags(np.empty(0, np.int64), np.zeros(9, np.int64), np.zeros(1, np.int64))
    signals = ItemSignals(unknown.astype(np.float32), unknown.astype(np.float32), unknown, tags)
    builder = FeatureBuilder({}, signals.take, COVISITATION, LinearScoreModel().smoothing)
    user = user_history(items)
    matrix = builder.build(user, generator().generate(user, 8, user.item), FeatureContext(NOW + 3 * DAY))
    return dict(zip(builder.layout.names, matrix.values[0].tolist(), strict=True))


def test_a_feature(tmp_path: Path) -> None:
    before = FeatureLayout(())
    (tmp_path / "scorer.json").write_bytes(orjson.dumps({"format": FORMAT, "spaces": [], "columns": before.names}))
    assert Scorer.is_readable(tmp_path)
    add("feature")
    layout = FeatureLayout(())
    assert layout.names == (*before.names, "days_since_visit")
    assert list(layout.groups) == [*before.groups, "visits"]
    assert layout.groups["visits"].tolist() == [len(before.names)]
    assert layout.wordings["visits"] == "of the time since the last visit"
    assert features([1])["days_since_visit"] == 2
    assert np.isnan(features([])["days_since_visit"])
    assert not Scorer.is_readable(tmp_path)  # builds leave it out until it is trained again


def test_a_ranking_stage() -> None:
    def recommended() -> list[int]:
        pipeline = RankingPipeline(generator(), None, None, {})
        items: list[int] = pipeline.recommend(user_history([]), 2, np.array([4]), NOW).items.tolist()
        return items

    assert recommended() == [2, 1]
    add("stage")
    assert [stage.name for stage in STAGES][-2:] == ["fresh_item", "arrangement"]
    assert recommended() == [2, 7]
