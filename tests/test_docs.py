"""The documentation: pages marked as runnable run, the front page is short, generated pages are current."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.service import free_port, is_ready, until

from serve.core.settings import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUNNABLE = re.compile(r"^<!-- run -->\n```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if RUNNABLE.search(page.read_text())]
MAX_LINES, MAX_WORDS, PICTURES = 150, 900, 3


def generated_settings() -> str:
    """The settings reference as `docs/make.py` writes it."""
    code = "import sys; sys.path.insert(0, 'docs'); from make import settings_page; sys.stdout.write(settings_page())"
    command = [ROOT / ".venv" / "bin" / "python", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_settings_reference_is_current_and_complete() -> None:
    page = (DOCS / "settings.md").read_text()
    assert page == generated_settings()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows if not row[-1].removesuffix(" |").strip()] == [], "without a description"
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for each in [name] if inner is None else [f"{name}.{one}" for one in inner]:
            assert f"| `{each}` |" in page, each


def test_the_front_page_is_short_and_has_its_pictures() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) >= PICTURES
    for picture in pictures:
        assert (ROOT / picture).read_bytes().startswith(b"\x89PNG"), picture


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index] == []


def runnable(kind: str, block: str, port: int) -> str:
    """A block as a shell script against the service on a port, with ids that are there."""
    for old, new in (
        ("localhost:8000", f"127.0.0.1:{port}"),
        ("127.0.0.1:8000", f"127.0.0.1:{port}"),
        ("ITEM_ID", "MUG-0001"),
        ("USER", "u00001"),
        ("curl ", "curl --silent --show-error --fail-with-body "),
    ):
        block = block.replace(old, new)
    return block if kind == "bash" else f"python - <<'END'\n{block}END\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_runnable_blocks_of_a_page_run(page: Path, shop: Path, built: Settings, tmp_path: Path) -> None:
    shutil.copytree(shop, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("store"))
    shutil.copytree(built.store, tmp_path / "my-store", symlinks=True)
    (tmp_path / "catalog.csv").rename(tmp_path / "feed.csv")
    shutil.copy(next(tmp_path.glob("images/*.jpg")), tmp_path / "photo.jpg")
    port = free_port()
    blocks = [runnable(kind, block, port) for kind, block in RUNNABLE.findall(page.read_text())]
    environment = {
        **os.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "VETRINA_TOWERS__EPOCHS": "1",
        "VETRINA_SCORER__EPOCHS": "1",
        "VETRINA_PORT": str(port),
    }
    command = ["vetrina", "serve", "--store", "my-store"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        until(lambda: is_ready(port))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:], (tmp_path / "log").read_text()[-2000:])
    finally:
        server.terminate()
        server.wait(60)
