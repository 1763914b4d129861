"""What deploy/, docs/ and the README state: commands, options, settings, metrics, links and files that there are."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import typer
import yaml

from embed.catalogue import FeedMapping
from serve.cli import app
from serve.core import metrics
from serve.core.settings import OTHER_VARIABLES, Settings
from serve.moderation.policy import read_block_list
from serve.recommend.ranking.merchandising_rules import read_rules

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)
OPERATORS = {"|", "||", "&&", ";", "&", ">"}
TOML = {"rule": read_rules, "columns": FeedMapping.load, "words": read_block_list}  # by a key that only its kind has
# What labels Prometheus adds itself, and what a histogram's buckets have.
LABELS = {"job", "instance", "le"}


def fences(page: Path, *kinds: str) -> list[str]:
    """The blocks of some kinds in a page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for kind, block in blocks if kind in kinds]


# ------------------------------------------------------------------------------------------------------------ commands


def wrong(words: Sequence[str], whole: bool) -> str | None:
    """What the command line has against the words after `vetrina`; with `whole` also whether arguments are missing."""
    command, words = COMMANDS, list(words)
    while words and isinstance(getattr(command, "commands", None), dict):
        if words[0] not in command.commands:
            return f"there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    try:
        context = command.context_class(command)
        given, rest, _ = command.make_parser(context).parse_args(words)
    except Exception as error:  # whichever click this typer brings
        return str(error) or type(error).__name__
    required = {one.name for one in command.params if one.required}
    missing = sorted(name for name in required if given.get(name) in (None, ()))
    return f"unexpected {rest}" if rest else f"missing {missing}" if whole and missing else None


def calls(line: str) -> Iterator[list[str]]:
    """The words after each `vetrina` in a line of shell that begins a command, also inside of another as sudo's."""
    for found in re.finditer(r"(?:^|[\s/])vetrina (?=[a-z]+\b)(?!vetrina )", line):
        words = shlex.split(line[found.end() :], comments=True)
        yield words[: min((place for place, word in enumerate(words) if word in OPERATORS), default=len(words))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_pages_is_one(page: Path) -> None:
    for block in fences(page, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for words in calls(line):
                assert wrong(words, whole=True) is None, (line, wrong(words, whole=True))
    for span in re.findall(r"`(vetrina [a-z][^`]*)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        words = shlex.split(" ".join(span.split()))[1:]
        assert wrong(words, whole=False) is None, (span, wrong(words, whole=False))


def test_a_command_that_is_none_is_found_out() -> None:
    assert wrong(["serve", "--host", "::", "--workers", "2"], whole=True) is None
    assert wrong(["serv"], whole=True)
    assert wrong(["keys", "make", "web"], whole=True)
    assert wrong(["keys", "create", "web", "--scop", "query"], whole=True)
    assert wrong(["serve", "--stores", "x"], whole=True)
    assert wrong(["keys", "create"], whole=True)
    assert wrong(["keys", "create"], whole=False) is None
    assert wrong(["publish", "a", "b"], whole=True)
    assert list(calls("X=1 vetrina serve && sudo -u vetrina /opt/bin/vetrina learn # now")) == [["serve"], ["learn"]]
    assert list(calls("docker run vetrina vetrina build a.csv > log; journalctl -u vetrina")) == [["build", "a.csv"]]


def test_the_unit_starts_the_service_and_waits_for_it_to_end() -> None:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "vetrina.service")
    (words,) = calls(unit["Service"]["ExecStart"])
    assert wrong(words, whole=True) is None
    assert float(unit["Service"]["TimeoutStopSec"]) > Settings().timeouts.stop


def test_the_image_starts_the_service_and_asks_whether_it_lives() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    check, command = re.findall(r"\bCMD (\[.*\])$", lines, re.MULTILINE)
    program, *words = json.loads(command)
    assert program == "vetrina"
    assert wrong(words, whole=True) is None
    *_, script = json.loads(check)
    compile(script, "healthcheck", "exec")
    assert f"127.0.0.1', {Settings().port}," in script
    extra = re.search("ARG EXTRA=(.*)", lines)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert extra
    for wanted in (extra[1], services["vetrina"]["build"]["args"]["EXTRA"]):
        assert set(wanted.split(",")) <= set(extras)
    assert float(services["vetrina"]["stop_grace_period"].removesuffix("s")) > Settings().timeouts.stop


# ------------------------------------------------------------------------------------------------------------ settings


def test_every_variable_in_pages_and_files_is_a_setting() -> None:
    for file in [*PAGES, *filter(Path.is_file, DEPLOY.iterdir())]:
        for name in set(re.findall(r"\bVETRINA_[A-Z_]*[A-Z]", file.read_text())):
            top, *inner = name.removeprefix("VETRINA_").lower().split("__")
            assert name in OTHER_VARIABLES or top in Settings.model_fields, (file.name, name)
            kept = getattr(Settings(), top, None)
            assert all(hasattr(kept, field) for field in inner), (file.name, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_toml_in_the_pages_is_taken(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("categories.csv").write_text("id,name,parent_id\n")
    for block in fences(page, "toml"):
        given = tomllib.loads(block)
        Path("given.toml").write_text(block)
        loader: Callable[[Path], Any] | None = next((load for key, load in TOML.items() if key in given), None)
        if loader is None:
            Settings(**given)
        else:
            loader(Path("given.toml"))


# ------------------------------------------------------------------------------------------------------------- metrics


def exposed() -> dict[str, set[str]]:
    """The labels of every sample that /metrics may have, by its name."""
    ours = [each for each in vars(metrics).values() if isinstance(each, prometheus_client.metrics.MetricWrapperBase)]
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    found = {f"{one._name}{end}": {*one._labelnames, *LABELS} for one in ours for end in suffixes[one._type]}
    of_the_process = [one for one in prometheus_client.REGISTRY.collect() if one.name.startswith("process_")]
    assert len(ours) > 15
    assert of_the_process
    return found | {sample.name: LABELS for one in of_the_process for sample in one.samples} | {"up": LABELS}


def unknown(expression: str) -> set[str]:
    """What an expression names that /metrics does not have: metrics, and labels of none of its metrics."""
    known = exposed()
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"\b(?:vetrina|process)_\w+|\bup\b", bare))
    labels = {label for name in names for label in known.get(name, ())}
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", bare))
    grouped = re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)", bare)
    used |= {label.strip() for group in grouped for label in group.split(",")} - {""}
    assert names, expression
    return (names - known.keys()) | (used - labels)


def test_the_dashboard_and_the_alerts_name_metrics_that_are_exposed() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += [one["query"]["query"].removeprefix("label_values(") for one in dashboard["templating"]["list"][1:]]
    asked += [one["expr"] for one in dashboard["annotations"]["list"]]
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    asked += [rule["expr"] for group in groups for rule in group["rules"]]
    assert len(asked) > 40
    assert {expression: unknown(expression) for expression in asked if unknown(expression)} == {}
    assert all(panel["description"] for panel in panels)
    assert unknown('sum by (spaces) (rate(vetrina_probes_total{state="x"}[5m]))') == {
        "vetrina_probes_total",
        "spaces",
        "state",
    }


def test_the_dashboard_shows_every_metric_and_places_no_panel_over_another() -> None:
    text = (DEPLOY / "grafana.json").read_text()
    ours = {name for name in exposed() if name.startswith("vetrina_")}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in ours}
    assert [family for family in families if family not in text] == []
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(text)["panels"]:
        x, y, width, height = (panel["gridPos"][name] for name in "xywh")
        own = {(column, row) for column in range(x, x + width) for row in range(y, y + height)}
        assert not own & taken, panel["title"]
        assert x + width <= 24
        taken |= own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_in_the_pages_is_exposed(page: Path) -> None:
    known = {re.sub("_(bucket|sum|count)$", "", name) for name in exposed()} | exposed().keys()
    assert {name for name in re.findall(r"\bvetrina_[a-z_]*[a-z]\b", page.read_text()) if name not in known} == set()


def test_every_alert_is_in_the_table_of_what_to_do() -> None:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    table = (ROOT / "docs" / "operate.md").read_text()
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    assert {alert for alert in alerts if f"`{alert}`" not in table} == set()


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_in_the_pages_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match("[a-z]+:", target):
            path, _, part = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not part or part in headings(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_ours_that_the_pages_name_is_there(page: Path) -> None:
    named = re.findall(r"`((?:embed|index|serve|tests|deploy|notebooks)/[\w./]+)`", page.read_text())
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []  # NAME: a placeholder
    tests = "".join(file.read_text() for file in (ROOT / "tests").glob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", page.read_text()) if f"def {name}(" not in tests] == []


def headings(page: Path) -> set[str]:
    """What a page's headings are linked by."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
