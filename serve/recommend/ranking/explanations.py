"""Explanations: where the score of each item came from, as numbers that add up to it and as one sentence.

A sentence names only what was measured: the parts that make up most of what speaks for the item, the largest first.
Numbers first, words from them; nothing is said that no part says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serve.recommend.ranking.feature_builder import GROUPS
from serve.recommend.ranking.scorer import Explained

TELLING = 0.15  # share of all that speaks for an item above which a part is named
MAX_NAMED = 3
SAID = {
    "taste": "it fits the taste that the shopper's history shows",
    "others": "others with such a history went on to it",
    "content": "it looks and reads like items of the history",
    "range": "its category, brand or attributes are those of the history",
    "popularity": "it is in demand",
    "novelty": "of its age in the shop",
    "price": "of its price",
    "query": "it matches what was asked for",
    "feedback": "it did better of late than was expected",
    "relations": "the shop says that it goes with items of the history",
    "context": "of the hour and of how much is known of the shopper",
    # Of the blend, by source:
    "tower": "it fits the taste that the shopper's history shows",
    "covisitation": "others with such a history went on to it",
    "arrivals": "it is new in the shop",
    "knowledge": "the shop says that it goes with items of the history",
    "new": "nobody had it yet, and it fits",
}
DONE = {"view": "viewed", "click": "clicked on", "cart": "put into the cart", "purchase": "bought", "rating": "rated"}


@dataclass(frozen=True)
class Because:
    """What one interaction of the shopper's history added."""

    item_id: str
    type: str
    value: float


@dataclass(frozen=True)
class Reasons:
    """`base` + the sum of `parts` + the sum of the values in `history` is the score; `sentence` says it in words."""

    base: float
    parts: Mapping[str, float]
    history: Sequence[Because]
    sentence: str


def reasons_of(
    explained: Explained,
    history: Sequence[tuple[str, str]],
    title_of: Callable[[str], str],
    beside: Mapping[str, Sequence[float]],
) -> list[Reasons]:
    """The reasons for each of m items; `history` are the id and type of each interaction [h], `title_of` names one.

    `beside` are parts that are not the scorer's, [m] each: what relevance to a query adds, and what feedback did.
    """
    found = []
    rows = zip(explained.base.tolist(), explained.groups.tolist(), explained.history.tolist(), strict=True)
    for place, (base, groups, adds) in enumerate(rows):
        parts = {group: value for group, value in zip(GROUPS, groups, strict=True) if value}
        parts |= {name: of[place] for name, of in beside.items()}
        because = [
            Because(item_id, type_, value) for (item_id, type_), value in zip(history, adds, strict=True) if value
        ]
        because.sort(key=lambda one: -abs(one.value))
        found.append(Reasons(base, parts, because, _sentence(parts, because, title_of)))
    return found


def reasons_of_blend(parts: Mapping[str, Sequence[float]], count: int) -> list[Reasons]:
    """The reasons for m items that the blend put in order, by what each source added to each of them, [m]."""
    rows = [{retriever: of[place] for retriever, of in parts.items() if of[place]} for place in range(count)]
    return [Reasons(0.0, row, [], _sentence(row, [], str)) for row in rows]


def _sentence(parts: Mapping[str, float], history: Sequence[Because], title_of: Callable[[str], str]) -> str:
    """The parts that speak for an item and are large enough to be named, in words; the largest first."""
    spoken = [(value, SAID[name]) for name, value in parts.items() if name in SAID]
    spoken += [
        (one.value, f"the shopper {DONE[one.type]} {title_of(one.item_id)}") for one in history if one.type in DONE
    ]
    total = sum(value for value in [*parts.values(), *(one.value for one in history)] if value > 0)
    named = sorted((one for one in spoken if one[0] > 0 and one[0] >= TELLING * total), key=lambda one: -one[0])
    if not named:
        return "Nothing speaks for it more than for any other item."
    words = [word for _, word in named[:MAX_NAMED]]
    return "Because " + (" and ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]}, and {words[2]}") + "."
