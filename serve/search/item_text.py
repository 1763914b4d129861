"""What items say, as counts of terms: written when a release is made, and the same for items that change live.

Words of a title count double, those of a description half: most of what is in it is true of many items. Neighbouring
words of a title are terms too, so that `yoga pants` is more than yoga and pants. Ids count, as staff types them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from embed.catalogue import Item
from serve.search.analyzer import Analyzer

TITLE, NAMED, SAID = 2.0, 1.0, 0.5
PHRASE = 4  # words of a suggestion, at most
MAX_PHRASES = 200_000
CROWDED = 2_000_000  # phrases that are counted at a time
_SCRAPS = frozenset(
    re.findall(
        r"\w+",
        "and the for with from that this per plus und mit für fur aus von vom zum der die das ein eine les des une par "
        "sur avec pour dans con del della dei delle gli una los las por para sin com uma dos das voor van met een het "
        "och med fra till",
    )
)


class Text(NamedTuple):
    """An item's terms with their counts, and its length in words, each as much as its field weighs."""

    counts: dict[int, float]
    length: float


def number_of(term: str) -> int:
    """A term as an index knows it."""
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def text_of(item: Item, analyzer: Analyzer) -> Text:
    """What an item says."""
    return _text(_said(item, analyzer), analyzer)


def _said(item: Item, analyzer: Analyzer) -> list[tuple[float, list[str]]]:
    """The words of each field, with how much it weighs."""
    return [(weight, analyzer.words(field)) for weight, field in _fields(item)]


def _text(said: list[tuple[float, list[str]]], analyzer: Analyzer) -> Text:
    counts: dict[int, float] = defaultdict(float)
    length = 0.0
    for weight, words in said:
        own = []
        for term, whole in analyzer.terms(words):
            counts[number_of(term)] += weight
            if whole:
                own.append(term)
        if weight == TITLE:
            for pair in pairs(own):
                counts[number_of(pair)] += weight
        length += weight * len(own)
    return Text(dict(counts), length)


def pairs(terms: list[str]) -> Iterator[str]:
    """Neighbouring words, as a term."""
    return (f"{one} {other}" for one, other in pairwise(terms))


def _fields(item: Item) -> Iterator[tuple[float, str]]:
    yield from (
        (TITLE, item.title or ""),
        (NAMED, item.item_id),
        (NAMED, item.brand or ""),
        (NAMED, item.category or ""),
    )
    yield from ((SAID, value) for values in item.attributes.values() for value in values)
    yield SAID, item.description or ""


@dataclass
class Collected:
    """What is counted beside the terms: how many items have a word, and a phrase of a title."""

    words: Counter[str]
    phrases: Counter[str]


def collect(items: Iterable[Item], analyzer: Analyzer, into: Collected) -> Iterator[Text]:
    """The texts of items, while their words and phrases are counted."""
    for item in items:
        said = _said(item, analyzer)
        into.words.update({word for _, words in said for word in words})
        into.phrases.update({phrase for weight, words in said if weight == TITLE for phrase in _phrases(words)})
        if len(into.phrases) > CROWDED:  # what was seen once so far will hardly be among the most frequent
            into.phrases = Counter({phrase: count for phrase, count in into.phrases.items() if count > 1})
        yield _text(said, analyzer)


def _phrases(words: list[str]) -> Iterator[str]:
    """One to four neighbouring words that neither begin nor end with a scrap of one."""
    for start in range(len(words)):
        for end in range(start + 1, min(start + PHRASE, len(words)) + 1):
            if _tells(words[start]) and _tells(words[end - 1]):
                yield " ".join(words[start:end])


def _tells(word: str) -> bool:
    return word not in _SCRAPS and (len(word) > 2 or not word.isascii())
