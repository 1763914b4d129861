"""Fuzzing: do damaged images, feeds and event files always end in a result or a rejection?

Valid files of many formats are created here, and those of the folder of messy inputs are added if it exists. They are
cut, overwritten, repeated and mixed, with fragments that hypothesis generates, and go through the real decoder and
readers, in a separate process with limited memory.

- `crashes`: cases that end in an error that is not an EmbedError, in an invalid result (a negative price, text that
  cannot be written, records that were not counted), or with the end of the process.
- `hangs`: cases that take longer than HANG seconds; the process is killed, and another continues.
- `rss_growth`: memory (RSS) of the process between two cases at the end, relative to that after warm-up; each is the
  median of a tenth of its time. Of several processes, the one with the largest growth counts.

Files of failed cases are kept and can be run again: `fuzz.py FILE ...`.
"""

import argparse
import gzip
import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import struct
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from report import report
from rich.console import Console
from rich.progress import Progress

from embed.behaviour import Event, open_events
from embed.catalogue import Catalogue, ingest
from embed.errors import EmbedError
from embed.images import DEFAULT_LIMITS, decode_image, is_plain_jpeg

SEED = 0
SECONDS = 600.0
HANG = 10.0
MEMORY = 6 << 30  # bytes that the process may map; the packages alone map half of it
MAX_BYTES = 1 << 18  # of a case
CASES_PER_DRAW = 20  # with the same fragments, because drawing these takes longer than damaging and reading a case
MAX_DRAWS = 50  # of fragments until hypothesis starts again, because it remembers all that it drew
MAX_KEPT = 100  # crashes whose cases are kept
IN_MEMORY = Path("/dev/shm")  # noqa: S108  without waits for a disk
INPUTS = Path(__file__).parents[2] / ".." / "shared" / "inputs"
CONSOLE = Console(stderr=True, highlight=False)


def main() -> None:
    arguments = argparse.ArgumentParser(description="see the top of this file")
    arguments.add_argument("--seconds", type=float, default=SECONDS)
    arguments.add_argument("files", type=Path, nargs="*", help="cases to run again, without new ones")
    given = arguments.parse_args()
    for file in given.files:
        with tempfile.TemporaryDirectory() as folder:
            run(file.name.split("-")[0], file, Path(folder))
    if not given.files:
        folder = tempfile.mkdtemp(prefix="fuzz-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        figures = Fuzz(Path(folder), given.seconds).run()
        report("fuzz", figures, SEED, packages=("pillow", "pyarrow", "hypothesis", "defusedxml"))


# ------------------------------------------------------------------------------------------------- checks of a case


def run(kind: str, file: Path, folder: Path) -> None:
    """Run a case through the code of its kind; raise AssertionError for an invalid result, and any unexpected error."""
    try:
        KINDS[kind](file, folder)
    except EmbedError as error:
        if not (error.message and error.field):
            raise AssertionError("an error without a message or a field") from error


def _image(file: Path, folder: Path) -> None:
    data = file.read_bytes()
    is_plain_jpeg(data)
    image = decode_image(data, shrink_to=16 if len(data) % 2 else None)
    assert image.mode == "RGB"
    assert image.width * image.height <= DEFAULT_LIMITS.max_pixels


def _feed(file: Path, folder: Path) -> None:
    done = ingest(file, folder / "store", force=True)
    assert done.read == done.kept + done.rejected
    rejects = (folder / "store/catalogue/current/rejects.jsonl").read_bytes().splitlines()
    items = [item for batch in Catalogue.current(folder / "store").batches() for item in batch]
    assert (done.kept, done.rejected) == (len(items), len(rejects))
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert item.item_id.strip()
        assert item.title or item.description or item.images
        assert item.price is None or 0 <= item.price < math.inf
        _assert_writable(item)


def _events(file: Path, folder: Path) -> None:
    with open_events(file) as found:
        for entry in found.entries:
            if isinstance(entry, Event):
                assert entry.user_id.strip()
                assert entry.item_id.strip()
                assert 0 < entry.timestamp < time.time() + 100_000
                assert entry.value is None or math.isfinite(entry.value)
                _assert_writable(entry)


def _assert_writable(entry: Any) -> None:
    json.dumps(asdict(entry), allow_nan=False, ensure_ascii=False).encode()


KINDS: dict[str, Callable[[Path, Path], None]] = {"image": _image, "feed": _feed, "events": _events}


# ----------------------------------------------------------------------------------------------------- valid cases


class Case(NamedTuple):
    """A file for the code of a kind; the suffixes of `name` select the format."""

    kind: str
    name: str
    data: bytes


def cases() -> list[Case]:
    """Return valid files of every kind and format, and the messy ones."""
    found = [*_images(), *_feeds(), *_event_files()]
    for kind, folder in (("image", "images"), ("feed", "catalogue"), ("events", "events")):
        files = sorted((INPUTS / folder).iterdir()) if INPUTS.is_dir() else []
        found += [Case(kind, file.name, file.read_bytes()) for file in files]
    return [case for case in found if len(case.data) <= MAX_BYTES]


def _images() -> Iterator[Case]:
    source = random.Random(SEED)
    photo = Image.frombytes("RGBA", (48, 40), source.randbytes(8 * 5 * 4).ljust(48 * 40 * 4, b"\x80"))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"s\0R\0G\0B", b"o\0d\0d\0y")
    frames = {"save_all": True, "append_images": [photo.convert("RGB").rotate(90)], "duration": 50}
    made: list[tuple[str, str, dict[str, Any]]] = [
        *(("JPEG", mode, {}) for mode in ("RGB", "L", "CMYK")),
        ("JPEG", "RGB", {"progressive": True, "exif": exif, "icc_profile": profile}),
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("PNG", "RGB", {"icc_profile": profile, "exif": exif}),
        ("PNG", "RGB", frames),
        *(("GIF", mode, {}) for mode in ("L", "P", "RGBA")),
        ("GIF", "RGB", frames),
        *(("WEBP", mode, {}) for mode in ("RGB", "RGBA")),
        ("WEBP", "RGBA", {"lossless": True, "icc_profile": profile}),
        ("WEBP", "RGB", frames),
        *(("AVIF", mode, {}) for mode in ("RGB", "RGBA")),
        ("AVIF", "RGB", frames),
        *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *(("TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr")),
        *(
            ("TIFF", "RGB", {"compression": name})
            for name in ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "RGB", {**frames, "exif": exif, "icc_profile": profile}),
        ("MPO", "RGB", {"save_all": True, "append_images": [photo.convert("RGB")]}),
        *((name, "RGB", {}) for name in ("ICO", "PPM", "TGA")),  # these are rejected
    ]
    for format_, mode, options in made:
        out = io.BytesIO()
        _in_mode(photo, mode).save(out, format_, **options)
        yield Case("image", f"a.{format_.lower()}", out.getvalue())


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("I;16", "I", "F"):
        return image.convert("L").convert("I" if mode == "I;16" else mode).convert(mode)
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return ImageCms.applyTransform(image.convert("RGB"), to_lab) or image
    return image.convert(mode) if mode in ("L", "LA", "RGBA") else image.convert("RGB").convert(mode)


def _feeds() -> Iterator[Case]:
    rows = [
        {
            "item_id": f"00{number}",
            "title": title,
            "description": f"<p>Soft &amp; warm, <b>{number}</b></p>",
            "category": "Shoes > Running",
            "brand": "Acme",
            "price": price,
            "currency": "EUR",
            "images": "a.jpg|b.jpg",
            "attributes": '{"color": ["red", "blue"], "size": 4}',
            "available": "in stock",
            "updated_at": "2026-01-01T00:00:00Z",
        }
        for number, (title, price) in enumerate(
            [
                ("Red shoe", "12.50"),
                ('24" "screen"', "1.299,00 €"),
                ("Größe 👟", "٣٫٥٠"),
                ("a, b; c", ""),
                ("x\ny", "0"),
            ]
        )
    ]
    for suffix, sign in (("csv", ","), ("tsv", "\t"), ("csv", ";")):
        yield Case("feed", f"a.{suffix}", _table([list(rows[0]), *(list(row.values()) for row in rows)], sign))
    yield Case("feed", "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    typed = [row | {"price": 12.5, "images": ["a.jpg"], "available": True, "item_id": 7} for row in rows]
    yield Case("feed", "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in typed))
    for compression in ("snappy", "none", "zstd"):
        yield Case("feed", "a.parquet", _parquet(pa.Table.from_pylist(typed), compression))
    fields = "".join(
        f"<g:{name}>{value}</g:{name}>"
        for name, value in {
            "id": "SKU1",
            "image_link": "https://a/1.jpg",
            "additional_image_link": "https://a/2.jpg",
            "price": "12.50 EUR",
            "sale_price": "9.99 EUR",
            "product_type": "Men &gt; Tops",
            "availability": "out_of_stock",
            "color": "Red/Blue",
        }.items()
    )
    google = 'xmlns:g="http://base.google.com/ns/1.0"'
    item = f"{fields}<title>Tee</title><description><![CDATA[<p>Soft</p>]]></description>"
    rss = f'<?xml version="1.0" encoding="utf-8"?><rss version="2.0" {google}><channel>'
    rss += f"<item>{item}</item><item><g:id>2</g:id><title>Two</title></item></channel></rss>"
    atom = f'<feed xmlns="http://www.w3.org/2005/Atom" {google}><entry>{item}<link href="https://a"/></entry></feed>'
    for xml in (rss, atom):
        yield Case("feed", "a.xml", xml.encode())
    merchant = {
        "id": "SKU1",
        "title": "Tee",
        "description": "Soft tee",
        "image link": "https://a/1.jpg",
        "price": "12.50 EUR",
        "availability": "in stock",
        "color": "Red/Blue",
    }
    yield Case("feed", "a.tsv", _table([list(merchant), list(merchant.values())], "\t"))
    shopify = (
        "Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Variant SKU,Variant Price,"
        "Variant Inventory Tracker,Variant Inventory Qty,Variant Inventory Policy,Image Src,Image Position,Status\n"
        'tee,Tee,<p>Soft</p>,Acme,Tops,"a, b",Color,Red,T1,10.00,shopify,3,deny,2.jpg,2,active\n'
        "tee,,,,,,,Blue,T2,11.00,shopify,-4,deny,1.jpg,1,\n"
        "tee,,,,,,,,,,,,,3.jpg,3,\n"
        "mug,Mug,,,,,Title,Default Title,,5.00,,,,,,draft\n"
    )
    yield Case("feed", "a.csv", shopify.encode())


def _event_files() -> Iterator[Case]:
    rows = [
        {
            "event_id": f"e{number}",
            "user_id": f"u{number % 3}",
            "item_id": f"00{number}",
            "type": type_,
            "timestamp": timestamp,
            "value": "4.5",
            "request_id": "r",
            "position": "3",
            "session_id": "s",
            "domain": "web",
            "query": "Red  SHOE",
        }
        for number, (type_, timestamp) in enumerate(
            [
                ("click", "2026-01-01T00:00:00Z"),
                ("rating", "1767225600"),
                ("Cart", "1767225600000"),
                ("purchase", "2026-01-01 01:00:00+01:00"),
                ("dislike", "20260101T000000Z"),
            ]
        )
    ]
    for suffix, sign in (("csv", ","), ("tsv", "\t")):
        yield Case("events", f"a.{suffix}", _table([list(rows[0]), *(list(row.values()) for row in rows)], sign))
    yield Case("events", "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    typed = [row | {"timestamp": 1767225600.0, "value": 4.5, "position": 3} for row in rows]
    yield Case("events", "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in typed))
    yield Case("events", "a.parquet", _parquet(pa.Table.from_pylist(typed), "snappy"))
    moments = pa.table({name: [row[name] for row in rows] for name in ("user_id", "item_id", "type")})
    moments = moments.append_column("timestamp", pa.array([1767225600 * 10**9] * 5, pa.timestamp("ns")))
    yield Case("events", "a.parquet", _parquet(moments, "none"))


def _table(rows: list[list[str]], sign: str) -> bytes:
    quoted = (sign.join(f'"{cell}"'.replace('"', '""')[1:-1] if sign == "," else cell for cell in row) for row in rows)
    return "\n".join(quoted).encode()


def _parquet(table: pa.Table, compression: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression=compression)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------- damage


SIGNS = [
    *(b'"', b'""', b",", b";", b"\t", b"|", b"\r", b"\n", b"\r\n", b"\0", b"\\", b"\\u0000", b"\\ud800"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xc3", b"\xed\xa0\x80", b"\xd9\xa3", b"\x1f\x8b", b"PAR1"),
    *(b"{", b"}", b"[" * 5000, b"]", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999"),
    *(b"-", b"--", b"9" * 400, b"9" * 5000, b"0x", b"utf-16", b"utf-7", b"klingon", b"2026-02-30", b"9999-12-31"),
    *(b"<", b">", b"</", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<!DOCTYPE x [", b'<!ENTITY a "b">', b"&a;", b"&#0;"),
    *(b"<script>", b"<p ", b"&amp;", b"<item>", b"</item>", b"xmlns=", b"g:id", b"\xff\xd8\xff", b"\xff\xda"),
    *(b"IHDR", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fdAT", b"GIF89a", b"RIFF", b"WEBP", b"II*\0"),
]
NUMBERS = st.sampled_from([0, 1, 7, 8, 255, 256, 7000, 32767, 65535, 2**31 - 1, 2**32 - 1])
FRAGMENTS = st.one_of(
    st.sampled_from(SIGNS),
    st.binary(min_size=1, max_size=8),
    st.text(min_size=1, max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")),
    NUMBERS.map(lambda number: struct.pack("<I", number)),
    NUMBERS.map(lambda number: struct.pack(">I", number)),
    st.floats().map(repr).map(str.encode),
    st.integers().map(str).map(str.encode),
)
WORD = re.compile(rb"[\w.+-]+")
WAYS = ("word", "word", "word", "overwrite", "overwrite", "insert", "delete", "repeat", "cut", "mix")


def damaged(case: Case, other: Case, fragments: list[bytes], source: random.Random) -> Case:
    """Return a case after one to six edits; some get valid checksums again, others are compressed."""
    data = bytearray(case.data)
    for _ in range(source.randint(1, 6)):
        way, fragment = source.choice(WAYS), source.choice(fragments)
        at, size = source.randrange(len(data) + 1), source.randint(1, 64)
        found = WORD.search(data, at) if way == "word" else None
        if found:
            data[found.start() : found.end()] = fragment
        elif way == "overwrite":
            data[at : at + len(fragment)] = fragment
        elif way == "insert":
            data[at:at] = fragment
        elif way == "delete":
            del data[at : at + size]
        elif way == "repeat":
            data[at:at] = data[at : at + 4 * size] * size
        elif way == "cut":
            del data[at:]
        elif way == "mix":
            data[at:] = other.data[source.randrange(len(other.data) + 1) :]
        del data[MAX_BYTES:]
    if source.random() < 0.5:
        if case.name.endswith(".png"):
            return case._replace(data=_with_checksums(bytes(data)))
        if case.kind != "image" and not case.name.endswith(".parquet"):
            return case._replace(name=f"{case.name}.gz", data=gzip.compress(bytes(data), 1))
    return case._replace(data=bytes(data))


def _with_checksums(png: bytes) -> bytes:
    """Return a PNG with correct checksums of its chunks."""
    made, at = bytearray(png[:8]), 8
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        body = png[at + 4 : at + 8 + size]
        made += png[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return bytes(made + png[at:])


# -------------------------------------------------------------------------------------------------------- the process


@dataclass(frozen=True)
class State:
    """The state of a worker process, shared with the main process."""

    started: "Synchronized[float]"  # start of the case, by the monotonic clock; 0 between two
    cases: "Synchronized[int]"
    crashes: "Synchronized[int]"
    growth: "Synchronized[float]"


class Memory:
    """Measures the RSS of this process between cases, starting after warm-up."""

    def __init__(self, seconds: float) -> None:
        self._began, self._tenth = time.monotonic(), seconds / 10
        self._samples: list[tuple[float, int]] = []

    def sample(self) -> float:
        """Return the growth until now; 1 if there are too few samples."""
        now = time.monotonic()
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        self._samples.append((now - self._began, pages))
        first = [pages for at, pages in self._samples if self._tenth <= at < 2 * self._tenth]
        last = [pages for at, pages in self._samples if at > max(2 * self._tenth, now - self._began - self._tenth)]
        return median(last) / median(first) if first and last else 1.0


def work(number: int, folder: Path, seconds: float, state: State) -> None:
    """Generate cases and run them until time is up; keep failed cases in `folder` with their tracebacks."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff's warnings
    warnings.simplefilter("ignore")
    good, memory, last = cases(), Memory(seconds), time.monotonic() + seconds
    by_kind = [[case for case in good if case.kind == kind] for kind in KINDS]

    def one(case: Case) -> None:
        file = folder / f"{case.kind}-now-{case.name}"
        file.write_bytes(case.data)
        state.started.value = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                run(case.kind, file, Path(place))
        except Exception:
            state.crashes.value += 1
            if state.crashes.value <= MAX_KEPT:
                kept = folder / f"{case.kind}-crash-{number}.{state.crashes.value}-{case.name}"
                kept.write_bytes(case.data)
                kept.with_name(f"{kept.name}.txt").write_text(traceback.format_exc(), "utf-8", "replace")
        file.unlink()
        state.started.value = 0.0
        state.cases.value += 1

    def several(fragments: list[bytes], draw: int) -> None:
        source = random.Random(draw)
        for _ in range(CASES_PER_DRAW):
            if time.monotonic() < last:
                of_kind = source.choice(by_kind)
                one(damaged(source.choice(of_kind), source.choice(of_kind), fragments, source))

    drawn = given(st.lists(FRAGMENTS, min_size=1, max_size=16), st.integers(0, 2**64))
    limits = settings(max_examples=MAX_DRAWS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    lot = 0
    while time.monotonic() < last:
        lot += 1
        seed(SEED + 1_000_000 * number + lot)(limits(drawn(several)))()
        state.growth.value = memory.sample()


class Fuzz:
    """Runs worker processes one after the other, and counts."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._printed: set[str] = set()

    def run(self) -> dict[str, float | int | str | None]:
        context = multiprocessing.get_context("spawn")
        last = time.monotonic() + self._seconds
        cases = crashes = hangs = number = 0
        growth = 1.0
        with Progress(console=CONSOLE) as progress:
            task = progress.add_task("fuzz", total=self._seconds)
            while (left := last - time.monotonic()) > 0:
                number += 1
                state = State(*(context.Value(code) for code in ("d", "L", "L", "d")))
                state.growth.value = 1.0
                process = context.Process(target=work, args=(number, self._folder, left, state))
                process.start()
                hangs_here: bool | float = False
                while process.is_alive():
                    process.join(0.2)
                    self._print_crashes()
                    progress.update(task, completed=self._seconds - max(0.0, last - time.monotonic()))
                    started = state.started.value
                    hangs_here = started and time.monotonic() - started > HANG
                    if hangs_here:
                        process.kill()
                        process.join()
                hangs += bool(hangs_here)
                crashes += process.exitcode != 0 and not hangs_here
                if process.exitcode:
                    self._keep("hang" if hangs_here else "died", number)
                self._print_crashes()
                cases += state.cases.value
                crashes += state.crashes.value
                growth = max(growth, state.growth.value)
        if crashes or hangs:
            CONSOLE.print(f"failed cases are in {self._folder}")
        else:
            self._folder.rmdir()
        return {
            "seconds": self._seconds,
            "cases": cases,
            "crashes": crashes,
            "hangs": hangs,
            "rss_growth": round(growth, 3),
            "processes": number,
        }

    def _print_crashes(self) -> None:
        for file in sorted(self._folder.glob("*.txt")):
            if file.name not in self._printed:
                self._printed.add(file.name)
                last = file.read_text("utf-8").splitlines()[-1]
                CONSOLE.print(f"{file.with_suffix('')}: {last[:300]}", markup=False)

    def _keep(self, outcome: str, number: int) -> None:
        """Keep the case that a process was running."""
        for file in self._folder.glob("*-now-*"):
            kind, _, name = file.name.split("-", 2)
            CONSOLE.print(str(file.rename(file.with_name(f"{kind}-{outcome}-{number}-{name}"))), markup=False)


if __name__ == "__main__":
    main()
