"""The shop's own classifier of images, asked of every image once; which items it refuses is kept in the store.

The classifier is a function of a list of upright RGB images of Pillow that gives the probability of each that it must
not be shown. Its verdicts are kept by the images' content, so that a build asks of new images only.
"""

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import orjson
from PIL.Image import Image

from embed.catalogue import Catalogue, Item
from embed.durable import write_file
from embed.images import ImageRefused, ImageSource, decode_image
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.moderation.policy import REFUSED, read_refused

Classifier = Callable[[list[Image]], Sequence[float]]
VERDICTS = "verdicts.jsonl"
BATCH = 32
SHRINK_TO = 512  # pixels of the shorter side that a classifier sees, at least, where the photo has them


def load_classifier(name: str) -> Classifier:
    """The function `module:function`; raises BadRequest where there is none such."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadRequest(f"review.classifier {name!r} is no module:function ({error})", "review.classifier") from error
    if not callable(found):
        raise BadRequest(f"review.classifier {name!r} is not a function", "review.classifier")
    classifier: Classifier = found
    return classifier


def review_catalogue(
    settings: Settings, catalogue: Catalogue, source: ImageSource, progress: Callable[[int, int], None] | None
) -> int:
    """Ask of all items, and keep who is refused in place of what was kept before; how many images were asked of."""
    items = (item for batch in catalogue.batches() for item in batch)
    refused, asked = judged(settings, items, source, lambda done: progress and progress(done, len(catalogue)))
    _write(settings.store, refused)
    return asked


def review_items(settings: Settings, items: Sequence[Item], source: ImageSource) -> None:
    """Ask of items that change while the service runs."""
    refused, _ = judged(settings, items, source)
    before = read_refused(settings.store / REFUSED)
    now = {item_id: reason for item_id, reason in before.items() if item_id not in {item.item_id for item in items}}
    if before != now | refused:
        _write(settings.store, now | refused)


def judged(
    settings: Settings, items: Iterable[Item], source: ImageSource, told: Callable[[int], object] = lambda done: None
) -> tuple[dict[str, str], int]:
    """What is wrong with an image of each item that is refused, by id, and how many images were asked of.

    An image that cannot be read is none that is shown: the encode job counts it.
    """
    classify = load_classifier(settings.review.classifier)
    path = settings.store / REFUSED.parent / VERDICTS
    path.parent.mkdir(parents=True, exist_ok=True)
    verdicts = _read(path, settings.review.classifier)
    refused: dict[str, str] = {}
    waiting: dict[bytes, tuple[Image, list[tuple[Item, str]]]] = {}  # by key: the image, and who has it as what
    asked = 0

    def take(item: Item, reference: str, score: float) -> None:
        if score >= settings.review.threshold:
            refused.setdefault(item.item_id, f"image {reference} was refused ({score:.2f})")

    def ask() -> None:
        nonlocal asked
        scores = [float(score) for score in classify([image for image, _ in waiting.values()])]
        lines = []
        for (key, (_, owners)), score in zip(waiting.items(), scores, strict=True):
            verdicts[key] = score
            told = {"classifier": settings.review.classifier, "key": key.hex(), "score": score}
            lines.append(orjson.dumps(told) + b"\n")
            for item, reference in owners:
                take(item, reference, score)
        with path.open("ab") as file:
            file.write(b"".join(lines))
        asked += len(waiting)
        waiting.clear()

    for done, item in enumerate(items, start=1):
        for reference in item.images:
            try:
                key, data = source.load(reference, lambda key: key in verdicts or key in waiting)
                if key in verdicts:
                    take(item, reference, verdicts[key])
                elif key in waiting:
                    waiting[key][1].append((item, reference))
                else:
                    image = decode_image(data or b"", settings.image_limits, shrink_to=SHRINK_TO)
                    waiting[key] = image, [(item, reference)]
            except ImageRefused:
                continue
            if len(waiting) == BATCH:
                ask()
        told(done)
    if waiting:
        ask()
    return refused, asked


def _read(path: Path, classifier: str) -> dict[bytes, float]:
    """The verdicts of a classifier by the images' keys; a line that a kill cut off is left out."""
    verdicts: dict[bytes, float] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if found["classifier"] == classifier:
                verdicts[bytes.fromhex(found["key"])] = found["score"]
    return verdicts


def _write(store: Path, refused: dict[str, str]) -> None:
    (store / REFUSED.parent).mkdir(exist_ok=True)
    write_file(store / REFUSED, orjson.dumps(refused, option=orjson.OPT_INDENT_2))
