"""What every command prints: at several widths, into a pipe, as JSON, and for wrong settings."""

import functools
import importlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers.command import Run, is_one_line
from helpers.shop import QUICK, QUICK_SCORER
from rich.cells import cell_len
from rich.console import Console

from serve import cli
from serve.cli import terminal
from serve.core.settings import Settings
from serve.evaluation.ab_report import ABReport, Arm, Difference
from serve.evaluation.off_policy import Estimate, Estimates
from serve.evaluation.off_policy_report import OffPolicyReport
from serve.release.ab_test import Experiment
from serve.release.repository import release_names

WIDTHS = (60, 80, 110)
WIDE = 400
WITHOUT_JSON = {"demo", "serve"}


@dataclass(frozen=True)
class World:
    """Paths and names that commands need."""

    store: Path
    shop: Path
    folder: Path

    @property
    def releases(self) -> list[str]:
        return release_names(self.store)

    def file(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path


Arguments = Callable[[World], list[Any]]


@dataclass(frozen=True)
class Case:
    """Arguments of a command, the job whose result the second run takes from the first, and preparations."""

    arguments: Arguments = lambda _: []
    job: str = ""
    fake: Callable[[], Any] | None = None
    before: Arguments | None = None


def estimates() -> OffPolicyReport:
    mean = Estimate(0.1234, 0.1111, 0.1357)
    return OffPolicyReport("20260101T000000000-abcdef01", Estimates(100, 45.0, mean, mean, mean, mean), 3)


def comparison() -> ABReport:
    experiment = Experiment(release="20260101T000000000-abcdef01", share=0.5, since=0.0, salt="x")
    arms = {
        name: Arm([experiment.release], 120, 240, {"worth": 0.25, "click": 0.125}) for name in ("control", "treatment")
    }
    difference = Difference(0.0125, -0.0625, 0.0875, 0.75)
    return ABReport(experiment, arms, {"worth": difference, "click": difference}, 2)


RULES = '[[rule]]\nname = "winter"\ndo = "boost"\nfactor = 2.0\nwhere = { category = "Bags" }\n'
CASES: dict[str, Case] = {
    "ab report": Case(job="serve.evaluation.ab_report.report", fake=comparison),
    "ab start": Case(lambda world: [world.releases[-1]]),
    "ab stop": Case(job="serve.release.ab_test.stop", fake=lambda: None),
    "align": Case(job="serve.jobs.build.align_catalogue"),
    "audience": Case(lambda _: ["a warm hoodie", "--size", "12", "--holdout", "0.25"]),
    "audit": Case(before=lambda _: ["keys", "create", "console", "--scope", "admin"]),
    "build": Case(lambda world: [world.shop / "catalog.csv"], "serve.jobs.build.build"),
    "candidates": Case(lambda world: ["--out", world.folder / "candidates.parquet", "-k", "5"]),
    "compact": Case(),
    "copy": Case(lambda _: ["--style", "title"]),
    "demo": Case(lambda world: ["--folder", world.folder / "demo"]),
    "doctor": Case(),
    "duplicates": Case(
        lambda world: ["--out", world.folder / "groups.jsonl"], "serve.jobs.find_duplicates.find_duplicates"
    ),
    "encode": Case(job="serve.jobs.build.encode_catalogue"),
    "erase": Case(lambda _: ["u00001"]),
    "evaluate": Case(lambda world: ["--out", world.folder / "evaluation.json"], "serve.jobs.train.evaluate"),
    "events": Case(lambda world: [world.shop / "events.jsonl"]),
    "export items": Case(lambda world: ["--out", world.folder / "items.parquet"]),
    "export neighbours": Case(lambda world: ["--out", world.folder / "neighbours.parquet", "-k", "3"]),
    "export vectors": Case(lambda world: ["--out", world.folder / "vectors.parquet", "--space", "image"]),
    "index curve": Case(lambda world: ["--out", world.folder / "curve.png"]),
    "ingest": Case(lambda world: [world.shop / "catalog.csv"]),
    "keys create": Case(
        lambda _: ["shop-frontend", "--scope", "query", "--scope", "events"],
        fake=lambda: "vt_" + 43 * "x",
        job="serve.security.api_keys.create_key",
    ),
    "keys disable": Case(),
    "keys list": Case(before=lambda _: ["keys", "create", "console", "--scope", "admin", "--rate", "12.5"]),
    "keys revoke": Case(lambda _: ["console"], "serve.security.api_keys.revoke_key", lambda: None),
    "learn": Case(job="serve.jobs.train.learn"),
    "off-policy": Case(
        lambda world: [world.releases[0]], "serve.evaluation.off_policy_report.estimate_release", estimates
    ),
    "publish": Case(lambda world: [world.releases[0]]),
    "quarantine list": Case(before=lambda _: ["quarantine", "scan"]),
    "quarantine release": Case(
        lambda world: [robot(world)], "serve.storage.quarantine.Quarantine.release", lambda: True
    ),
    "quarantine scan": Case(),
    "recommend": Case(lambda _: ["u00042", "--explain"]),
    "related": Case(lambda world: [item(world)], "serve.engine.related_items.related_items", list),
    "relations": Case(
        lambda world: [world.file("links.csv", f"item_id,related_id\n{item(world)},nothing\n"), "--relation", ""]
    ),
    "releases": Case(),
    "review": Case(),
    "rollback": Case(lambda world: [world.releases[-1]]),
    "rules check": Case(lambda world: [world.file("rules.toml", RULES)]),
    "rules try": Case(lambda world: [world.file("rules.toml", RULES), "u00042"]),
    "search": Case(lambda _: ["red striped sneaker under 100", "--facet", "brand"]),
    "serve": Case(),
    "similar": Case(lambda world: [item(world)]),
    "train scorer": Case(job="serve.jobs.train.train_scorer"),
    "train towers": Case(job="serve.jobs.train.train"),
    "tune towers": Case(lambda _: ["--trials", "1"], "serve.jobs.train.tune"),
}


def item(world: World) -> str:
    return (world.shop / "catalog.csv").read_text().splitlines()[1].partition(",")[0]


def robot(world: World) -> str:
    rows = map(json.loads, (world.shop / "shoppers.jsonl").read_text().splitlines())
    return str(next(row["user_id"] for row in rows if row["robot"]))


def commands(group: Any, prefix: str = "", hidden: bool = False) -> Iterator[tuple[str, Any]]:
    """Every command of the application by its name, those that are hidden if `hidden`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ", hidden)
        elif command.hidden == hidden:
            yield prefix + name, command


APPLICATION: Any = typer.main.get_command(cli.app)
COMMANDS = dict(commands(APPLICATION))


class Recorder:
    """Prints to the real output, and keeps what it prints, to be printed again at other widths."""

    def __init__(self, real: Console) -> None:
        self._real = real
        self._printed: list[tuple[Any, ...]] = []

    def print(self, *values: Any) -> None:
        self._printed.append(values)
        self._real.print(*values)

    def at(self, width: int) -> str:
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=True, markup=False, emoji=False)
        for values in self._printed:
            console.print(*values)
        return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


@pytest.fixture
def world(copied: Settings, shop: Path, tmp_path: Path) -> World:
    (tmp_path / "vetrina.toml").write_text(
        f"[towers]\n{toml(QUICK)}[scorer]\n{toml(QUICK_SCORER)}[online]\nlearn = false\n"
    )
    shutil.copytree(shop, tmp_path / "demo", ignore=shutil.ignore_patterns("store"))
    shutil.copytree(copied.store, tmp_path / "demo" / "store", symlinks=True)
    return World(copied.store, shop, tmp_path)


def toml(settings: dict[str, Any]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def remember(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """Let the job of a case run once: later calls get its first result."""
    if not case.job:
        return
    owner, _, name = case.job.rpartition(".")
    try:
        target: Any = importlib.import_module(owner)
    except ModuleNotFoundError:
        module, _, class_name = owner.rpartition(".")
        target = getattr(importlib.import_module(module), class_name)
    real = getattr(target, name)
    results: list[Any] = []

    @functools.wraps(real)
    def once(*arguments: Any, **options: Any) -> Any:
        if not results:
            results.append(case.fake() if case.fake else real(*arguments, **options))
        return results[0]

    monkeypatch.setattr(target, name, once)


def test_every_command_has_a_case_and_a_task() -> None:
    assert set(CASES) == set(COMMANDS)
    listed = [name for names in terminal.TASKS.values() for name in names]
    assert sorted(listed) == sorted({name.partition(" ")[0] for name in COMMANDS})


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_command_prints_everything_at_any_width_and_as_json(
    run: Run, monkeypatch: pytest.MonkeyPatch, world: World, name: str
) -> None:
    case = CASES[name]
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    store = () if name == "demo" else ("--store", world.store)
    if case.before:
        assert run(*case.before(world), *store)[0] == 0
    remember(monkeypatch, case)
    recorder = Recorder(terminal.out)
    monkeypatch.setattr(terminal, "out", recorder)
    arguments = [*name.split(), *case.arguments(world), *store]

    code, printed, errors = run(*arguments)
    assert code == 0, errors
    assert "\x1b" not in printed + errors, "a pipe gets no colours"
    assert "━" not in errors, "a pipe gets no progress bars"
    assert printed.strip()
    wide = recorder.at(WIDE)
    figures = {token for token in re.findall(r"[^\s,;():]+", wide) if re.search(r"\d", token)}
    for width in WIDTHS:
        narrow = recorder.at(width)
        assert all(cell_len(line) <= width for line in narrow.splitlines()), narrow
        together = re.sub(r"\s", "", narrow)
        lost = {figure for figure in figures if figure not in together and figure[:18] not in together}
        assert not lost, (width, lost, narrow)

    if name not in WITHOUT_JSON:
        code, printed, errors = run(*arguments, "--json")
        assert (code, errors) == (0, "")
        json.loads(printed)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_wrong_setting_is_an_error_of_every_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, shop: Path, built: Settings, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("VETRINA_PORT", "eighty")
    arguments = [*name.split(), *CASES[name].arguments(World(built.store, shop, tmp_path))]
    code, printed, errors = run(*arguments)
    assert (code, printed) == (2, "")
    assert is_one_line(errors), errors
    if name not in WITHOUT_JSON:
        code, printed, errors = run(*arguments, "--json")
        assert (code, errors) == (2, "")
        error = json.loads(printed)["error"]
        assert set(error) == {"code", "message", "field"}
        assert (error["code"], error["field"]) == ("bad_request", "port")


def test_wrong_usage_is_json_too(run: Run) -> None:
    code, printed, errors = run("search", "mug", "-k", "0", "--json")
    assert (code, errors) == (2, "")
    error = json.loads(printed)["error"]
    assert (error["code"], error["field"]) == ("usage", "k")
    code, printed, errors = run("search", "mug", "-k", "0")
    assert (code, printed) == (2, "")
    assert "-k" in errors


def test_ctrl_c_says_how_to_continue(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serve.jobs.build.build", interrupt)
    code, printed, errors = run("build")
    assert (code, printed, errors) == (130, "", "interrupted: run the same command again to continue\n")
    code, printed, errors = run("build", "--json")
    assert (code, errors) == (130, "")
    assert json.loads(printed)["error"]["code"] == "interrupted"


def test_help_lists_commands_by_task_and_describes_every_option(run: Run) -> None:
    code, printed, _ = run("--help")
    assert code == 0
    positions = [printed.index(f"─ {task} ─") for task in terminal.TASKS]
    assert positions == sorted(positions)
    described = {**COMMANDS, **APPLICATION.commands}
    for name, command in described.items():
        if not command.hidden:
            summary = command.help.partition("\n")[0]
            assert summary.endswith("."), name
            assert 2 <= len(summary.split()) <= 6, (name, summary)
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, (name, parameter.name)


@pytest.mark.parametrize(
    ("old", "new"), [("forget", "erase"), ("ope", "off-policy"), ("quarantine look", "quarantine scan")]
)
def test_an_old_name_still_works(old: str, new: str) -> None:
    command = dict(commands(APPLICATION, hidden=True))[old]
    assert command.deprecated
    assert (
        command.callback is COMMANDS[new].callback or command.callback.__wrapped__ is COMMANDS[new].callback.__wrapped__
    )


def test_version_and_shell_completion(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--version")[1].startswith("vetrina ")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # the shell is named, not detected
    code, printed, _ = run("--show-completion", "bash")
    assert code == 0
    assert "_VETRINA_COMPLETE" in printed
    monkeypatch.setenv("_VETRINA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "vetrina sea")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run("sea")[1].split() == ["search"]


def test_serve_prints_the_console_and_what_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, built: Settings, tmp_path: Path
) -> None:
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    code, printed, _ = run("serve", "--store", built.store, "--port", "8123")
    assert code == 0
    assert "http://127.0.0.1:8123/console/" in printed
    assert "no release" not in printed
    assert "vetrina build FEED --store new" in " ".join(run("serve", "--store", "new")[1].split())


def test_each_step_says_what_to_run_next(run: Run, tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_text("item_id,title\n1,red shoe\n2,blue mug\n")
    assert "next: vetrina encode, or vetrina build" in run("ingest", feed)[1]
    assert "next: vetrina build" in run("encode")[1]
    assert "vetrina serve" in run("build")[1]
    assert "next: vetrina serve" in run("keys", "create", "console", "--scope", "admin")[1]
    assert "next: vetrina encode --store s, or vetrina build --store s" in run("ingest", feed, "--store", "s")[1]
    assert "next:" not in run("build", "--json")[1]


def test_a_new_key_says_what_it_allows(run: Run) -> None:
    Path("store").mkdir()
    query = " ".join(run("keys", "create", "shop")[1].split())
    assert "query: search and recommend" in query
    assert "vetrina keys create console --scope admin" in query
    admin = " ".join(run("keys", "create", "console", "--scope", "admin")[1].split())
    assert "admin: everything" in admin
    assert "The console needs" not in admin


def test_progress_shows_no_rate_of_zero() -> None:
    rate = terminal._Rate()
    shown = {}
    for speed in (None, 0.001, 0.5, 12.0):
        task: Any = type("Task", (), {"finished_speed": None, "speed": speed, "fields": {"unit": "items"}})()
        shown[speed] = rate.render(task).plain
    assert shown == {None: "", 0.001: "", 0.5: "30 items/min", 12.0: "12 items/s"}
