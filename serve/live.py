"""The release that answers now, followed as `current` moves: the next one is opened beside it, then takes its place."""

import logging
import threading

from serve.errors import EXPECTED, Broken, complaint
from serve.release import current_name, open_current
from serve.retrieve.engine import Encoders, Engine, make_encoders, make_engine
from serve.settings import Settings

POLL_SECONDS = 0.5

log = logging.getLogger("vetrina")


class Live:
    """Holds the engine of the current release. A request takes `engine` once and so never sees two releases."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._encoders: Encoders | None = None
        self._engine: Engine | None = None
        self._refused: str | None = None  # the release that was refused last
        self._reason = "build one with vetrina build FEED"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="release-follower", daemon=True)

    @property
    def engine(self) -> Engine:
        """The engine of the release that answers; raises Broken while there is none."""
        if self._engine is None:
            raise Broken(f"no release is loaded yet: {self._reason}", "release")
        return self._engine

    @property
    def ready(self) -> bool:
        return self._engine is not None

    def start(self) -> None:
        """Load the current release if there is one, and follow it from now on."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def refresh(self) -> None:
        """Load the current release if it is not the one that answers; a broken one never takes over."""
        name: str | None = "current"
        try:
            name = current_name(self._settings.store)
            if name is None or name == self._refused or (self._engine and self._engine.release.name == name):
                return
            self._encoders = self._encoders or make_encoders(self._settings)
            self._engine = make_engine(open_current(self._settings.store), self._encoders, self._settings)
            log.info("release %s answers now", name)
        except EXPECTED as error:
            if self._reason != complaint(error).message:
                self._reason = complaint(error).message
                log.error("release %s was refused, the one before goes on: %s", name, self._reason)
            self._refused = name
        except Exception:  # a bug met while following must end neither the following nor the service
            log.exception("release %s could not be loaded, the one before goes on", name)
            self._refused, self._reason = name, "a bug of ours, see the log"

    def _follow(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self.refresh()
