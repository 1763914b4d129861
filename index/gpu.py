"""The card: FAISS finds centroids and searches on a GPU where its build and a card are there, and the index fits.

What selections limit is searched on the CPU, whose selectors cards do not have; so are families that cards do not know
(graphs, fast scan, RaBitQ), and more than MOST results. The CPU's index stays the one that is written, and answers
where the card can not.
"""

import logging
from functools import cache
from typing import Any, Protocol

import faiss

log = logging.getLogger("vetrina")

MOST = 1024  # results of one query that a card gives

_allowed = True


class Gpu(Protocol):
    """Somewhere else to run an index."""

    def upload(self, index: Any) -> Any | None:
        """The index there, or None where that does not know its family or has no room for it."""


def allow(on: bool) -> None:
    """Whether this process may use a card at all."""
    global _allowed  # noqa: PLW0603
    _allowed = on


def gpu() -> Gpu | None:
    """The card, or None where there is none to use; `absence` says why."""
    return None if absence() else _cuda()


def absence() -> str:
    """Why no card is used, or nothing where one is."""
    if not _allowed:
        return "the setting device says cpu"
    if not hasattr(faiss, "StandardGpuResources"):
        return "this is faiss-cpu: install the extra gpu where there is a CUDA card"
    if not faiss.get_num_gpus():
        return "faiss-gpu finds no CUDA card"
    return ""


@cache
def _cuda() -> "_Cuda":
    return _Cuda()


class _Cuda:
    """The first CUDA card."""

    def __init__(self) -> None:
        self._resources = faiss.StandardGpuResources()

    def upload(self, index: Any) -> Any | None:
        try:
            return faiss.index_cpu_to_gpu(self._resources, 0, index)
        except RuntimeError as error:
            log.info("an index stays on the CPU: %s", str(error).splitlines()[0])
            return None
