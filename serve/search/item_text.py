"""Item texts as counts of terms: written with a release, and computed in the same way for live changes.

Words of a title count double, those of a description half: most of a description is true of many items. Neighbouring
words of a title are terms too, so that `yoga pants` is more than yoga and pants. Ids count, as staff searches by them.
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

TITLE, LABEL, DESCRIPTION = 2.0, 1.0, 0.5  # weights of fields
MAX_PHRASE_WORDS = 4  # words of a suggestion, at most
MAX_PHRASES = 200_000
MAX_COUNTED = 2_000_000  # phrases that are counted at a time
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "and the for with from that this per plus und mit für fur aus von vom zum der die das ein eine les des une par "
        "sur avec pour dans con del della dei delle gli una los las por para sin com uma dos das voor van met een het "
        "och med fra till",
    )
)


class ItemText(NamedTuple):
    """An item's terms with their counts, and its length in words, both weighted by field."""

    counts: dict[int, float]
    length: float


def hash_term(term: str) -> int:
    """Return the number of a term in the keyword index."""
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def build_text(item: Item, analyzer: Analyzer) -> ItemText:
    """Build the text of an item."""
    return _count_terms(_field_words(item, analyzer), analyzer)


def _field_words(item: Item, analyzer: Analyzer) -> list[tuple[float, list[str]]]:
    """Return the weight and the words of each field."""
    return [(weight, analyzer.words(field)) for weight, field in _fields(item)]


def _count_terms(fields: list[tuple[float, list[str]]], analyzer: Analyzer) -> ItemText:
    counts: dict[int, float] = defaultdict(float)
    length = 0.0
    for weight, words in fields:
        own = []
        for term, whole in analyzer.terms(words):
            counts[hash_term(term)] += weight
            if whole:
                own.append(term)
        if weight == TITLE:
            for pair in pairs(own):
                counts[hash_term(pair)] += weight
        length += weight * len(own)
    return ItemText(dict(counts), length)


def pairs(terms: list[str]) -> Iterator[str]:
    """Yield the terms of neighbouring words."""
    return (f"{one} {other}" for one, other in pairwise(terms))


def _fields(item: Item) -> Iterator[tuple[float, str]]:
    yield from (
        (TITLE, item.title or ""),
        (LABEL, item.item_id),
        (LABEL, item.brand or ""),
        (LABEL, item.category or ""),
    )
    yield from ((DESCRIPTION, value) for values in item.attributes.values() for value in values)
    yield DESCRIPTION, item.description or ""


@dataclass
class WordCounts:
    """How many items have each word, and how many titles each phrase."""

    words: Counter[str]
    phrases: Counter[str]


def build_texts(items: Iterable[Item], analyzer: Analyzer, into: WordCounts) -> Iterator[ItemText]:
    """Yield the texts of items; counts their words and phrases on the way."""
    for item in items:
        fields = _field_words(item, analyzer)
        into.words.update({word for _, words in fields for word in words})
        into.phrases.update({phrase for weight, words in fields if weight == TITLE for phrase in _phrases(words)})
        if len(into.phrases) > MAX_COUNTED:  # phrases with a count of 1 so far will hardly become the most frequent
            into.phrases = Counter({phrase: count for phrase, count in into.phrases.items() if count > 1})
        yield _count_terms(fields, analyzer)


def _phrases(words: list[str]) -> Iterator[str]:
    """Yield one to four neighbouring words that neither begin nor end with a stop word."""
    for start in range(len(words)):
        for end in range(start + 1, min(start + MAX_PHRASE_WORDS, len(words)) + 1):
            if _is_informative(words[start]) and _is_informative(words[end - 1]):
                yield " ".join(words[start:end])


def _is_informative(word: str) -> bool:
    return word not in _STOP_WORDS and (len(word) > 2 or not word.isascii())
