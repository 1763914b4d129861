"""The scorer in service: the exported networks, calibration, and where each score comes from.

    scorer.json       layout, heads, calibration, what it was trained with and on, how it measured
    features.onnx     serve.training.scorer_network.FeatureNetwork
    history.onnx      serve.training.scorer_network.HistoryNetwork
    network.safetensors   the weights of both, from which `vetrina learn` goes on

The folder's name is the fingerprint: a hash of them.

A candidate's score is what the shop can expect of it: the sum over heads of probability times value. A probability is
the sigmoid of a sum of parts (groups of features, interactions of the history), so the expected value is handed out to
the parts in proportion: a part p of a logit that goes from z0, with everything but the place hidden, to z adds
`value * p * (sigmoid(z) - sigmoid(z0)) / (z - z0)`. That is the Aumann-Shapley value of each part (Aumann and Shapley
1974; integrated gradients, Sundararajan et al., ICML 2017, of a sum), and it adds up to the score exactly. What a group
of features adds to the logit is its Shapley value over two orders, one the reverse of the other.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from embed.durable import write_folder
from embed.errors import Damaged, Missing
from serve.recommend.ranking.feature_builder import GROUPS, Features, Layout

Floats = NDArray[np.float32]
Values = Mapping[str, float | Floats]
FORMAT = 3
ROWS = 1024  # that go through a network together
NETWORKS = ("features.onnx", "history.onnx")
WEIGHTS = "network.safetensors"
FILES = (*NETWORKS, WEIGHTS)


class HeadMetrics(BaseModel):
    """A head's calibration (slope and offset of its logit), and how it measured on held-out shoppers.

    `reliability` is mean probability, share that happened and count, of bins of equally many rows in its order.
    """

    model_config = ConfigDict(frozen=True)

    slope: float
    offset: float
    outcomes: int
    auc: float
    log_loss: float
    base_log_loss: float
    ece: float
    reliability: list[tuple[float, float, int]] = []


class _Format(BaseModel):
    format: int


class ScorerMetadata(BaseModel):
    """What a scorer is: its layout, its heads, which towers and encoders its features come from, how it was trained.

    Candidates are scored as if they were shown at the `usual_place`, a value of the position column. `hidden_scale` is
    the root of the mean square of each unit of the last hidden layer. It learned from what happened before
    `learned_until` (epoch seconds), and robots were looked for among the events up to number `events_until`.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    spaces: tuple[str, ...]
    related: bool = False
    columns: tuple[str, ...]
    towers: str
    usual_place: float
    hidden_scale: tuple[float, ...] = ()
    events_until: int = 0
    learned_until: float = 0.0
    heads: dict[str, HeadMetrics]
    rows: int
    cases: int
    epochs: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """Of m candidates the expected value [m], and the calibrated probability of each head [m].

    `feedback` [m] is the part of the expected value that an online head added.
    """

    total: Floats
    heads: Mapping[str, Floats]
    feedback: Floats | None = None

    def at(self, places: NDArray[np.int64]) -> "Scores":
        """Those of some candidates, in the order given."""
        feedback = None if self.feedback is None else self.feedback[places]
        return Scores(self.total[places], {head: of[places] for head, of in self.heads.items()}, feedback)

    def padded(self, rows: NDArray[np.int64]) -> "Scores":
        """Those of some candidates, in the order given, NaN at -1."""
        there = rows >= 0
        return Scores(
            np.where(there, self.total[rows], np.float32(np.nan)),
            {head: np.where(there, of[rows], np.float32(np.nan)) for head, of in self.heads.items()},
            None if self.feedback is None else np.where(there, self.feedback[rows], np.float32(np.nan)),
        )


@dataclass(frozen=True)
class Explained:
    """Where the scores [m] of candidates come from: `base` [m] + the sums of `groups` and `history` is the score.

    `groups` [m, groups] are what each of GROUPS added, `history` [m, h] what each interaction did.
    """

    scores: Scores
    base: Floats
    groups: Floats
    history: Floats

    def scaled(self, factor: float, shift: float) -> "Explained":
        """Where `shift` + `factor` times the scores comes from."""
        scores = Scores(self.scores.total * np.float32(factor) + np.float32(shift), self.scores.heads)
        return Explained(
            scores, self.base * np.float32(factor) + np.float32(shift), self.groups * factor, self.history * factor
        )


class Scorer:
    """Scores candidates by their features; without state, safe in several threads.

    `values` are what each head is worth to the shop, for all candidates alike or for each of them, [m].
    """

    def __init__(self, facts: ScorerMetadata, networks: Mapping[str, bytes], threads: int = 1) -> None:
        self.facts = facts
        self.layout = Layout(facts.spaces, facts.related)
        self._files = dict(networks)
        self._features, self._history = (_session(networks[name], threads) for name in NETWORKS)
        self._slopes = np.array([head.slope for head in facts.heads.values()], np.float32)
        self._offsets = np.array([head.offset for head in facts.heads.values()], np.float32)
        self._positions = self.layout.groups["position"]

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.facts, self._files)

    def score(self, features: Features, values: Values, correction: Callable[[Floats], Floats] | None = None) -> Scores:
        """The scores of m candidates. Every one is finite, whatever is missing of them.

        `correction` gives what to add to the probabilities, [m, heads], by the last hidden layer [m, hidden].
        """
        hidden, logits = self._run(features, self._inputs(features))
        scores = self._scores(logits, values)
        if correction is None:
            return scores
        right = correction(hidden)
        heads = {
            head: np.clip(of + right[:, place], 1e-6, 1).astype(np.float32)
            for place, (head, of) in enumerate(scores.heads.items())
        }
        total = _expected(heads, values, len(features))
        return Scores(total, heads, total - scores.total)

    def shown_at(self, features: Features, places: Floats) -> tuple[Floats, Floats]:
        """Of m items the last hidden layer [m, hidden], and the probability of each head at their places [m, heads]."""
        values, known = self._inputs(features)
        hidden, _ = self._run(features, (values, known))
        values[:, self._positions] = np.log2(1 + places)[:, None]
        return hidden, _sigmoid(self._run(features, (values, known))[1])

    def _run(self, features: Features, inputs: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """The last hidden layer [m, hidden] and the calibrated logits [m, heads]."""
        values, known = inputs
        hidden, logits = self._features.run(["hidden", "logits"], {"values": values, "known": known})
        if features.pairs.shape[1]:
            logits = logits + self._of_history(features).sum(1)
        return hidden, logits * self._slopes + self._offsets

    def explain(self, features: Features, values: Values) -> Explained:
        """The scores of m candidates, and where they come from."""
        given, known = self._inputs(features)
        m, heads = len(given), len(self.facts.heads)
        placed = np.zeros((1, known.shape[1]), np.float32)
        placed[:, self._positions] = 1
        empty = self._of_features(given[:1], placed)[0] if m else np.zeros(heads, np.float32)  # [heads]
        parts = self._shapley(given, known, empty)  # [m, groups, heads]
        history = np.zeros((m, features.pairs.shape[1], heads), np.float32)
        if features.pairs.shape[1]:
            history = self._of_history(features)  # [m, h, heads]
        start = empty * self._slopes + self._offsets
        parts, history = parts * self._slopes, history * self._slopes
        logits = start + parts.sum(1) + history.sum(1)  # [m, heads]
        scores = self._scores(logits, values)
        worth = np.empty((m, heads), np.float32)
        for place, head in enumerate(self.facts.heads):
            worth[:, place] = values.get(head, 0.0)
        deleted = logits - start
        near = np.abs(deleted) < 1e-4
        slope = np.where(near, _slope(start), (_sigmoid(logits) - _sigmoid(start)) / np.where(near, 1, deleted)) * worth
        return Explained(
            scores,
            (worth * _sigmoid(start)).sum(1),
            np.einsum("mgk,mk->mg", parts, slope),
            np.einsum("mhk,mk->mh", history, slope),
        )

    def warm_up(self) -> None:
        """Score and explain once, so that the first question does not wait for what is made ready then."""
        columns, channels = len(self.layout.names), len(self.layout.channels)
        nothing = np.zeros((1, columns), np.float32), np.zeros((1, 1, channels), np.float32)
        self.explain(Features(*nothing, np.zeros(1, np.int64), np.zeros(1, np.float32)), {})

    def _inputs(self, features: Features) -> tuple[Floats, Floats]:
        known = np.isfinite(features.values)
        values = np.where(known, features.values, 0).astype(np.float32)
        values[:, self._positions], known[:, self._positions] = self.facts.usual_place, True
        return values, known.astype(np.float32)

    def _of_features(self, values: Floats, known: Floats) -> Floats:
        """Some rows at a time: what lies in the caches is a third faster."""
        found: list[Floats] = [
            self._features.run(
                ["logits"], {"values": values[start : start + ROWS], "known": known[start : start + ROWS]}
            )[0]
            for start in range(0, max(1, len(values)), ROWS)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _of_history(self, features: Features) -> Floats:
        m = len(features)
        found: Floats = self._history.run(
            None,
            {
                "pairs": np.nan_to_num(features.pairs, posinf=0, neginf=0),
                "kinds": np.broadcast_to(features.kinds, (m, len(features.kinds))),
                "gaps": np.broadcast_to(np.nan_to_num(features.gaps), (m, len(features.gaps))),
                "there": np.ones((m, len(features.gaps)), np.float32),
            },
        )[0]
        return found

    def _shapley(self, values: Floats, known: Floats, empty: Floats) -> Floats:
        """What each group adds to the logits, [m, groups, heads]; groups of which nothing is known add nothing."""
        parts = np.zeros((len(values), len(GROUPS), len(empty)), np.float32)
        there = [
            place
            for place, group in enumerate(GROUPS)
            if group != "position" and known[:, self.layout.groups[group]].any()
        ]
        if not there or not len(values):
            return parts
        # After each step of both orders one more group is shown; all steps go through the network together, but for the
        # last of the second order, which shows all as that of the first does.
        masks, steps = [], []
        for order in (there, there[::-1]):
            shown = np.zeros(known.shape[1], np.float32)
            shown[self._positions] = 1
            for place in order:
                shown = shown.copy()
                shown[self.layout.groups[GROUPS[place]]] = 1
                masks.append(shown)
                steps.append(place)
        m, count = len(values), len(there)
        rows = known[None] * np.stack(masks[:-1])[:, None]  # [steps, m, columns]
        logits = self._of_features(np.tile(values, (len(rows), 1)), rows.reshape(-1, rows.shape[-1])).reshape(
            2 * count - 1, m, -1
        )
        after = np.concatenate([logits, logits[count - 1 : count]]).reshape(2, count, m, -1)
        first = np.broadcast_to(empty, (2, 1, m, len(empty)))
        added = np.diff(np.concatenate([first, after], 1), axis=1).reshape(2 * count, m, -1)
        for place, of in zip(steps, added, strict=True):
            parts[:, place] += of / 2
        return parts

    def _scores(self, logits: Floats, values: Values) -> Scores:
        probabilities = _sigmoid(logits)
        heads = {head: probabilities[:, place] for place, head in enumerate(self.facts.heads)}
        return Scores(_expected(heads, values, len(logits)), heads)

    @property
    def weights(self) -> bytes:
        """What the networks were exported from, as safetensors."""
        return self._files[WEIGHTS]

    def save(self, parent: Path) -> Path:
        """Write a folder under `parent`, named by the fingerprint; it is there whole or not at all."""
        return write_folder(parent, self.fingerprint, {**self._files, "scorer.json": _told(self.facts)})

    @staticmethod
    def readable(folder: Path) -> bool:
        """Whether the scorer of a folder is of this version's format, as far as the folder says."""
        try:
            return _Format.model_validate_json((folder / "scorer.json").read_bytes()).format == FORMAT
        except (OSError, ValidationError):
            return True  # opening it says what is wrong

    @classmethod
    def open(cls, folder: Path, threads: int = 1) -> "Scorer":
        """Read what `save` wrote; raises Missing, or Damaged where it is not what was written."""
        try:
            networks = {name: (folder / name).read_bytes() for name in FILES}
            told = (folder / "scorer.json").read_bytes()
            format_ = _Format.model_validate_json(told).format
            if format_ != FORMAT:
                raise Damaged(
                    f"the scorer in {folder} has format {format_}, this version reads {FORMAT}: train it again",
                    folder.name,
                )
            facts = ScorerMetadata.model_validate_json(told)
        except OSError as error:
            raise Missing(f"{folder} holds no scorer: {error.strerror}: train it again", folder.name) from error
        except ValidationError as error:
            raise Damaged(
                f"{folder / 'scorer.json'} is damaged: {error.errors()[0]['msg']}: train it again", "scorer.json"
            ) from error
        found = _fingerprint(facts, networks)
        if found != folder.name:
            raise Damaged(f"the scorer in {folder} is damaged: it is {found}: train it again", folder.name)
        if facts.columns != Layout(facts.spaces, facts.related).names:
            raise Damaged(f"the scorer in {folder} knows other features than this version: train it again", folder.name)
        return cls(facts, networks, threads)


def _expected(heads: Mapping[str, Floats], values: Values, count: int) -> Floats:
    """What can be expected of n candidates, [n]."""
    total = sum((values.get(head, 0.0) * of for head, of in heads.items()), np.zeros(count))
    return np.asarray(total, np.float32)


def _told(facts: ScorerMetadata) -> bytes:
    return orjson.dumps(facts.model_dump(mode="json"), option=orjson.OPT_INDENT_2)


def _fingerprint(facts: ScorerMetadata, networks: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(_told(facts), digest_size=8)
    for name in FILES:
        digest.update(hashlib.blake2b(networks[name]).digest())
    return digest.hexdigest()


def _session(network: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # lists are of any length, and come from many threads
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _sigmoid(logits: Floats) -> Floats:
    return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)


def _slope(logits: Floats) -> Floats:
    probability = _sigmoid(logits)
    return probability * (1 - probability)
