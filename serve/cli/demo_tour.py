"""The demo from end to end: draw the shop, build it, learn from its shoppers, ask it, say what to try next."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from serve.cli.render import learning as show_learning
from serve.cli.render import results as show
from serve.core.settings import load_settings
from serve.demo.draw import Appearance, draw
from serve.demo.shop import make_shop
from serve.engine.query import Query
from serve.engine.response import ask
from serve.engine.user_context import load_user_context
from serve.jobs.build import Progress, build
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.live.replica import open_engine
from serve.storage.event_log import open_event_log
from serve.training.scorer_job import current_scorer

K = 5
SHOPPER = "u00042"
KEYWORDS = "warm hoodie for cold evenings"
PHOTO = Appearance(kind="mug", variant=0, color="yellow", pattern="dotted", seed=77)  # not an item of the shop


def tour(folder: Path, progress: Progress | None = None) -> RenderableType:
    """Make (or bring up to date) the demo shop in `folder` with its store in `folder/store`; what it answers."""
    settings = load_settings(store=folder / "store")
    if not (folder / "README.txt").exists():  # written last, so the shop is whole
        make_shop(folder, progress=_drawn(progress))
    report = build(settings, folder / "catalog.csv", progress=progress)
    taken = import_events(settings, folder / "events.jsonl", progress=progress)
    learned: list[RenderableType] = []
    if taken.stored or current_scorer(settings.store) is None:
        learned = [
            show_learning.training_report(train(settings, progress)),
            show_learning.scorer_report(train_scorer(settings, progress)),
        ]
        report = replace(build(settings, progress=progress), ingest=report.ingest)
    engine = open_engine(settings)
    photo = folder / "photo.jpg"
    draw(PHOTO)[0].save(photo, quality=90)
    sample = engine.search(Query(k=1, text="blue backpack"))[0]
    backpack = engine.view.text(sample.item_index)
    store = f"--store {settings.store}"
    known = load_user_context(open_event_log(settings), settings, SHOPPER)
    mixed = Query(k=K, text="green, for travelling", like=[backpack])
    questions = [
        (f'Words: vetrina search "{KEYWORDS}" {store}', lambda engine: engine.search(Query(k=K, text=KEYWORDS))),
        (
            f"A photo that is not in the shop: vetrina search --image {photo} {store}",
            lambda engine: engine.search(Query(k=K, image=photo.read_bytes())),
        ),
        (f"Neighbours of an item: vetrina similar {backpack} {store}", lambda engine: engine.similar([backpack], K)),
        (
            f'Like this item, but in these words: vetrina search "{mixed.text}" --like {backpack} {store}',
            lambda engine: engine.search(mixed),
        ),
        (
            f"What a shopper will want next: vetrina recommend {SHOPPER} {store}",
            lambda engine: engine.recommend(known.events, K, known.excluded),
        ),
    ]
    parts: list[RenderableType] = [
        Text("A generated shop: products, pictures and shoppers are drawn or invented.", "bold"),
        show.build_report(report),
        show_learning.events_report(taken),
        *learned,
    ]
    for title, question in questions:
        parts += [Rule(Text(title, "bold"), align="left"), show.answer(ask(engine, question))]
    parts += [Rule(Text("Try next", "bold"), align="left"), Text(_next(settings.store))]
    return Group(*parts)


def _drawn(progress: Progress | None) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress("draw the shop", done, total, "items")) if progress else None


def _next(store: Path) -> str:
    lines = (
        ("make serve", "the HTTP service, described at /docs"),
        (f'vetrina search "white mug with dots" --store {store}', "your own words"),
        (f"vetrina evaluate --store {store}", "how good its recommendations are, beside plain baselines"),
        (f"vetrina doctor --store {store}", "what this machine and this store can do"),
        ("vetrina build feed.csv --store my-store", "your own products"),
    )
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"{command:<{width}}  {what}" for command, what in lines)
