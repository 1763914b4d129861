"""The command line: the same answers as over HTTP, one clear line for every mistake."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import Run, is_one_line

from embed.catalogue import Catalogue
from serve.core.settings import Settings, load_settings
from serve.jobs.build import build
from serve.jobs.doctor import examine
from serve.release.repository import open_current, releases_folder

ANSWER_KEYS = {"request_id", "release", "took_ms", "ranked_by", "items"}


def test_a_command_starts_without_what_it_does_not_need() -> None:
    code = "import sys, {0}; print({{'torch', 'faiss', 'openvino', 'sklearn', 'pandas', 'ray'}} & {{*sys.modules}})"
    for module, needs in (("serve.cli", set()), ("serve.http.app", {"torch", "faiss"})):
        loaded = subprocess.run([sys.executable, "-c", code.format(module)], check=True, capture_output=True, text=True)
        assert set(re.findall(r"'(\w+)'", loaded.stdout)) == needs


def test_answers_are_what_the_service_gives(run: Run, built: Settings, shop: Path) -> None:
    store = ("--store", built.store, "--json")
    code, printed, errors = run("search", "red striped sneaker", "-k", "3", *store)
    assert (code, errors) == (0, "")
    by_words = json.loads(printed)
    assert set(by_words) == ANSWER_KEYS | {"understood", "facets"}
    assert by_words["release"] == open_current(built.store).name
    assert len(by_words["items"]) == 3
    default = {"title", "category", "brand", "price", "currency", "image"}
    assert all(set(item) == {"item_id", "score", "retriever_scores"} | default for item in by_words["items"])
    first = by_words["items"][0]["item_id"]
    code, printed, _ = run("similar", first, "-k", "4", "--space", "image", *store)
    assert code == 0
    similar = json.loads(printed)["items"]
    assert len(similar) == 4
    assert first not in {item["item_id"] for item in similar}
    assert all(set(item["retriever_scores"]) == {"image"} for item in similar)
    photo = shop / similar[0]["image"]
    code, printed, _ = run("search", "--image", photo, "-k", "1", *store)
    assert json.loads(printed)["items"][0]["item_id"] == similar[0]["item_id"]
    code, printed, _ = run("search", "for travelling", "--like", first, "--unlike", similar[0]["item_id"], *store)
    mixed = {item["item_id"] for item in json.loads(printed)["items"]}
    assert not mixed & {first, similar[0]["item_id"]}
    assert len(mixed) == 10


def test_every_job_prints_json_for_programs_and_words_for_people(run: Run, tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_text('item_id,title\n1,red shoe\n1,red boot\n"[/red]","a [bold]hat[/nope] :rose:"\n,nothing\n')
    store = ("--store", tmp_path / "s")
    ingested = json.loads(run("ingest", feed, *store, "--json")[1])
    assert ingested["read"] == ingested["kept"] + ingested["rejected"] == 4
    assert ingested["rejects"] == {"duplicate_id": 1, "missing_id": 1}
    (encoded,) = json.loads(run("encode", *store, "--json")[1])
    assert (encoded["space"], encoded["rows"], encoded["encoded"]) == ("text", 2, 2)
    made = json.loads(run("build", feed, *store, "--json")[1])
    assert made["published"]
    assert made["items"] == 2
    assert made["encoded"][0]["encoded"] == 0
    (listed,) = json.loads(run("releases", *store, "--json")[1])
    assert listed["current"]
    assert listed["release"] == made["release"]
    findings = json.loads(run("doctor", *store, "--json")[1])
    assert {finding["state"] for finding in findings} <= {"good", "off"}
    for command in (("search", "hat"), ("similar", "1"), ("releases",), ("doctor",), ("build", feed), ("encode",)):
        code, printed, _ = run(*command, *store)
        assert code == 0, command
        assert printed.strip()
    # What is in brackets or between colons in a title is the title's own.
    assert "[bold]hat[/nope] :rose:" in run("search", "hat", *store)[1]
    assert "[/red]" in run("similar", "1", *store)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("search", "shoe", "--store", "nowhere"), 2, "vetrina build FEED --store nowhere"),
        (("similar", "1", "--store", "nowhere"), 2, "no release"),
        (("encode", "--store", "nowhere"), 2, "ingest a feed first"),
        (("build", "--store", "nowhere"), 2, "ingest a feed first"),
        (("build", "bad.csv", "--store", "s"), 2, "sku, name"),
        (("ingest", "bad.csv", "--store", "s"), 2, "sku, name"),
        (("build", "empty.csv", "--store", "s"), 2, "nothing to release"),
        (("build", "header.csv", "--store", "s"), 2, "nothing to release"),
        (("build", "good.csv", "--store", "s", "--mapping", "none.toml"), 2, "none.toml"),
        (("build", "good.csv", "--store", "s", "--format", "xls"), 2, "xls"),
        (("build", "good.csv", "--store", "good.csv"), 1, "good.csv"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    Path("bad.csv").write_text("sku,name\n1,shoe\n")
    Path("empty.csv").write_text("")
    Path("header.csv").write_text("item_id,title\n")
    Path("good.csv").write_text("item_id,title\n1,shoe\n")
    found, printed, errors = run(*arguments)
    assert is_one_line(errors), errors
    assert said in " ".join(errors.split())
    assert found == code
    assert not printed


def test_a_mistake_in_a_question_is_one_clear_line(run: Run, built: Settings, tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"
    page.write_text("<html>403</html>")
    store = ("--store", built.store)
    for arguments, said in (
        (("similar", "no-such-item"), "'no-such-item'"),
        (("search", "shoe", "--like", "no-such-item"), "'no-such-item'"),
        (("search", "shoe", "--space", "tower"), "image, text"),
        (("search", " "), "blank"),
        (("search",), "send text, image or like"),
        (("search", "--image", page), "image"),
    ):
        code, printed, errors = run(*arguments, *store)
        assert code == 2, arguments
        assert is_one_line(errors), errors
        assert said in " ".join(errors.split())
        assert not printed
    assert run("search", "shoe", "-k", "0", *store)[0] == 2
    assert run("search", "--image", "none.jpg", *store)[0] == 2
    assert run("build", "none.csv", *store)[0] == 2


def test_settings_come_from_file_then_variable_then_flag(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().keep_releases == 3
    Path("vetrina.toml").write_text('store = "file"\nkeep_releases = 5\nport = 1\n')
    monkeypatch.setenv("VETRINA_STORE", "variable")
    monkeypatch.setenv("VETRINA_PORT", "2")
    settings = load_settings(port=3, store=None)
    assert (settings.store, settings.keep_releases, settings.port) == (Path("variable"), 5, 3)
    assert "variable" in run("search", "shoe")[2]
    assert "flag" in run("search", "shoe", "--store", "flag")[2]
    other = tmp_path / "other.toml"
    other.write_text("keep_releases = 7")
    monkeypatch.setenv("VETRINA_CONFIG", str(other))
    assert load_settings().keep_releases == 7


@pytest.mark.parametrize(
    ("toml", "variables", "said"),
    [
        ("sotre = 'x'", {}, "sotre"),
        ("port = 'eighty'", {}, "port"),
        ("keep_releases = 0", {}, "keep_releases"),
        ("port = = 1", {}, "vetrina.toml"),
        ("[space_weights]\nimage = 0", {}, "space_weights.image"),
        ("[space_weights]\nimage = nan", {}, "space_weights.image"),
        ("", {"VETRINA_STOER": "x"}, "did you mean VETRINA_STORE"),
        ("", {"VETRINA_THREADS": "-1"}, "threads"),
        ("", {"VETRINA_SPACE_WEIGHTS": "image"}, "space_weights"),
        ("", {"VETRINA_CONFIG": "none.toml"}, "none.toml"),
        ("", {"VETRINA_DEVICE": "tpu"}, "tpu"),
    ],
)
def test_a_wrong_setting_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, toml: str, variables: dict[str, str], said: str
) -> None:
    Path("vetrina.toml").write_text(toml)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, errors = run("doctor")
    assert code == 2
    assert is_one_line(errors), errors
    assert said in " ".join(errors.split())


def test_the_doctor_names_what_is_damaged(run: Run, built: Settings, tmp_path: Path) -> None:
    assert run("doctor", "--store", built.store)[0] == 0
    store = tmp_path / "store"
    shutil.copytree(built.store, store, symlinks=True)
    name = open_current(store).name
    (releases_folder(store) / name / "spaces" / "image" / "labels.npy").unlink()
    (Catalogue.current(store).file).write_bytes(b"cut")
    (releases_folder(store) / "old").mkdir()
    code, printed, _ = run("doctor", "--store", store, "--json")
    assert code == 1
    wrong = {finding["subject"]: finding["detail"] for finding in json.loads(printed) if finding["state"] == "wrong"}
    assert set(wrong) == {"catalogue", "release", "release old"}
    assert "spaces/image/labels.npy" in wrong["release"]
    assert "items.arrow" in wrong["catalogue"]
    code, _, errors = run("search", "shoe", "--store", store)
    assert code == 1
    assert "spaces/image/labels.npy" in "".join(errors.split())
    assert run("releases", "--store", store)[0] == 0


def test_an_answer_without_prices_brands_and_titles_can_be_shown(run: Run, tmp_path: Path) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text('{"item_id": "1", "description": "a red shoe"}\n{"item_id": "2", "description": "blue hat"}\n')
    build(Settings(store=tmp_path / "store"), feed)
    code, printed, _ = run("search", "shoe", "--store", tmp_path / "store")
    assert code == 0
    assert "1" in printed


@pytest.mark.parametrize(
    ("file", "subject"), [("catalogue/current/items.arrow", "catalogue"), ("vectors/text/*/*.arrow", "vectors text")]
)
def test_doctor_finds_a_flipped_bit(built: Settings, tmp_path: Path, file: str, subject: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(built.store, store, symlinks=True)
    damaged = next(store.glob(file))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    wrong = [finding for finding in examine(Settings(store=store)) if finding.state == "wrong"]
    assert [finding.subject for finding in wrong] == [subject]
    assert damaged.name in wrong[0].detail
