"""Domains: a shopper who did something in one only gets answers in another."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.service import Service, good, refused, served

from embed.behaviour import Event
from serve import cli
from serve.core.settings import Settings
from serve.jobs.build import build
from serve.storage.event_log import open_event_log

T0 = 1767225600.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Hats and mugs in two domains; who likes hats in one likes them in the other."""
    folder = tmp_path_factory.mktemp("domains")
    rows = [
        {"item_id": f"{domain}-{kind}-{number}", "title": f"{colour} {kind}", "domain": domain, "price": 9}
        for domain in ("web", "video")
        for kind in ("hat", "mug")
        for number, colour in enumerate(("red", "blue", "green", "white"))
    ]
    (folder / "feed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configured = Settings(store=folder / "store", new_share=0.0)
    build(configured, folder / "feed.jsonl")
    log = open_event_log(configured)
    for user in range(40):
        kind = ("hat", "mug")[user % 2]
        for at, item in enumerate((f"video-{kind}-{user % 4}", f"web-{kind}-{user % 3}", f"web-{kind}-{user % 4}")):
            log.add([Event(f"{user}-{at}", f"u{user}", item, "click", T0 + 60 * at)])
    log.add([Event("new", "newcomer", "video-mug-0", "click", T0)])
    log.add([Event("told", "told", "web-mug-0", "click", T0, domain="social")])
    log.close()
    build(configured)
    return configured


@pytest.fixture(scope="module")
def running(store: Settings) -> Iterator[Service]:
    with served(store) as service:
        yield service


def ids(service: Service, path: str = "recommend", **body: Any) -> list[str]:
    return [each["item_id"] for each in good(service.client.post(f"/v1/{path}", json={"k": 8, **body}))["items"]]


def test_history_elsewhere_counts_here(running: Service) -> None:
    found = ids(running, user_id="newcomer", to=["web"])
    assert all(item.startswith("web-") for item in found)
    assert found[0].startswith("web-mug")
    assert ids(running, "candidates", user_id="newcomer", to=["web"])[0].startswith("web-mug")
    both = ids(running, user_id="newcomer", to=["web", "video"], k=15)
    assert {item.partition("-")[0] for item in both} == {"web", "video"}


def test_events_of_other_domains_do_not_count_where_some_are_named(running: Service) -> None:
    unknown = ids(running, user_id="nobody", to=["web"])
    assert ids(running, user_id="newcomer", **{"from": ["web"]}, to=["web"]) == unknown
    assert ids(running, user_id="newcomer", **{"from": ["video"]}, to=["web"]) == ids(
        running, user_id="newcomer", to=["web"]
    )
    # An event's own domain goes before that of its item.
    known = ids(running, user_id="told", **{"from": ["social"]})
    assert known == ids(running, user_id="told") != ids(running, user_id="told", **{"from": ["web"]})


def test_two_ways_to_say_where_items_come_from_are_one_too_many(running: Service, store: Settings) -> None:
    body = {"user_id": "u1", "to": ["web"], "filter": {"domain": "video"}}
    assert refused(running.client.post("/v1/recommend", json=body))["field"] == "to"


def test_the_command_line_knows_domains(
    store: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "vetrina",
        "recommend",
        "newcomer",
        "--from",
        "video",
        "--to",
        "web",
        "--store",
        str(store.store),
        "--json",
    ]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    found = json.loads(capfd.readouterr().out)
    assert found["items"][0]["item_id"].startswith("web-mug")
