"""Content review: a block list against a naive oracle, what is hidden is in no answer, and images are judged once."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import Run
from helpers.service import good, refused, served, until
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from PIL import Image

from embed.catalogue import Item, as_batch
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.core.settings_sections import ReviewSettings
from serve.jobs.build import build
from serve.moderation.policy import BlockList, ContentPolicy, read_block_list

TEXTS = st.lists(
    st.sampled_from(["ab", "AB", "abc", "a.b", "Ünder", "ünder", "x y", "x", "y", "-", "红", "'"]), max_size=4
)


@tried(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["3", "4", "7", "8"]),
            TEXTS.map(" ".join),
            st.sampled_from([None, "Arms", "Arms/Guns", "Armsmith", "Toys/Arms"]),
            TEXTS.map(" ".join),
        ),
        max_size=6,
    )
)
def test_what_is_hidden_is_what_the_list_says(rows: list[tuple[str, str, str | None, str]]) -> None:
    listed = BlockList(words=["ab", "a.b", "x y", "ünder"], categories=["Arms"], items=["7"], allow=["3"])
    policy = ContentPolicy(listed, {"8": "its image was refused"})
    items = [
        Item(item_id, title=title, category=category, attributes={"a": ["", words], "b": []})
        for item_id, title, category, words in rows
    ]

    def naive(item: Item) -> bool:
        if item.item_id == "3":
            return False
        texts = [item.title or "", item.category or "", *item.attributes["a"]]
        worded = any(
            re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text, re.IGNORECASE)
            for text in texts
            for word in listed.words
        )
        return worded or item.item_id in ("7", "8") or re.match("Arms(/|$)", item.category or "") is not None

    hidden = policy.hidden(as_table(items))
    assert sorted(hidden) == [row for row, item in enumerate(items) if naive(item)]
    assert all(hidden.values())


@pytest.mark.parametrize("listed", ["Arms", "Arms/", "Arms//"])
def test_a_category_is_blocked_with_all_below_it_however_it_is_written(listed: str) -> None:
    items = [Item(str(row), category=name) for row, name in enumerate(["Arms", "Arms/Guns", "Armsmith", "Toys/Arms"])]
    assert ContentPolicy(BlockList(categories=[listed])).hidden(as_table(items)) == {
        0: "category 'Arms' is blocked",
        1: "category 'Arms' is blocked",
    }


def as_table(items: list[Item]) -> object:
    import pyarrow as pa

    return pa.Table.from_batches([as_batch(items[:2]), as_batch(items[2:])])


@pytest.mark.parametrize(
    ("text", "told"),
    [("words = 3", "words"), ("wrds = []", "wrds"), ("words = ['']", "words.0"), ("words = [", "review.toml")],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "review.toml").write_text(text)
    with pytest.raises(BadRequest) as refusal:
        read_block_list(tmp_path / "review.toml")
    assert refusal.value.field == told


def test_what_is_hidden_comes_out_nowhere_until_the_list_says_otherwise(
    copied: Settings,
    run: Run,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served(copied) as service:
        before = good(service.search(text="mug", k=50))["items"]
        mugs = {item["item_id"] for item in before if item["category"].endswith("Mugs")}
        other = next(item["item_id"] for item in before if item["item_id"] not in mugs)
        assert len(mugs) > 1

        def shown() -> set[str]:
            """Whatever any answer has."""
            bodies = [
                service.search(text="mug", k=72),
                service.client.get(f"/v1/items/{other}/similar?k=71"),
                service.client.post("/v1/recommend", json={"k": 72}),
                service.client.post("/v1/recommend", json={"user_id": "u00001", "k": 72}),
                service.client.post("/v1/candidates", json={"user_id": "u00002", "k": 72}),
                service.client.post("/v1/rank", json={"item_ids": sorted(mugs)}),
            ]
            return {item["item_id"] for body in bodies for item in good(body)["items"]}

        assert mugs <= shown()
        mug = min(mugs)
        (copied.store / "review.toml").write_text('words = ["MUG", "mugs"]')
        until(lambda: not mugs & shown())
        assert other in shown()
        assert refused(service.client.get(f"/v1/items/{mug}"), 404)["code"] == "unknown_item"
        assert refused(service.search(like=[mug]), 404)
        assert not [text for text in good(service.client.get("/v1/suggest?q=mu"))["suggestions"] if "mug" in text]
        facets = good(service.search(text="blue", facets=["category"]))["facets"]["category"]
        assert not [value for value in facets if "Mugs" in value["value"]]
        told = good(service.client.get("/v1/review"))
        assert {item["item_id"] for item in told["hidden"]} >= mugs
        assert all("blocked word" in item["reason"] for item in told["hidden"])
        assert "vetrina_hidden_items" in service.client.get("/metrics").text

        # What comes live is under the same list, and what becomes blameless is shown.
        put = {
            "items": [{"item_id": "N1", "title": "A mug, again"}, {"item_id": mug, "title": "A cup", "category": "C"}]
        }
        outcomes = good(service.client.put("/v1/items", json=put))["items"]
        assert outcomes[0]["warnings"] == ["not shown: a blocked word in its title"]
        assert not outcomes[1]["warnings"]
        assert mug in shown()
        assert "N1" not in shown()

        code, printed, _ = run("review", "--store", copied.store, "--json")
        assert code == 0
        assert "N1" in printed

        (copied.store / "review.toml").write_text("words = [")  # a slip of the pen changes nothing
        until(lambda: "stays in force" in caplog.text)
        assert "N1" not in shown()
        (copied.store / "review.toml").unlink()
        until(lambda: mugs | {"N1"} <= shown())


@pytest.fixture
def classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the shop's own that refuses what is red, and writes down how many images it was asked of."""
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\n"
        "def red(images):\n"
        "    with Path(__file__).with_name('asked').open('a') as file:\n"
        "        file.write('x' * len(images))\n"
        "    return [image.getpixel((0, 0))[0] / 255 for image in images]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "asked"
    sys.modules.pop("own", None)


def test_a_classifier_is_asked_of_each_image_once_and_what_it_refuses_is_not_shown(
    tmp_path: Path, classifier: Path
) -> None:
    for name, color in (("red", (250, 0, 0)), ("blue", (0, 0, 250)), ("also", (255, 1, 1))):
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    feed = tmp_path / "feed.csv"
    feed.write_text("item_id,title,images\na,A,red.png\nb,B,blue.png\nc,C,blue.png|also.png\nd,D,broken.png\n")
    configured = Settings(store=tmp_path / "store", review=ReviewSettings(classifier="own:red", threshold=0.9))
    (tmp_path / "mapping.toml").write_text('[split]\nimages = "|"\n')
    configured = configured.model_copy(update={"mapping": tmp_path / "mapping.toml"})
    build(configured, feed)
    assert classifier.read_text() == "xxx"
    build(configured)
    assert classifier.read_text() == "xxx"  # verdicts are kept by content
    with served(configured) as service:
        assert set(service.ids(text="a")) == {"b", "d"}
        hidden = {item["item_id"]: item["reason"] for item in good(service.client.get("/v1/review"))["hidden"]}
        assert hidden == {"a": "image red.png was refused (0.98)", "c": "image also.png was refused (1.00)"}
        put = {"items": [{"item_id": "e", "title": "E", "image": "also.png"}, {"item_id": "a", "title": "A"}]}
        first, second = good(service.client.put("/v1/items", json=put))["items"]
        assert first["warnings"] == ["not shown: image also.png was refused (1.00)"]
        assert not second["warnings"]
        assert set(service.ids(text="a")) == {"a", "b", "d"}


@pytest.mark.parametrize("name", ["nothing:here", "json:nope", "json", "json:__name__"])
def test_a_classifier_that_is_none_is_refused_before_anything_is_released(tmp_path: Path, name: str) -> None:
    (tmp_path / "feed.csv").write_text("item_id,title\na,A\n")
    configured = Settings(store=tmp_path / "store", review=ReviewSettings(classifier=name))
    with pytest.raises(BadRequest, match="classifier"):
        build(configured, tmp_path / "feed.csv")
