"""Encoding on a Ray cluster of several nodes, one of which is killed while it works."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from ray._private.state import actors

from embed import ray_job
from embed.errors import Missing
from embed.vector_store import KeySet
from serve.core.settings import Settings
from serve.jobs.build import encode_catalogue, ingest_feed

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'vetrina[ray]'")
PHOTOS = 60


def shop(folder: Path) -> Settings:
    """Photos of which some are the same, broken or gone."""
    random = np.random.default_rng(0)
    lines = ["item_id,title,description,images"]
    for number in range(PHOTOS):
        pixels = random.integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).resize((300, 260)).save(folder / f"{number}.png")
        lines.append(f"i{number},Thing {number % 50},{'word ' * (number % 40)},{number}.png|{number // 2}.png")
    (folder / "7.png").write_bytes(b"no image")
    (folder / "9.png").unlink()
    (folder / "feed.csv").write_text("\n".join(lines))
    settings = Settings(store=folder / "store")
    ingest_feed(settings, folder / "feed.csv")
    return settings


def parts(settings: Settings) -> dict[str, bytes]:
    found = sorted((settings.store / "vectors").rglob("*"))
    return {str(path.relative_to(settings.store)): path.read_bytes() for path in found if path.is_file()}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator["cluster_utils.Cluster"]:
    """Three nodes on this machine, of which the head computes nothing."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    started = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    started.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    started.shutdown()


def test_a_killed_node_changes_nothing_in_the_store(
    cluster: "cluster_utils.Cluster", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job, "BLOCK_SIZE", 5)
    (tmp_path / "alone").mkdir()
    (tmp_path / "together").mkdir()
    alone, together = shop(tmp_path / "alone"), shop(tmp_path / "together")
    here = encode_catalogue(alone)
    doomed = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    killed = []

    def kill(stage: str, done: float, *_: object) -> None:
        if not killed and done >= 11:
            workers = [actor for actor in actors().values() if actor["Address"]["NodeID"] == doomed.node_id]
            assert [worker["State"] for worker in workers] == ["ALIVE"]
            for process in doomed.all_processes.get("raylet", []):
                os.kill(process.process.pid, signal.SIGKILL)
            killed.append(stage)

    there = encode_catalogue(together, kill, "ray")
    assert killed == ["encode images"]
    assert parts(together) == parts(alone)
    for ours, theirs in zip(here, there, strict=True):
        assert (ours.encoded, ours.failures) == (theirs.encoded, theirs.failures)
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_array_equal(ours.owners, theirs.owners)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert [len(one.failures) for one in there] == [6, 0]  # broken and gone, each of three items
    # What was mended is all that is encoded next.
    Image.new("RGB", (300, 300), (1, 2, 3)).save(tmp_path / "together" / "9.png")
    again = encode_catalogue(together, None, "ray")
    assert [one.encoded for one in again] == [1, 0]


def test_a_worker_leaves_out_what_is_known() -> None:
    for count in (0, 1, 40):
        keys = np.random.default_rng(count).bytes(16 * count)
        known = {keys[at : at + 16] for at in range(0, 16 * count, 16)} | ({b"\1" * 15 + b"\0"} if count else set())
        table = KeySet(np.frombuffer(b"".join(known), "V16"))
        assert all(key in table for key in known)
        assert b"\2" * 16 not in table
        assert b"\1" * 15 + b"\1" not in table


def test_without_a_cluster_where_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(Missing, match="RAY_ADDRESS"):
        encode_catalogue(shop(tmp_path), None, "ray")


def test_what_workers_give_is_read_as_one_process_gives_it() -> None:
    assert list(ray_job._image_results([pa.table([[]] * 8, schema=ray_job._RESULT)]))[-1].keys == []
