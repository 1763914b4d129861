"""The audience of an item or a creative: who most likely wants it, whom it must not reach, and what to expect.

Shoppers are found by their taste in the towers' space (serve.campaigns.user_vectors): an item is where the towers
place it,
also one that nobody had; a creative of words and a photo is where the items are that it resembles most. Those come
first who are most likely to act (serve.campaigns.conversion_model).
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.campaigns.user_table import UserTableCache
from serve.campaigns.user_vectors import unit
from serve.core.errors import BadRequest
from serve.engine.engine import Engine
from serve.engine.query import Query, direction_of
from serve.recommend.retrieval.retrievers import TOWER
from serve.storage.campaign_contacts import CampaignContacts
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog

RESEMBLED = 20  # items that say where a creative is
STEPS = 20  # of the curve
DAY = 86_400.0


@dataclass(frozen=True)
class Cap:
    """Nobody is reached more than `times` in `days`, by whichever campaign."""

    times: int
    days: float


@dataclass(frozen=True)
class AudienceQuery:
    """An item's id, or a creative of words and a photo; how many shoppers, and for which campaign.

    The share `holdout` of them is told apart, not to be reached, so that what a campaign brings can be measured. Who
    had the item is left out unless `again`.
    """

    size: int
    item_id: str | None = None
    text: str | None = None
    image: bytes | None = None
    campaign: str = ""
    cap: Cap | None = None
    holdout: float = 0.0
    again: bool = False


@dataclass(frozen=True)
class Member:
    """A shopper of an audience: how near to what is offered, and the probability of acting on it."""

    user_id: str
    score: float
    probability: float
    held_out: bool


@dataclass(frozen=True)
class Audience:
    """The members, the likeliest first, what was left out and why, and how many acts to expect of the first so many."""

    members: Sequence[Member]
    users: int
    opted_out: int
    capped: int
    had: int
    curve: Sequence[tuple[int, float]]


class Audiences:
    """Finds audiences in a log of events; safe in several threads."""

    def __init__(self, events: EventLog, rights: UserPrivacy, table: UserTableCache) -> None:
        self._events, self._rights, self._table = events, rights, table
        self._contacts = CampaignContacts(events.database)

    def find(self, engine: Engine, wanted: AudienceQuery, now: float | None = None) -> Audience:
        """Who most likely wants it; raises BadRequest where nothing is offered or there is no user model."""
        if (wanted.item_id is None) == (wanted.text is None and wanted.image is None):
            raise BadRequest("an audience is of one item, or of a creative: give item_id, or text and image", "item_id")
        users = self._table.current(engine)
        cosines = users.vectors @ unit((self._place(engine, wanted) - users.center)[None])[0]
        probabilities = users.response.probabilities(cosines, users.counts, users.likes)
        out = {name: users.among(who) for name, who in self._left_out(wanted, now).items()}
        allowed = np.flatnonzero(~np.any(list(out.values()), axis=0))
        order = allowed[np.argsort(-probabilities[allowed], kind="stable")][: wanted.size]
        held = [self._is_held_out(wanted, users.ids[place]) for place in order]
        members = [
            Member(users.ids[place], round(float(cosines[place]), 4), round(float(probabilities[place]), 6), held_out)
            for place, held_out in zip(order.tolist(), held, strict=True)
        ]
        left = {name: int(mask.sum()) for name, mask in out.items()}
        return Audience(
            members, len(users), left["opted_out"], left["capped"], left["had"], _curve(probabilities[order])
        )

    def record(self, campaign: str, audience: Audience) -> None:
        """Put down that a campaign reaches the members who are not held out."""
        self._contacts.add(campaign, [member.user_id for member in audience.members if not member.held_out])

    def _place(self, engine: Engine, wanted: AudienceQuery) -> NDArray[np.float32]:
        """Where what is offered is in the tower space, [width]."""
        tower = engine.view.tower
        assert tower is not None  # noqa: S101  whoever has towers has their space
        if wanted.item_id is not None:
            vector: NDArray[np.float32] = tower.vectors_of(np.array([engine.item_index(wanted.item_id)]))[0]
            return vector
        alike = engine.search(Query(k=RESEMBLED, text=wanted.text, image=wanted.image))
        vectors = tower.vectors_of(np.sort(np.array([one.item_index for one in alike], np.int64)))
        direction = direction_of([vector for vector in vectors if vector.any()], [1.0] * len(vectors))
        if direction is None:
            raise BadRequest(f"nothing here resembles it in the space {TOWER}: give other words", "text")
        return direction

    def _left_out(self, wanted: AudienceQuery, now: float | None) -> dict[str, set[str]]:
        """Who must not be reached, by why; who opted out is asked for at every call."""
        at = time.time() if now is None else now
        capped = set() if wanted.cap is None else self._contacts.reached(wanted.cap.times, at - wanted.cap.days * DAY)
        had = set() if wanted.item_id is None or wanted.again else self._events.users_of(wanted.item_id)
        return {"opted_out": self._rights.opted_out(), "capped": capped, "had": had}

    @staticmethod
    def _is_held_out(wanted: AudienceQuery, user_id: str) -> bool:
        """Always the same for a user and a campaign."""
        digest = hashlib.blake2b(f"{wanted.campaign}\0{user_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < wanted.holdout * 2**64


def _curve(probabilities: NDArray[np.float64]) -> list[tuple[int, float]]:
    """How many acts can be expected of the first so many members."""
    if not len(probabilities):
        return []
    sizes = np.unique(np.linspace(1, len(probabilities), STEPS).round().astype(int))
    expected = np.cumsum(probabilities)
    return [(int(size), round(float(expected[size - 1]), 4)) for size in sizes]
