"""A/B tests: another release serves a share of the users, beside the active one that serves all others.

STORE/experiment.json names it while the test runs; servers follow it within a second. A hash of the user id decides
which release serves a user, so that each user sees one release only, in every process. The active release serves
requests without a user id.
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
    """Which release serves which share of the users, since when (epoch seconds); each test has a new `salt`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    release: str
    share: Annotated[float, Field(gt=0, lt=1)]
    since: float
    salt: str

    def bucket(self, user_id: str) -> str:
        """Return `treatment` for users of the release under test, else `control`."""
        digest = hashlib.blake2b(f"{self.salt}:{user_id}".encode(), digest_size=8).digest()
        return TREATMENT if int.from_bytes(digest, "big") < self.share * 2**64 else CONTROL


def running(store: Path) -> Experiment | None:
    """Return the running test, None for none; raises StoreUnavailable if its file is damaged."""
    path = store / FILE
    try:
        return Experiment.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreUnavailable(
            f"{path} is damaged ({error.errors()[0]['msg']}): end the test with vetrina ab stop", FILE
        ) from error


def start(store: Path, release: str, share: float) -> Experiment:
    """Let a release serve a share of the users from now on; replaces a running test."""
    experiment = Experiment(release=release, share=share, since=time.time(), salt=secrets.token_hex(8))
    write_file(store / FILE, experiment.model_dump_json(indent=2).encode())
    return experiment


def stop(store: Path) -> None:
    """Let the active release serve all users; raises NotFound if no test is running."""
    try:
        (store / FILE).unlink()
    except FileNotFoundError as error:
        raise NotFound("no A/B test is running", "store") from error
