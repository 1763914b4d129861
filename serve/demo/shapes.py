"""The twelve kinds of things the demo shop sells, and the variants each is drawn in."""

from collections.abc import Callable
from dataclasses import dataclass

from serve.demo.geometry import Part
from serve.demo.shapes_kept import backpack, chair, handbag, lamp, mug
from serve.demo.shapes_worn import boot, cap, dress, hoodie, sneaker, t_shirt, trousers


@dataclass(frozen=True, slots=True)
class Shape:
    """How a kind is drawn; `variants` names what `draw(0)`, `draw(1)`, ... show."""

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
