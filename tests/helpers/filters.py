"""A naive oracle for filters."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from embed.catalogue import Item

COMPARE = {
    "gt": lambda value, limit: value > limit,
    "gte": lambda value, limit: value >= limit,
    "lt": lambda value, limit: value < limit,
    "lte": lambda value, limit: value <= limit,
}


def passes(item: Item, conditions: Mapping[str, Any]) -> bool:
    """What the documentation says, word by word."""
    return all(holds(item, name, wanted) for name, wanted in conditions.items())


def holds(item: Item, name: str, wanted: Any) -> bool:
    if name == "not":
        return not passes(item, wanted)
    if name == "any":
        return any(passes(item, each) for each in wanted)
    column, _, attribute = name.partition(".")
    values = item.attributes.get(attribute, []) if attribute else [getattr(item, column)]
    operators = wanted if isinstance(wanted, dict) else {"eq": wanted}
    return all(
        any(value is not None and meets(name, value, operator, operand) for value in values)
        for operator, operand in operators.items()
    )


def meets(name: str, value: Any, operator: str, operand: Any) -> bool:
    if operator in COMPARE:
        return bool(COMPARE[operator](value, operand))
    wanted = operand if operator == "in" else [operand]
    if name == "category":
        return any(value == path or value.startswith(f"{path}/") for path in (each.rstrip("/") for each in wanted))
    return value in wanted


def operators(value: st.SearchStrategy[Any], *, ordered: bool = False) -> st.SearchStrategy[Any]:
    """A plain value, or up to three comparisons."""
    compare = {"eq": value, "in": st.lists(value, max_size=3)}
    if ordered:
        compare |= dict.fromkeys(COMPARE, value)
    several = st.fixed_dictionaries({}, optional=compare).filter(bool)
    return value | several


WORDS = ("red", "Red", "blue", "a b", "%", "a_b", 'say "x"', "ключ", "")
CATEGORIES = ("Shoes", "Shoes/Sneakers", "Shoes/Sneakers/Kids", "Shoes2", "Home/Mugs", "a_b", "aXb/c", "100%")
PRICES = (0.0, 5.0, 19.99, 20.0, 1e9)

words, categories, prices = st.sampled_from(WORDS), st.sampled_from(CATEGORIES), st.sampled_from(PRICES)

paths = categories | st.sampled_from(["Shoes/", "Home", "Home/", "Nope", "a%b", "1__%"])


numbers = prices | st.sampled_from([5, 20, 12.5, -1])


texts = st.sampled_from(["item_id", "title", "brand", "domain", "attributes.color", "attributes.a.b"])


conditions = st.one_of(
    st.tuples(texts, operators(words)),
    st.tuples(st.just("category"), operators(paths)),
    st.tuples(st.just("currency"), operators(st.sampled_from(["EUR", "USD", "GBP"]))),
    st.tuples(st.just("available"), operators(st.booleans())),
    st.tuples(st.sampled_from(["price", "updated_at"]), operators(numbers, ordered=True)),
)
