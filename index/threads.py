"""Threads: FAISS and BLAS each bring a pool of their own, and pools on the same cores block each other."""

import faiss
from threadpoolctl import threadpool_limits


def limit_threads(threads: int) -> None:
    """Cap the threads of one search or one build, for the whole process."""
    faiss.omp_set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")
