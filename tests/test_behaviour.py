"""Behaviour: what is an event and what is not, in every spelling of time, from files of every kind."""

import gzip
import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed.behaviour import EVENT_SCHEMA, EVENT_TYPES, Event, EventMapping, Signal, as_batch, clean_event, open_events
from embed.errors import BadInput, Damaged, Missing
from embed.records import Reject
from serve.live.event_ingest import store_events
from serve.storage.event_log import EventLog

T0 = 1767225600.0  # 2026-01-01T00:00:00Z
NOW = T0 + 86_400
CLICK: dict[str, Any] = {"event_id": "e", "user_id": "u1", "item_id": "1001", "type": "click", "timestamp": T0}


def cleaned(**fields: Any) -> Event:
    found = clean_event({**CLICK, **fields}, now=NOW)
    assert isinstance(found, Event), found
    return found


def rejected(**fields: Any) -> tuple[str, str]:
    found = clean_event({**CLICK, **fields}, line=7, now=NOW)
    assert isinstance(found, Reject), found
    assert found.line == 7
    assert found.reason
    return found.code, found.field


# ----------------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    "spelling",
    [
        T0,
        int(T0),
        str(int(T0)),
        T0 * 1e3,
        int(T0) * 10**6,
        int(T0) * 10**9,
        "2026-01-01T00:00:00Z",
        "2026-01-01T01:00:00+01:00",
        "2025-12-31T19:00:00-05:00",
        "2026-01-01T00:00:00.000+0000",
        "20260101T000000Z",
        "2026-01-01T00:00:00",  # without a zone: UTC
        " 2026-01-01 00:00:00 ",
        datetime(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
)
def test_one_instant_in_many_spellings(spelling: Any) -> None:
    assert cleaned(timestamp=spelling).timestamp == T0


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        (None, "missing_time"),
        ("", "missing_time"),
        ("  ", "missing_time"),
        (0, "time_too_early"),
        (-62135596800, "time_too_early"),
        (4102444800, "time_ahead"),
        (NOW + 90_000, "time_ahead"),
        (1001767225600, "bad_time"),  # as milliseconds of 2001, when nobody wrote such
        (10**400, "bad_time"),
        (float("nan"), "bad_time"),
        (float("inf"), "bad_time"),
        (True, "bad_time"),
        ([T0], "bad_time"),
        ("01/02/2026 00:00", "bad_time"),
        ("2026-03-29T02:30:00 Europe/Berlin", "bad_time"),
        ("2026-02-30T00:00:00Z", "bad_time"),
        ("2016-12-31T23:59:60Z", "bad_time"),
        ("yesterday", "bad_time"),
    ],
)
def test_what_is_no_time_is_none(spelling: Any, code: str) -> None:
    assert rejected(timestamp=spelling) == (code, "timestamp")


@given(st.floats(EARLY := 1.2e9, NOW), st.sampled_from([1, 1e3, 1e6, 1e9]))
def test_any_unit_of_an_epoch_is_told(seconds: float, unit: float) -> None:
    assert cleaned(timestamp=seconds * unit).timestamp == pytest.approx(seconds, abs=1e-3)


# --------------------------------------------------------------------------------------------------------------- fields


def test_ids_are_read_as_those_of_products_are() -> None:
    event = cleaned(user_id=42, item_id=" 1001 ")
    assert (event.user_id, event.item_id) == ("42", "1001")
    for field in ("user_id", "item_id"):
        assert rejected(**{field: None}) == rejected(**{field: "  "}) == (f"missing_{field}", field)
        assert rejected(**{field: 1.5}) == rejected(**{field: "a\x01b"}) == (f"bad_{field}", field)


def test_types_values_and_places() -> None:
    assert cleaned(type=" Click ").type == "click"
    assert rejected(type="teleport") == rejected(type=None) == rejected(type=3) == ("unknown_type", "type")
    assert cleaned(type="rating", value="5").value == 5.0
    assert cleaned(value=None).value is cleaned(value="").value is None
    assert rejected(type="rating") == ("missing_value", "value")
    for value in (float("inf"), float("nan"), "many", [1], True):
        assert rejected(type="rating", value=value) == ("bad_value", "value")
    assert cleaned(position="3").position == 3
    assert rejected(position=-1) == rejected(position=1.5) == ("bad_position", "position")
    assert cleaned(session_id=9, domain=" shoes ", request_id="").session_id == "9"
    assert cleaned(query="  Red\n MUG ").query == "red mug"
    assert cleaned(query=" ").query is None
    assert rejected(query=["a"]) == rejected(query="a\x01") == ("bad_query", "query")
    assert rejected(domain="x" * 513) == rejected(domain="half \ud800") == ("bad_domain", "domain")


def test_what_is_disliked_is_never_a_positive_signal() -> None:
    signal = Signal()
    positive = {type_: signal.weight(type_, 5.0) for type_ in EVENT_TYPES}
    assert {type_ for type_, weight in positive.items() if weight > 0} == {
        "view",
        "click",
        "cart",
        "purchase",
        "rating",
    }
    for value in (None, -1.0, 0.0, 3.9, float("-inf")):
        assert signal.weight("rating", value) == 0
    assert signal.weight("dislike", 5.0) == signal.weight("impression", 5.0) == 0


def test_an_event_without_an_id_gets_the_same_one_whenever_it_is_read() -> None:
    first, again = (cleaned(event_id=None, timestamp=spelling) for spelling in (T0, "2026-01-01T00:00:00Z"))
    assert first == again
    others = [{"user_id": "u2"}, {"item_id": "2"}, {"type": "cart"}, {"timestamp": T0 + 1}, {"value": 2}]
    assert len({cleaned(event_id="", **fields).event_id for fields in [{}, *others]}) == 6
    assert cleaned(event_id=12).event_id == "12"


# ---------------------------------------------------------------------------------------------------------------- files


def read(path: Path, mapping: EventMapping | None = None) -> tuple[list[Event], Counter[str]]:
    with open_events(path, mapping, now=NOW) as events:
        entries = list(events.entries)
    kept = [entry for entry in entries if isinstance(entry, Event)]
    return kept, Counter(entry.code for entry in entries if isinstance(entry, Reject))


EVENTS = [
    Event("a", "u1", "i1", "click", T0, session_id="s"),
    Event("b", "u1", "i2", "rating", T0 + 1.5, 5.0, position=3),
    Event("c", "u2", "i1", "purchase", T0 + 2, request_id="r"),
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "jsonl.gz"])
def test_files_of_every_kind_come_to_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"events.{kind}"
    rows = as_batch(EVENTS).to_pylist()
    if kind == "parquet":
        pq.write_table(pa.Table.from_batches([as_batch(EVENTS)]), path)
    elif kind.startswith("jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    else:
        sign = "\t" if kind == "tsv" else ","
        lines = [list(rows[0]), *([*row.values()] for row in rows)]
        path.write_text("".join(sign.join("" if cell is None else str(cell) for cell in line) + "\n" for line in lines))
    assert read(path) == (EVENTS, Counter())


GORSE = """favori,UserId,ItemId,Timestamp
favori,3423,186758,2022-06-24 21:20:11
"favori",2823,"186085",2022-06-24 21:20:19
"""


def test_other_names_and_local_times_come_in_by_a_mapping(tmp_path: Path) -> None:
    path, described = tmp_path / "events.csv", tmp_path / "mapping.toml"
    path.write_text(GORSE)
    with pytest.raises(BadInput, match=r"favori, UserId, ItemId, Timestamp.*item_id|user_id"):
        read(path)
    described.write_text(
        'timezone = "Asia/Shanghai"\n[columns]\nuser_id = "UserId"\nitem_id = "ItemId"\ntype = "favori"\n'
        '[types]\nfavori = "cart"\n'
    )
    kept, rejects = read(path, EventMapping.load(described))
    assert not rejects
    assert [(event.user_id, event.item_id, event.type) for event in kept] == [
        ("3423", "186758", "cart"),
        ("2823", "186085", "cart"),
    ]
    assert kept[0].timestamp == datetime(2022, 6, 24, 13, 20, 11, tzinfo=UTC).timestamp()


def test_bad_lines_are_told_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = json.dumps(CLICK)
    path.write_text(f'{good}\n[1]\n{{"user_id": \n\n{good.replace("click", "teleport")}\n{good}')
    kept, rejects = read(path)
    assert len(kept) == 2
    assert rejects == {"not_an_object": 1, "bad_json": 1, "unknown_type": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colums = 1", "did you mean columns"),
        ("[columns]\nuser = 'x'", "did you mean user_id"),
        ("[types]\nbuy = 'purchased'", "did you mean purchase"),
        ("[columns]\nuser_id = 3", "a table of texts"),
        ("columns = 'x'", "a table of texts"),
        ("format = 3", "a text in quotes"),
        ("format = 'xml'", "use one of csv"),
        ("timezone = 'Mars/Olympus'", "does not exist: use a name"),
        ("[columns", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_mapping_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        EventMapping.load(path)


def test_files_that_are_no_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="does not exist"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(BadInput, match="folder"):
        read(tmp_path)
    for name, content in (("a.jsonl", '{"x": 1}\n'), ("a.csv", "x,y\n1,2\n"), ("a.xml", "<events/>")):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=r"user_id|has format xml"):
            read(tmp_path / name)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Damaged):
        read(tmp_path / "a.parquet")
    (tmp_path / "empty.csv").write_text("")
    assert read(tmp_path / "empty.csv") == ([], Counter())


def test_a_batch_has_the_schema_even_of_nothing() -> None:
    assert as_batch([]).schema == as_batch(EVENTS).schema == EVENT_SCHEMA


# ----------------------------------------------------------------------------------------------------------------- null


def test_null_is_the_same_as_an_absent_field() -> None:
    for name in CLICK.keys() | {"value", "request_id", "position", "session_id", "domain", "query"}:
        absent = {key: value for key, value in CLICK.items() if key != name}
        assert clean_event({**CLICK, name: None}, now=NOW) == clean_event(absent, now=NOW), name


def test_null_in_a_file_is_the_same_as_an_absent_field(tmp_path: Path) -> None:
    rows = [
        {"user_id": "u1", "item_id": "1", "type": "click", "timestamp": T0, "value": None, "query": None},
        {"user_id": "u1", "item_id": "2", "type": "click", "timestamp": None},
        {"user_id": "u1", "item_id": "2", "type": "click"},
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_events(file, now=NOW) as events:
        first, null, absent = events.entries
    assert isinstance(first, Event)
    assert (first.value, first.query) == (None, None)
    assert isinstance(null, Reject)
    assert isinstance(absent, Reject)
    assert (null.code, null.field) == (absent.code, absent.field) == ("missing_time", "timestamp")
    mapping = EventMapping(defaults={"timestamp": "2026-01-01T00:00:00Z"})
    with open_events(file, mapping, now=NOW) as events:
        assert [event.timestamp for event in events.entries if isinstance(event, Event)] == [T0] * 3


def test_null_in_a_request_is_the_same_as_an_absent_field() -> None:
    stored: list[Event] = []

    class Log:
        def add(self, events: list[Event]) -> list[bool]:
            stored.extend(events)
            return [True] * len(events)

    rows = [{"user_id": "u1", "item_id": "1", "type": "click"}]
    rows.append(dict.fromkeys(("timestamp", "value", "query", "domain", "position", "event_id")) | rows[0])
    before = time.time()
    results = store_events(cast(EventLog, Log()), rows, lambda _: True)
    assert [result.status for result in results] == ["stored", "stored"]
    assert before <= stored[0].timestamp == stored[1].timestamp <= time.time()
    assert stored[0] == stored[1]
