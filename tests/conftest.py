"""What several test files share: the data folder, and a small drawn shop that is built once."""

import os
from pathlib import Path

import pytest

from serve.demo.shop import make_shop
from serve.pipeline import build
from serve.settings import Settings

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ.get("VETRINA_DATA", ROOT.parent / "shared" / "data"))


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
