"""Groups of features: what an explanation names, and what can be missing as a whole."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureGroup:
    """A named group of feature columns. `wording` follows "Because" in a reason; empty if no reason names the group."""

    name: str
    wording: str


PERSONALIZATION = FeatureGroup("personalization", "it fits the user's history")
OTHERS = FeatureGroup("others", "users with a similar history chose it next")
CONTENT = FeatureGroup("content", "it looks and reads like items in the history")
RANGE = FeatureGroup("range", "it shares its category, brand or attributes with the history")
POPULARITY = FeatureGroup("popularity", "it is popular")
NOVELTY = FeatureGroup("novelty", "of its age in the shop")
PRICE = FeatureGroup("price", "of its price")
CONTEXT = FeatureGroup("context", "of the hour and the length of the history")
POSITION = FeatureGroup("position", "")
RELATIONS = FeatureGroup("relations", "the shop's relations link it to items in the history")

FEATURE_GROUPS = (PERSONALIZATION, OTHERS, CONTENT, RANGE, POPULARITY, NOVELTY, PRICE, CONTEXT, POSITION, RELATIONS)
"""The groups in the order in which explanations reveal them. Groups that a new feature brings follow."""
