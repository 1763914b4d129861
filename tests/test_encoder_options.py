"""Options of encoders: from the settings to the encoder, into the manifest of a release, and back."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers.command import Run

from embed.encoders import EncodedTexts, EncoderOptions, choose_device
from embed.encoders.encoder_registry import ENCODERS, EncoderEntry
from embed.errors import BadInput
from serve.core.errors import BadRequest
from serve.core.settings import Settings, load_settings
from serve.engine.query_encoders import Encoders
from serve.jobs.doctor import examine
from serve.jobs.encoder_check import examine_encoder
from serve.release.manifest import SpaceEntry


class Echo:
    """Remembers what it was made with and asked."""

    made: list[tuple[str, EncoderOptions | None]]
    dim, fingerprint = 2, "echo"
    details: ClassVar = {"prompt": "none"}

    def __init__(self, spec: str, device: object, options: EncoderOptions | None) -> None:
        self.name, self.queries = f"echo:{spec}", list[bool]()
        Echo.made.append((spec, options))

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        self.queries.append(query)
        return EncodedTexts(np.tile(np.float32([1, 0]), (len(texts), 1)), 0)


@pytest.fixture(autouse=True)
def _echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    module = ModuleType("echo")
    vars(module)["Echo"] = Echo
    monkeypatch.setitem(__import__("sys").modules, "echo", module)
    monkeypatch.chdir(tmp_path)
    Echo.made = []
    options = ("query_prompt", "base_url", "truncate_dim")
    ENCODERS.append(EncoderEntry("echo:NAME", "echo", "Echo", takes=("text",), options=options))
    yield
    ENCODERS.pop()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[encoders."echo:a"]\nmean = [0.5, 0.5, 0.5]', "echo:a does not take the option mean: it takes base_url"),
        ("[encoders.bundled]\ntruncate_dim = 8", "bundled does not take the option truncate_dim: it takes none"),
        ('[encoders."what:a"]\nquery_prompt = ""', "encoder 'what:a' is unknown: use bundled"),
        (
            '[encoders."echo:a"]\nquery_promt = "q: "',
            "encoders.echo:a.query_promt: there is no such option",
        ),
        ('[encoders."echo:a"]\nstd = [0.2, 0.0, 0.2]', "std.1: Input should be greater than 0"),
        ('[encoders."echo:a"]\nmean = [123.7, 0.5, 0.5]', "mean.0: Input should be less than or equal to 1"),
        ('[encoders."echo:a"]\ntruncate_dim = 0', "encoders.echo:a.truncate_dim"),
        ('[encoders."echo:a"]\nbase_url = "https://me:secret@host/v1"', "encoders.echo:a.base_url: write http"),
        ('[encoders."echo:a"]\napi_key_variable = "sk-secret"', "encoders.echo:a.api_key_variable: write the name"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(table: str, said: str) -> None:
    Path("vetrina.toml").write_text(table)
    with pytest.raises(BadRequest, match=said.replace("'", ".")) as refused:
        load_settings()
    assert refused.value.field.startswith("encoders")
    assert "secret" not in str(refused.value)


def test_options_reach_the_encoder_its_workers_and_its_release() -> None:
    Path("vetrina.toml").write_text('text_encoder = "echo:a"\n[encoders."echo:a"]\nquery_prompt = "query: "\n')
    settings = load_settings()
    options = settings.encoder_options("echo:a")
    assert (options, settings.encoder_options("bundled")) == (EncoderOptions(query_prompt="query: "), EncoderOptions())
    assert Settings(**json.loads(settings.model_dump_json())) == settings
    entry = SpaceEntry.model_construct(encoder="echo:a", options=options)
    assert json.loads(entry.model_dump_json(warnings=False))["options"] == {"query_prompt": "query: "}


def test_a_release_is_searched_with_its_own_options_wherever_the_server_is_now() -> None:
    def manifest(options: EncoderOptions | None) -> Any:
        return SimpleNamespace(spaces={"text": SimpleNamespace(encoder="echo:a", options=options, fingerprint="echo")})

    now = EncoderOptions(base_url="http://new/v1", query_prompt="new: ")
    encoders = Encoders(choose_device("cpu", 1), {"echo:a": now})
    before = EncoderOptions(base_url="http://old/v1", query_prompt="old: ")
    for _ in range(2):
        encoders.encode_text(manifest(before), "text", "hat")
    encoders.encode_text(manifest(None), "text", "hat")  # of before there were options: as it was encoded then
    assert Echo.made == [("a", before.model_copy(update={"base_url": "http://new/v1"})), ("a", None)]
    loaded = encoders.encoder(manifest(before), "text")
    assert isinstance(loaded, Echo)
    assert loaded.queries == [True]  # and the second text was in the cache


def test_the_doctor_reports_on_one_encoder(run: Run) -> None:
    findings = {each.subject: each.detail for each in examine_encoder(Settings(), "echo:a")}
    assert findings.keys() == {"encoder", "dimensions", "prompt", "fingerprint", "texts"}
    assert (findings["encoder"], findings["dimensions"], findings["prompt"]) == ("echo:a: texts", "2", "none")
    with pytest.raises(BadInput, match="encoder 'what:a' is unknown"):
        examine_encoder(Settings(), "what:a")
    code, printed, _ = run("doctor", "--encoder", "bundled", "--json")
    subjects = [each["subject"] for each in json.loads(printed)]
    assert (code, subjects.count("fingerprint"), subjects.count("runs in")) == (0, 2, 2)
    code, _, errors = run("doctor", "--encoder", "what:a")
    assert (code, errors.count("\n")) == (2, 1)


def test_the_doctor_says_which_options_are_not_used() -> None:
    settings = Settings(encoders={"echo:b": EncoderOptions(query_prompt="q")}, store=Path("nowhere"))
    unused = [each for each in examine(settings) if each.subject == "encoders.echo:b"]
    assert "neither image_encoder nor text_encoder" in unused[0].detail
