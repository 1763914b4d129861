"""The fact checker: finds statements of a text that an item's catalogue entry does not support.

A text from any generator may name numbers, colours, materials, brands and claims only if the item's own entry has them:
in its title, description, attributes, category, brand or price. The words for colours, materials and claims are listed
here in five languages. Words of one group have the same meaning, so `schwarz` is supported by `black`. Links, markup
and instructions are never supported.
"""

import html
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from embed.catalogue import Item
from serve.search.analyzer import fold

MAX_LENGTH = 400  # characters

_COLORS = """
black schwarz noir negro nero|white weiss blanc blanco bianco|red rot rouge rojo rosso|blue blau bleu azul blu
green grün vert verde|yellow gelb jaune amarillo giallo|orange arancione naranja|purple violet lila viola morado violett
pink rosa rose|brown braun brun marron marrone|grey gray grau gris grigio|beige|turquoise türkis turchese turquesa
gold golden dorado dorato|silver silber argent plata argento|navy marineblau|cream creme crema ivory elfenbein|khaki
burgundy bordeaux|teal|olive|coral koralle|maroon|magenta|cyan|indigo|charcoal anthrazit|multicolor bunt multicolore
"""
_MATERIALS = """
cotton baumwolle coton algodon cotone|wool wolle laine lana|silk seide soie seda seta|linen leinen lin lino
leather leder cuir cuero pelle|polyester|nylon polyamid polyamide|cashmere kaschmir cachemire|denim jeansstoff
wood wooden holz bois madera legno|oak eiche chêne roble quercia|steel stahl acier acero acciaio|iron eisen hierro ferro
aluminium aluminum|glass glas verre vidrio vetro|ceramic keramik ceramique ceramica|porcelain porzellan porcelaine
plastic kunststoff plastik plastique plastico plastica|rubber gummi caoutchouc goma gomma|bamboo bambus bambou bambu
velvet samt velours terciopelo velluto|suede wildleder daim gamuza|fleece|spandex elastane elasthan lycra|canvas
marble marmor marbre marmol marmo|rattan|fur pelz fourrure|down daunen|brass messing laiton laton ottone|copper kupfer
titanium titan titane titanio|platinum platin platine platino|diamond diamant diamante|pearl perle perla|crystal
kristall cristal cristallo|viscose viskose rayon|microfiber mikrofaser|acrylic acryl|stone stein pierre piedra pietra
"""
_CLAIMS = (
    """
waterproof wasserdicht impermeable impermeabile|windproof winddicht|breathable atmungsaktiv respirant transpirable
organic bio biologique organico biologico|vegan vegano vegane|recycled recycelt recycle reciclado riciclato
sustainable nachhaltig durable sostenible sostenibile|eco ecological ökologisch ecologique ecologico|natural natürlich
handmade handgemacht handgefertigt hecho artigianale|certified zertifiziert certifie certificado certificato
guarantee guaranteed garantie garantiert garantia garanzia|warranty|free kostenlos gratis gratuit gratuito
discount rabatt remise descuento sconto|sale ausverkauf soldes rebajas saldi|cheapest günstigste|best beste meilleur
migliore|original|genuine echt authentique autentico|luxury luxus luxe lujo lusso|exclusive exklusiv exclusif exclusivo
limited limitiert limite limitado|hypoallergenic hypoallergen|antibacterial antibakteriell|medical medizinisch
patented patentiert|award preisgekront|bestseller bestselling|unbreakable unzerbrechlich|fireproof feuerfest
washable waschbar lavable lavabile|shipping versand livraison envio spedizione|delivery lieferung|refund rückgabe
safe sicher|healthy gesund|cures heilt|proven bewiesen|lifetime|wireless kabellos|rechargeable|insulated
"""
    + "quick-dry quickdry schnelltrocknend|uv|spf|anti-slip rutschfest|stretch|fairtrade|bpa|gluten|lead-free"
)
_CLAIM_PHRASES = (
    *("number one", "no 1", "top rated", "money back", "free shipping", "made in", "fair trade", "bpa free"),
    *("last chance", "while stocks last", "left in stock", "almost gone", "selling fast", "price drop", "on sale"),
)
_MADE_OF = re.compile(
    r"\b(?:made|crafted|woven|knitted|built|carved|cut)\s+(?:entirely\s+)?(?:of|from|out of)\s+((?:[^\W\d_]+\s*){1,4})",
    re.IGNORECASE,
)
_INSTRUCTIONS = re.compile(
    r"https?:|www\.|<[a-z/!]|```|\bignore (?:all|any|the|previous)|\bsystem prompt|\bas an ai\b|\binstructions?\b",
    re.IGNORECASE,
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAMES = re.compile(r"\b[^\W\d_][\w&'’.-]*")


def _folded(text: str) -> str:
    """Return lower case without accents, but umlauts as two letters, so that `für` does not match `fur`."""
    return fold(text.casefold().translate(_UMLAUTS))


def _meanings(text: str) -> dict[str, str]:
    """Return each word with the first word of its group, folded."""
    groups = [group.split() for line in text.strip().splitlines() for group in line.split("|")]
    return {_folded(word): _folded(group[0]) for group in groups for word in group}


COLORS, MATERIALS, CLAIMS = _meanings(_COLORS), _meanings(_MATERIALS), _meanings(_CLAIMS)


@dataclass(frozen=True)
class UnsupportedStatement:
    """A statement of a text that the item does not support: its kind, and its words."""

    kind: str
    words: str


class FactChecker:
    """Checks texts for the items of a shop; `brands` are all of its brands."""

    def __init__(self, brands: Collection[str] = ()) -> None:
        self._brands = {_plain(brand): brand for brand in brands if _plain(brand)}

    def check(self, text: str, item: Item, also: str = "", language: str = "en") -> list[UnsupportedStatement]:
        """Return the unsupported statements of a text.

        Unlisted names are recognized by their capital letter, except in German, where every noun has one.

        Args:
            text: the text to check.
            item: the item; its catalogue entry supports statements.
            also: the caller's own words, which support statements too.
            language: the language of the text.
        """
        entry, text = _CatalogueEntry(item, also), _plain_text(text)
        statements = []
        if not text.strip() or len(text) > MAX_LENGTH or not text.replace("\n", " ").isprintable():
            statements.append(UnsupportedStatement("form", f"{len(text)} characters: must be a short plain text"))
        if match := _INSTRUCTIONS.search(text):
            statements.append(UnsupportedStatement("instruction", match[0]))
        statements += [
            UnsupportedStatement("number", number) for number in _NUMBER.findall(text) if not entry.has_number(number)
        ]
        words = _words(text)
        for kind, meanings in (("colour", COLORS), ("material", MATERIALS), ("claim", CLAIMS)):
            for word in words:
                meaning = _meaning(word, meanings)
                if meaning is not None and meaning not in entry.meanings(kind, meanings) and word not in entry.words:
                    statements.append(UnsupportedStatement(kind, word))
        plain = _plain(text)
        statements += [
            UnsupportedStatement("claim", phrase)
            for phrase in _CLAIM_PHRASES
            if f" {phrase} " in f" {plain} " and phrase not in entry.plain
        ]
        statements += [
            UnsupportedStatement("brand", brand)
            for name, brand in self._brands.items()
            if f" {name} " in f" {plain} " and f" {name} " not in f" {entry.plain} "
        ]
        statements += [
            UnsupportedStatement("material", material)
            for material in _MADE_OF.findall(text)
            if not any(word in entry.words for word in _words(material) if len(word) > 2)
        ]
        if language != "de":
            statements += [UnsupportedStatement("name", name) for name in _unknown_names(text, entry)]
        return list(dict.fromkeys(statements))


class _CatalogueEntry:
    """The text, words and numbers of an item's catalogue entry."""

    def __init__(self, item: Item, also: str) -> None:
        values = [value for each in item.attributes.values() for value in each]
        own = [item.title, item.description, item.category, item.brand, item.item_id, item.currency]
        self.text = " ".join(_plain_text(part) for part in [*own, *item.attributes, *values, also] if part)
        self.plain = _plain(self.text)
        self.words = frozenset(_words(self.text))
        self._numbers = {_value(number) for number in _NUMBER.findall(self.text)} - {None}
        if item.price is not None:
            self._numbers.add(round(item.price, 2))
        self._meanings: dict[str, frozenset[str]] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.plain.split())

    def has_number(self, number: str) -> bool:
        return _value(number) in self._numbers

    def meanings(self, kind: str, meanings: dict[str, str]) -> frozenset[str]:
        """Return the colours, materials or claims of the entry."""
        if kind not in self._meanings:
            self._meanings[kind] = frozenset(found for word in self.words if (found := _meaning(word, meanings)))
        return self._meanings[kind]


def _plain_text(text: str) -> str:
    """Return text without HTML entities and trademark signs."""
    return re.sub("[™®©℠]", "", html.unescape(text))


def _unknown_names(text: str, entry: _CatalogueEntry) -> list[str]:
    """Return capitalised words within sentences that the entry does not have: unlisted brands and names."""
    names = []
    for sentence in re.split(r"(?<=[.!?:])\s+|\n", text):
        for position, match in enumerate(_NAMES.findall(sentence)):
            word = match.rstrip(".-")
            plain = _plain(word)
            capital = word[:1].isupper() and (position > 0 or word.isupper()) and len(word) > 2
            if capital and plain and not all(part in entry.names for part in plain.split()):
                names.append(word)
    return names


def _meaning(word: str, meanings: dict[str, str]) -> str | None:
    """Return the meaning of a word, also with a common ending."""
    for ending in ("", "s", "es", "e", "en", "er", "em", "n", "a", "o", "os", "as", "ne", "y", "ish"):
        if word.endswith(ending) and (found := meanings.get(word.removesuffix(ending) if ending else word)):
            return found
    return None


def _words(text: str) -> list[str]:
    folded = _folded(text)
    return [*re.findall(r"[^\W\d_]+", folded), *re.findall(r"[^\W\d_]+-[^\W\d_]+", folded)]


def _plain(text: str) -> str:
    """Return a text's words, folded, with one space between them."""
    return " ".join(re.findall(r"\w+", fold(text)))


def _value(number: str) -> float | None:
    """Return the value of a number in any punctuation: 1,299.00 and 1.299,00 are equal."""
    text = number
    if "," in text and "." in text:
        decimal = max(text.rfind(","), text.rfind("."))
        text = re.sub(r"[.,]", "", text[:decimal]) + "." + text[decimal + 1 :]
    elif len(parts := re.split(r"[.,]", text)) > 2 or (len(parts) == 2 and len(parts[1]) == 3):
        text = "".join(parts)
    else:
        text = text.replace(",", ".")
    try:
        return round(float(text), 2)
    except ValueError:
        return None
