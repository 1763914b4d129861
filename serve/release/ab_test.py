"""An A/B test: another release answers a share of the shoppers, beside the current one that answers all others.

STORE/experiment.json names it while it runs; servers follow it within a second. Which shoppers it answers is decided
by a hash of their ids, so that each sees one release only, in every process. Who is not known gets the current release.
"""

import hashlib
import secrets
import time
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embed.durable import write_file
from serve.core.errors import NotFound, StoreUnavailable

FILE = "experiment.json"
CONTROL, TREATMENT = "control", "treatment"


class Experiment(BaseModel):
    """Which release answers which share of the shoppers, since when (epoch seconds); `salt` is new for each test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str
    share: Annotated[float, Field(gt=0, lt=1)]
    since: float
    salt: str

    def bucket(self, user_id: str) -> str:
        """`treatment` for the shoppers whom the release in question answers, else `control`."""
        digest = hashlib.blake2b(f"{self.salt}:{user_id}".encode(), digest_size=8).digest()
        return TREATMENT if int.from_bytes(digest, "big") < self.share * 2**64 else CONTROL


def running(store: Path) -> Experiment | None:
    """The test that runs, None for none; raises Broken where its file is damaged."""
    path = store / FILE
    try:
        return Experiment.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreUnavailable(
            f"{path} is damaged ({error.errors()[0]['msg']}): end it with vetrina ab stop", FILE
        ) from error


def start(store: Path, release: str, share: float) -> Experiment:
    """Let a release answer a share of the shoppers from now on, in place of a test that may run."""
    experiment = Experiment(release=release, share=share, since=time.time(), salt=secrets.token_hex(8))
    write_file(store / FILE, experiment.model_dump_json(indent=2).encode())
    return experiment


def stop(store: Path) -> None:
    """Let the current release answer everybody; raises NotFound where no test runs."""
    try:
        (store / FILE).unlink()
    except FileNotFoundError as error:
        raise NotFound("no A/B test runs", "store") from error
