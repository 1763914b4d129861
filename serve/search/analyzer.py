"""Text to terms: what makes `Hoodies`, `hoodie` and `HOODIE` the same, and keeps `MH01` and `3/8` what they are.

Text is folded (case, accents, width), cut into words, and words are brought to their stems (Snowball, by language).
What has letters and digits is a term whole, as codes are typed, and in its parts, as `36x34` is. Chinese, Japanese and
Thai, which have no blanks, are cut into pairs of characters. English units are one however they are spelled.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from threading import Lock

import Stemmer

MAX_WORD = 64  # characters; longer runs are not words
_WORD = re.compile(r"\d+(?:[.,/]\d+)+|[^\W_]+")
_PART = re.compile(r"\d+(?:[.,/]\d+)*|[^\W\d_]+")
_FEET_AND_INCHES = ((re.compile(r"(\d)\s*(?:''|\"|”)"), r"\1 in "), (re.compile(r"(\d)\s*['’](?!\w)"), r"\1 ft "))
_NO_BLANKS = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_UNITS = {
    name: unit
    for unit, names in {
        "in": "inch inches",
        "ft": "foot feet",
        "yd": "yard yards",
        "gal": "gallon gallons",
        "qt": "quart quarts",
        "oz": "ounce ounces",
        "lb": "lbs pound pounds",
        "w": "watt watts",
        "v": "volt volts",
        "amp": "amps ampere amperes",
        "cm": "centimeter centimeters centimetre centimetres",
        "mm": "millimeter millimeters millimetre millimetres",
        "kg": "kilogram kilograms kilogramme kilogrammes",
        "l": "liter liters litre litres",
        "ml": "milliliter milliliters millilitre millilitres",
    }.items()
    for name in names.split()
}


class Analyzer:
    """Splits texts into words and terms, in a language of Snowball or `none`, which leaves words as they are."""

    def __init__(self, language: str) -> None:
        self.language = language
        lock = Lock()  # a stemmer has state, and is not safe in several threads
        stemmer = None if language == "none" else Stemmer.Stemmer(language, 0)

        @lru_cache(100_000)
        def stem(word: str) -> str:
            word = _UNITS.get(word, word) if language == "english" else word
            if stemmer is None:
                return word
            with lock:
                return str(stemmer.stemWord(word))

        self.stem = stem

    def words(self, text: str) -> list[str]:
        """Return the words of a text, folded."""
        text = fold(text)
        for mark, unit in _FEET_AND_INCHES:
            text = mark.sub(unit, text)
        return [part for word in _WORD.findall(text) if len(word) <= MAX_WORD for part in _cut(word)]

    def terms(self, words: list[str]) -> Iterator[tuple[str, bool]]:
        """Yield the terms of words in their order, and whether each is that of a whole word, not of a part."""
        for word in words:
            yield self.stem(word), True
            parts = _PART.findall(word)
            if len(parts) > 1:
                for part in parts:
                    yield self.stem(part), False


def fold(text: str) -> str:
    """Lower case, without accents, one width; characters of scripts whose marks are letters stay whole."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(each for each in decomposed if not "\u0300" <= each <= "\u036f"))


def _cut(word: str) -> list[str]:
    """A word as it is, or what is written without blanks in pairs of characters."""
    if not _NO_BLANKS.search(word):
        return [word]
    pieces: list[str] = []
    at = 0
    for run in _NO_BLANKS.finditer(word):
        pieces += [word[at : run.start()]] if run.start() > at else []
        pieces += [run[0][place : place + 2] for place in range(max(1, len(run[0]) - 1))]
        at = run.end()
    return pieces + ([word[at:]] if at < len(word) else [])
