"""Shows the demo from end to end: draws the shop, builds it, learns from its users, searches and recommends."""

from dataclasses import replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from serve.cli.render import catalogue as render_catalogue
from serve.cli.render import learning as render_learning
from serve.cli.render import results as render
from serve.core.progress import Progress, stage_progress
from serve.core.settings import load_settings
from serve.demo.draw import Appearance, draw
from serve.demo.shop import make_shop
from serve.engine.query import Query
from serve.engine.response import local_hits_response
from serve.engine.user_context import load_user_context
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.live.replica import open_engine
from serve.security.access_mode import is_undecided
from serve.security.api_keys import disable_keys
from serve.storage.event_log import open_event_log
from serve.training.scorer_job import current_scorer

K = 5
USER = "u00042"
KEYWORDS = "warm hoodie for cold evenings"
PHOTO = Appearance(kind="mug", variant=0, color="yellow", pattern="dotted", seed=77)  # not an item of the shop


def tour(folder: Path, progress: Progress | None = None) -> RenderableType:
    """Make or update the demo shop in `folder`, with its store in `folder/store`; return what to print."""
    settings = load_settings(store=folder / "store")
    if not (folder / "README.txt").exists():  # make_shop writes it last
        make_shop(folder, progress=stage_progress(progress, "draw the shop", "items"))
    settings.store.mkdir(parents=True, exist_ok=True)
    if is_undecided(settings.store):
        disable_keys(settings.store)
    report = build(settings, folder / "catalog.csv", progress=progress)
    imported = import_events(settings, folder / "events.jsonl", progress=progress)
    trained: list[RenderableType] = []
    if imported.stored or current_scorer(settings.store) is None:
        trained = [
            render_learning.training_report(train(settings, progress)),
            render_learning.scorer_report(train_scorer(settings, progress)),
        ]
        report = replace(build(settings, progress=progress), ingest=report.ingest)
    engine = open_engine(settings)
    photo = folder / "photo.jpg"
    draw(PHOTO)[0].save(photo, quality=90)
    sample = engine.search(Query(k=1, text="blue backpack"))[0]
    backpack = engine.snapshot.item_id(sample.item_index)
    store = f"--store {settings.store}"
    user = load_user_context(open_event_log(settings), settings, USER)
    combined = Query(k=K, text="green, for travelling", like=[backpack])
    steps = [
        (
            f'Search by text: vetrina search "{KEYWORDS}" {store}',
            lambda engine: engine.search(Query(k=K, text=KEYWORDS)),
        ),
        (
            f"Search by a photo that is not in the shop: vetrina search --image {photo} {store}",
            lambda engine: engine.search(Query(k=K, image=photo.read_bytes())),
        ),
        (f"Similar items: vetrina similar {backpack} {store}", lambda engine: engine.similar([backpack], K)),
        (
            f'Search by an item and text: vetrina search "{combined.text}" --like {backpack} {store}',
            lambda engine: engine.search(combined),
        ),
        (
            f"Recommendations for a user: vetrina recommend {USER} {store}",
            lambda engine: engine.recommend(user.events, K, user.excluded_items),
        ),
    ]
    parts: list[RenderableType] = [
        Text("A generated shop: items and photos are drawn, users and events are invented.", "bold"),
        render_catalogue.build_report(report, settings),
        render_learning.events_report(imported),
        *trained,
    ]
    for title, find in steps:
        parts += [Rule(Text(title, "bold"), align="left"), render.results(local_hits_response(engine, find))]
    parts += [Rule(Text("Next", "bold"), align="left"), Text(_next_commands(settings.store))]
    return Group(*parts)


def _next_commands(store: Path) -> str:
    lines = (
        (f"vetrina serve --store {store}", "the console at /console/, the HTTP API at /docs"),
        (f'vetrina search "white mug with dots" --store {store}', "search for something else"),
        (f"vetrina evaluate --store {store}", "measure its recommendations"),
        (f"vetrina doctor --store {store}", "check this machine and the store"),
        ("vetrina build feed.csv --store my-store", "build your own shop"),
    )
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"{command:<{width}}  {purpose}" for command, purpose in lines)
