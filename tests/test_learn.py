"""Going on to learn, the gate that a release has to pass, A/B tests, and drift."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.service import Service, good, served, until
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.behaviour import Event
from serve import cli
from serve.core.errors import BadRequest, NotFound, StoreUnavailable
from serve.core.settings import Settings
from serve.evaluation import ab_report
from serve.evaluation.release_gate import compare_releases
from serve.jobs import update_scorer
from serve.jobs.build import build, publish
from serve.jobs.train import learn
from serve.recommend.ranking.drift import BINS, MIN_SHARE, SCORE, DriftIndex, DriftReference
from serve.recommend.ranking.feature_builder import FeatureLayout
from serve.recommend.ranking.scorer import Scorer
from serve.release import ab_test
from serve.release.manifest import Check, read_manifest
from serve.release.release import Release
from serve.release.repository import current_name, make_current, open_current, prune, releases_folder
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog

DAY = 86_400.0


def scorer_of(release: Release) -> Scorer:
    assert release.behaviour.scorer is not None
    return release.behaviour.scorer


def come_later(shop: Path, store: EventLog, days: float = 20.0) -> None:
    """The interactions of the last days happen again after the end, with other users."""
    rows = [json.loads(line) for line in (shop / "events.jsonl").open()]
    end = max(row["timestamp"] for row in rows)
    users = sorted({row["user_id"] for row in rows})
    following = dict(zip(users, users[1:] + users[:1], strict=True))
    store.add(
        [
            Event(
                **{
                    **row,
                    "event_id": f"later {row['event_id']}",
                    "user_id": following[row["user_id"]],
                    "request_id": row.get("request_id") and f"later {row['request_id']}",
                    "timestamp": row["timestamp"] + days * DAY,
                }
            )
            for row in rows
            if row["timestamp"] > end - days * DAY
        ]
    )


@pytest.fixture
def going_on(copied: Settings, shop: Path) -> Settings:
    store = open_event_log(copied)
    come_later(shop, store)
    store.close()
    return copied


def worse(_: Any, __: Release, ___: Release, ____: Any = None) -> list[Check]:
    return [Check(name="NDCG@10", parent=0.2, release=0.1, low=-0.15, high=-0.05, cases=100, worse=True)]


def better(_: Any, __: Release, ___: Release, ____: Any = None) -> list[Check]:
    return [Check(name="NDCG@10", parent=0.1, release=0.2, low=0.05, high=0.15, cases=100, worse=False)]


def test_the_scorer_goes_on_from_what_is_new_and_answers_if_it_is_no_worse(
    going_on: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_current(going_on.store)
    base = scorer_of(before)
    seen = []
    monkeypatch.setattr(update_scorer, "compare_releases", lambda *given: seen.append(given[1:3]) or worse(*given))
    report, built = learn(going_on)
    assert not report.accepted
    assert built is None
    assert current_name(going_on.store) == before.name
    ((candidate, parent),) = seen
    assert scorer_of(candidate).fingerprint == report.fingerprint != base.fingerprint == scorer_of(parent).fingerprint
    facts = scorer_of(candidate).metadata
    assert list(facts.heads) == list(base.metadata.heads)
    # What is compared on was not learned from.
    store = open_event_log(going_on)
    last = max(time_ for _, lot in store.batches() for time_ in lot.column("timestamp").to_pylist())
    assert base.metadata.learned_until < facts.learned_until < last
    store.close()

    monkeypatch.setattr(update_scorer, "compare_releases", better)
    again, built = learn(going_on)
    assert again.fingerprint == report.fingerprint  # the same data, seed and start
    assert built is not None
    assert built.published
    assert scorer_of(open_current(going_on.store)).fingerprint == report.fingerprint
    # From there on it goes on.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update_scorer, "MIN_USERS", 10_000)
        nothing, built = learn(going_on)
    assert (nothing.fingerprint, built) == ("", None)
    assert 0 < nothing.users < report.users


def test_learning_that_is_killed_goes_on_to_the_same(going_on: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_scorer, "compare_releases", worse)
    whole, _ = learn(going_on)

    class Killed(Exception):
        pass

    def kill(stage: str, done: float, total: float, unit: str) -> None:
        if stage == "train final scorer" and done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        learn(going_on, kill)
    store = open_event_log(going_on)
    store.add([Event("while it was dead", "u00001", "SNK-0001", "view", time.time())])
    store.close()
    resumed, _ = learn(going_on)
    assert resumed.fingerprint == whole.fingerprint


def test_without_a_scorer_there_is_nothing_to_go_on_from(built: Settings) -> None:
    with pytest.raises(BadRequest, match="train scorer"):
        learn(built)


def test_the_gate_tells_a_worse_scorer_and_does_not_see_a_difference_in_the_same(
    going_on: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.evaluation.release_gate.MAX_CASES", 100)
    release = open_current(going_on.store)
    scorer = scorer_of(release)
    same = compare_releases(going_on, release, release)
    assert {check.name for check in same} == {"NDCG@10", "log-likelihood", "calibration error of click"}
    for check in same:
        assert check.parent == check.release
        assert not check.worse
        assert check.cases >= 20
    turned = {head: of.model_copy(update={"slope": -of.slope}) for head, of in scorer.metadata.heads.items()}
    files = {name: scorer._files[name] for name in scorer._files}
    upside_down = Scorer(scorer.metadata.model_copy(update={"heads": turned}), files)
    found = {check.name: check for check in compare_releases(going_on, release.with_scorer(upside_down), release)}
    for name in ("NDCG@10", "log-likelihood"):
        check = found[name]
        assert check.worse
        assert check.high is not None
        assert check.high < 0
        assert check.release < check.parent


def test_what_was_just_built_is_held_against_what_its_parts_measured(copied: Settings) -> None:
    release = open_current(copied.store)
    scorer = scorer_of(release)
    assert compare_releases(copied, release, release) == []

    def measured(auc: float, outcomes: int) -> Release:
        facts = {
            head: of.model_copy(update={"auc": auc, "outcomes": outcomes}) for head, of in scorer.metadata.heads.items()
        }
        return release.with_scorer(Scorer(scorer.metadata.model_copy(update={"heads": facts}), scorer._files))

    good_one, poor, doubtful = measured(0.9, 10_000), measured(0.7, 10_000), measured(0.7, 20)
    found = compare_releases(copied, poor, good_one)
    assert [check.name for check in found] == [f"AUC of {head} at training" for head in scorer.metadata.heads]
    assert all(check.worse for check in found)
    for release_, parent in ((good_one, poor), (doubtful, good_one)):
        assert not any(check.worse for check in compare_releases(copied, release_, parent))
    lenient = copied.model_copy(update={"gate": copied.gate.model_copy(update={"recorded": 1.0})})
    assert not any(check.worse for check in compare_releases(lenient, poor, good_one))


def test_a_worse_release_waits_until_it_is_forced(
    copied: Settings, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.jobs.build.compare_releases", worse)
    first = open_current(copied.store)
    assert first.manifest.quality is not None
    assert 0 < first.manifest.quality.coverage10 <= 1
    changed = copied.model_copy(update={"half_lives": copied.half_lives.model_copy(update={"popularity": 3.0})})
    held = build(changed)
    assert held.refused
    assert not held.published
    assert current_name(copied.store) == first.name
    assert read_manifest(releases_folder(copied.store) / held.manifest.release).checks == worse(None, first, first)
    again = build(changed)  # it is there already
    assert again.refused
    assert again.manifest.release == held.manifest.release
    checks, published = publish(changed, held.manifest.release)
    assert not published
    assert checks[0].worse
    _, published = publish(changed, held.manifest.release, force=True)
    assert published
    assert current_name(copied.store) == held.manifest.release
    make_current(copied.store, first.name)
    monkeypatch.setattr("serve.jobs.build.compare_releases", better)
    assert build(changed).published
    assert current_name(copied.store) == held.manifest.release
    with pytest.raises(NotFound, match="no release"):
        publish(changed, "20200101T000000000-00000000")


@pytest.fixture
def two(copied: Settings) -> tuple[Settings, str, str]:
    """A store of two releases that answer differently: the current one, and another."""
    current = current_name(copied.store)
    assert current is not None
    changed = copied.model_copy(update={"half_lives": copied.half_lives.model_copy(update={"popularity": 0.5})})
    other = build(changed).manifest.release
    make_current(copied.store, current)
    return copied, current, other


def answered(service: Service, user: str | None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = good(service.client.post("/v1/recommend", json={"user_id": user, "k": 5, **more}))
    return found


def test_two_releases_answer_side_by_side_and_the_difference_is_reported(two: tuple[Settings, str, str]) -> None:
    configured, current, other = two
    with pytest.raises(NotFound, match="ab start"):
        ab_report.report(configured)
    users = [f"u{number:05}" for number in range(1, 61)]
    with served(configured) as service, served(configured) as second:
        assert answered(service, "u00001")["release"] == current
        test = ab_test.start(configured.store, other, 0.4)
        with pytest.raises(BadRequest, match="yet"):
            ab_report.report(configured)  # nobody was shown anything since
        prune(configured.store, 1)  # what is tried stays
        tried = next(f"probe {n}" for n in range(99) if test.bucket(f"probe {n}") == ab_test.TREATMENT)
        until(lambda: all(answered(one, tried)["release"] == other for one in (service, second)))
        expected: dict[str, list[float]] = {ab_test.CONTROL: [], ab_test.TREATMENT: []}
        before = _counter(service, "vetrina_attributed_events_total", bucket="treatment", head="click")
        for number, user in enumerate(users):
            found = answered(service, user)
            bucket = test.bucket(user)
            assert found["release"] == {ab_test.CONTROL: current, ab_test.TREATMENT: other}[bucket]
            clicked = bucket == ab_test.TREATMENT or number % 3 == 0
            expected[bucket].append(float(clicked))
            if clicked:
                act = {"user_id": user, "item_id": found["items"][0]["item_id"], "type": "click"}
                good(service.client.post("/v1/events", json={"events": [act | {"request_id": found["request_id"]}]}))
        for body in ({"like": ["SNK-0001"], "k": 3}, {"text": "red shoe", "k": 3}):
            assert good(service.search(**body, user_id=tried))["release"] == other
            assert good(service.search(**body))["release"] == current
        assert answered(service, None)["release"] == current
        clicks = _counter(service, "vetrina_attributed_events_total", bucket="treatment", head="click") - before
        assert clicks == sum(expected[ab_test.TREATMENT])
        # A change is seen in both.
        deleted = answered(service, tried)["items"][0]["item_id"]
        good(service.client.delete(f"/v1/items/{deleted}"))
        for user in (tried, next(user for user in users if test.bucket(user) == ab_test.CONTROL)):
            assert deleted not in [item["item_id"] for item in answered(service, user, k=70)["items"]]
        service.app.state.live.users.impressions.wait_for_all()
        found_ = ab_report.report(configured)
        assert found_.arms["control"].releases == [current]
        control, treatment = (found_.arms[part] for part in ("control", "treatment"))
        assert control.users == len(expected["control"])
        assert treatment.users + found_.excluded == len(expected["treatment"]) + 1  # the probe
        assert treatment.means["click"] == pytest.approx(len(expected["treatment"]) / treatment.lists)
        assert control.means["click"] == pytest.approx(sum(expected["control"]) / control.lists)
        assert control.lists == len(expected["control"]) + 1
        assert found_.differences["click"].low > 0
        assert found_.differences["click"].better == 1.0
        assert control.means["click"] < treatment.means["click"]
        ab_test.stop(configured.store)
        until(lambda: all(answered(one, tried)["release"] == current for one in (service, second)))
        loads = service.app.state.live.release_watcher._loaded
        asked: list[str] = []
        service.app.state.live.release_watcher._loaded = lambda name: asked.append(name) or loads(name)
        ab_test.start(configured.store, "20200101T000000000-00000000", 0.5)
        until(lambda: bool(asked))
        time.sleep(0.5)
        assert len(asked) == 1  # what cannot be tried is not tried ten times a second
        assert answered(service, tried)["release"] == current
        (configured.store / ab_test.FILE).write_text("{")
        assert answered(service, tried)["release"] == current
        with pytest.raises(StoreUnavailable, match="ab stop"):
            ab_test.running(configured.store)
    ab_test.stop(configured.store)
    with pytest.raises(NotFound):
        ab_test.stop(configured.store)


def _counter(service: Service, name: str, **labels: str) -> float:
    """A figure of /metrics, 0 where there is none."""
    text = service.client.get("/metrics").text
    wanted = f"{name}{{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted)), 0.0)


def test_buckets_are_as_large_as_they_should_be_and_new_for_each_test() -> None:
    one = ab_test.Experiment(release="r", share=0.3, since=0.0, salt="a")
    other = replace_salt(one, "b")
    users = [f"user {number}" for number in range(4000)]
    parts = [np.array([test.bucket(user) == ab_test.TREATMENT for user in users]) for test in (one, other)]
    for part in parts:
        assert part.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 4000))
    assert (parts[0] & parts[1]).mean() == pytest.approx(0.09, abs=4 * np.sqrt(0.09 * 0.91 / 4000))


def replace_salt(test: ab_test.Experiment, salt: str) -> ab_test.Experiment:
    return test.model_copy(update={"salt": salt})


LAYOUT = FeatureLayout(("image", "text"))


@given(st.integers(0, 1000), st.floats(0, 3), st.floats(0, 0.5))
@settings(max_examples=30, deadline=None)
def test_drift_is_the_population_stability_index(seed: int, shift: float, missing: float) -> None:
    random = np.random.default_rng(seed)

    def some(count: int, by: float, deleted: float) -> tuple[np.ndarray, np.ndarray]:
        values = random.normal(size=(count, len(LAYOUT.names))).astype(np.float32)
        values[:, 0] += np.float32(by)
        values[random.random(count) < deleted, 0] = np.nan
        values[:, 1] = np.nan
        return values, random.normal(size=count).astype(np.float32)

    then, now = some(3000, 0.0, 0.1), some(1000, shift, missing)
    reference = DriftReference.measure(LAYOUT, *then)
    drift = DriftIndex(DriftReference.model_validate_json(reference.model_dump_json()), LAYOUT.names)
    assert drift.indices() == {}
    drift.record(*now)
    found = drift.indices()
    assert set(found) == {*LAYOUT.names, SCORE} - {"hour_sine", "hour_cosine", "position"}

    def shares(of: np.ndarray, edges: np.ndarray) -> np.ndarray:
        known = of[~np.isnan(of)]
        counts = [((known > low) & (known <= high)).sum() for low, high in itertools.pairwise(edges)]
        return np.maximum(np.array([*counts, len(of) - len(known)]) / len(of), MIN_SHARE)

    old = then[0][:, 0]
    quantiles = np.quantile(old[~np.isnan(old)], np.arange(1, BINS) / BINS)
    edges = np.array([-np.inf, *quantiles, np.inf], np.float32)
    p, q = shares(now[0][:, 0], edges), shares(old, edges)
    assert found[LAYOUT.names[0]] == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=1e-3, abs=1e-4)
    assert found[LAYOUT.names[1]] == pytest.approx(0.0, abs=1e-9)
    assert found[SCORE] < 0.1


def test_the_service_tells_of_drift(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.live.drift_monitor.PUBLISH_SECONDS", 0.0)
    name = current_name(copied.store)
    assert name is not None
    with served(copied) as service:
        until(lambda: bool(service.app.state.live.feedback_watcher.monitors))
        dear = {"price": {"gte": 80}}
        for number in range(60):
            answered(service, f"u{number:05}", k=10, filter=dear)
        until(lambda: _counter(service, "vetrina_drift_psi", feature="price", release=name) > 1)
        assert _counter(service, "vetrina_drift_alert", release=name) >= 1
        assert _counter(service, "vetrina_drift_psi", feature="history", release=name) < 5
        assert _counter(service, "vetrina_responses_total", bucket="control", release=name) >= 60


def test_impressions_have_no_user_after_an_opt_out_and_heads_forget_erased_users(copied: Settings) -> None:
    online = copied.online.model_copy(update={"learn": True})
    configured = copied.model_copy(update={"online": online})
    scorer = scorer_of(open_current(copied.store))
    store = open_event_log(configured)
    with served(configured) as service:
        feedback = service.app.state.live.feedback_watcher.learners
        for user in ("u00001", "u00002"):
            found = answered(service, user)
            act = {"user_id": user, "item_id": found["items"][0]["item_id"], "type": "purchase"}
            good(service.client.post("/v1/events", json={"events": [act | {"request_id": found["request_id"]}]}))
        heads = len([head for head in scorer.metadata.heads if head != "rating"])
        until(lambda: feedback[scorer.fingerprint].learned == 2 * heads)
        both = feedback[scorer.fingerprint].head.weights(time.time()).mean
        good(service.client.delete("/v1/users/u00002"))
        until(lambda: feedback[scorer.fingerprint].learned == 3 * heads)  # what is left was learned once more
        left = feedback[scorer.fingerprint].head.weights(time.time()).mean
        assert np.abs(left).sum() < np.abs(both).sum()
        good(service.client.put("/v1/users/u00003/preferences", json={"personal": False}))
        found = answered(service, "u00003")
        service.app.state.live.users.impressions.wait_for_all()
        logged = {one.request_id: one for lot in ImpressionLog(store.database).batches() for _, one in lot}
        assert logged[found["request_id"]].user_id is None
    store.close()


def test_the_command_line_tries_publishes_and_compacts(
    two: tuple[Settings, str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    configured, current, other = two

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vetrina", *arguments, "--store", str(configured.store)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capfd.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    assert run("ab", "report")[0] == 2
    assert "it is the active one" in run("ab", "start", current)[2]
    assert run("ab", "start", "20200101T000000000-00000000")[0] == 2
    code, told, _ = run("ab", "start", other, "--share", "0.25")
    assert (code, "25%" in told) == (0, True)
    found = ab_test.running(configured.store)
    assert found is not None
    assert (found.release, found.share) == (other, 0.25)
    assert run("ab", "stop")[0] == 0
    assert run("ab", "stop")[0] == 2
    code, told, _ = run("publish", other, "--json")
    assert code == 0
    assert json.loads(told.splitlines()[-1])["published"]
    assert current_name(configured.store) == other
    monkeypatch.setattr("serve.jobs.build.compare_releases", worse)
    code, told, _ = run("publish", current)
    assert code == 1
    assert f"vetrina publish {current} --force" in told
    assert current_name(configured.store) == other
    assert run("publish", current, "--force")[0] == 0
    assert current_name(configured.store) == current
    code, told, _ = run("compact", "--days", "60", "--json")
    assert code == 0
    assert json.loads(told.splitlines()[-1])["events"] > 1000
    code, told, _ = run("learn", "--json")
    assert code == 0
    assert json.loads(told.splitlines()[-1])["fingerprint"] == ""


def test_what_happened_at_the_very_last_moment_is_known_to_what_was_built_after_it(copied: Settings) -> None:
    store = open_event_log(copied)
    items = [item.as_py() for item in open_current(copied.store).catalogue.ids()]
    moment = float(int(time.time()))
    at_once = [Event(f"last {n}", f"u{n:05}", items[n % 72], "purchase", moment) for n in range(1, 200)]
    store.add(at_once)
    store.close()
    build(copied)
    release = open_current(copied.store)
    assert release.manifest.behaviour.counted_at < release.history_until
    held = copied.model_copy(update={"half_lives": copied.half_lives.model_copy(update={"popularity": 3.0})})
    assert build(held).checks == []
