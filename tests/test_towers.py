"""The towers: batches, causality, learning, new items, resumption after kills, and what is kept on disk."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.behaviour import Interactions, leave_one_out
from embed.catalogue import Item
from embed.errors import Damaged, Missing
from embed.towers.batches import cut_windows, iterate_batches
from embed.towers.tower_features import Content, ItemFeatures, Vocabulary
from embed.towers.tower_network import EmbeddingSizes, UserTower
from embed.towers.tower_settings import TowerSettings
from embed.towers.tower_training import TowerTrainer, fit, validate
from embed.towers.two_tower_model import TrainedTowers

ITEMS, KINDS_OF_ITEMS = 60, 6
SMALL = TowerSettings(dim=16, epochs=12, patience=12, tokens=256, negatives=32, dropout=0.1, learning_rate=0.01)


def sequences(lengths: list[int]) -> Interactions:
    """Shoppers that go from item to item in steps of seven, each from a start of its own."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    item = (np.repeat(np.arange(len(lengths)) * 11, lengths) + 7 * place) % ITEMS
    count = len(item)
    return Interactions(
        np.array([f"u{user}" for user in range(len(lengths))], object),
        ITEMS,
        starts,
        item.astype(np.int32),
        np.zeros(count, np.int8),
        place * 60.0,
        np.ones(count, np.float32),
    )


@given(st.lists(st.integers(0, 23), min_size=1, max_size=30), st.integers(2, 9), st.integers(1, 60))
@settings(max_examples=100)
def test_an_epoch_predicts_every_next_item_once_from_what_came_before(
    lengths: list[int], history: int, tokens: int
) -> None:
    given_ = sequences(lengths)
    random = np.random.default_rng(0)
    found: Counter[tuple[int, int]] = Counter()
    for batch in iterate_batches(given_, cut_windows(given_, history), tokens, random):
        rows, longest = batch.target.shape
        assert longest <= history
        assert rows * longest <= max(tokens, longest)
        for row in range(rows):
            length = batch.histories.length[row]
            assert (batch.weight[row, :length] > 0).all()
            assert not batch.weight[row, length:].any()
            found.update(zip(batch.histories.item[row, :length], batch.target[row, :length], strict=True))
    expected: Counter[tuple[int, int]] = Counter()
    for user in range(len(lengths)):
        items = given_.item[given_.starts[user] : given_.starts[user + 1]]
        expected.update(zip(items[:-1].tolist(), items[1:].tolist(), strict=True))
    assert found == expected


def test_neither_the_future_nor_padding_changes_what_a_shopper_is() -> None:
    torch.manual_seed(0)
    tower = UserTower(TowerSettings(dim=16, blocks=2)).eval()
    items, kinds, gaps = torch.randn(3, 9, 16), torch.randint(0, 7, (3, 9)), torch.randint(0, 20, (3, 9))
    whole = tower(items, kinds, gaps)
    for length in range(1, 9):
        torch.testing.assert_close(
            tower(items[:, :length], kinds[:, :length], gaps[:, :length]), whole[:, :length], atol=1e-5, rtol=1e-5
        )


def features(without: tuple[int, ...] = ()) -> ItemFeatures:
    """Each item has a content vector near those of the items beside it; those `without` have no embedding."""
    angle = 2 * np.pi * np.arange(ITEMS) / ITEMS
    vectors = (
        np.stack([np.cos(angle), np.sin(angle), np.cos(3 * angle), np.sin(3 * angle)], 1).astype(np.float32) / 2**0.5
    )
    identity = np.arange(1, ITEMS + 1)
    identity[list(without)] = 0
    return ItemFeatures(
        identity,
        {"text": Content(vectors, np.arange(ITEMS))},
        np.empty(0, np.int64),
        np.zeros(ITEMS + 1, np.int64),
        np.zeros((ITEMS, 3), np.float32),
    )


def trainer(content: bool = True, ids: bool = True, without: tuple[int, ...] = (), epochs: int = 12) -> TowerTrainer:
    torch.set_num_threads(1)  # the last bits of what is learned depend on it
    split = leave_one_out(sequences([12] * 80))
    sizes = EmbeddingSizes(ITEMS if ids else 0, content={"text": 4} if content else {}, price=False)
    found = features(without)
    if not content:
        found = ItemFeatures(found.identity, {}, found.tags, found.tag_starts, found.price)
    train = split.train.where(~np.isin(split.train.item, without))
    return TowerTrainer(SMALL.model_copy(update={"epochs": epochs}), sizes, found, train)


@pytest.mark.parametrize(("content", "ids"), [(True, True), (False, True), (True, False)])
def test_what_comes_next_is_learned_with_behaviour_only_with_content_only_and_with_both(
    tmp_path: Path, content: bool, ids: bool
) -> None:
    held = leave_one_out(sequences([12] * 80)).validation
    learner = trainer(content, ids)
    before = validate(learner, held)["ndcg10"]
    state = fit(learner, held, tmp_path)
    assert state.curve[state.best_epoch - 1] == pytest.approx(
        {**state.curve[state.best_epoch - 1], **validate(learner, held)}
    )
    assert validate(learner, held)["ndcg10"] > max(0.6, 2 * before)


def test_an_item_that_training_never_saw_lies_by_its_content_near_its_like(tmp_path: Path) -> None:
    new = (20, 41)
    learner = trainer(without=new)
    fit(learner, None, tmp_path, epochs=12)
    vectors = learner.trained(Vocabulary(), {}).item_vectors(features(new))
    for item in new:
        near = np.argsort(-(vectors @ vectors[item]))[1:6]
        distance = np.minimum((near - item) % ITEMS, (item - near) % ITEMS)
        assert np.median(distance) <= 4, near


def test_one_shopper_is_placed_as_many_are(tmp_path: Path) -> None:
    learner = trainer()
    learner.train_epoch(0)
    trained = learner.trained(Vocabulary(), {})
    vectors = trained.item_vectors(learner.features)
    histories = sequences([3, 0, 70, 1])
    found = trained.user_vectors(vectors, histories)
    assert not found[1].any()
    for user in (0, 2, 3):
        rows = slice(histories.starts[user], histories.starts[user + 1])
        alone = trained.user_vector(
            vectors[histories.item[rows]], histories.kind[rows].astype(np.int64), histories.time[rows]
        )
        np.testing.assert_allclose(found[user], alone, atol=1e-5)


KILLS = 10


def kill_again_and_again(folder: Path) -> None:
    """Train in children that are killed at another moment of an epoch each, but not before one epoch has ended.

    Runs in a process of its own, which has everything imported and no threads when it forks.
    """
    import torch.utils.tensorboard  # noqa: F401

    trainer()  # torch imports its compiler for the first optimizer
    held = leave_one_out(sequences([12] * 80)).validation
    for kill in range(KILLS):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            fit(trainer(epochs=3 * KILLS), held, folder, on_epoch=lambda *_: os.write(tell, b"."))  # noqa: B023
            os._exit(1)  # nobody killed it
        os.close(tell)
        os.read(told, 1)
        time.sleep(0.002 * kill)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "training ended before it was killed"
        os.close(told)


def test_kills_change_nothing_of_what_is_learned(tmp_path: Path) -> None:
    """Each run is killed at another moment; the next goes on from the last checkpoint."""
    held = leave_one_out(sequences([12] * 80)).validation
    straight = trainer(epochs=3 * KILLS)
    expected = fit(straight, held, tmp_path / "straight")
    folder = tmp_path / "killed"
    subprocess.run([sys.executable, __file__, folder], check=True, timeout=300)
    assert (folder / "checkpoint.safetensors").exists()
    resumed = trainer(epochs=3 * KILLS)
    state = fit(resumed, held, folder)
    assert state == expected
    for (name, one), other in zip(
        straight.towers.state_dict().items(), resumed.towers.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    fit(trainer(), None, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="belongs to another training"):
        fit(trainer(content=False), None, tmp_path, epochs=2)


def catalogue() -> list[Item]:
    return [
        Item(f"i{number}", f"thing {number}", category=f"Things/{number % 3}", brand="B", price=1.0 + number)
        for number in range(ITEMS)
    ]


def test_towers_are_kept_whole_and_refused_with_a_flipped_bit(tmp_path: Path) -> None:
    items = catalogue()
    content = features().content
    vocabulary = Vocabulary.learn(items, {"text": (4, "print")})
    made = vocabulary.features(items, content)
    sizes = EmbeddingSizes(ITEMS, len(vocabulary.tags), {"text": 4}, price=True)
    learner = TowerTrainer(SMALL, sizes, made, sequences([9] * 20))
    learner.train_epoch(0)
    trained = learner.trained(vocabulary, {"blend": {}})
    folder = trained.save(tmp_path)
    assert folder.name == trained.fingerprint
    opened = TrainedTowers.open(folder)
    assert opened.fingerprint == trained.fingerprint
    np.testing.assert_array_equal(opened.encode_items(items, content), trained.item_vectors(made))
    for name in ("towers.json", "weights.safetensors", "items.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:50] + bytes([data[50] ^ 4]) + data[51:])
        with pytest.raises(Damaged, match=folder.name):
            TrainedTowers.open(folder)
        (folder / name).write_bytes(data)
    (folder / "items.json").unlink()
    with pytest.raises(Missing, match=folder.name):
        TrainedTowers.open(folder)


def test_features_say_what_an_item_is_called_by_and_what_it_costs() -> None:
    items = [
        Item("a", category="Shoes/Boots", brand="B", price=10.0, attributes={"color": ["red"]}),
        Item("b", category="Shoes", price=1000.0, attributes={"color": ["red", "blue"]}),
        Item("c"),
    ]
    vocabulary = Vocabulary.learn(items, {})
    assert set(vocabulary.tags) == {"category:Shoes", "color:red"}
    found = vocabulary.features([*items, Item("new", category="Shoes")], {})
    assert found.identity.tolist() == [1, 2, 3, 0]
    assert np.diff(found.tag_starts).tolist() == [2, 2, 0, 1]
    assert found.price[0, 0] == -found.price[1, 0] < 0
    assert found.price[2].tolist() == [0, 0, 0]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide dim 64"):
        TowerSettings(dim=64, heads=3)


if __name__ == "__main__":
    kill_again_and_again(Path(sys.argv[1]))
