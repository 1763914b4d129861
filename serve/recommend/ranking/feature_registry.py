"""The features of the scorer, in the order of their columns. A new one is one line here.

| group | columns |
|---|---|
| personalization | score and rank of the tower retriever; likeness to the history in the tower space |
| others | score and rank of the co-visitation retriever; co-visits with the history |
| content | score and rank of the content retriever; likeness to the history in each content space |
| range | categories, brand and attributes shared with the history |
| popularity | score and rank of the popularity retriever; recent demand relative to overall demand |
| novelty | score and rank of the arrivals retriever; age |
| relations | score and rank of the knowledge retriever |
| price | the price, and its difference from the usual price of the history |
| context | hour of the day, length of the history |
| position | position in the list |
"""

from serve.recommend.ranking import context_features, history_features, retriever_features, signal_features
from serve.recommend.ranking.feature import Feature

FEATURES: list[Feature] = []


def register(*features: Feature) -> None:
    """Add features behind the others."""
    FEATURES.extend(features)


register(*retriever_features.FEATURES)
register(*history_features.FEATURES)
register(*signal_features.FEATURES)
register(*context_features.FEATURES)
