"""Learns from users' searches how much keywords and vectors count in hybrid search."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embed.catalogue import Catalogue
from embed.encoders import choose_device
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query_encoders import Encoders
from serve.release.release import Release
from serve.release.snapshot import Snapshot
from serve.search.fusion_weights import MAX_SEARCHES, SEED, FusionWeights, learn_weights
from serve.search.vocabulary import KEYWORDS
from serve.storage.event_log import open_event_log
from serve.storage.event_statistics import EventStatistics

MAX_READ = 200_000  # pairs of search and item that are read, the most frequent first


def learn_fusion_weights(settings: Settings, release: Release) -> FusionWeights | None:
    """Learn how much each retriever of a search counts in a release; None where users searched too little."""
    searches = [(query, row) for row, query in searched_items(settings, release.catalogue, MAX_SEARCHES)]
    engine = Engine(
        Snapshot(release), Encoders(choose_device(settings.device, settings.threads), settings.encoders), settings
    )
    return learn_weights(searches, engine.scores_by_retriever, (*sorted(release.spaces), KEYWORDS))


def searched_items(settings: Settings, catalogue: Catalogue, most: int) -> list[tuple[int, str]]:
    """Return searches, each as the catalogue row of an item that users then chose and the query; `most` at random.

    The first in alphabetical order would be numbers, from which no weights of words can be learned.
    """
    store = open_event_log(settings)
    try:
        found = EventStatistics(store.database).query_interactions(MAX_READ)
    finally:
        store.close()
    found = [found[place] for place in np.random.default_rng(SEED).permutation(len(found))[:most]]
    rows = pc.index_in(pa.array([item_id for _, item_id in found], pa.string()), value_set=catalogue.ids())
    return [(row, query) for row, (query, _) in zip(rows.to_pylist(), found, strict=True) if row is not None]
