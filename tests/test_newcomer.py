"""The README's six commands, from an empty folder to an own feed served with keys, run as they are written."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from helpers.service import until

ROOT = Path(__file__).parents[1]
HEADING = "## Your own feed, in six commands"


def test_the_six_commands_lead_to_a_feed_served_with_keys(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or not (ROOT / ".venv" / "ready").exists():
        pytest.skip("this is no clone with a virtual environment of its own: run make test in one")
    block = re.search(rf"{HEADING}\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "the README has no such section"
    commands = [line.partition("  #")[0].strip() for line in block[1].splitlines() if line.strip()]
    assert len(commands) == 6
    assert commands[0] == "git clone ADDRESS vetrina && cd vetrina"
    assert commands[-1] == "vetrina serve --store my-store"

    feed = tmp_path / "feed.csv"
    feed.write_text("item_id,title,price\n1,Red shoe,10 EUR\n2,Blue mug,5 EUR\n3,Green hat,7 EUR\n")
    # The clone borrows this virtual environment, which is newer than its pyproject.toml, so nothing is installed.
    lend = f"ln -s {ROOT / '.venv'} .venv && touch -d @0 pyproject.toml"
    script = [commands[0].replace("ADDRESS", str(ROOT)), lend, f"cp {feed} feed.csv", *commands[1:-1]]
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, **git, "VETRINA_PORT": str(port)}
    lines = "\n".join(["set -e", *script, f"exec {commands[-1]}"])
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(["bash", "-c", lines], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        printed = b""
        while not (found := re.search(rb"vt_[\w-]{43}", printed)):
            line = process.stdout.readline()
            assert line, (printed, (tmp_path / "log").read_text())
            printed += line
        key = found[0].decode()
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
            until(lambda: is_ready(client))
            body = {"text": "something blue", "k": 1}
            assert client.post("/v1/search", json=body).status_code == 401
            client.headers["authorization"] = f"Bearer {key}"
            response = client.post("/v1/search", json=body)
            assert [item["item_id"] for item in response.json()["items"]] == ["2"]
            # The key also opens what the page's other calls and the views of the console need.
            event = {"user_id": "u1", "item_id": "2", "type": "click"}
            calls = [
                client.post("/v1/events", json={"events": [event]}),
                client.patch("/v1/items", json={"items": [{"item_id": "2", "price": 4.5}]}),
                client.post("/v1/recommend", json={"user_id": "u1", "k": 2}),
                *(client.get(path) for path in ("/v1/users", "/v1/users/u1", "/v1/releases", "/v1/activity", "/v1/me")),
            ]
            assert {call.status_code for call in calls} == {200}, [call.text for call in calls]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
