"""Audiences: who most likely wants it, who never is in them, what caps and hold-outs do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.service import Service, good, refused, served

from embed.behaviour import Event
from serve import cli
from serve.campaigns.audience import AudienceQuery, Audiences, Cap
from serve.campaigns.user_table import UserTableCache
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.live.replica import open_engine
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.preferences import Preferences


@pytest.fixture
def users(copied: Settings) -> Iterator[tuple[Audiences, EventLog, UserPrivacy, Engine]]:
    events = open_event_log(copied)
    rights = UserPrivacy(events.database, copied.store)
    yield Audiences(events, rights, UserTableCache(events, rights, copied)), events, rights, open_engine(copied)
    events.close()


Made = tuple[Audiences, EventLog, UserPrivacy, Engine]


def who(audiences: Audiences, engine: Engine, **wanted: Any) -> list[str]:
    return [member.user_id for member in audiences.find(engine, AudienceQuery(**{"size": 1000, **wanted})).members]


def test_who_likes_such_things_comes_first(users: Made) -> None:
    audiences, events, _, engine = users
    items = [engine.view.item(number) for number in range(engine.view.items)]
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
    # Of an item those who had it are left out, unless they are wanted again.
    item = items[0].item_id
    had = events.users_of(item)
    assert had
    assert not had & set(who(audiences, engine, item_id=item))
    kept = had - {one.user_id for one in events.quarantined()}
    assert kept <= set(who(audiences, engine, item_id=item, again=True))


def test_who_opted_out_is_never_in_it_and_who_is_erased_neither(users: Made) -> None:
    audiences, events, rights, engine = users
    first = who(audiences, engine, text="backpack", size=6)
    rights.prefer(first[0], Preferences(marketing=False))
    rights.prefer(first[1], Preferences(personal=False))
    rights.erase(first[2])
    events.quarantine({first[3]: "a robot"})
    for text in ("backpack", "mug", "red sneaker"):
        assert not set(first[:4]) & set(who(audiences, engine, text=text))
    assert audiences.find(engine, AudienceQuery(5, text="mug")).opted_out == 2
    rights.prefer(first[0], Preferences())
    assert first[0] in who(audiences, engine, text="mug")


def test_caps_count_contacts_of_every_campaign_and_holdouts_are_not_reached(users: Made) -> None:
    audiences, _, rights, engine = users
    wanted = AudienceQuery(200, text="mug", campaign="autumn", cap=Cap(1, 7), holdout=0.25)
    found = audiences.find(engine, wanted, now=1000.0)
    held = {member.user_id for member in found.members if member.held_out}
    assert 20 < len(held) < 80
    assert audiences.find(engine, wanted, now=1000.0) == found
    audiences._contacts.add("autumn", [member.user_id for member in found.members if not member.held_out], 1000.0)
    later = audiences.find(engine, wanted, now=1000.0 + 86_400)
    assert later.capped == 200 - len(held)
    assert {member.user_id for member in later.members} & {member.user_id for member in found.members} == held
    assert audiences.find(engine, wanted, now=1000.0 + 8 * 86_400).capped == 0
    assert audiences.find(engine, AudienceQuery(200, text="mug", cap=Cap(2, 7)), now=1001.0).capped == 0
    reached = next(member.user_id for member in found.members if not member.held_out)
    assert rights.erase(reached).contacts == 1


def test_what_a_shopper_just_did_counts_at_once(users: Made) -> None:
    audiences, events, _, engine = users
    mugs = [item for item in map(engine.view.text, range(engine.view.items)) if item.startswith("MUG")]
    assert "newcomer" not in who(audiences, engine, text="mug", size=10_000)
    events.add([Event(f"n{at}", "newcomer", item, "click", 1e9 + at) for at, item in enumerate(mugs[:4])])
    events.add([Event("parked", "stranger", "no such item", "click", 1e9)])
    everybody = who(audiences, engine, text="mug", size=10_000)
    assert "newcomer" in everybody
    assert "stranger" not in everybody
    # Grown and made anew it is the same.
    anew = UserTableCache(events, audiences._rights, audiences._table._settings).current(engine)
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


def test_a_shop_without_a_user_model_is_told_what_to_do(built: Settings) -> None:
    with served(built) as service:
        message = refused(service.client.post("/v1/audience", json={"text": "mug"}))["message"]
        assert "vetrina train towers" in message
