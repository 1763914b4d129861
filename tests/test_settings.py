"""Settings: names of version 0.1 still work, and every setting is described."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from serve.core.settings import RENAMED, Settings, load_settings


def test_old_names_are_accepted_in_the_file_and_in_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vetrina.toml").write_text('leave_out = ["seen"]\n[explore]\nfloor = 0.5\n[scorer]\ncases = 200\n')
    for name, value in (("ONLINE__MOST_A_DAY", "7"), ("TIMEOUTS__ANSWER", "3"), ("LIKED_FROM", "2")):
        monkeypatch.setenv(f"VETRINA_{name}", value)
    settings = load_settings()
    assert settings.exclude_interactions == ["seen"]
    assert (settings.explore.min_relative_score, settings.scorer.max_lists) == (0.5, 200)
    assert (settings.online.max_daily_responses, settings.timeouts.response) == (7, 3)
    assert settings.min_liked_rating == 2
    # A worker process gets the settings as JSON, and has the same file and variables.
    assert Settings(**json.loads(settings.model_dump_json())) == settings


def described(model: type[BaseModel], section: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        yield f"{section}{name}", field.description
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from described(field.annotation, f"{section}{name}.")


def test_every_setting_is_described_and_every_old_name_has_a_new_one() -> None:
    descriptions = dict(described(Settings))
    assert [name for name, text in descriptions.items() if not text] == []
    assert set(RENAMED.values()) <= set(descriptions)
    assert not set(RENAMED) & set(descriptions)
