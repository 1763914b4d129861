"""The journal: what was acknowledged is there, in order and once; what is not as written is refused by name."""

import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import journal as journal_module
from index.errors import IndexDamaged
from index.journal import Journal, JournalRecord, prune_segments, segment_starts


def write(folder: Path, *payloads: bytes, position: int = 0) -> list[JournalRecord]:
    """Append as a process of its own would: open, read what is there after `position`, write."""
    journal = Journal(folder, position)
    with journal.lock() as writer:
        list(journal.read())
        return writer.append(payloads)


def rotate(folder: Path) -> None:
    journal = Journal(folder)
    with journal.lock() as writer:
        list(journal.read())
        writer.rotate()


def read(folder: Path, position: int = 0) -> list[bytes]:
    return [record.payload for record in Journal(folder, position).read()]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Records a to g, in segments that start with a, c and f."""
    write(tmp_path, b"a", b"b")
    rotate(tmp_path)
    write(tmp_path, b"c", b"d", b"e")
    rotate(tmp_path)
    write(tmp_path, b"f", b"g")
    assert segment_starts(tmp_path) == [1, 3, 6]
    return tmp_path


# ------------------------------------------------------------------------------------------------------- order, once

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.lists(st.binary(max_size=40), min_size=1, max_size=3)),
        st.tuples(st.just("rotate"), st.integers(0, 2), st.none()),
        st.tuples(st.just("read"), st.integers(0, 2), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_records_come_in_order_and_once_from_every_position(steps: list[tuple[str, int, list[bytes] | None]]) -> None:
    """Three journals of one folder read, write and rotate in turn, each of them knowing only what it has read."""
    with TemporaryDirectory() as folder:
        written: list[JournalRecord] = []
        journals = [Journal(Path(folder)) for _ in range(3)]
        seen: list[list[JournalRecord]] = [[], [], []]
        for step, who, payloads in steps:
            if step == "read":
                seen[who] += journals[who].read()
                continue
            with journals[who].lock() as writer:
                seen[who] += journals[who].read()
                assert seen[who] == written
                if payloads is None:
                    writer.rotate()
                else:
                    written += writer.append(payloads)
                    seen[who] = [*written]
        for journal, of in zip(journals, seen, strict=True):
            assert [*of, *journal.read()] == written
            assert journal.position == len(written)
        assert [record.sequence for record in written] == [*range(1, len(written) + 1)]
        assert [record.at for record in written] == sorted(record.at for record in written)
        for position in range(len(written) + 1):
            assert list(Journal(Path(folder), position).read()) == written[position:]


def test_who_has_not_read_what_others_wrote_may_not_write(tmp_path: Path) -> None:
    write(tmp_path, b"a")
    late = Journal(tmp_path)
    with late.lock() as writer, pytest.raises(AssertionError, match="not read"):
        writer.append([b"b"])
    assert read(tmp_path) == [b"a"]


def test_time_never_falls_though_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over a rotation, and for a process that was started after it."""
    clock = iter([1000.0, 900.0, 800.0, 1100.0])
    monkeypatch.setattr("index.journal.time.time", lambda: next(clock))
    for payload in (b"a", b"b"):
        write(tmp_path, payload)
    rotate(tmp_path)
    last = Journal(tmp_path, position=2)  # as a server starts from a release that holds all so far
    with last.lock() as writer:
        assert list(last.read()) == []
        writer.append([b"c"])
    write(tmp_path, b"d")
    assert [record.at for record in Journal(tmp_path).read()] == [1000.0, 1000.0, 1000.0, 1100.0]


# ---------------------------------------------------------------------------------------------------------- torn tails


@pytest.mark.parametrize("begins_a_segment", [False, True])
def test_a_torn_tail_is_invisible_and_cut_off_by_the_next_writer(tmp_path: Path, begins_a_segment: bool) -> None:
    """Whatever a kill left of the last record, down to nothing and up to all but one byte."""
    before = write(tmp_path, b"kept", b"kept too")
    if begins_a_segment:
        rotate(tmp_path)
    path = segments(tmp_path)[-1]
    start = path.stat().st_size
    [mended] = write(tmp_path, b"next")
    expected = path.read_bytes()
    path.write_bytes(expected[:start])
    write(tmp_path, b"torn, and longer than what comes in its place")
    whole = path.read_bytes()
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        reader = Journal(tmp_path)
        assert list(reader.read()) == before
        assert list(reader.read()) == []
        [record] = write(tmp_path, b"next")
        assert (record.sequence, record.payload) == (mended.sequence, mended.payload)
        assert list(reader.read()) == [record]
        assert read(tmp_path) == [b"kept", b"kept too", b"next"]
        assert path.stat().st_size == len(expected), "something is left of the torn record"


def test_a_torn_tail_does_not_stand_between_two_segments(tmp_path: Path) -> None:
    write(tmp_path, b"a", b"b")
    path = segments(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1])
    rotate(tmp_path)
    write(tmp_path, b"c")
    assert read(tmp_path) == [b"a", b"c"]


# -------------------------------------------------------------------------------------------------------------- damage


def test_every_flipped_bit_is_refused_by_name(tmp_path: Path) -> None:
    """In lengths, numbers, times, checksums and payloads alike; none is taken for a torn tail, none is written over."""
    records = write(tmp_path, b"first")
    path = segments(tmp_path)[0]
    end_of_first = path.stat().st_size
    records += write(tmp_path, b"second")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        journal = Journal(tmp_path)
        seen = []
        with pytest.raises(IndexDamaged, match=path.name) as refused:  # noqa: PT012
            for record in journal.read():
                seen.append(record)
        assert refused.value.field == path.name
        assert seen == (records[:1] if bit // 8 >= end_of_first else []), bit
        with journal.lock() as writer, pytest.raises(IndexDamaged, match=path.name):
            writer.append([b"third"])
        assert path.read_bytes() == damaged


def test_a_missing_or_emptied_segment_is_refused(three: Path) -> None:
    first, middle, _ = segments(three)
    kept = middle.read_bytes()
    for harm in (middle.unlink, lambda: middle.write_bytes(b""), lambda: middle.write_bytes(kept[: len(kept) // 2])):
        harm()
        seen = []
        with pytest.raises(IndexDamaged) as refused:  # noqa: PT012
            for record in Journal(three).read():
                seen.append(record.payload)
        assert seen[:2] == [b"a", b"b"]
        assert refused.value.field in (first.name, middle.name)
        assert read(three, 5) == [b"f", b"g"], "who needs nothing of it is not concerned"
        middle.write_bytes(kept)
    first.unlink()
    with pytest.raises(IndexDamaged, match="after 0"):
        read(three)
    assert read(three, 2) == [*map(bytes, zip(b"cdefg", strict=True))]


def test_a_segment_under_another_name_is_refused(three: Path) -> None:
    """Records are counted by what they say themselves, not by where they lie."""
    *_, last = segments(three)
    last.rename(last.with_name(f"{7:020d}.journal"))
    with pytest.raises(IndexDamaged):
        read(three)
    with pytest.raises(IndexDamaged):
        read(three, 6)


# ------------------------------------------------------------------------------------------------- rotation and pruning


@pytest.mark.parametrize("needed_after", range(9))
def test_pruning_keeps_what_is_needed_and_no_more(three: Path, needed_after: int) -> None:
    prune_segments(three, needed_after)
    assert segment_starts(three) == [start for start, last in ((1, 2), (3, 5), (6, 99)) if last > needed_after]
    for position in range(min(needed_after, 7), 8):
        assert read(three, position) == [*map(bytes, zip(b"abcdefg"[position:], strict=True))]
    [record] = write(three, b"h", position=7)
    assert record.sequence == 8


@pytest.mark.parametrize("rotations", [0, 1, 2])
def test_a_reader_from_before_goes_on_though_what_it_has_read_is_gone(three: Path, rotations: int) -> None:
    reader = Journal(three)
    assert len(list(reader.read())) == 7
    rotate(three)
    since = write(three, b"h")
    for payload in [b"i", b"j"][:rotations]:
        rotate(three)
        since += write(three, payload)
    prune_segments(three, 7)
    assert segment_starts(three) == [8, 9, 10][: rotations + 1]
    assert list(reader.read()) == since
    with reader.lock() as writer:
        since += writer.append([b"k"])
    assert list(Journal(three, 7).read()) == since


def test_a_rotation_while_someone_reads_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record and a new segment come just when the reader has met the end and looks for what follows."""
    write(tmp_path, b"a")
    reader = Journal(tmp_path)
    assert len(list(reader.read())) == 1

    def meanwhile(folder: Path) -> list[int]:
        monkeypatch.undo()
        write(folder, b"b")
        rotate(folder)
        write(folder, b"c")
        return segment_starts(folder)

    monkeypatch.setattr(journal_module, "segment_starts", meanwhile)
    seen = [record.payload for record in reader.read()]
    assert seen + [record.payload for record in reader.read()] == [b"b", b"c"]


# --------------------------------------------------------------------------------------------------- several processes

APPENDER = """
import random, sys, time
from pathlib import Path
from index.journal import Journal

print("ready", flush=True)
sys.stdin.readline()
folder, name, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
chance = random.Random(name)
journal = Journal(folder)
for number in range(times):
    with journal.lock() as writer:
        for _ in journal.read():
            pass
        if chance.random() < 0.1:
            writer.rotate()
        texts = [f"{name} {number} {part}" for part in range(chance.choice([1, 1, 3]))]
        size = chance.choice([0, 100, 200_000])
        for record, text in zip(writer.append([text.encode() + bytes(size) for text in texts]), texts):
            print(record.sequence, text, flush=True)
    time.sleep(chance.uniform(0, 0.004))
"""


def appender(folder: Path, name: str, times: int) -> "subprocess.Popen[bytes]":
    """A process that, told to, appends, now and then begins a segment, and prints each record that is acknowledged."""
    command = [sys.executable, "-c", APPENDER, str(folder), name, str(times)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def acknowledged(output: bytes) -> dict[int, str]:
    lines = output.decode().split("\n")[:-1]  # what a kill cut off was not said
    return {int(sequence): text for sequence, _, text in (line.partition(" ") for line in lines)}


def held(folder: Path) -> dict[int, str]:
    return {record.sequence: record.payload.rstrip(b"\0").decode() for record in Journal(folder).read()}


def test_writers_take_turns_without_gaps_and_readers_follow(tmp_path: Path) -> None:
    processes = [appender(tmp_path, name, 30) for name in ("one", "two", "three")]
    with ThreadPoolExecutor(len(processes)) as pool:
        outputs = [pool.submit(process.communicate, b"go\n") for process in processes]
        reader = Journal(tmp_path)
        followed: list[JournalRecord] = []
        while not all(output.done() for output in outputs):
            followed += reader.read()
        followed += reader.read()
    assert [process.returncode for process in processes] == [0, 0, 0]
    said = [acknowledged(output.result()[0]) for output in outputs]
    assert held(tmp_path) == said[0] | said[1] | said[2]
    assert [record.sequence for record in followed] == [*range(1, sum(map(len, said)) + 1)]
    assert len(segment_starts(tmp_path)) > 1
    assert any(min(one) < max(other) and min(other) < max(one) for one, other in pairwise(said)), "they never met"


def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    probability = random.Random(0)
    said: dict[int, str] = {}
    for name in map(str, range(6)):
        process = appender(tmp_path, name, 1_000_000)
        killer = Timer(probability.uniform(0.02, 0.2), process.kill)
        killer.start()
        output, _ = process.communicate(b"go\n")
        assert process.returncode == -signal.SIGKILL
        said |= acknowledged(output)
        assert said.items() <= held(tmp_path).items()
    assert [*held(tmp_path)] == [*range(1, len(held(tmp_path)) + 1)]
    assert len(said) > 12
