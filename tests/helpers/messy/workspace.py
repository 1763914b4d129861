"""The shop that messy inputs are sent to, commands that run in this process, and what all rows share."""

import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from helpers.command import is_one_line
from helpers.service import Service, good
from serve import cli

INPUTS = Path(__file__).parents[3] / ".." / "shared" / "inputs"


IMAGES = INPUTS / "images"


T0 = 1767225600.0  # 2026-01-01T00:00:00Z


JSON = {"content-type": "application/json"}


ODD_ID = "a/b c?d#e%2F"


class Done(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))

    def error_response(self, code: int = 2) -> str:
        """Return the message of a refusal: one line, or JSON with --json."""
        assert self.code == code, self.err
        if self.out:
            assert self.err == ""
            return str(json.loads(self.out)["error"]["message"])
        assert is_one_line(self.err) or "Invalid value" in self.err, self.err
        return " ".join(self.err.split())


def vetrina(*arguments: str | Path) -> Done:
    """Runs a command."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["vetrina", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return Done(code or 0, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Shop:
    """A store that commands made of a feed of all images and some words, and a service over a copy of it.

    `encoded` is what `vetrina encode` said of the feed, by space.
    """

    store: Path
    encoded: dict[str, dict[str, Any]]
    service: Service
    served_store: Path

    def put(self, body: bytes) -> httpx.Response:
        """PUT /v1/items with a body as it is."""
        return self.service.client.put("/v1/items", content=body, headers=JSON)

    def get(self, item_id: str) -> dict[str, Any]:
        """GET /v1/items/{id}."""
        found: dict[str, Any] = good(self.service.client.get(f"/v1/items/{quote(item_id, safe='')}"))["item"]
        return found

    def delete(self, item_ids: list[str]) -> None:
        """DELETE /v1/items."""
        good(self.service.client.request("DELETE", "/v1/items", json={"item_ids": item_ids}))


ASKED: list[tuple[str, Any]] = []  # hosts and ports that were connected to or looked up in this test


@contextmanager
def flat_memory(mib: int = 100) -> Iterator[None]:
    """What is done in here takes no more memory, at its peak, than the process had at its peak before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < mib << 10


class Row:
    """A file of the folder: `http` and `command` send it in, each its way, and check all that must come of it.

    `place` is the fixture that it goes into.
    """

    place: ClassVar[str] = "shop"
