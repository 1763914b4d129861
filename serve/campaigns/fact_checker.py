"""The checker: what a text states that an item's catalogue entry does not support.

Whoever wrote it, a text may name numbers, colours, materials, brands and claims only if the item's own entry has them:
in its title, description, attributes, category, brand or price. Words of colour, material and claim are listed here in
five languages; each list counts as one meaning, so that `schwarz` is supported by `black`. Links, markup and what reads
like an instruction are never supported.
"""

import html
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from embed.catalogue import Item
from serve.search.analyzer import fold

MOST = 400  # characters

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
    """Lower case without accents, but umlauts as two letters: `für` is no fur."""
    return fold(text.casefold().translate(_UMLAUTS))


def _meanings(text: str) -> dict[str, str]:
    """Each word with the first of its meaning, folded."""
    groups = [group.split() for line in text.strip().splitlines() for group in line.split("|")]
    return {_folded(word): _folded(group[0]) for group in groups for word in group}


COLORS, MATERIALS, CLAIMS = _meanings(_COLORS), _meanings(_MATERIALS), _meanings(_CLAIMS)


@dataclass(frozen=True)
class Unsupported:
    """What a text states without support: its kind, and the words."""

    kind: str
    words: str


class FactChecker:
    """Checks texts of items of a shop, whose `brands` are known."""

    def __init__(self, brands: Collection[str] = ()) -> None:
        self._brands = {_plain(brand): brand for brand in brands if _plain(brand)}

    def check(self, text: str, item: Item, also: str = "", language: str = "en") -> list[Unsupported]:
        """What `text` states that neither the item's entry nor `also`, the caller's own words, support.

        Names that no list knows are told by their capital, but not in German, where every noun has one.
        """
        known, text = _Known(item, also), _unmarked(text)
        found = []
        if not text.strip() or len(text) > MOST or not text.replace("\n", " ").isprintable():
            found.append(Unsupported("form", f"{len(text)} characters: a short plain text is wanted"))
        if said := _INSTRUCTIONS.search(text):
            found.append(Unsupported("instruction", said[0]))
        found += [Unsupported("number", number) for number in _NUMBER.findall(text) if not known.has_number(number)]
        words = _words(text)
        for kind, meanings in (("colour", COLORS), ("material", MATERIALS), ("claim", CLAIMS)):
            for word in words:
                meaning = _meaning(word, meanings)
                if meaning is not None and meaning not in known.meanings(kind, meanings) and word not in known.words:
                    found.append(Unsupported(kind, word))
        plain = _plain(text)
        found += [
            Unsupported("claim", phrase)
            for phrase in _CLAIM_PHRASES
            if f" {phrase} " in f" {plain} " and phrase not in known.plain
        ]
        found += [
            Unsupported("brand", brand)
            for name, brand in self._brands.items()
            if f" {name} " in f" {plain} " and f" {name} " not in f" {known.plain} "
        ]
        found += [
            Unsupported("material", said)
            for said in _MADE_OF.findall(text)
            if not any(word in known.words for word in _words(said) if len(word) > 2)
        ]
        if language != "de":
            found += [Unsupported("name", name) for name in _strange_names(text, known)]
        return list(dict.fromkeys(found))


class _Known:
    """What an item's entry says."""

    def __init__(self, item: Item, also: str) -> None:
        values = [value for each in item.attributes.values() for value in each]
        own = [item.title, item.description, item.category, item.brand, item.item_id, item.currency]
        self.text = " ".join(_unmarked(part) for part in [*own, *item.attributes, *values, also] if part)
        self.plain = _plain(self.text)
        self.words = frozenset(_words(self.text))
        self._numbers = {_value(number) for number in _NUMBER.findall(self.text)} - {None}
        if item.price is not None:
            self._numbers.add(round(item.price, 2))
        self._said: dict[str, frozenset[str]] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.plain.split())

    def has_number(self, number: str) -> bool:
        return _value(number) in self._numbers

    def meanings(self, kind: str, meanings: dict[str, str]) -> frozenset[str]:
        """The colours, materials or claims that are said."""
        if kind not in self._said:
            self._said[kind] = frozenset(found for word in self.words if (found := _meaning(word, meanings)))
        return self._said[kind]


def _unmarked(text: str) -> str:
    """Text as it reads: without entities, and without the signs of trademarks."""
    return re.sub("[™®©℠]", "", html.unescape(text))


def _strange_names(text: str, known: _Known) -> list[str]:
    """Capitalised words within a sentence that the entry does not have: brands and names that no list knows."""
    found = []
    for sentence in re.split(r"(?<=[.!?:])\s+|\n", text):
        for place, said in enumerate(_NAMES.findall(sentence)):
            word = said.rstrip(".-")
            plain = _plain(word)
            capital = word[:1].isupper() and (place > 0 or word.isupper()) and len(word) > 2
            if capital and plain and not all(part in known.names for part in plain.split()):
                found.append(word)
    return found


def _meaning(word: str, meanings: dict[str, str]) -> str | None:
    """The meaning of a word, also with a common ending."""
    for ending in ("", "s", "es", "e", "en", "er", "em", "n", "a", "o", "os", "as", "ne", "y", "ish"):
        if word.endswith(ending) and (found := meanings.get(word.removesuffix(ending) if ending else word)):
            return found
    return None


def _words(text: str) -> list[str]:
    folded = _folded(text)
    return [*re.findall(r"[^\W\d_]+", folded), *re.findall(r"[^\W\d_]+-[^\W\d_]+", folded)]


def _plain(text: str) -> str:
    """A text's words, folded, with one blank between them."""
    return " ".join(re.findall(r"\w+", fold(text)))


def _value(number: str) -> float | None:
    """A number however it is punctuated: 1,299.00 and 1.299,00 are one."""
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
