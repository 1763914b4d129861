"""What several test files share: the data folder, and a small drawn shop that is built once."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.command import Run
from helpers.service import until
from helpers.shop import QUICK, QUICK_SCORER
from sqlalchemy import create_engine, text

from serve import cli
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.security.api_keys import disable_keys
from serve.storage.database import METADATA
from serve.storage.event_log import EventLog

# However busy this machine is while tests run, only the tests of it see requests shed and answers cut short.
os.environ.setdefault("VETRINA_SHED_ABOVE_MS", "60000")
os.environ.setdefault("VETRINA_TIMEOUTS__RESPONSE", "60")
os.environ.setdefault("VETRINA_THREADS", "1")  # tests run beside each other, one for each core
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
    make_shop(folder, items=72, users=400)
    return folder


@pytest.fixture(scope="session")
def built(shop: Path) -> Settings:
    """Settings whose store holds a release of the drawn shop; read it, never write it."""
    settings = Settings(store=shop / "store")
    build(settings, shop / "catalog.csv")
    disable_keys(settings.store)
    return settings


@pytest.fixture(scope="session")
def trained(shop: Path, built: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store with events taken in, towers and scorer trained, and a release that has them; read it, never write it."""
    store = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(built.store, store, symlinks=True)
    configured = Settings(store=store, image_root=shop, towers=QUICK, scorer=QUICK_SCORER, online={"learn": False})  # type: ignore[arg-type]
    report = import_events(configured, shop / "events.jsonl")
    assert report.read == report.stored > 5000
    train(configured)
    assert set(train_scorer(configured).heads) <= {"click", "cart", "purchase", "rating"}
    assert build(configured).published
    return configured


@pytest.fixture
def copied(trained: Settings, tmp_path: Path) -> Settings:
    """The trained store again, to be changed."""
    store = tmp_path / "store"
    shutil.copytree(trained.store, store, symlinks=True)
    return trained.model_copy(update={"store": store})


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real server, of Debian's binaries, that lives as long as the tests."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("there is no PostgreSQL: apt install postgresql")
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'vetrina[postgres]'")
    folder = Path(tempfile.mkdtemp())
    user = pwd.getpwuid(os.getuid()).pw_name
    if user == "root":  # whom PostgreSQL does not serve
        user = "postgres"
        shutil.chown(folder, user)
    binaries, data = found[-1].parent, folder / "data"

    def run(*command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert run(str(binaries / "initdb"), "-D", str(data), "-U", "vetrina", "--auth=trust").wait() == 0
    server = run(str(binaries / "postgres"), "-D", str(data), "-k", str(folder), "-h", "")
    try:
        url = f"postgresql+psycopg://vetrina@/postgres?host={folder}"
        until(lambda: _answers(url))
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder)


def _answers(url: str) -> bool:
    with suppress(StoreUnavailable):
        EventLog(url).close()
        return True
    return False


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    found: str = request.getfixturevalue("postgres")
    engine = create_engine(found)
    with engine.begin() as connection:
        for table in METADATA.tables:
            connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
    engine.dispose()
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`run("search", "words")` in an empty working folder: exit code, output and errors of the command."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vetrina", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capfd.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return code or 0, printed.out, printed.err

    return command
