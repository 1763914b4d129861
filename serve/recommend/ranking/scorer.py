"""The scorer in service: the exported networks, their calibration, and the explanation of each score.

    scorer.json           layout, heads, calibration, what it was trained on and with, how it measured
    features.onnx         serve.training.scorer_network.FeatureNetwork
    history.onnx          serve.training.scorer_network.HistoryNetwork
    network.safetensors   the weights of both, from which `vetrina learn` continues

The folder's name is the fingerprint: a hash of these files.

A candidate's score is its expected value for the shop: the sum over heads of probability times value. A probability is
the sigmoid of a sum of parts (groups of features, interactions of the history), and the expected value is divided among
the parts in proportion. Let z0 be a logit with everything but the position hidden, and z the full logit. A part p of
the difference then adds `value * p * (sigmoid(z) - sigmoid(z0)) / (z - z0)`. That is the Aumann-Shapley value of each
part (Aumann and Shapley 1974; for a sum it equals integrated gradients, Sundararajan et al., ICML 2017), and the parts
add up to the score exactly. What a group of features adds to the logit is its Shapley value over two orders, of which
one is the reverse of the other.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from embed.durable import write_folder
from embed.errors import Damaged, Missing
from serve.recommend.ranking.feature_builder import FeatureLayout, FeatureMatrix

Floats = NDArray[np.float32]
Values = Mapping[str, float | Floats]
FORMAT = 3
BATCH_ROWS = 1024
NETWORKS = ("features.onnx", "history.onnx")
WEIGHTS = "network.safetensors"
FILES = (*NETWORKS, WEIGHTS)


class HeadMetrics(BaseModel):
    """A head's calibration (slope and offset of its logit), and how it measured on held-out users.

    `reliability` has bins of equally many rows in order of probability: mean probability, observed share, count.
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


class _FormatHeader(BaseModel):
    """What is read first, to tell whether this version reads the rest."""

    format: int
    columns: tuple[str, ...] = ()
    spaces: tuple[str, ...] = ()
    related: bool = False

    @property
    def is_current(self) -> bool:
        """Whether this version has the same format and the same columns."""
        return self.format == FORMAT and self.columns == FeatureLayout(self.spaces, self.related).names


class ScorerMetadata(BaseModel):
    """What a scorer is: its layout, its heads, the towers and encoders behind its features, and its training.

    Candidates are scored at the `usual_position`, a value of the position column. `hidden_scale` is the root mean
    square of each unit of the last hidden layer. Training used events before `learned_until` (epoch seconds), and
    looked for bots among the events up to number `events_until`.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    spaces: tuple[str, ...]
    related: bool = False
    columns: tuple[str, ...]
    towers: str
    usual_position: float = Field(
        validation_alias=AliasChoices("usual_position", "usual_place"),
        serialization_alias="usual_place",  # as 0.1 wrote it: fingerprints stay equal
    )
    hidden_scale: tuple[float, ...] = ()
    events_until: int = 0
    learned_until: float = 0.0
    heads: dict[str, HeadMetrics]
    rows: int
    cases: int
    epochs: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class ScorerOutput:
    """The expected value of m candidates [m], and the calibrated probability of each head [m].

    `feedback` [m] is the part of the expected value that an online head added.
    """

    total: Floats
    heads: Mapping[str, Floats]
    feedback: Floats | None = None

    def take(self, rows: NDArray[np.int64]) -> "ScorerOutput":
        """Return the output of some candidates, in that order."""
        feedback = None if self.feedback is None else self.feedback[rows]
        return ScorerOutput(self.total[rows], {head: values[rows] for head, values in self.heads.items()}, feedback)

    def take_padded(self, rows: NDArray[np.int64]) -> "ScorerOutput":
        """Return the output of some candidates, in that order; NaN for a row of -1."""
        scored, unknown = rows >= 0, np.float32(np.nan)
        return ScorerOutput(
            np.where(scored, self.total[rows], unknown),
            {head: np.where(scored, values[rows], unknown) for head, values in self.heads.items()},
            None if self.feedback is None else np.where(scored, self.feedback[rows], unknown),
        )


@dataclass(frozen=True)
class ScoreExplanation:
    """Where the scores of m candidates come from: `base` + the sums of `groups` and of `history` is the score.

    Attributes:
        output: The scores.
        base: The score without any knowledge, [m].
        groups: What each group of features added, [m, groups].
        history: What each interaction added, [m, h].
        group_names: The names of the groups.
        wordings: What a reason says of a group.
    """

    output: ScorerOutput
    base: Floats
    groups: Floats
    history: Floats
    group_names: Sequence[str]
    wordings: Mapping[str, str]

    def scaled(self, factor: float, shift: float) -> "ScoreExplanation":
        """Return the explanation of `shift` + `factor` times the scores."""
        output = ScorerOutput(self.output.total * np.float32(factor) + np.float32(shift), self.output.heads)
        base = self.base * np.float32(factor) + np.float32(shift)
        return replace(self, output=output, base=base, groups=self.groups * factor, history=self.history * factor)


class Scorer:
    """Scores candidates by their features; without state, safe in several threads.

    `values` are what an outcome of each head is worth to the shop, for all candidates alike or for each of them, [m].
    """

    def __init__(self, metadata: ScorerMetadata, networks: Mapping[str, bytes], threads: int = 1) -> None:
        self.metadata = metadata
        self.layout = FeatureLayout(metadata.spaces, metadata.related)
        self._files = dict(networks)
        self._features, self._history = (_session(networks[name], threads) for name in NETWORKS)
        self._slopes = np.array([head.slope for head in metadata.heads.values()], np.float32)
        self._offsets = np.array([head.offset for head in metadata.heads.values()], np.float32)
        self._positions = self.layout.groups["position"]

    @property
    def fingerprint(self) -> str:
        """A hash of metadata and networks."""
        return _fingerprint(self.metadata, self._files)

    @property
    def weights(self) -> bytes:
        """The weights that the networks were exported from, as safetensors."""
        return self._files[WEIGHTS]

    def score(
        self, features: FeatureMatrix, values: Values, correction: Callable[[Floats], Floats] | None = None
    ) -> ScorerOutput:
        """Score m candidates. Every score is finite, whatever features are missing.

        `correction` returns what to add to the probabilities, [m, heads], for the last hidden layer [m, hidden].
        """
        hidden, logits = self._run(features, self._inputs(features))
        output = self._output(logits, values)
        if correction is None:
            return output
        added = correction(hidden)
        heads = {
            head: np.clip(probability + added[:, column], 1e-6, 1).astype(np.float32)
            for column, (head, probability) in enumerate(output.heads.items())
        }
        total = _expected_value(heads, values, len(features))
        return ScorerOutput(total, heads, total - output.total)

    def predict_at(self, features: FeatureMatrix, positions: Floats) -> tuple[Floats, Floats]:
        """Return the last hidden layer [m, hidden], and the probabilities [m, heads] at positions [m] of a list."""
        values, known = self._inputs(features)
        hidden, _ = self._run(features, (values, known))
        values[:, self._positions] = np.log2(1 + positions)[:, None]
        return hidden, _sigmoid(self._run(features, (values, known))[1])

    def _run(self, features: FeatureMatrix, inputs: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        """Return the last hidden layer [m, hidden] and the calibrated logits [m, heads]."""
        values, known = inputs
        hidden, logits = self._features.run(["hidden", "logits"], {"values": values, "known": known})
        if features.pairs.shape[1]:
            logits = logits + self._history_logits(features).sum(1)
        return hidden, logits * self._slopes + self._offsets

    def explain(self, features: FeatureMatrix, values: Values) -> ScoreExplanation:
        """Score m candidates and divide each score among its parts."""
        inputs, known = self._inputs(features)
        m, heads = len(inputs), len(self.metadata.heads)
        position_only = np.zeros((1, known.shape[1]), np.float32)
        position_only[:, self._positions] = 1
        empty = self._feature_logits(inputs[:1], position_only)[0] if m else np.zeros(heads, np.float32)  # [heads]
        parts = self._shapley(inputs, known, empty)  # [m, groups, heads]
        history = np.zeros((m, features.pairs.shape[1], heads), np.float32)
        if features.pairs.shape[1]:
            history = self._history_logits(features)  # [m, h, heads]
        start = empty * self._slopes + self._offsets
        parts, history = parts * self._slopes, history * self._slopes
        logits = start + parts.sum(1) + history.sum(1)  # [m, heads]
        worth = np.empty((m, heads), np.float32)
        for column, head in enumerate(self.metadata.heads):
            worth[:, column] = values.get(head, 0.0)
        difference = logits - start
        near = np.abs(difference) < 1e-4
        secant = (_sigmoid(logits) - _sigmoid(start)) / np.where(near, 1, difference)
        slope = np.where(near, _sigmoid_slope(start), secant) * worth
        return ScoreExplanation(
            self._output(logits, values),
            (worth * _sigmoid(start)).sum(1),
            np.einsum("mgk,mk->mg", parts, slope),
            np.einsum("mhk,mk->mh", history, slope),
            list(self.layout.groups),
            self.layout.wordings,
        )

    def warm_up(self) -> None:
        """Score and explain once, so that the first request does not wait for what is set up then."""
        columns, channels = len(self.layout.names), len(self.layout.channels)
        values, pairs = np.zeros((1, columns), np.float32), np.zeros((1, 1, channels), np.float32)
        self.explain(FeatureMatrix(values, pairs, np.zeros(1, np.int64), np.zeros(1, np.float32)), {})

    def _inputs(self, features: FeatureMatrix) -> tuple[Floats, Floats]:
        """Return the values and which of them are known, both [m, columns], at the usual position."""
        known = np.isfinite(features.values)
        values = np.where(known, features.values, 0).astype(np.float32)
        values[:, self._positions], known[:, self._positions] = self.metadata.usual_position, True
        return values, known.astype(np.float32)

    def _feature_logits(self, values: Floats, known: Floats) -> Floats:
        """Return the logits [n, heads]. Batches that fit into the caches take a third less time."""
        logits: list[Floats] = [
            self._features.run(
                ["logits"], {"values": values[start : start + BATCH_ROWS], "known": known[start : start + BATCH_ROWS]}
            )[0]
            for start in range(0, max(1, len(values)), BATCH_ROWS)
        ]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _history_logits(self, features: FeatureMatrix) -> Floats:
        """Return what each interaction adds to the logits, [m, h, heads]."""
        m = len(features)
        logits: Floats = self._history.run(
            None,
            {
                "pairs": np.nan_to_num(features.pairs, posinf=0, neginf=0),
                "kinds": np.broadcast_to(features.kinds, (m, len(features.kinds))),
                "gaps": np.broadcast_to(np.nan_to_num(features.gaps), (m, len(features.gaps))),
                "there": np.ones((m, len(features.gaps)), np.float32),
            },
        )[0]
        return logits

    def _shapley(self, values: Floats, known: Floats, empty: Floats) -> Floats:
        """Return what each group adds to the logits, [m, groups, heads]; groups without known values add nothing."""
        groups = self.layout.groups
        parts = np.zeros((len(values), len(groups), len(empty)), np.float32)
        known_groups = [
            number
            for number, (name, columns) in enumerate(groups.items())
            if name != "position" and known[:, columns].any()
        ]
        if not known_groups or not len(values):
            return parts
        # Each step of both orders reveals one more group. All steps go through the network together, except for the
        # last of the second order, which reveals everything, as that of the first does.
        columns_of = list(groups.values())
        masks, steps = [], []
        for order in (known_groups, known_groups[::-1]):
            revealed = np.zeros(known.shape[1], np.float32)
            revealed[self._positions] = 1
            for group in order:
                revealed = revealed.copy()
                revealed[columns_of[group]] = 1
                masks.append(revealed)
                steps.append(group)
        m, count = len(values), len(known_groups)
        rows = known[None] * np.stack(masks[:-1])[:, None]  # [steps, m, columns]
        logits = self._feature_logits(np.tile(values, (len(rows), 1)), rows.reshape(-1, rows.shape[-1])).reshape(
            2 * count - 1, m, -1
        )
        after = np.concatenate([logits, logits[count - 1 : count]]).reshape(2, count, m, -1)
        first = np.broadcast_to(empty, (2, 1, m, len(empty)))
        added = np.diff(np.concatenate([first, after], 1), axis=1).reshape(2 * count, m, -1)
        for group, difference in zip(steps, added, strict=True):
            parts[:, group] += difference / 2
        return parts

    def _output(self, logits: Floats, values: Values) -> ScorerOutput:
        probabilities = _sigmoid(logits)
        heads = {head: probabilities[:, column] for column, head in enumerate(self.metadata.heads)}
        return ScorerOutput(_expected_value(heads, values, len(logits)), heads)

    def save(self, parent: Path) -> Path:
        """Write a folder under `parent`, named by the fingerprint; it appears whole or not at all."""
        return write_folder(parent, self.fingerprint, {**self._files, "scorer.json": _as_json(self.metadata)})

    @staticmethod
    def is_readable(folder: Path) -> bool:
        """Return whether the scorer of a folder has the format and columns of this version, if the folder tells."""
        try:
            return _FormatHeader.model_validate_json((folder / "scorer.json").read_bytes()).is_current
        except (OSError, ValidationError):
            return True  # opening it raises the error

    @classmethod
    def open(cls, folder: Path, threads: int = 1) -> "Scorer":
        """Read what `save` wrote; raises Missing if it is not there, Damaged if it is invalid."""
        try:
            networks = {name: (folder / name).read_bytes() for name in FILES}
            data = (folder / "scorer.json").read_bytes()
            header = _FormatHeader.model_validate_json(data)
            if header.format != FORMAT:
                raise Damaged(
                    f"the scorer in {folder} has format {header.format}, this version reads {FORMAT}: train it again",
                    folder.name,
                )
            metadata = ScorerMetadata.model_validate_json(data)
        except OSError as error:
            raise Missing(f"{folder} holds no scorer ({error.strerror}): train it again", folder.name) from error
        except ValidationError as error:
            raise Damaged(
                f"{folder / 'scorer.json'} is invalid ({error.errors()[0]['msg']}): train the scorer again",
                "scorer.json",
            ) from error
        fingerprint = _fingerprint(metadata, networks)
        if fingerprint != folder.name:
            raise Damaged(
                f"the scorer in {folder} is damaged (its fingerprint is {fingerprint}): train it again", folder.name
            )
        if not header.is_current:
            raise Damaged(f"the scorer in {folder} has other features than this version: train it again", folder.name)
        return cls(metadata, networks, threads)


def _expected_value(heads: Mapping[str, Floats], values: Values, count: int) -> Floats:
    """Return the expected value of n candidates, [n]."""
    total = sum((values.get(head, 0.0) * probability for head, probability in heads.items()), np.zeros(count))
    return np.asarray(total, np.float32)


def _as_json(metadata: ScorerMetadata) -> bytes:
    return orjson.dumps(metadata.model_dump(mode="json", by_alias=True), option=orjson.OPT_INDENT_2)


def _fingerprint(metadata: ScorerMetadata, networks: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(_as_json(metadata), digest_size=8)
    for name in FILES:
        digest.update(hashlib.blake2b(networks[name]).digest())
    return digest.hexdigest()


def _session(network: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # lists have any length, and come from many threads
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _sigmoid(logits: Floats) -> Floats:
    return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)


def _sigmoid_slope(logits: Floats) -> Floats:
    probability = _sigmoid(logits)
    return probability * (1 - probability)
