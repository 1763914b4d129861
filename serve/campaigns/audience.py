"""The audience of an item or a creative: which users will most probably interact, and which must not be contacted.

Users are compared by their vectors in the tower space (serve.campaigns.user_vectors). An item is where the towers place
it, even a new one; a creative of text and a photo is where the most similar items are. Users come in the order of their
predicted probability of an interaction (serve.campaigns.conversion_model).
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.campaigns.user_table import UserTableCache
from serve.campaigns.user_vectors import unit_rows
from serve.core.errors import BadRequest
from serve.core.units import DAY
from serve.engine.engine import Engine
from serve.engine.query import Query, weighted_direction
from serve.recommend.retrieval.retriever import TOWER
from serve.storage.campaign_contacts import CampaignContacts
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog
from serve.storage.event_statistics import EventStatistics

SIMILAR_ITEMS = 20  # that place a creative
CURVE_POINTS = 20


@dataclass(frozen=True)
class FrequencyCap:
    """A limit over all campaigns: at most `times` contacts per user within `days`."""

    times: int
    days: float


@dataclass(frozen=True)
class AudienceQuery:
    """A query for an audience of `size` users, for an item id, or for a creative of text and a photo.

    The share `holdout` of the members is held out: not to be contacted, to measure the effect of a campaign. Users who
    already interacted with the item are excluded unless `again`.
    """

    size: int
    item_id: str | None = None
    text: str | None = None
    image: bytes | None = None
    campaign: str = ""
    cap: FrequencyCap | None = None
    holdout: float = 0.0
    again: bool = False


@dataclass(frozen=True)
class AudienceMember:
    """A user of an audience: the cosine to the item or creative, and the predicted probability of an interaction."""

    user_id: str
    score: float
    probability: float
    held_out: bool


@dataclass(frozen=True)
class Audience:
    """The members, most probable first, how many of all users were excluded and why, and expected interactions.

    `curve` has points of audience size and expected interactions.
    """

    members: Sequence[AudienceMember]
    users: int
    opted_out: int
    capped: int
    already_interacted: int
    curve: Sequence[tuple[int, float]]


class AudienceFinder:
    """Finds audiences among the users of an event log; safe in several threads."""

    def __init__(self, events: EventLog, privacy: UserPrivacy, table: UserTableCache) -> None:
        self._statistics, self._privacy, self._table = EventStatistics(events.database), privacy, table
        self._contacts = CampaignContacts(events.database)

    def find(self, engine: Engine, query: AudienceQuery, now: float | None = None) -> Audience:
        """Find the audience of an item or a creative.

        Raises BadRequest where the query has neither or both, or where the release has no user model.
        """
        if (query.item_id is None) == (query.text is None and query.image is None):
            raise BadRequest("send either item_id, or text and image of a creative", "item_id")
        users = self._table.current(engine)
        direction = unit_rows((self._position(engine, query) - users.center)[None])[0]
        cosines = users.vectors @ direction
        probabilities = users.conversion_model.probabilities(cosines, users.counts, users.likes)
        excluded = {reason: users.mask(user_ids) for reason, user_ids in self._excluded(query, now).items()}
        allowed = np.flatnonzero(~np.any(list(excluded.values()), axis=0))
        rows = allowed[np.argsort(-probabilities[allowed], kind="stable")][: query.size]
        members = [
            AudienceMember(
                users.ids[row],
                round(float(cosines[row]), 4),
                round(float(probabilities[row]), 6),
                self._is_held_out(query, users.ids[row]),
            )
            for row in rows.tolist()
        ]
        counts = {reason: int(mask.sum()) for reason, mask in excluded.items()}
        return Audience(members, len(users), **counts, curve=_curve(probabilities[rows]))

    def record(self, campaign: str, audience: Audience) -> None:
        """Record that a campaign contacts the members who are not held out."""
        self._contacts.add(campaign, [member.user_id for member in audience.members if not member.held_out])

    def _position(self, engine: Engine, query: AudienceQuery) -> NDArray[np.float32]:
        """Return the vector of an item or creative in the tower space, [width]."""
        tower = engine.snapshot.tower
        assert tower is not None  # noqa: S101  a release with a user model has a tower space
        if query.item_id is not None:
            vector: NDArray[np.float32] = tower.first_vectors(np.array([engine.item_index(query.item_id)]))[0]
            return vector
        similar = engine.search(Query(k=SIMILAR_ITEMS, text=query.text, image=query.image))
        vectors = tower.first_vectors(np.sort(np.array([hit.item_index for hit in similar], np.int64)))
        known = [vector for vector in vectors if vector.any()]  # an item without a vector has zeros
        direction = weighted_direction(known, [1.0] * len(known)) if known else None
        if direction is None:
            raise BadRequest(f"no item similar to the creative has a vector in space {TOWER}: change the text", "text")
        return direction

    def _excluded(self, query: AudienceQuery, now: float | None) -> dict[str, set[str]]:
        """Return the users who must not be contacted, by reason; opt-outs are read at each call."""
        at = time.time() if now is None else now
        capped = set() if query.cap is None else self._contacts.reached(query.cap.times, at - query.cap.days * DAY)
        skips_interacted = query.item_id is not None and not query.again
        interacted = self._statistics.item_users(query.item_id or "") if skips_interacted else set()
        return {"opted_out": self._privacy.opted_out_users(), "capped": capped, "already_interacted": interacted}

    @staticmethod
    def _is_held_out(query: AudienceQuery, user_id: str) -> bool:
        """Return whether a user is held out: always the same for a user and a campaign."""
        digest = hashlib.blake2b(f"{query.campaign}\0{user_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < query.holdout * 2**64


def _curve(probabilities: NDArray[np.float64]) -> list[tuple[int, float]]:
    """Return audience sizes with the expected interactions of the first so many members."""
    if not len(probabilities):
        return []
    sizes = np.unique(np.linspace(1, len(probabilities), CURVE_POINTS).round().astype(int))
    expected = np.cumsum(probabilities)
    return [(int(size), round(float(expected[size - 1]), 4)) for size in sizes]
