"""Privacy: every response respects the preferences of its user, and an erasure leaves nothing, also not in backups."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.events import impression
from helpers.service import Service, good, served

from embed.behaviour import Event
from serve import cli
from serve.core.settings import Settings
from serve.jobs.export_candidates import write_candidates
from serve.storage.campaign_contacts import CampaignContacts
from serve.storage.erasure import FILE, UserPrivacy, replay_erasures
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog
from serve.storage.preferences import Preferences
from serve.storage.quarantine import Quarantine
from serve.storage.store_database import open_database

WHO = "anna.privata@example.org"
T0 = 1767225600.0


def traces(folder: Path, words: list[str]) -> list[str]:
    """Which words are anywhere in the bytes of a folder's files."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            found += [f"{word} in {file.name}" for word in words if word.encode() in data]
    return found


def fill(events: EventLog, answers: ImpressionLog) -> None:
    """Many users' events and answers, Anna's among them at every place."""
    random = np.random.default_rng(0)
    for lot in range(40):
        some = [
            Event(f"e{lot}-{number}", f"user{random.integers(300)}", f"item{number}", "click", T0 + lot)
            for number in range(100)
        ]
        some.append(Event(f"of-anna-{lot}", WHO, f"secret-wish-{lot}", "purchase", T0 + lot, request_id=f"anna-{lot}"))
        events.add([some[place] for place in random.permutation(len(some))])
        answers.add([impression(1000 * lot + number, f"user{number}") for number in range(5)])
        answers.add([impression(1000 * lot + 500, WHO, items=[f"shown-to-anna-{lot}", "b", "c"])])


def test_nothing_is_left_of_who_is_erased(url: str, tmp_path: Path) -> None:
    events = EventLog(url)
    answers, rights = ImpressionLog(events.database), UserPrivacy(events.database, tmp_path)
    fill(events, answers)
    rights.set_preferences(WHO, Preferences(blocked_brands=["Brand of Anna"]))
    assert rights.preferences(WHO).blocked_brands == ["Brand of Anna"]
    count = events.count()
    removed = rights.erase(WHO)
    assert (removed.events, removed.impressions, removed.preferences) == (40, 40, 1)
    assert events.count() == count - 40
    assert events.count(WHO) == 0
    assert WHO not in set(events.users())
    assert rights.preferences(WHO) == Preferences()
    assert rights.replay() == 0
    if url.startswith("sqlite"):
        assert traces(tmp_path, [WHO, "of-anna", "secret-wish", "shown-to-anna", "Brand of Anna"]) == []
        assert traces(tmp_path, ["user299"])
    assert rights.erase("nobody").events == 0
    events.close()


def test_an_erasure_reaches_a_backup_that_is_restored(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store")
    events = open_event_log(settings)
    fill(events, ImpressionLog(events.database))
    events.close()
    backup = tmp_path / "backup.sqlite"
    shutil.copy(settings.store / "events.sqlite", backup)
    events = open_event_log(settings)
    UserPrivacy(events.database, settings.store).erase(WHO)
    events.add([Event("new", WHO, "i", "click", 4e9)])  # a user who returns is a user like any other
    events.close()
    assert replay_erasures(settings) == 0
    for file in settings.store.glob("events.sqlite*"):
        file.unlink()
    shutil.copy(backup, settings.store / "events.sqlite")
    events = open_event_log(settings)
    events.add([Event("new", WHO, "i", "click", 4e9)])
    events.close()
    assert traces(settings.store, [WHO])
    assert replay_erasures(settings) == 80
    assert replay_erasures(settings) == 0
    events = open_event_log(settings)
    assert [event.event_id for event in events.recent(WHO, 100)] == ["new"]
    events.close()
    assert traces(settings.store, ["secret-wish", "shown-to-anna"]) == []
    assert WHO not in (settings.store / FILE).read_text()


def test_a_replayed_erasure_finds_users_wherever_they_have_data(url: str, tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store", events_url=url)
    users = ["with-preferences", "with-impressions", "with-contacts", "in-quarantine"]

    def add() -> None:
        database = open_database(settings)
        UserPrivacy(database, settings.store).set_preferences(users[0], Preferences(blocked_brands=["b"]))
        ImpressionLog(database).add([impression(1, users[1], at=T0 - impression(1).timestamp)])
        CampaignContacts(database).add("c", [users[2]], now=T0)
        Quarantine(database).add({users[3]: "a bot"})
        database.close()

    add()
    database = open_database(settings)
    for user in users:
        UserPrivacy(database, settings.store).erase(user)
    with database.transaction() as connection:  # as a backup from before the erasures
        connection.exec_driver_sql("DELETE FROM erasures")
    database.close()
    add()
    with (settings.store / FILE).open("a") as file:  # a time after the quarantine began
        file.write((settings.store / FILE).read_text().splitlines()[3].replace('"at":', '"at":9') + "\n")
    assert replay_erasures(settings) == 3
    assert replay_erasures(settings) == 0
    database = open_database(settings)
    privacy = UserPrivacy(database, settings.store)
    assert privacy.preferences(users[0]) == Preferences()
    assert ImpressionLog(database).users() == CampaignContacts(database).users() == set()
    assert Quarantine(database).entries() == []
    assert privacy.count_erasures() == 5
    database.close()


def ids(service: Service, url: str, **body: Any) -> list[str]:
    return [item["item_id"] for item in good(service.client.post(url, json=body))["items"]]


def test_every_response_respects_the_preferences(
    copied: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(copied) as service, served(copied) as other:
        everything = good(service.client.post("/v1/recommend", json={"k": 1000}))["items"]
        liked, item = everything[5], everything[0]
        act = {"user_id": WHO, "item_id": liked["item_id"], "type": "purchase", "event_id": "one"}
        good(service.client.post("/v1/events", json={"events": [act]}))
        personal = ids(service, "/v1/recommend", user_id=WHO, k=20)
        assert personal != ids(service, "/v1/recommend", k=20)
        wanted = {"blocked_items": [item["item_id"]], "blocked_categories": [liked["category"]], "explore": False}
        told = good(service.client.put(f"/v1/users/{WHO}/preferences", json=wanted))
        assert told["preferences"]["personal"] is True
        assert good(other.client.get(f"/v1/users/{WHO}"))["preferences"] == told["preferences"]
        barred = {one["item_id"] for one in everything if one["category"] == liked["category"]} | {item["item_id"]}
        for url, body in (
            ("/v1/recommend", {"k": 1000, "explore": True}),
            ("/v1/candidates", {"k": 1000}),
            ("/v1/search", {"text": liked["title"], "k": 1000}),
            ("/v1/similar", {"item_ids": [liked["item_id"]], "k": 1000}),
        ):
            found = ids(other, url, user_id=WHO, **body)
            assert found
            assert not barred & set(found), url
            assert barred & set(ids(other, url, **body)) - {liked["item_id"]}, url
        assert len({tuple(ids(service, "/v1/recommend", user_id=WHO, explore=True)) for _ in range(4)}) == 1
        for command in (["recommend", WHO, "-k", "70"], ["search", liked["title"], "--user", WHO, "-k", "70"]):
            monkeypatch.setattr("sys.argv", ["vetrina", *command, "--json", "--store", str(copied.store)])
            capfd.readouterr()
            with pytest.raises(SystemExit):
                cli.main()
            assert not barred & {one["item_id"] for one in json.loads(capfd.readouterr().out)["items"]}, command
        write_candidates(copied, tmp_path / "all.parquet", None, 70, {})
        rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
        assert not barred & {row["item_id"] for row in rows if row["user_id"] == WHO}
        good(service.client.put(f"/v1/users/{WHO}/preferences", json={"personal": False}))
        assert ids(service, "/v1/recommend", user_id=WHO, k=20) == ids(service, "/v1/recommend", k=20)
        refused = service.client.put(f"/v1/users/{WHO}/preferences", json={"blocked_item": ["x"]})
        assert refused.status_code == 422


def test_a_forgotten_user_is_unknown_everywhere_at_once(copied: Settings) -> None:
    with served(copied) as service, served(copied) as other:
        item = ids(service, "/v1/recommend", k=1)[0]
        act = {"user_id": WHO, "item_id": item, "type": "purchase", "event_id": "secret-event"}
        good(service.client.post("/v1/events", json={"events": [act]}))
        ids(service, "/v1/recommend", user_id=WHO)
        removed = good(service.client.delete(f"/v1/users/{WHO}"))["removed"]
        assert removed.pop("answers") == removed["impressions"]  # the old name
        assert removed == {"events": 1, "impressions": 1, "preferences": 0, "contacts": 0}
        assert good(other.client.get(f"/v1/users/{WHO}"))["known"] is False
    assert traces(copied.store, [WHO, "secret-event"]) == []


@pytest.mark.parametrize("values", [{"blocked_items": [""]}, {"personal": "perhaps"}, {"blocked_brands": ["x"] * 101}])
def test_preferences_are_bounded(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Preferences.model_validate(values)


def test_with_a_key_users_are_kept_by_keyed_hashes_only(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VETRINA_USER_KEY", "a secret of the shop")
    with served(copied) as service:
        everything = ids(service, "/v1/recommend", k=1000)
        act = {"user_id": WHO, "item_id": everything[3], "type": "purchase"}
        found = good(service.client.post("/v1/recommend", json={"user_id": WHO}))
        sent = {"events": [act | {"request_id": found["request_id"]}, act | {"type": "view", "timestamp": T0}]}
        good(service.client.post("/v1/events", json=sent))
        assert good(service.client.get(f"/v1/users/{WHO}"))["events"] == 2
        assert everything[3] not in ids(service, "/v1/recommend", user_id=WHO, k=1000)
        good(service.client.put(f"/v1/users/{WHO}/preferences", json={"blocked_items": everything[:1]}))
        assert everything[0] not in ids(service, "/v1/recommend", user_id=WHO, k=1000)
        events = open_event_log(copied)
        (hashed,) = {user for user in events.users() if user.startswith("hmac:")}
        assert events.recent(hashed, 9) == events.recent(WHO, 9) != []
        answers = [one for lot in ImpressionLog(events.database).batches() for _, one in lot if one.user_id == hashed]
        assert answers
        events.close()
        assert traces(copied.store, [WHO]) == []
        assert good(service.client.delete(f"/v1/users/{WHO}"))["removed"]["events"] == 2
        assert good(service.client.get(f"/v1/users/{WHO}"))["known"] is False
