"""Reports of all benchmarks: a table, one JSON object as the last line, and the same object in a file."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def report(name: str, figures: dict[str, float | int | str | None], seed: int, packages: tuple[str, ...] = ()) -> None:
    """Print `figures` and write them to results/NAME.json with seed, date, machine and the versions of `packages`."""
    width = max(map(len, figures), default=0)
    print(f"\n{name}")
    for key, value in figures.items():
        print(f"  {key:<{width}}  {value:,}" if isinstance(value, int | float) else f"  {key:<{width}}  {value}")
    versions = {"python": platform.python_version()} | {package: version(package) for package in packages}
    record = figures | {
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": ", ".join(f"{package} {number}" for package, number in versions.items()),
    }
    RESULTS.mkdir(exist_ok=True)
    line = json.dumps(record, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(line + "\n", encoding="utf-8")
    print(line)


def earlier(name: str) -> dict[str, float | int | str | None]:
    """Return the figures of the last report, for benchmarks that measure one part at a time; empty without one."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {key: value for key, value in known.items() if key not in {"seed", "date", "machine", "versions"}}


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":", 1)[1].strip() for line in info.open() if line.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB"
