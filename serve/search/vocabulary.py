"""The search vocabulary of a release: parses queries, corrects them by the words of the items, completes them.

words/
  facts.json       language, counts
  vocabulary.arrow every word and how many items have it, the most frequent first
  phrases.arrow    completions and how often titles or searches have them, in alphabetical order
  postings/        see index.keyword_index
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
from index.keyword_index import KeywordIndex, open_keyword_index, write_keyword_index
from serve.core.errors import StoreUnavailable
from serve.search.analyzer import Analyzer
from serve.search.item_text import MAX_PHRASES, WordCounts, build_texts, hash_term, pairs

KEYWORDS = "keywords"
"""The name of keyword search (BM25) among the spaces of a query."""
FOLDER = "words"  # of a release
PAIR_WEIGHT = 0.2  # of two neighbouring words, relative to a word
SPLIT_WEIGHT = 0.5  # of a word that the query writes as one or two, and items the other way
MIN_CORRECTED = 4  # letters of a word that is corrected
MIN_TWO_MISTAKES = 6  # letters from which two mistakes are corrected
SEARCH_WEIGHT = 10  # of a search, relative to a title with the same phrase
MAX_WORDS = 64  # of a query
MAX_TEXT = 100_000


class VocabularyMetadata(BaseModel):
    """The language, and what was counted."""

    model_config = ConfigDict(extra="forbid")

    language: str
    items: int
    terms: int
    vocabulary: int
    phrases: int


@dataclass(frozen=True)
class ParsedText:
    """A parsed query.

    Attributes:
        terms: The weight of each term.
        words: The terms of each word, in all forms that items use.
        text: The query as it is understood.
        corrected: The misspelled words and their corrections.
    """

    terms: Mapping[int, float]
    words: Sequence[frozenset[int]]
    text: str
    corrected: Mapping[str, str]


class SearchVocabulary:
    """The words of a release; safe in several threads."""

    def __init__(self, folder: Path) -> None:
        try:
            self.metadata = VocabularyMetadata.model_validate_json((folder / "facts.json").read_bytes())
            self._vocabulary, self._phrases = (_open(folder / f"{name}.arrow") for name in ("vocabulary", "phrases"))
        except (OSError, ValidationError, pa.ArrowInvalid) as error:
            raise StoreUnavailable(
                f"{folder} cannot be read ({str(error).splitlines()[0]}): build again", KEYWORDS
            ) from error
        self.analyzer = Analyzer(self.metadata.language)
        self.index: KeywordIndex = open_keyword_index(folder / "postings")
        self._counts: NDArray[np.int64] = self._phrases["count"].to_numpy()
        self.correct = lru_cache(10_000)(self._correct)
        self.parse = lru_cache(1_000)(self._parse)  # a search parses its text several times

    def _parse(self, text: str) -> ParsedText:
        """Parse a query; misspelled words are corrected to what they most likely mean."""
        words = self.analyzer.words(text[:MAX_TEXT])[:MAX_WORDS]
        halves = {half for pair in pairwise(words) if self._join(*pair) for half in pair}
        corrected = {word: right for word in words if word not in halves and (right := self.correct(word)) is not None}
        intended = [corrected.get(word, word) for word in words]
        terms: dict[str, float] = defaultdict(float)
        forms = [{self.analyzer.stem(word)} for word in intended]
        for term, _ in self.analyzer.terms(intended):
            terms[term] += 1.0
        for pair in pairs([self.analyzer.stem(word) for word in intended]):
            terms[pair] += PAIR_WEIGHT
        for position, word in enumerate(intended):
            if parts_of_word := self._split_compound(word):
                for part in parts_of_word:
                    terms[part] += SPLIT_WEIGHT
                terms[" ".join(parts_of_word)] += PAIR_WEIGHT
                forms[position].add(" ".join(parts_of_word))
        for position, (one, other) in enumerate(pairwise(intended)):
            if joined := self._join(one, other):
                terms[joined] += SPLIT_WEIGHT
                forms[position].add(joined)
                forms[position + 1].add(joined)
        return ParsedText(
            {hash_term(term): weight for term, weight in terms.items()},
            [frozenset(map(hash_term, of_word)) for of_word in forms],
            " ".join(intended) if corrected else text,
            corrected,
        )

    def suggest(self, typed: str, k: int) -> list[str]:
        """Complete a query that is being typed, by the most frequent phrases; correct it if no phrase matches."""
        words = self.analyzer.words(typed)
        prefix = " ".join(words)
        if not prefix:
            return []
        found = self._completions(prefix, k)
        if not found:
            intended = [self.correct(word) or word for word in words]
            found = [] if intended == words else self._completions(" ".join(intended), k)
        return found

    def _completions(self, prefix: str, k: int) -> list[str]:
        start, end = self._first_row(prefix), self._first_row(prefix + "\U0010ffff")
        order = start + np.argsort(-self._counts[start:end], kind="stable")[: 4 * k]
        found: dict[frozenset[str], str] = {}
        for place in order.tolist():
            phrase = self._phrases["phrase"][place].as_py()
            found.setdefault(frozenset(self.analyzer.stem(word) for word in phrase.split()), phrase)  # hoodie, hoodies
        return list(found.values())[:k]

    def _first_row(self, phrase: str) -> int:
        """Return the row of the first phrase that is not before this one in the alphabet."""
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
        """Return the most likely correction of a word that no item has; None if it is correct, or no word is close."""
        if (
            len(word) < MIN_CORRECTED
            or not word.isalpha()
            or word in self._known_words
            or self._frequency(self.analyzer.stem(word))
        ):
            return None
        if self._split_compound(word):
            return None
        near = process.extract(
            word, self._words, scorer=OSA.distance, score_cutoff=1 if len(word) < MIN_TWO_MISTAKES else 2, limit=50
        )
        # The first letter is rarely wrong; among equally close words the most frequent one wins, which comes first.
        best = min(near, key=lambda each: (each[1] + (each[0][0] != word[0]), each[2]), default=None)
        return None if best is None else best[0]

    def _split_compound(self, word: str) -> tuple[str, str] | None:
        """Return the terms of the two words that items write instead of this one, if they do."""
        best: tuple[int, tuple[str, str]] | None = None
        if len(word) >= MIN_TWO_MISTAKES and word.isalpha():
            for at in range(3, len(word) - 2):
                parts = self.analyzer.stem(word[:at]), self.analyzer.stem(word[at:])
                often = self._frequency(" ".join(parts))
                if often >= 2 and (best is None or often > best[0]):
                    best = often, parts
        return None if best is None else best[1]

    def _join(self, one: str, other: str) -> str | None:
        """Return the term of the one word that items write instead of these two, if they do."""
        joined = self.analyzer.stem(one + other)
        return joined if joined.isalpha() and self._frequency(joined) else None

    def _frequency(self, term: str) -> int:
        return self.index.document_frequency(hash_term(term))

    @cached_property
    def _words(self) -> list[str]:
        """The words that may be corrections, the most frequent first."""
        return [word for word in self._vocabulary["word"].to_pylist() if len(word) >= MIN_CORRECTED and word.isalpha()]

    @cached_property
    def _known_words(self) -> frozenset[str]:
        return frozenset(self._vocabulary["word"].to_pylist())


def write_vocabulary(
    folder: Path,
    catalogue: Catalogue,
    language: str,
    searches: Iterable[tuple[str, int]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> VocabularyMetadata:
    """Write the vocabulary of a catalogue.

    Args:
        folder: The folder to write, which is emptied first.
        catalogue: The items.
        language: The language of their texts.
        searches: Queries, and how many users searched for each.
        progress: Called with the number of items done, and of all.
    """
    analyzer = Analyzer(language)
    counted = WordCounts(Counter(), Counter())

    def items() -> Iterable[Item]:
        done = 0
        for batch in catalogue.batches():
            yield from batch
            done += len(batch)
            if progress:
                progress(done, len(catalogue))

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    statistics = write_keyword_index(folder / "postings", build_texts(items(), analyzer, counted))
    phrases = Counter({phrase: count for phrase, count in counted.phrases.most_common(MAX_PHRASES) if count > 1})
    for query, users in searches:
        phrases[" ".join(analyzer.words(query))] += SEARCH_WEIGHT * users
    listed = sorted(phrases.items())
    words = sorted(counted.words.items(), key=lambda each: (-each[1], each[0]))
    _write(folder / "vocabulary.arrow", "word", words)
    _write(folder / "phrases.arrow", "phrase", listed)
    metadata = VocabularyMetadata(
        language=language,
        items=statistics.items,
        terms=statistics.terms,
        vocabulary=len(words),
        phrases=len(listed),
    )
    (folder / "facts.json").write_text(metadata.model_dump_json())
    return metadata


def _write(path: Path, name: str, rows: Sequence[tuple[str, int]]) -> None:
    values = [list(column) for column in zip(*rows, strict=True)] or [[], []]
    table = pa.table([pa.array(values[0], pa.string()), pa.array(values[1], pa.int64())], names=[name, "count"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _open(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
