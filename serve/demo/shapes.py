"""The shapes of the twelve kinds of products, and the variants of each."""

from collections.abc import Callable
from dataclasses import dataclass

from serve.demo.bag_and_home_shapes import backpack, chair, handbag, lamp, mug
from serve.demo.clothing_shapes import boot, cap, dress, hoodie, sneaker, t_shirt, trousers
from serve.demo.geometry import Part


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind is drawn: `draw(i)` returns the parts of the variant that `variants[i]` names."""

    variants: tuple[str, ...]
    draw: Callable[[int], list[Part]]


SHAPES: dict[str, Shape] = {
    "sneaker": Shape(("low-top", "high-top", "chunky", "platform high-top"), sneaker),
    "boot": Shape(("chelsea", "lace-up", "tall", "heeled"), boot),
    "t-shirt": Shape(("crew-neck", "v-neck", "long-sleeved", "pocket"), t_shirt),
    "hoodie": Shape(("pullover", "zip-up", "cropped"), hoodie),
    "dress": Shape(("a-line", "shift", "strappy maxi", "wrap"), dress),
    "trousers": Shape(("slim", "wide-leg", "cropped", "short"), trousers),
    "backpack": Shape(("rounded", "roll-top", "flap"), backpack),
    "handbag": Shape(("tote", "top-handle", "bucket", "hobo"), handbag),
    "cap": Shape(("baseball", "flat-brim", "bucket", "trucker"), cap),
    "mug": Shape(("straight", "camp", "rounded", "tall"), mug),
    "lamp": Shape(("table", "tripod", "desk", "globe"), lamp),
    "chair": Shape(("dining", "armchair", "shell", "café"), chair),
}
FLAT_LAY = frozenset({"t-shirt", "hoodie", "dress", "trousers"})
