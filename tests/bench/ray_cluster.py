"""Encoding of Magento Luma on a Ray cluster of three local nodes, one of which is killed after a third of the work.

`equal` is 1 if every part of the vector store is byte for byte equal to the output of one process. The times have no
meaning here: three nodes share two cores, and each loads its own encoder.
"""

import os
import signal
import tempfile
import time
from pathlib import Path

from ray.cluster_utils import Cluster
from report import report

from serve.core.settings import Settings
from serve.jobs.build import encode_catalogue, ingest_feed

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
MAPPING = Path(__file__).parents[1] / "data" / "luma.toml"
NODES = 3


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        alone, alone_s, encoded = encode(Path(folder) / "alone")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        killed: list[int] = []

        def kill(stage: str, done: float, total: float, unit: str) -> None:
            if not killed and 3 * done > total:
                raylet = nodes[-1].all_processes["raylet"][0].process.pid
                os.kill(raylet, signal.SIGKILL)
                killed.append(raylet)

        together, together_s, again = encode(Path(folder) / "together", "ray", kill)
        cluster.shutdown()
    figures = {
        "nodes": NODES,
        "killed": len(killed),
        "equal": int(together == alone),
        "encoded": encoded,
        "encoded_on_cluster": again,
        "alone_s": round(alone_s, 1),
        "cluster_s": round(together_s, 1),
    }
    report("ray", figures, seed=0, packages=("ray", "openvino"))


def encode(store: Path, *engine) -> tuple[dict[str, bytes], float, int]:
    """Return the parts of a new store, the seconds of encoding, and the number of encoded vectors."""
    settings = Settings(store=store, image_root=DATA, mapping=MAPPING)
    ingest_feed(settings, DATA / "catalog.csv")
    started = time.perf_counter()
    spaces = encode_catalogue(settings, engine[1] if engine else None, *engine[:1])
    took = time.perf_counter() - started
    parts = {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*.arrow"))}
    return (
        {name: data for name, data in parts.items() if name.startswith("vectors")},
        took,
        sum(space.encoded for space in spaces),
    )


if __name__ == "__main__":
    main()
