"""What answers now: the current release and the live changes on it, followed as both move, and changed from here.

Every process that serves has one of these. It polls two things: which release is `current`, and what other processes
wrote to the journal. Each change of either makes a new engine, and a request keeps the one it began with.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from embed.catalogue import Item
from embed.catalogue import Mapping as FeedMapping
from embed.images import ImageSource
from serve.campaigns.copywriter import Copywriter, brands_of
from serve.core.errors import EXPECTED, StoreUnavailable, error_response
from serve.core.metrics import HIDDEN, RELEASE
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query_encoders import Encoders, make_encoders
from serve.engine.recall_monitor import RecallMonitor
from serve.live.change_record import LiveChange
from serve.live.drift_monitor import DriftMonitor
from serve.live.event_ingest import EventResult
from serve.live.item_changes import Change, ItemChangeResult, delete_edits, patch_edits, put_edits
from serve.live.item_encoder import ItemEncoder
from serve.live.online_learning import OnlineLearner
from serve.live.replica import ReleaseReplica, loading_together
from serve.live.user_state import UserState
from serve.moderation.image_classifier import review_items
from serve.recommend.ranking.merchandising_rules import RulesFile, rules_file
from serve.recommend.ranking.online_head import OnlineHead
from serve.release.ab_test import CONTROL, Experiment, running
from serve.release.images import image_source
from serve.release.release import Release
from serve.release.repository import current_name, make_current, release_folder
from serve.storage.erasure import replay_erasures
from serve.storage.impression_log import Display

POLL_SECONDS = 0.1

log = logging.getLogger("vetrina")


@dataclass(frozen=True)
class _Treatment:
    """An A/B test, and the release that it tries."""

    experiment: Experiment
    replica: ReleaseReplica
    engine: Engine


class ServiceRuntime:
    """Holds the engine of the current release. A request takes `engine` once and so never sees two states."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.users = UserState(settings)
        self._mapping = FeedMapping.load(settings.mapping) if settings.mapping else None
        self._encoders: Encoders | None = None
        self._rules = RulesFile(rules_file(settings))  # outlives engines: the last good rules stay
        self._engine: Engine | None = None
        self._replica: ReleaseReplica | None = None
        self._tried: _Treatment | None = None  # beside it, while an A/B test runs
        self._compared: ReleaseReplica | None = None  # that somebody looked at beside it
        self._feedback: dict[str, OnlineLearner] = {}  # by the scorer's fingerprint
        self._watches: dict[str, DriftMonitor] = {}  # by the release's name
        self._copywriters: dict[str, Copywriter] = {}  # by the release's name
        self._refused: str | None = None  # the release that was refused last
        self._refused_test: Experiment | None = None
        self._reason = "build one with vetrina build FEED"
        self._complained = self._complained_of_feedback = self._complained_of_test = ""  # so that it is logged once
        seconds = settings.recall_probe_seconds
        self._probe = RecallMonitor(seconds) if seconds else None
        self._loading, self._changing = threading.Lock(), threading.RLock()
        self._stop = threading.Event()
        # Of their own, as loading a release may take minutes, and changes are to be seen within a second.
        self._followers = [
            threading.Thread(target=self._follow, args=(look,), name=name, daemon=True)
            for name, look in (
                ("release-follower", self._follow_release),
                ("journal-follower", self._follow_journal),
                ("feedback-follower", self._follow_feedback),
            )
        ]

    @property
    def engine(self) -> Engine:
        """The engine of the release that answers; raises Broken while there is none."""
        if self._engine is None:
            raise StoreUnavailable(f"no release is loaded yet: {self._reason}", "release")
        return self._engine

    def engine_at(self, name: str) -> Engine:
        """The engine of any release on disk, for comparing; the last one that was not loaded anyway stays so.

        Raises NotFound where there is none such, Broken or Damaged where it cannot be used.
        """
        with self._loading:
            loaded = (self._replica, self._tried and self._tried.replica, self._compared)
            replica = next((each for each in loaded if each and each.release.name == name), None)
            if replica is None:
                replica = self._compared = self._loaded(name)
            with self._changing:
                self._read(replica)
                return self._engine_of(replica)

    def drift(self) -> dict[str, float]:
        """How far each feature of what the current release shows has moved, as this process sees it."""
        watch = self._watches.get(self.engine.view.release.name)
        return {} if watch is None else watch.indices()

    def engine_for(self, user_id: str | None) -> Engine:
        """The engine that answers a shopper: while an A/B test runs it may be that of the release that is tried."""
        tried = self._tried
        if tried is None or user_id is None or tried.experiment.bucket(user_id) == CONTROL:
            return self.engine
        return tried.engine

    def bucket(self, user_id: str) -> str:
        """Which part of an A/B test a shopper is in, `control` while none runs."""
        return CONTROL if self._tried is None else self._tried.experiment.bucket(user_id)

    def copywriter(self, engine: Engine) -> Copywriter:
        """Who writes for the items of a release."""
        name = engine.view.release.name
        if name not in self._copywriters:
            brands = brands_of(engine.view.release.catalogue)
            self._copywriters = {name: Copywriter(self._settings.copywriting, brands)}
        return self._copywriters[name]

    def log(self, request_id: str, user_id: str | None, engine: Engine) -> Callable[[Display], None] | None:
        """What logs an answer to a request and watches its drift, if answers are logged; it never waits."""
        if not self._settings.log_impressions:
            return None
        name = engine.view.release.name

        def put(display: Display) -> None:
            self.users.log(request_id, user_id, name, display)
            watch = self._watches.get(name)
            if watch is not None and display.features is not None:
                watch.shown(display.features, display.scores)

        return put

    def take_events(self, rows: Sequence[Mapping[str, Any]], engine: Engine) -> list[EventResult]:
        """Clean and keep events, on disk when this returns; see Shoppers.take."""
        return self.users.take(rows, lambda item_id: engine.view.item_index(item_id) is not None, self.bucket)

    @property
    def ready(self) -> bool:
        return self._engine is not None

    def start(self) -> None:
        """Load the current release if there is one, and follow it from now on."""
        try:
            replay_erasures(self._settings)
        except EXPECTED as error:
            log.error("erasures could not be looked through: %s", error_response(error).message)
        self.refresh()
        if self._probe is not None:
            self._probe.start()
        for thread in self._followers:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._followers:
            thread.join()
        if self._probe is not None:
            self._probe.stop()
        self.users.close()

    def refresh(self) -> None:
        """Go to the current release if it is another, and take in what the journal has new."""
        self._follow_release()
        self._follow_journal()

    def _follow_release(self) -> None:
        self._follow_current()
        self._follow_experiment()

    def _follow_experiment(self) -> None:
        """Try what an A/B test says, if it is not the current release already."""
        experiment = None
        try:
            with self._loading:
                experiment, replica = running(self._settings.store), self._replica
                if replica is None or (experiment and experiment.release == replica.release.name):
                    experiment = None
                tried = self._tried and self._tried.experiment
                if experiment != tried and (experiment is None or experiment != self._refused_test):
                    self._try(experiment)
                    self._refused_test, self._complained_of_test = None, ""
        except EXPECTED as error:
            self._tried, self._refused_test = None, experiment
            if self._complained_of_test != error_response(error).message:
                self._complained_of_test = error_response(error).message
                log.error("the A/B test cannot go on, the current release answers all: %s", self._complained_of_test)
        except Exception:  # a bug met while following must end neither the following nor the service
            self._tried, self._refused_test = None, experiment
            log.exception("the A/B test cannot go on, the current release answers all")

    def _try(self, experiment: Experiment | None) -> None:
        """Answer as an A/B test says from now on, None ending it."""
        if experiment is None:
            self._tried = None
            log.info("no A/B test runs any more")
            return
        replica = self._loaded(experiment.release)
        with self._changing:
            self._read(replica)
            self._tried = _Treatment(experiment, replica, self._engine_of(replica))
        log.info("release %s answers %.0f%% of the shoppers", experiment.release, 100 * experiment.share)

    def _follow_current(self) -> None:
        name: str | None = "current"
        try:
            with self._loading:
                name = current_name(self._settings.store)
                if name is not None and name not in (self._refused, self._replica and self._replica.release.name):
                    self._load(name)
        except EXPECTED as error:
            if self._reason != error_response(error).message:
                self._reason = error_response(error).message
                log.error("release %s was refused, the one before goes on: %s", name, self._reason)
            self._refused = name
        except Exception:  # a bug met while following must end neither the following nor the service
            log.exception("release %s could not be loaded, the one before goes on", name)
            self._refused, self._reason = name, "a bug of ours, see the log"

    def activate(self, name: str) -> None:
        """Make a release the current one, here at once and in other processes as soon as they look.

        Raises NotFound where there is none such, Broken or Damaged where it cannot be used; then nothing changes.
        """
        with self._loading:
            self._load(name, is_current=False)

    def put(self, rows: Sequence[Mapping[str, Any]]) -> list[ItemChangeResult]:
        """Add items or replace them whole: encoded, journalled and visible here when this returns."""
        with closing(image_source(self._settings)) as source:
            encoding = ItemEncoder(self.engine.view, self._loaded_encoders(), source)
            edits = put_edits(rows, self._mapping, encoding, lambda items: self._review(items, source))
        outcomes = self._write(*edits)
        for outcome in outcomes:
            if outcome.status != "rejected" and (why := self.engine.view.why_hidden(outcome.item_id)):
                outcome.warnings += (f"not shown: {why}",)
        return outcomes

    def _review(self, items: Sequence[Item], source: ImageSource) -> None:
        if self._settings.review.classifier:
            with self._changing:
                review_items(self._settings, items, source)

    def patch(self, rows: Sequence[Mapping[str, Any]]) -> list[ItemChangeResult]:
        """Change fields of items that no encoder reads: no encoder is run, only the journal is written."""
        return self._write(*patch_edits(rows))

    def delete(self, item_ids: Sequence[str]) -> list[ItemChangeResult]:
        """Take items away."""
        return self._write(*delete_edits(item_ids))

    def _write(self, outcomes: list[ItemChangeResult], change: Change) -> list[ItemChangeResult]:
        """Journal what `change` makes of each row that is not rejected, and apply it; durable when this returns."""
        with self._changing:
            replica = self._replica
            if replica is None:
                raise StoreUnavailable(f"no release is loaded yet: {self._reason}", "release")
            with replica.journal.writing() as writer:
                replica.catch_up()
                seen: set[str] = set()
                changes: list[LiveChange] = []
                for place, outcome in enumerate(outcomes):
                    if outcome.status == "rejected":
                        continue
                    if outcome.item_id in seen:
                        twice = f"{outcome.item_id!r} comes twice in one request: send it once"
                        outcomes[place] = ItemChangeResult(
                            outcome.item_id, "rejected", "duplicate_id", twice, "item_id"
                        )
                        continue
                    seen.add(outcome.item_id)
                    made = change(place, replica.items.current(outcome.item_id))
                    if made is not None:
                        changes.append(made)
                if changes:
                    writer.append([each.to_bytes() for each in changes])
                    for each in changes:
                        replica.apply(each)
            replica.refresh()
            self._answer(replica)
            self._catch_up_tried()
        return outcomes

    def _load(self, name: str, is_current: bool = True) -> None:
        """Let a release answer, with the live changes since it was built."""
        started = time.monotonic()
        with loading_together(release_folder(self._settings.store, name), self._stop):
            replica = self._loaded(name)
            if not is_current:
                make_current(self._settings.store, name)
                self._stop.wait(2 * POLL_SECONDS)  # by then the others are loading it too
        if current_name(self._settings.store) != name:  # it took so long that another one is, by now
            return
        with self._changing:
            self._read(replica)
            before, self._replica = self._replica, replica
            self._refused = None
            self._answer(replica)
        if before is not None:
            before.release.let_go()
        log.info("release %s answers now, loaded in %.1f s", name, time.monotonic() - started)

    def _loaded(self, name: str) -> ReleaseReplica:
        """A release ready to answer, as far as the journal is by now."""
        encoders = self._loaded_encoders()
        release = Release(release_folder(self._settings.store, name))
        encoders.warm_up(release.manifest)
        release.behaviour.warm_up()
        replica = ReleaseReplica(release, self._settings, encoders)
        self._read(replica)  # without keeping anyone waiting; what comes meanwhile is read later
        self._engine_of(replica).warm_up()
        return replica

    def _follow_journal(self) -> None:
        with self._changing:
            replica = self._replica
            if replica is not None and self._read(replica):
                self._answer(replica)
            self._catch_up_tried()

    def _catch_up_tried(self) -> None:
        tried = self._tried
        if tried is not None and self._read(tried.replica):
            self._tried = _Treatment(tried.experiment, tried.replica, self._engine_of(tried.replica))

    def _read(self, replica: ReleaseReplica) -> bool:
        """Take in what the journal has new; where it is damaged, what comes before that is taken in."""
        try:
            return replica.catch_up()
        except EXPECTED as error:
            if self._complained != error_response(error).message:
                self._complained = error_response(error).message
                log.error("live changes are not all there, and no new ones are taken: %s", self._complained)
        except Exception:
            log.exception("a live change could not be applied")
        return True

    def _answer(self, replica: ReleaseReplica) -> None:
        before, self._engine = self._engine, self._engine_of(replica)
        if before is not None:
            RELEASE.labels(before.view.release.name).set(0)
        RELEASE.labels(replica.release.name).set(1)
        HIDDEN.set(len(replica.view.hidden))

    def _engine_of(self, replica: ReleaseReplica) -> Engine:
        online = self._head_of(replica.release)
        return Engine(replica.view, self._loaded_encoders(), self._settings, self._rules, online, self._probe)

    def _head_of(self, release: Release) -> OnlineHead | None:
        """What was learned of a release's scorer since it was trained; None where nothing is to be learned."""
        scorer = release.behaviour.scorer
        if scorer is None or not self._settings.online.learn:
            return None
        try:
            if scorer.fingerprint not in self._feedback:
                self._feedback[scorer.fingerprint] = OnlineLearner(self.users.events, self._settings, scorer)
            return self._feedback[scorer.fingerprint].head
        except StoreUnavailable as error:  # of the events: a release answers without them
            log.error("nothing is learned from feedback: %s", error.message)
            return None

    def _follow_feedback(self) -> None:
        with self._changing:
            loaded = [self._replica, None if self._tried is None else self._tried.replica]
            known = [each.release.behaviour.scorer for each in loaded if each is not None]
            scorers = {scorer.fingerprint for scorer in known if scorer is not None}
            self._feedback = {name: each for name, each in self._feedback.items() if name in scorers}
            self._watch([each.release for each in loaded if each is not None])
            replica = list(self._feedback.values())
        try:
            for feedback in replica:
                feedback.catch_up()
            for watch in list(self._watches.values()):
                watch.tell()
            self._complained_of_feedback = ""
        except EXPECTED as error:
            if self._complained_of_feedback != error_response(error).message:
                self._complained_of_feedback = error_response(error).message
                log.error("feedback cannot be read: %s", self._complained_of_feedback)
        except Exception:  # a bug met while following must end neither the following nor the service
            log.exception("feedback could not be learned from")

    def _watch(self, releases: Sequence[Release]) -> None:
        """Watch what these releases show, and no other."""
        self._watches = {
            each.name: self._watches.get(each.name) or DriftMonitor(each.name, each.reference, scorer, self._settings)
            for each in releases
            if each.reference is not None and (scorer := each.behaviour.scorer) is not None
        }

    def _loaded_encoders(self) -> Encoders:
        self._encoders = self._encoders or make_encoders(self._settings)
        return self._encoders

    def _follow(self, look: Callable[[], None]) -> None:
        while not self._stop.wait(POLL_SECONDS):
            look()
