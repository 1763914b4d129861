"""Explanations: the parts that add up to an item's score, and one sentence about the largest of them.

A sentence names only measured parts: those that raise the score most, the largest first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serve.recommend.ranking.scorer import ScoreExplanation
from serve.recommend.retrieval.retriever_registry import RETRIEVERS

MIN_SHARE = 0.15  # of everything that raises the score, above which a part is named
MAX_NAMED = 3
QUERY, FEEDBACK, NEW = "query", "feedback", "new"
OTHER_WORDINGS = {
    QUERY: "it matches the query",
    FEEDBACK: "it did better recently than predicted",
    NEW: "it is new to all users, and it fits",
}
"""Of parts that come neither from a group of features nor from a retriever."""
EVENT_WORDINGS = {
    "view": "viewed",
    "click": "clicked on",
    "cart": "added to the cart",
    "purchase": "bought",
    "rating": "rated",
}


@dataclass(frozen=True)
class HistoryReason:
    """What one interaction of the history added to the score."""

    item_id: str
    type: str
    value: float


@dataclass(frozen=True)
class Reasons:
    """`base` + the sum of `parts` + the sum of the values in `history` is the score; `sentence` puts it into words."""

    base: float
    parts: Mapping[str, float]
    history: Sequence[HistoryReason]
    sentence: str


def explain_scores(
    explanation: ScoreExplanation,
    history: Sequence[tuple[str, str]],
    title_of: Callable[[str], str],
    other_parts: Mapping[str, Sequence[float]],
) -> list[Reasons]:
    """Return the reasons for the scores of m items.

    Args:
        explanation: Where the scores come from.
        history: The item id and type of each interaction, [h].
        title_of: Returns an item's title by its id.
        other_parts: Parts that do not come from the scorer, [m] each: QUERY and FEEDBACK.
    """
    wordings = {**explanation.wordings, **OTHER_WORDINGS}
    reasons = []
    rows = zip(explanation.base.tolist(), explanation.groups.tolist(), explanation.history.tolist(), strict=True)
    for row, (base, groups, added) in enumerate(rows):
        parts = {group: value for group, value in zip(explanation.group_names, groups, strict=True) if value}
        parts |= {name: values[row] for name, values in other_parts.items()}
        past = [
            HistoryReason(item_id, type_, value)
            for (item_id, type_), value in zip(history, added, strict=True)
            if value
        ]
        past.sort(key=lambda reason: -abs(reason.value))
        reasons.append(Reasons(base, parts, past, _sentence(parts, past, wordings, title_of)))
    return reasons


def explain_totals(parts: Mapping[str, Sequence[float]], count: int) -> list[Reasons]:
    """Return the reasons for the totals of the linear score model, from what each retriever added to m items, [m]."""
    wordings = {**{name: spec.wording for name, spec in RETRIEVERS.items()}, **OTHER_WORDINGS}
    rows = [{retriever: values[row] for retriever, values in parts.items() if values[row]} for row in range(count)]
    return [Reasons(0.0, row, [], _sentence(row, [], wordings, str)) for row in rows]


def _sentence(
    parts: Mapping[str, float],
    history: Sequence[HistoryReason],
    wordings: Mapping[str, str],
    title_of: Callable[[str], str],
) -> str:
    """Put the parts that raise the score most into words, the largest first."""
    candidates = [(value, wordings[name]) for name, value in parts.items() if name in wordings]
    candidates += [
        (reason.value, f"the user {EVENT_WORDINGS[reason.type]} {title_of(reason.item_id)}")
        for reason in history
        if reason.type in EVENT_WORDINGS
    ]
    total = sum(value for value in [*parts.values(), *(reason.value for reason in history)] if value > 0)
    large = [candidate for candidate in candidates if candidate[0] > 0 and candidate[0] >= MIN_SHARE * total]
    words = [wording for _, wording in sorted(large, key=lambda candidate: -candidate[0])[:MAX_NAMED]]
    if not words:
        return "No part raises its score above that of other items."
    return "Because " + (" and ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]}, and {words[2]}") + "."
