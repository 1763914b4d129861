"""What several test files share: the data folder, and a small drawn shop that is built once."""

import os
import shutil
from pathlib import Path

import pytest

from serve.demo.shop import make_shop
from serve.learn.import_events import import_events
from serve.learning import train, train_scorer
from serve.pipeline import build
from serve.settings import Settings

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ.get("VETRINA_DATA", ROOT.parent / "shared" / "data"))
QUICK = {"epochs": 4, "dim": 16, "patience": 4}
QUICK_SCORER = {"epochs": 3, "cases": 200, "hard": 20}


@pytest.fixture(scope="session")
def data() -> Path:
    """The optional folder of real data; tests that want it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no data folder {SHARED_DATA} (set VETRINA_DATA)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn shop of 72 items: catalog.csv, images, and the events of 400 shoppers."""
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder, items=72, shoppers=400)
    return folder


@pytest.fixture(scope="session")
def built(shop: Path) -> Settings:
    """Settings whose store holds a release of the drawn shop; read it, never write it."""
    settings = Settings(store=shop / "store")
    build(settings, shop / "catalog.csv")
    return settings


@pytest.fixture(scope="session")
def trained(shop: Path, built: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store with events taken in, towers and scorer trained, and a release that has them; read it, never write it."""
    store = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(built.store, store, symlinks=True)
    configured = Settings(store=store, image_root=shop, towers=QUICK, scorer=QUICK_SCORER)  # type: ignore[arg-type]
    report = import_events(configured, shop / "events.jsonl")
    assert report.read == report.stored > 5000
    train(configured)
    assert set(train_scorer(configured).heads) <= {"click", "cart", "purchase", "rating"}
    assert build(configured).published
    return configured
