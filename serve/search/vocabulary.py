"""The words of a release: what a query asks of its items, spelled as they spell it.

words/
  facts.json       language, counts
  vocabulary.arrow every word and how many items have it, the most frequent first
  phrases.arrow    what is suggested and how often it is said or searched for, in alphabetical order
  postings/        see index.lexical
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from rapidfuzz import process
from rapidfuzz.distance import OSA

from embed.catalogue import Catalogue, Item
from index.lexical import LexicalIndex, open_lexical, write_lexical
from serve.core.errors import StoreUnavailable
from serve.search.analyzer import Analyzer
from serve.search.item_text import MAX_PHRASES, Collected, collect, number_of, pairs

KEYWORDS = "keywords"
"""The name of keyword search (BM25) among the spaces of a query."""
FOLDER = "words"  # of a release
PAIR = 0.2  # how much neighbours count beside words
GUESSED = 0.5  # how much a word counts that is written apart or together where items do the other
SHORTEST = 4  # letters of a word that is corrected
LONG = 6  # letters from which two mistakes are allowed
SEARCHED = 10  # times a search counts for more than a title that says the same
MAX_WORDS = 64  # of a query
MAX_TEXT = 100_000


class VocabularyMetadata(BaseModel):
    """What was read, and in which language."""

    model_config = ConfigDict(extra="forbid")

    language: str
    items: int
    terms: int
    vocabulary: int
    phrases: int


@dataclass(frozen=True)
class ParsedText:
    """What a query asks for: terms with their weights, the text as it is understood, and what was corrected in it.

    `words` are the terms that each of its words has, in whichever form items write it.
    """

    terms: Mapping[int, float]
    words: Sequence[frozenset[int]]
    text: str
    corrected: Mapping[str, str]


class SearchVocabulary:
    """The words of a release, opened; safe in several threads."""

    def __init__(self, folder: Path) -> None:
        try:
            self.facts = VocabularyMetadata.model_validate_json((folder / "facts.json").read_bytes())
            self._vocabulary, self._phrases = (_open(folder / f"{name}.arrow") for name in ("vocabulary", "phrases"))
        except (OSError, ValidationError, pa.ArrowInvalid) as error:
            raise StoreUnavailable(
                f"{folder} cannot be read ({str(error).splitlines()[0]}): build again", KEYWORDS
            ) from error
        self.analyzer = Analyzer(self.facts.language)
        self.index: LexicalIndex = open_lexical(folder / "postings")
        self._counts: NDArray[np.int64] = self._phrases["count"].to_numpy()
        self.correct = lru_cache(10_000)(self._correct)
        self.ask = lru_cache(1_000)(self._ask)  # a search asks several times: to understand, to find, to count facets

    def _ask(self, text: str) -> ParsedText:
        """What words ask for, misspelled ones as they are most likely meant."""
        words = self.analyzer.words(text[:MAX_TEXT])[:MAX_WORDS]
        halves = {half for pair in pairwise(words) if self._together(*pair) for half in pair}
        corrected = {word: right for word in words if word not in halves and (right := self.correct(word)) is not None}
        meant = [corrected.get(word, word) for word in words]
        terms: dict[str, float] = defaultdict(float)
        forms = [{self.analyzer.stem(word)} for word in meant]
        for term, _ in self.analyzer.terms(meant):
            terms[term] += 1.0
        for pair in pairs([self.analyzer.stem(word) for word in meant]):
            terms[pair] += PAIR
        for place, word in enumerate(meant):
            if apart := self._apart(word):
                for part in apart:
                    terms[part] += GUESSED
                terms[" ".join(apart)] += PAIR
                forms[place].add(" ".join(apart))
        for place, (one, other) in enumerate(pairwise(meant)):
            if together := self._together(one, other):
                terms[together] += GUESSED
                forms[place].add(together)
                forms[place + 1].add(together)
        return ParsedText(
            {number_of(term): weight for term, weight in terms.items()},
            [frozenset(map(number_of, of)) for of in forms],
            " ".join(meant) if corrected else text,
            corrected,
        )

    def suggest(self, typed: str, k: int) -> list[str]:
        """The most said and searched phrases that begin as typed, else as it is most likely meant."""
        words = self.analyzer.words(typed)
        begun = " ".join(words)
        if not begun:
            return []
        found = self._beginning(begun, k)
        if not found:
            meant = [self.correct(word) or word for word in words]
            found = [] if meant == words else self._beginning(" ".join(meant), k)
        return found

    def _beginning(self, begun: str, k: int) -> list[str]:
        start, end = self._place(begun), self._place(begun + "\U0010ffff")
        order = start + np.argsort(-self._counts[start:end], kind="stable")[: 4 * k]
        found: dict[frozenset[str], str] = {}
        for place in order.tolist():
            phrase = self._phrases["phrase"][place].as_py()
            found.setdefault(frozenset(self.analyzer.stem(word) for word in phrase.split()), phrase)  # hoodie, hoodies
        return list(found.values())[:k]

    def _place(self, phrase: str) -> int:
        """Before which phrase one stands in the alphabet."""
        column = self._phrases["phrase"]
        low, high = 0, len(column)
        while low < high:
            middle = (low + high) // 2
            if column[middle].as_py() < phrase:
                low = middle + 1
            else:
                high = middle
        return low

    def _correct(self, word: str) -> str | None:
        """The word that is most likely meant by one that no item has; None where it is right, or nothing is near."""
        if (
            len(word) < SHORTEST
            or not word.isalpha()
            or word in self._known
            or self._frequency(self.analyzer.stem(word))
        ):
            return None
        if self._apart(word):
            return None
        near = process.extract(
            word, self._words, scorer=OSA.distance, score_cutoff=1 if len(word) < LONG else 2, limit=50
        )
        # The first letter is seldom wrong; of those as near, the most frequent, which comes first.
        best = min(near, key=lambda each: (each[1] + (each[0][0] != word[0]), each[2]), default=None)
        return None if best is None else best[0]

    def _apart(self, word: str) -> tuple[str, str] | None:
        """The terms of two words that items write apart and this one together, if they do."""
        best: tuple[int, tuple[str, str]] | None = None
        if len(word) >= LONG and word.isalpha():
            for at in range(3, len(word) - 2):
                parts = self.analyzer.stem(word[:at]), self.analyzer.stem(word[at:])
                often = self._frequency(" ".join(parts))
                if often >= 2 and (best is None or often > best[0]):
                    best = often, parts
        return None if best is None else best[1]

    def _together(self, one: str, other: str) -> str | None:
        """The term of two words that items write together, if they do."""
        together = self.analyzer.stem(one + other)
        return together if together.isalpha() and self._frequency(together) else None

    def _frequency(self, term: str) -> int:
        return self.index.frequency(number_of(term))

    @cached_property
    def _words(self) -> list[str]:
        """What a word may be corrected to, the most frequent first."""
        return [word for word in self._vocabulary["word"].to_pylist() if len(word) >= SHORTEST and word.isalpha()]

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._vocabulary["word"].to_pylist())


def write_words(
    folder: Path,
    catalogue: Catalogue,
    language: str,
    searched: Iterable[tuple[str, int]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> VocabularyMetadata:
    """Write the words of a catalogue's items; `searched` are queries with the number of shoppers who searched so."""
    analyzer = Analyzer(language)
    counted = Collected(Counter(), Counter())

    def items() -> Iterable[Item]:
        done = 0
        for batch in catalogue.batches():
            yield from batch
            done += len(batch)
            if progress:
                progress(done, len(catalogue))

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    statistics = write_lexical(folder / "postings", collect(items(), analyzer, counted))
    phrases = Counter({phrase: count for phrase, count in counted.phrases.most_common(MAX_PHRASES) if count > 1})
    for query, users in searched:
        phrases[" ".join(analyzer.words(query))] += SEARCHED * users
    listed = sorted(phrases.items())
    words = sorted(counted.words.items(), key=lambda each: (-each[1], each[0]))
    _write(folder / "vocabulary.arrow", "word", words)
    _write(folder / "phrases.arrow", "phrase", listed)
    facts = VocabularyMetadata(
        language=language,
        items=statistics.items,
        terms=statistics.terms,
        vocabulary=len(words),
        phrases=len(listed),
    )
    (folder / "facts.json").write_text(facts.model_dump_json())
    return facts


def _write(path: Path, name: str, rows: Sequence[tuple[str, int]]) -> None:
    values = [list(column) for column in zip(*rows, strict=True)] or [[], []]
    table = pa.table([pa.array(values[0], pa.string()), pa.array(values[1], pa.int64())], names=[name, "count"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _open(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
