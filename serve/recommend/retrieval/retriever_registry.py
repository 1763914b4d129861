"""The retrievers of the system, in the order of their columns. A new one is one line here.

| retriever | proposes | score |
|---|---|---|
| tower | items near the user's recent interactions, by the two towers | cosine |
| covisitation | items that other users went to after the user's items | scaled count, 0 for none |
| popularity | items that many users liked recently | users, each halved by age |
| arrivals | new items of the catalogue | 1 on the first day, halved by age |
| content | items that look and read like the user's items | standard deviations above a random item |
| knowledge | items linked to the user's items by the shop's own table | 1 for the best link, 0 for none |
"""

from serve.recommend.retrieval import arrivals, content, covisitation, popularity, relation_graph, tower
from serve.recommend.retrieval.retriever import TOWER, RetrievalContext, Retriever, RetrieverSpec

RETRIEVERS: dict[str, RetrieverSpec] = {}


def register(spec: RetrieverSpec) -> None:
    """Add a retriever behind the others."""
    if spec.name in RETRIEVERS:
        raise ValueError(f"two retrievers are named {spec.name!r}")
    RETRIEVERS[spec.name] = spec


register(tower.SPEC)
register(covisitation.SPEC)
register(popularity.SPEC)
register(arrivals.SPEC)
register(content.SPEC)
register(relation_graph.SPEC)


def build_retrievers(context: RetrievalContext) -> dict[str, Retriever]:
    """Build every retriever that the release has data for.

    Their order is the order in which the score model sums. The tower comes last, as in version 0.1: sums of float32
    are then equal to the last bit.
    """
    ordered = sorted(RETRIEVERS.values(), key=lambda spec: spec.name == TOWER)
    built = {spec.name: spec.build(context) for spec in ordered}
    return {name: retriever for name, retriever in built.items() if retriever is not None}


def is_count(name: str) -> bool:
    """Return whether a retriever's score is a count, which enters sums by its logarithm."""
    spec = RETRIEVERS.get(name)
    return spec is not None and spec.smoothing is not None
