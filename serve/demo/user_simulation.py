"""Simulates users: their hidden preferences, and the events that follow from them.

A list shows items by popularity, the user's preferences and the intent of the session. A shown item is clicked with the
probability `examination_probability(position) * sigmoid(attraction)`, the position-based model of Craswell et al., "An
experimental comparison of click position-bias models" (WSDM 2008); carts and purchases follow from the same utility.
Robots view everything.
"""

from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from serve.core.ragged import ragged_indices
from serve.core.units import DAY
from serve.demo.paint import COLOR_FAMILIES
from serve.demo.products import BRANDS, DAYS, HOUR, KINDS, OPENING, Product

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Row = dict[str, object]

TYPES = ("impression", "click", "view", "cart", "purchase", "rating", "dislike")
IMPRESSION, CLICK, VIEW, CART, PURCHASE, RATING, DISLIKE = range(len(TYPES))
MAX_LIST = 10
NONE = -1

_DRIFT_DAYS = 20.0
_LISTS_AT_ONCE = 2048  # bounds the memory of scores, [lists, items]


@dataclass(frozen=True, slots=True)
class UserProfiles:
    """What users like, one row per user. Strengths are about 0 to 1; `level` is -1 (cheap) to 1 (expensive)."""

    kinds: Floats  # [users, kinds]
    families: Floats  # [users, families]
    level: Floats  # [users]
    brand: Integers  # [users], NONE without a favourite
    patterned: Floats  # [users], -1 likes plain things, 1 likes patterns


@dataclass(frozen=True, slots=True)
class ItemTraits:
    """The traits of items that users see, one row per item."""

    kind: Integers
    family: Integers
    level: Floats
    brand: Integers
    patterned: Floats
    appeal: Floats  # popularity that no preference explains, standard normal
    price: Floats
    arrived: Floats


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists shown, by time, one row per list."""

    user: Integers
    session: Integers
    time: Floats
    intent: Integers  # the kind that the user looks for in the session


@dataclass(frozen=True, slots=True)
class Events:
    """Columns of events; NONE or nan where an event has no value."""

    user: Integers
    item: Integers
    type: Integers
    time: Floats
    value: Floats
    request: Integers
    position: Integers
    session: Integers


def simulate(products: list[Product], users: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Simulate users; return the hidden profile of each, robots included, and all events ordered by time."""
    rng = np.random.default_rng([seed, 2])
    traits = _item_traits(products, rng)
    before = _draw_profiles(users, rng)
    after, drift_from = _draw_profiles(users, rng), np.full(users, np.inf)
    drifting = rng.permutation(users)[: round(0.06 * users)]
    drift_from[drifting] = OPENING + DAY * rng.uniform(10, 35, len(drifting))
    peak = np.where(rng.random(users) < 0.7, rng.normal(20, 1.5, users), rng.normal(12.5, 1.5, users))
    lists = _draw_lists((before, after), drift_from, peak, rng)
    utility = _utility(before, traits), _utility(after, traits)

    parts = []
    for start in range(0, len(lists.user), _LISTS_AT_ONCE):
        rows = np.arange(start, min(start + _LISTS_AT_ONCE, len(lists.user)))
        user, time = lists.user[rows], lists.time[rows]
        utilities = _interpolate(utility, user, time, drift_from)  # [lists, items]
        parts += _simulate_lists(rows, lists, utilities, traits, rng)
    robots = max(2, round(0.006 * users))
    parts += [_robot(users + robot, robot, len(lists.user), products, rng) for robot in range(robots)]

    events = _sort(parts)
    names = [f"u{number:05d}" for number in rng.permutation(users + robots) + 1]
    hidden = _profile_rows(names, before, after, drift_from, peak)
    return sorted(hidden, key=lambda row: str(row["user_id"])), _rows(events, names, products)


def examination_probability(position: Integers) -> Floats:
    """Return the probability that a user looks at a position of a list; 0 is the first."""
    return np.asarray((1.0 + position) ** -0.45)


def _item_traits(products: list[Product], rng: np.random.Generator) -> ItemTraits:
    kinds, brands = list(KINDS), [brand.name for brand in BRANDS]
    family_of = {color: i for i, colors in enumerate(COLOR_FAMILIES.values()) for color in colors}
    return ItemTraits(
        kind=np.array([kinds.index(product.appearance.kind) for product in products]),
        family=np.array([family_of[product.appearance.color] for product in products]),
        level=np.array([product.price_level for product in products]),
        brand=np.array([brands.index(product.brand) for product in products]),
        patterned=np.array([-1.0 if product.appearance.pattern == "plain" else 1.0 for product in products]),
        appeal=rng.normal(size=len(products)),
        price=np.array([product.price for product in products]),
        arrived=np.array([product.arrived for product in products]),
    )


def _draw_profiles(users: int, rng: np.random.Generator) -> UserProfiles:
    all_users = np.arange(users)
    ranks = rng.random((users, len(KINDS))).argsort(axis=1)  # [users, kinds]
    kinds = np.zeros((users, len(KINDS)))
    kinds[all_users, ranks[:, 0]] = 1.0
    kinds[all_users, ranks[:, 1]] = np.where(rng.random(users) < 0.6, 0.8, 0.0)
    families = np.zeros((users, len(COLOR_FAMILIES)))
    families[all_users, rng.integers(len(COLOR_FAMILIES), size=users)] = 1.0
    return UserProfiles(
        kinds=kinds,
        families=families,
        level=np.clip(rng.normal(0, 0.55, users), -1, 1),
        brand=np.where(rng.random(users) < 0.35, rng.integers(len(BRANDS), size=users), NONE),
        patterned=rng.uniform(-1, 1, users),
    )


def _utility(profiles: UserProfiles, traits: ItemTraits) -> Floats:
    """Compute how well each item suits each user, [users, items], about -1.5 to 4."""
    return np.asarray(
        2.2 * profiles.kinds[:, traits.kind]
        + 1.1 * profiles.families[:, traits.family]
        - 0.8 * np.abs(profiles.level[:, None] - traits.level)
        + 0.9 * (profiles.brand[:, None] == traits.brand)
        + 0.5 * profiles.patterned[:, None] * traits.patterned
        + 0.25 * traits.appeal
    )


def _interpolate(before_after: tuple[Floats, Floats], user: Integers, time: Floats, drift_from: Floats) -> Floats:
    """Return the users' rows at a time; a drifting user moves slowly from the first table to the second."""
    before, after = before_after
    progress = np.clip((time - drift_from[user]) / (_DRIFT_DAYS * DAY), 0, 1)[:, None]
    return np.asarray(before[user] * (1 - progress) + after[user] * progress)


def _draw_lists(
    profiles: tuple[UserProfiles, UserProfiles], drift_from: Floats, peak: Floats, rng: np.random.Generator
) -> Lists:
    """Draw which users see lists at which times: sessions by log-normal activity, at the user's usual hours."""
    users = len(peak)
    joined = np.where(rng.random(users) < 0.3, rng.uniform(0, DAYS - 10, users), 0)
    activity = rng.lognormal(1.1, 0.9, users) * (1 - joined / DAYS)
    user = np.repeat(np.arange(users), 1 + rng.poisson(activity))  # [sessions]
    day = np.floor(joined[user] + rng.random(len(user)) * (DAYS - joined[user]))
    start = OPENING + day * DAY + (peak[user] + rng.normal(0, 2, len(user))) % 24 * HOUR
    kinds = _interpolate((profiles[0].kinds, profiles[1].kinds), user, start, drift_from)
    likes = np.cumsum(kinds + 0.03, axis=1)  # [sessions, kinds]
    intent = (rng.random(len(user))[:, None] * likes[:, -1:] > likes).sum(axis=1)

    length = 1 + rng.poisson(0.8, len(user))
    session = np.repeat(np.arange(len(user)), length)  # [lists]
    number = ragged_indices(np.zeros_like(length), length)
    time = start[session] + number * 150 + rng.uniform(0, 60, len(session))
    order = np.argsort(time, kind="stable")
    session = session[order]
    return Lists(user=user[session], session=session, time=time[order], intent=intent[session])


def _simulate_lists(
    rows: Integers, lists: Lists, utilities: Floats, traits: ItemTraits, rng: np.random.Generator
) -> list[Events]:
    """Simulate the events of some lists: impressions, and the events that follow from them."""
    shown = _select_items(rows, lists, utilities, traits, rng)  # [lists, MAX_LIST + 1]
    length = np.minimum(rng.integers(6, MAX_LIST + 1, len(rows)), (shown[:, :-1] != NONE).sum(axis=1))
    row, position = np.nonzero(np.arange(MAX_LIST) < length[:, None])
    item, suits = shown[row, position], utilities[row, shown[row, position]]
    time = lists.time[rows][row]

    def events(type_: int, which: NDArray[np.bool_] | Integers, at: Floats, value: Floats | None = None) -> Events:
        return Events(
            user=lists.user[rows][row[which]],
            item=item[which],
            type=np.full(len(at), type_),
            time=at,
            value=np.full(len(at), np.nan) if value is None else value,
            request=rows[row[which]],
            position=position[which],
            session=lists.session[rows][row[which]],
        )

    def happens(probability: Floats) -> NDArray[np.bool_]:
        return np.asarray(rng.random(len(probability)) < probability)

    clicked = np.flatnonzero(happens(examination_probability(position) * _sigmoid(1.3 * suits - 3.4)))
    click_time = time[clicked] + 2 + 1.5 * position[clicked] + rng.exponential(5, len(clicked))
    viewed = happens(np.full(len(clicked), 0.85))
    carted = happens(_sigmoid(0.8 * suits[clicked] - 3.0))
    cart_time = click_time[carted] + rng.uniform(10, 60, int(carted.sum()))
    in_cart = clicked[carted]
    bought = happens(_sigmoid(0.5 * suits[in_cart] - 1.4))
    purchase_time = cart_time[bought] + rng.uniform(60, 900, int(bought.sum()))
    purchased = in_cart[bought]
    rated = happens(np.full(len(purchased), 0.35))
    stars = np.clip(np.round(2.6 + 0.55 * suits[purchased] + rng.normal(0, 0.8, len(purchased))), 1, 5)
    rating_time = purchase_time + DAY * rng.uniform(2, 9, len(purchased))
    rated &= rating_time < OPENING + DAYS * DAY
    disliked = np.flatnonzero(happens(0.02 * examination_probability(position) * (suits < 0)))

    linked = np.flatnonzero(
        (shown[:, -1] != NONE) & happens(np.full(len(rows), 0.25))
    )  # the user comes through a link from another site
    links = Events(
        user=lists.user[rows][linked],
        item=shown[linked, -1],
        type=np.full(len(linked), VIEW),
        time=lists.time[rows][linked] + rng.uniform(60, 85, len(linked)),
        value=np.full(len(linked), np.nan),
        request=np.full(len(linked), NONE),
        position=np.full(len(linked), NONE),
        session=lists.session[rows][linked],
    )
    return [
        events(IMPRESSION, np.arange(len(row)), time),
        events(CLICK, clicked, click_time),
        events(VIEW, clicked[viewed], click_time[viewed] + 0.4),
        events(CART, in_cart, cart_time),
        events(PURCHASE, purchased, purchase_time, traits.price[item[purchased]]),
        events(RATING, purchased[rated], rating_time[rated], stars[rated]),
        events(DISLIKE, disliked, time[disliked] + rng.uniform(5, 40, len(disliked))),
        links,
    ]


def _select_items(
    rows: Integers, lists: Lists, utilities: Floats, traits: ItemTraits, rng: np.random.Generator
) -> Integers:
    """Select the best items of each list by noisy score, one more than is shown; NONE where there are too few."""
    by_preference = rng.random(len(rows))[:, None] < 0.6  # the other lists rank by popularity
    score = np.where(by_preference, 0.8, 0.2) * utilities + np.where(by_preference, 0.3, 0.9) * traits.appeal
    score += 1.2 * (lists.intent[rows][:, None] == traits.kind) + rng.gumbel(size=score.shape)
    score[lists.time[rows][:, None] < traits.arrived] = -np.inf
    best = np.argsort(-score, axis=1, kind="stable")[:, : MAX_LIST + 1]
    best[np.isneginf(np.take_along_axis(score, best, axis=1))] = NONE
    missing = MAX_LIST + 1 - best.shape[1]
    return np.pad(best, ((0, 0), (0, missing)), constant_values=NONE)


def _robot(user: int, number: int, lists: int, products: list[Product], rng: np.random.Generator) -> Events:
    """Simulate a robot, which views every item at a steady rate and buys nothing."""
    start, beat = OPENING + DAY * rng.uniform(1, DAYS - 2), float(rng.integers(15, 60))
    arrived = [i for i in np.argsort([product.item_id for product in products]) if products[i].arrived <= start]
    pages = int(rng.integers(300, 700)) if arrived else 0
    nothing = np.full(pages, NONE)
    return Events(
        user=np.full(pages, user),
        item=np.resize(np.array(arrived, dtype=np.int64), pages),
        type=np.full(pages, VIEW),
        time=start + beat * np.arange(pages, dtype=np.float64),
        value=np.full(pages, np.nan),
        request=nothing,
        position=nothing,
        session=np.full(pages, lists + number),
    )


def _sort(parts: list[Events]) -> Events:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Events.__slots__}
    order = np.lexsort((columns["position"], columns["type"], columns["request"], columns["time"]))
    return Events(**{name: column[order] for name, column in columns.items()})


def _rows(events: Events, names: list[str], products: list[Product]) -> list[Row]:
    columns = [getattr(events, name).tolist() for name in Events.__slots__]
    rows: list[Row] = []
    for number, (user, item, type_, time, value, request, position, session) in enumerate(zip(*columns, strict=True)):
        row: Row = {
            "event_id": f"e{number + 1:07d}",
            "user_id": names[user],
            "item_id": products[item].item_id,
            "type": TYPES[type_],
            "timestamp": round(time, 3),
        }
        if not isnan(value):
            row["value"] = value
        if request != NONE:
            row["request_id"], row["position"] = f"r{request + 1:06d}", position
        row["session_id"], row["domain"] = f"s{session + 1:06d}", "demo"
        rows.append(row)
    return rows


def _profile_rows(
    names: list[str], before: UserProfiles, after: UserProfiles, drift_from: Floats, peak: Floats
) -> list[Row]:
    rows: list[Row] = []
    for user, name in enumerate(names):
        if user >= len(peak):
            rows.append({"user_id": name, "kinds": [], "colors": [], "price_level": 0.0, "robot": True})
            continue
        row: Row = {"user_id": name, **_profile_row(before, user), "robot": False}
        row["peak_hour"] = round(float(peak[user]) % 24, 2)
        if np.isfinite(drift_from[user]):
            row["drifts_to"] = {
                "from": round(float(drift_from[user])),
                "days": _DRIFT_DAYS,
                **_profile_row(after, user),
            }
        rows.append(row)
    return rows


def _profile_row(profiles: UserProfiles, user: int) -> Row:
    kinds, families = list(KINDS), list(COLOR_FAMILIES.values())
    return {
        "kinds": [kinds[i] for i in np.argsort(-profiles.kinds[user], kind="stable") if profiles.kinds[user, i] > 0],
        "colors": list(families[int(profiles.families[user].argmax())]),
        "price_level": round(float(profiles.level[user]), 3),
        "brand": BRANDS[profiles.brand[user]].name if profiles.brand[user] != NONE else None,
        "patterned": round(float(profiles.patterned[user]), 3),
    }


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
