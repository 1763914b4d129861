"""Searches that shoppers made, and what builds learn from them of how much words and vectors count."""

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
from serve.search.fusion_weights import MOST, SEED, FusionWeights, learn_weights
from serve.search.vocabulary import KEYWORDS
from serve.storage.event_log import open_event_log

MAX_READ = 200_000  # searches with an item, those of most shoppers


def weigh(settings: Settings, release: Release) -> FusionWeights | None:
    """How much each source of a search counts in a release; None where shoppers searched too little."""
    searches = [(query, row) for row, query in searched_items(settings, release.catalogue, MOST)]
    engine = Engine(Snapshot(release), Encoders(choose_device(settings.device, settings.threads)), settings)
    return learn_weights(searches, engine.scores_by_retriever, (*sorted(release.spaces), KEYWORDS))


def searched_items(settings: Settings, catalogue: Catalogue, most: int) -> list[tuple[int, str]]:
    """What shoppers searched for, with the row of an item that they then took to; at most so many, drawn blindly.

    The first of an order by name would be those of numbers, and say nothing of words.
    """
    store = open_event_log(settings)
    try:
        found = store.searched(MAX_READ)
    finally:
        store.close()
    found = [found[place] for place in np.random.default_rng(SEED).permutation(len(found))[:most]]
    rows = pc.index_in(pa.array([item_id for _, item_id in found], pa.string()), value_set=catalogue.ids())
    return [(row, query) for row, (query, _) in zip(rows.to_pylist(), found, strict=True) if row is not None]
