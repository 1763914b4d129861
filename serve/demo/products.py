"""Generates the products of the demo shop as text: their kinds, brands, materials, titles and descriptions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve.core.units import DAY
from serve.demo.draw import Appearance
from serve.demo.paint import COLORS, PATTERNS
from serve.demo.shapes import SHAPES

HOUR = 3600.0
OPENING = 1767225600.0  # 2026-01-01T00:00:00Z, the first day with users
DAYS = 60  # days with users


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of product. `price` is a typical price in EUR; `nouns` are its names, the most frequent first."""

    prefix: str
    category: str
    price: float
    nouns: tuple[str, ...]
    materials: dict[str, float]  # name -> factor on the price
    uses: tuple[str, ...]
    fits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Brand:
    """An invented brand: the kinds that it mostly makes, and the factor on their price (1 is average)."""

    name: str
    kinds: tuple[str, ...]
    price_factor: float


@dataclass(frozen=True, slots=True)
class Product:
    """A generated item: its catalogue columns, and what the drawing and the simulated users need."""

    item_id: str
    appearance: Appearance
    title: str
    description: str
    category: str
    brand: str
    material: str
    price: float
    price_level: float  # -1 (cheap for its kind) to 1 (dear for its kind)
    arrived: float  # epoch seconds
    photos: int


_SHOE_USES = (
    "Made for long days on the pavement",
    "At home in the city and on gravel paths",
    "A dependable companion from morning coffee to the last tram",
    "Light enough for travel, sturdy enough for every day",
)
_WEAR_USES = (
    "Easy to layer when the evening gets cool",
    "Goes from the desk to the weekend without a change",
    "An everyday piece that washes well and keeps its shape",
    "Good on its own, better with friends from the same wardrobe",
)
_BAG_USES = (
    "Holds a laptop, a book and lunch",
    "Roomy inside, tidy outside, with a pocket for the keys",
    "Carries the day's things without a fuss",
    "For commuting, market mornings and short trips",
)
_HOME_USES = (
    "A friendly presence in kitchen and living room",
    "Small enough for a flat, handsome enough for a house",
    "Makes a welcome housewarming present",
    "For slow breakfasts and late reading alike",
)
_SHOE_FITS = ("True to size.", "Runs slightly small; take half a size up.", "A roomy fit with a padded insole.")
_WEAR_FITS = (
    "Regular fit.",
    "Relaxed, slightly oversized fit.",
    "Cut close to the body.",
    "Falls loosely; true to size.",
)
_BAG_FITS = ("About 14 litres.", "Adjustable to any height.", "Stands up by itself when full.")
_HOME_FITS = ("Wipes clean.", "Comes ready assembled.", "Each piece differs a little.")

KINDS: dict[str, Kind] = {
    "sneaker": Kind(
        "SNK",
        "Shoes/Sneakers",
        85,
        ("sneaker", "trainer", "sports shoe"),
        {"canvas": 0.8, "leather": 1.3, "recycled mesh": 1.0, "suede": 1.15},
        _SHOE_USES,
        _SHOE_FITS,
    ),
    "boot": Kind(
        "BOT",
        "Shoes/Boots",
        140,
        ("boot", "winter boot", "winter shoe"),
        {"leather": 1.2, "suede": 1.05, "rubber": 0.6, "waxed canvas": 0.85},
        _SHOE_USES,
        _SHOE_FITS,
    ),
    "t-shirt": Kind(
        "TSH",
        "Clothing/T-Shirts",
        26,
        ("t-shirt", "tee", "jersey top"),
        {"cotton": 0.9, "organic cotton": 1.1, "linen": 1.4, "bamboo jersey": 1.2},
        _WEAR_USES,
        _WEAR_FITS,
    ),
    "hoodie": Kind(
        "HOD",
        "Clothing/Hoodies",
        58,
        ("hoodie", "hooded sweatshirt", "hooded jumper"),
        {"cotton fleece": 1.0, "organic cotton": 1.15, "merino blend": 1.6, "recycled polyester": 0.8},
        _WEAR_USES,
        _WEAR_FITS,
    ),
    "dress": Kind(
        "DRS",
        "Clothing/Dresses",
        79,
        ("dress", "summer dress", "frock"),
        {"viscose": 0.8, "linen": 1.15, "silk": 2.0, "cotton poplin": 1.0},
        _WEAR_USES,
        _WEAR_FITS,
    ),
    "trousers": Kind(
        "TRS",
        "Clothing/Trousers",
        64,
        ("trousers", "pants", "slacks"),
        {"cotton twill": 1.0, "linen": 1.2, "wool": 1.6, "corduroy": 1.1},
        _WEAR_USES,
        _WEAR_FITS,
    ),
    "backpack": Kind(
        "BPK",
        "Bags/Backpacks",
        75,
        ("backpack", "rucksack", "daypack"),
        {"nylon": 0.8, "waxed canvas": 1.1, "recycled polyester": 0.9, "leather": 2.0},
        _BAG_USES,
        _BAG_FITS,
    ),
    "handbag": Kind(
        "HBG",
        "Bags/Handbags",
        120,
        ("handbag", "bag", "purse"),
        {"leather": 1.5, "canvas": 0.6, "vegan leather": 0.8, "suede": 1.3},
        _BAG_USES,
        _BAG_FITS,
    ),
    "cap": Kind(
        "CAP",
        "Accessories/Caps",
        24,
        ("cap", "hat", "sun hat"),
        {"cotton twill": 1.0, "wool": 1.5, "corduroy": 1.2, "nylon": 0.9},
        _WEAR_USES,
        ("One size, adjustable.", "Sizes S to L.", "Sits low on the head."),
    ),
    "mug": Kind(
        "MUG",
        "Home/Mugs",
        15,
        ("mug", "cup", "coffee mug"),
        {"stoneware": 1.1, "porcelain": 1.4, "enamelled steel": 0.9, "earthenware": 0.8},
        _HOME_USES,
        ("Holds 350 ml.", "Dishwasher safe.", "Holds a generous 400 ml."),
    ),
    "lamp": Kind(
        "LMP",
        "Home/Lamps",
        95,
        ("lamp", "light", "reading lamp"),
        {"linen shade": 1.0, "paper shade": 0.6, "metal": 1.2, "glass": 1.5},
        _HOME_USES,
        ("Takes an E27 bulb.", "With a dimmer on the cable.", "LED bulb included."),
    ),
    "chair": Kind(
        "CHR",
        "Home/Chairs",
        190,
        ("chair", "seat", "side chair"),
        {"beech": 0.9, "oak": 1.3, "velvet": 1.4, "bouclé": 1.5},
        _HOME_USES,
        _HOME_FITS,
    ),
}
_VARIANT_NOUNS = {  # variants that have a name of their own
    ("cap", "bucket"): "bucket hat",
    ("trousers", "short"): "shorts",
    ("handbag", "tote"): "tote bag",
    ("handbag", "bucket"): "bucket bag",
    ("chair", "armchair"): "armchair",
    ("t-shirt", "pocket"): "pocket tee",
    ("cap", "baseball"): "baseball cap",
    ("cap", "trucker"): "trucker cap",
    ("lamp", "table"): "table lamp",
    ("dress", "strappy maxi"): "strappy maxi dress",
}

BRANDS = (
    Brand("Passo Lento", ("sneaker", "boot"), 1.0),
    Brand("Corsara", ("sneaker", "cap", "hoodie"), 0.75),
    Brand("Valdorso", ("boot", "backpack"), 1.35),
    Brand("Filomena", ("dress", "t-shirt"), 1.1),
    Brand("Cotonaria", ("t-shirt", "hoodie", "trousers"), 0.7),
    Brand("Sarto & Luna", ("trousers", "dress"), 1.55),
    Brand("Zainetto", ("backpack", "handbag"), 0.85),
    Brand("Borsaviva", ("handbag",), 1.6),
    Brand("Tesa Larga", ("cap", "t-shirt"), 1.05),
    Brand("Terracielo", ("mug", "lamp"), 0.9),
    Brand("Lumèria", ("lamp", "chair"), 1.45),
    Brand("Quattrogambe", ("chair", "mug"), 1.0),
)
_NAMES = (
    *("Brera", "Navigli", "Trastevere", "Ostuni", "Lecce", "Garda", "Como", "Amalfi", "Ravello", "Siena", "Lucca"),
    *("Asti", "Urbino", "Matera", "Noto", "Ortigia", "Elba", "Burano", "Orta", "Bergamo", "Chianti", "Volterra"),
    *("Alba", "Tropea", "Procida", "Ischia", "Maiella", "Cadore", "Carnia", "Sila", "Etna", "Vesuvio", "Levanto"),
    *("Portofino", "Camogli", "Rialto", "Zattere", "Giudecca", "Ostiense", "Testaccio"),
)
_COLOR_WORDS = {
    "black": ("jet black", "charcoal black"),
    "white": ("off-white", "chalk white"),
    "grey": ("slate grey", "dove grey"),
    "red": ("cherry red", "scarlet"),
    "orange": ("apricot", "tangerine"),
    "yellow": ("sunflower yellow", "lemon"),
    "green": ("leaf green", "bottle green"),
    "teal": ("petrol", "sea green"),
    "blue": ("cornflower blue", "sky blue"),
    "navy": ("midnight blue", "dark blue"),
    "purple": ("plum", "violet"),
    "pink": ("rose", "blush pink"),
    "brown": ("chestnut", "chocolate brown"),
    "beige": ("sand", "camel"),
}
_PATTERN_WORDS = {
    "plain": ("in one solid colour", "without any print"),
    "striped": ("with stripes", "with even stripes all over"),
    "dotted": ("with polka dots", "scattered with dots"),
    "checked": ("in a gingham check", "with a checked pattern"),
    "floral": ("with a flower print", "printed with small blossoms"),
    "zigzag": ("with a zigzag pattern", "in lively chevrons"),
}
_COLOR_WEIGHTS = np.array([1.5 if color in ("black", "white", "grey", "blue", "navy") else 1.0 for color in COLORS])
_PATTERN_WEIGHTS = np.array([0.4 if pattern == "plain" else 0.12 for pattern in PATTERNS])


def make_products(items: int, seed: int) -> list[Product]:
    """Generate products, equally many of each kind. Seven in ten exist before the first day with users."""
    rng = np.random.default_rng([seed, 1])
    kinds = list(KINDS)
    products = [_make_product(kinds[i % len(kinds)], i // len(kinds) + 1, rng) for i in range(items)]
    return [products[i] for i in rng.permutation(items)]


def _make_product(kind: str, number: int, rng: np.random.Generator) -> Product:
    details, variants = KINDS[kind], SHAPES[kind].variants
    color = str(rng.choice(list(COLORS), p=_COLOR_WEIGHTS / _COLOR_WEIGHTS.sum()))
    pattern = str(rng.choice(PATTERNS, p=_PATTERN_WEIGHTS / _PATTERN_WEIGHTS.sum()))
    appearance = Appearance(kind, int(rng.integers(len(variants))), color, pattern, int(rng.integers(2**31)))
    material = str(rng.choice(list(details.materials)))
    weights = np.array([8.0 if kind in brand.kinds else 0.25 for brand in BRANDS])
    brand = BRANDS[int(rng.choice(len(BRANDS), p=weights / weights.sum()))]
    factor = details.materials[material] * brand.price_factor * float(np.exp(rng.normal(0, 0.18)))
    price = max(round(details.price * factor), 5) - (0.1 if rng.random() < 0.7 else 0.05)
    early = rng.random() < 0.7
    arrived = OPENING + DAY * (rng.uniform(-120, -1) if early else rng.uniform(0, DAYS - 5))
    title, description = _write_texts(appearance, material, rng)
    return Product(
        item_id=f"{details.prefix}-{number:04d}",
        appearance=appearance,
        title=title,
        description=description,
        category=details.category,
        brand=brand.name,
        material=material,
        price=round(price, 2),
        price_level=float(np.clip(np.log(factor) / 0.6, -1, 1)),
        arrived=float(round(arrived)),
        photos=2 if rng.random() < 1 / 3 else 1,
    )


def _write_texts(appearance: Appearance, material: str, rng: np.random.Generator) -> tuple[str, str]:
    """Write a title and a description of one to three sentences."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    details, variant = KINDS[appearance.kind], SHAPES[appearance.kind].variants[appearance.variant]
    noun = _VARIANT_NOUNS.get((appearance.kind, variant), f"{variant} {details.nouns[int(rng.random() < 0.25)]}")
    name = pick(_NAMES)
    printed = "" if appearance.pattern == "plain" else f"{appearance.pattern} "
    title = pick(
        [
            f"{appearance.color} {printed}{material} {noun} '{name}'",
            f"'{name}' {noun} in {appearance.color} {material}" + (f", {appearance.pattern}" if printed else ""),
            f"{printed}{noun} '{name}', {appearance.color}",
            f"{name} {noun} – {appearance.color} {printed}".strip(),
            f"{appearance.color} {printed}{noun}",
        ]
    )
    synonym, shade, print_ = (
        pick(details.nouns),
        pick(_COLOR_WORDS[appearance.color]),
        pick(_PATTERN_WORDS[appearance.pattern]),
    )
    plural = synonym[-1] == "s" and not synonym.endswith("ss")
    article = "" if plural else "an " if synonym[0] in "aeiou" else "a "
    first = pick(
        [
            f"{article}{synonym} of {material} in {shade}, {print_}.",
            f"{shade} and {print_}: {article}{synonym} made of {material}.",
            f"{material} {synonym} {print_}, coloured {shade}.",
        ]
    )
    sentences = [first, pick(details.uses) + ".", pick(details.fits)][: int(rng.choice([1, 2, 3], p=[0.15, 0.35, 0.5]))]
    return _capitalize(title), " ".join(_capitalize(sentence) for sentence in sentences)


def _capitalize(text: str) -> str:
    start = 1 if text.startswith("'") else 0
    return text[:start] + text[start].upper() + text[start + 1 :]
