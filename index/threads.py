"""Limit threads: FAISS and BLAS each have a thread pool, and two pools on the same cores block each other."""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
from threadpoolctl import threadpool_limits


def limit_threads(threads: int) -> None:
    """Limit the threads of one search or one build, for the whole process."""
    faiss.omp_set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")


@contextmanager
def one_thread() -> Iterator[None]:
    """Search with one thread inside the block, as a server does."""
    before = faiss.omp_get_max_threads()
    with threadpool_limits(1, user_api="blas"):
        faiss.omp_set_num_threads(1)
        try:
            yield
        finally:
            faiss.omp_set_num_threads(before)
