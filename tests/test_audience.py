"""Audiences: their order, excluded users, frequency caps and hold-outs."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.service import Service, good, refused, served

from embed.behaviour import Event
from serve import cli
from serve.campaigns.audience import AudienceFinder, AudienceQuery, FrequencyCap
from serve.campaigns.user_table import UserTableCache
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.live.replica import open_engine
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.event_statistics import EventStatistics
from serve.storage.preferences import Preferences
from serve.storage.quarantine import Quarantine


@pytest.fixture
def users(copied: Settings) -> Iterator[tuple[AudienceFinder, EventLog, UserPrivacy, Engine]]:
    events = open_event_log(copied)
    privacy = UserPrivacy(events.database, copied.store)
    yield AudienceFinder(events, privacy, UserTableCache(events, privacy, copied)), events, privacy, open_engine(copied)
    events.close()


Parts = tuple[AudienceFinder, EventLog, UserPrivacy, Engine]


def member_ids(audiences: AudienceFinder, engine: Engine, **query: Any) -> list[str]:
    return [member.user_id for member in audiences.find(engine, AudienceQuery(**{"size": 1000, **query})).members]


def test_users_who_like_similar_items_come_first(users: Parts) -> None:
    audiences, events, _, engine = users
    items = [engine.snapshot.item(number) for number in range(engine.snapshot.items)]
    found = audiences.find(engine, AudienceQuery(50, text="sneaker"))
    clicks = {
        member.user_id: [event.item_id[:3] for event in events.recent(member.user_id, 200, impressions=False)]
        for member in found.members
    }
    share = np.mean([own.count("SNK") / len(own) for own in clicks.values()])
    everybody = [event for _, batch in events.batches() for event in batch.column("item_id").to_pylist()]
    assert share > 1.5 * sum(item.startswith("SNK") for item in everybody) / len(everybody)
    probabilities = [member.probability for member in found.members]
    assert probabilities == sorted(probabilities, reverse=True)
    assert found.curve[-1][0] == 50
    assert found.curve[-1][1] == pytest.approx(sum(probabilities), rel=0.01)
    # Users who interacted with the item are excluded, unless `again`.
    item = items[0].item_id
    had = EventStatistics(events.database).item_users(item)
    assert had
    assert not had & set(member_ids(audiences, engine, item_id=item))
    kept = had - {one.user_id for one in Quarantine(events.database).entries()}
    assert kept <= set(member_ids(audiences, engine, item_id=item, again=True))


def test_opted_out_and_erased_users_are_excluded(users: Parts) -> None:
    audiences, events, privacy, engine = users
    first = member_ids(audiences, engine, text="backpack", size=6)
    privacy.set_preferences(first[0], Preferences(marketing=False))
    privacy.set_preferences(first[1], Preferences(personal=False))
    privacy.erase(first[2])
    Quarantine(events.database).add({first[3]: "a bot"})
    for text in ("backpack", "mug", "red sneaker"):
        assert not set(first[:4]) & set(member_ids(audiences, engine, text=text))
    assert audiences.find(engine, AudienceQuery(5, text="mug")).opted_out == 2
    privacy.set_preferences(first[0], Preferences())
    assert first[0] in member_ids(audiences, engine, text="mug")


def test_caps_count_all_campaigns_and_held_out_users_are_not_contacted(users: Parts) -> None:
    audiences, _, privacy, engine = users
    query = AudienceQuery(200, text="mug", campaign="autumn", cap=FrequencyCap(1, 7), holdout=0.25)
    found = audiences.find(engine, query, now=1000.0)
    held = {member.user_id for member in found.members if member.held_out}
    assert 20 < len(held) < 80
    assert audiences.find(engine, query, now=1000.0) == found
    audiences._contacts.add("autumn", [member.user_id for member in found.members if not member.held_out], 1000.0)
    later = audiences.find(engine, query, now=1000.0 + 86_400)
    assert later.capped == 200 - len(held)
    assert {member.user_id for member in later.members} & {member.user_id for member in found.members} == held
    assert audiences.find(engine, query, now=1000.0 + 8 * 86_400).capped == 0
    assert audiences.find(engine, AudienceQuery(200, text="mug", cap=FrequencyCap(2, 7)), now=1001.0).capped == 0
    reached = next(member.user_id for member in found.members if not member.held_out)
    assert privacy.erase(reached).contacts == 1


def test_new_events_count_at_once(users: Parts) -> None:
    audiences, events, _, engine = users
    mugs = [item for item in map(engine.snapshot.item_id, range(engine.snapshot.items)) if item.startswith("MUG")]
    assert "newcomer" not in member_ids(audiences, engine, text="mug", size=10_000)
    events.add([Event(f"n{at}", "newcomer", item, "click", 1e9 + at) for at, item in enumerate(mugs[:4])])
    events.add([Event("pending", "stranger", "no such item", "click", 1e9)])
    everybody = member_ids(audiences, engine, text="mug", size=10_000)
    assert "newcomer" in everybody
    assert "stranger" not in everybody
    # An updated table equals one made again.
    anew = UserTableCache(events, audiences._privacy, audiences._table._settings).current(engine)
    grown = audiences._table.current(engine)
    order, sorted_ids = np.argsort(np.array(grown.ids)), sorted(anew.ids)
    assert sorted(grown.ids) == sorted_ids
    np.testing.assert_allclose(
        grown.vectors[order], anew.vectors[np.argsort(np.array(anew.ids))], atol=5e-3
    )  # about which point: the mean of all


def test_over_http_and_from_the_command_line(
    copied: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask(service: Service, **body: Any) -> Any:
        return service.client.post("/v1/audience", json=body)

    with served(copied) as service:
        found = good(ask(service, text="backpack", size=7, campaign="c", record=True))
        assert len(found["members"]) == 7
        again = good(ask(service, text="backpack", size=7, campaign="c", cap={"times": 1, "days": 1}))
        assert again["capped"] == 7
        assert refused(ask(service))["field"] == "item_id"
        assert refused(ask(service, item_id="a", text="b"))["field"] == "item_id"
        assert refused(ask(service, item_id="no such"), 404)["field"] == "item_id"
        assert refused(ask(service, text="a", holdout=0.9))["field"] == "holdout"
    out = tmp_path / "audience.parquet"
    asked = [
        "vetrina",
        "audience",
        "backpack",
        "--size",
        "7",
        "--out",
        str(out),
        "--store",
        str(copied.store),
        "--json",
    ]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    told = json.loads(capfd.readouterr().out)
    members = [member["user_id"] for member in found["members"]]
    assert [member["user_id"] for member in told["members"]] == members
    assert pq.read_table(out)["user_id"].to_pylist() == members


def test_a_creative_may_resemble_items_without_a_tower_vector(users: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    audiences, _, _, engine = users
    first_vectors = engine.snapshot.tower.first_vectors

    def some_zeros(items: Any) -> Any:
        vectors = first_vectors(items).copy()
        vectors[::2] = 0
        return vectors

    monkeypatch.setattr(engine.snapshot, "tower", SimpleNamespace(first_vectors=some_zeros))
    assert len(audiences.find(engine, AudienceQuery(5, text="mug")).members) == 5
    monkeypatch.setattr(engine.snapshot, "tower", SimpleNamespace(first_vectors=lambda items: 0 * first_vectors(items)))
    with pytest.raises(BadRequest, match="change the text"):
        audiences.find(engine, AudienceQuery(5, text="mug"))


def test_without_a_user_model_the_error_names_the_next_step(built: Settings) -> None:
    with served(built) as service:
        message = refused(service.client.post("/v1/audience", json={"text": "mug"}))["message"]
        assert "vetrina train towers" in message
