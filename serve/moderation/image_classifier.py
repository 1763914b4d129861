"""The shop's own image classifier: it judges every image once, and the store keeps which items it refuses.

A classifier is a function that takes a list of upright RGB images of Pillow and returns for each the probability that
it must not be shown. Verdicts are stored by the content of the images, so that a build classifies new images only.
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
from serve.core.progress import StageProgress
from serve.core.settings import Settings
from serve.moderation.policy import REFUSED_FILE, read_refused_items

Classifier = Callable[[list[Image]], Sequence[float]]
VERDICTS_FILE = "verdicts.jsonl"
BATCH_SIZE = 32
MIN_SIDE = 512  # pixels; larger images are reduced until their shorter side has about that


def load_classifier(name: str) -> Classifier:
    """Import the classifier `module:function`; raises BadRequest if it does not exist."""
    module, _, function = name.partition(":")
    try:
        classifier: Classifier = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadRequest(
            f"invalid review.classifier {name!r}: use module:function ({error})", "review.classifier"
        ) from error
    if not callable(classifier):
        raise BadRequest(f"invalid review.classifier {name!r}: it is not a function", "review.classifier")
    return classifier


def classify_catalogue(
    settings: Settings, catalogue: Catalogue, source: ImageSource, progress: StageProgress | None
) -> int:
    """Classify the images of all items and replace the list of refused items; return how many images were new.

    Args:
        settings: the store, the classifier and its threshold.
        catalogue: the items.
        source: where images are loaded from.
        progress: called after each item.
    """
    items = (item for batch in catalogue.batches() for item in batch)
    refused, classified = find_refused_items(
        settings, items, source, lambda done: progress and progress(done, len(catalogue))
    )
    _write_refused(settings.store, refused)
    return classified


def classify_items(settings: Settings, items: Sequence[Item], source: ImageSource) -> None:
    """Classify the images of items that change while the service runs, and update the list of refused items."""
    refused, _ = find_refused_items(settings, items, source)
    before = read_refused_items(settings.store / REFUSED_FILE)
    changed = {item.item_id for item in items}
    after = {item_id: reason for item_id, reason in before.items() if item_id not in changed} | refused
    if before != after:
        _write_refused(settings.store, after)


def find_refused_items(
    settings: Settings,
    items: Iterable[Item],
    source: ImageSource,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[dict[str, str], int]:
    """Classify the images of items that have no verdict yet.

    An image that cannot be read is skipped: it is not shown, and the encode job counts it.

    Args:
        settings: the store, the classifier and its threshold.
        items: the items.
        source: where images are loaded from.
        progress: called with the number of finished items.

    Returns:
        The reason for each refused item by item id, and the number of classified images.
    """
    classify = load_classifier(settings.review.classifier)
    path = settings.store / REFUSED_FILE.parent / VERDICTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    verdicts = _read_verdicts(path, settings.review.classifier)
    refused: dict[str, str] = {}
    pending: dict[bytes, tuple[Image, list[tuple[Item, str]]]] = {}  # by key: an image, and the items that have it
    classified = 0

    def judge(item: Item, reference: str, score: float) -> None:
        if score >= settings.review.threshold:
            refused.setdefault(item.item_id, f"image {reference} was refused ({score:.2f})")

    def classify_pending() -> None:
        nonlocal classified
        scores = [float(score) for score in classify([image for image, _ in pending.values()])]
        lines = []
        for (key, (_, owners)), score in zip(pending.items(), scores, strict=True):
            verdicts[key] = score
            verdict = {"classifier": settings.review.classifier, "key": key.hex(), "score": score}
            lines.append(orjson.dumps(verdict) + b"\n")
            for item, reference in owners:
                judge(item, reference, score)
        with path.open("ab") as file:
            file.write(b"".join(lines))
        classified += len(pending)
        pending.clear()

    for done, item in enumerate(items, start=1):
        for reference in item.images:
            try:
                key, data = source.load(reference, lambda key: key in verdicts or key in pending)
                if key in verdicts:
                    judge(item, reference, verdicts[key])
                elif key in pending:
                    pending[key][1].append((item, reference))
                else:
                    image = decode_image(data or b"", settings.image_limits, shrink_to=MIN_SIDE)
                    pending[key] = image, [(item, reference)]
            except ImageRefused:
                continue
            if len(pending) == BATCH_SIZE:
                classify_pending()
        progress(done)
    if pending:
        classify_pending()
    return refused, classified


def _read_verdicts(path: Path, classifier: str) -> dict[bytes, float]:
    """Read the scores of a classifier by image key; a line that a kill cut off is skipped."""
    verdicts: dict[bytes, float] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                verdict = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if verdict["classifier"] == classifier:
                verdicts[bytes.fromhex(verdict["key"])] = verdict["score"]
    return verdicts


def _write_refused(store: Path, refused: dict[str, str]) -> None:
    (store / REFUSED_FILE.parent).mkdir(exist_ok=True)
    write_file(store / REFUSED_FILE, orjson.dumps(refused, option=orjson.OPT_INDENT_2))
