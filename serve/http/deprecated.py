"""Fields of version 0.1 that responses still have beside their new names. To be removed with the next version.

They are not in the OpenAPI document. Request fields of version 0.1 are aliases of their new names in `serve.schemas`
(`AliasChoices`).
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any


def add_deprecated_fields(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a response with the fields of version 0.1."""
    old: dict[str, Any] = {}
    for name in _CHANGED_FIELDS.keys() & content.keys():
        old |= _CHANGED_FIELDS[name](content[name])
    return content | old


def _add_to_items(items: list[Any]) -> dict[str, Any]:
    """Add the old fields in place, as there may be thousands of items and each is built for one response."""
    if items and isinstance(items[0], dict):
        for item in items:
            scores = item["retriever_scores"]
            if "keywords" in scores:
                scores = {"words" if name == "keywords" else name: score for name, score in scores.items()}
            item["sources"] = scores
            if "probabilities" in item:
                item["chances"] = item["probabilities"]
    return {}


_CHANGED_FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "already_interacted": lambda count: {"had": count},
    "auth": lambda auth: {"keys": auth == "keys"},
    "changes": lambda changes: {"changes": changes | {"gone": changes["deleted"]}},
    "impressions_dropped": lambda count: {"answers_dropped": count},
    "items": _add_to_items,
    "members": lambda members: {"members": [member | {"chance": member["probability"]} for member in members]},
    "removed": lambda removed: {"removed": asdict(removed) | {"answers": removed.impressions}},
    "responses": lambda responses: {"answers": responses},
    "users": lambda users: {"shoppers": users} if isinstance(users, int) else {},
}
