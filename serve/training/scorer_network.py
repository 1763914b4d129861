"""The scorer's network: features of a candidate, and target attention over the user's history.

The logit of each head is a sum of three parts: the total of the score model times a learned factor, a cross network of
the features (DCN-V2, Wang et al., WWW 2021), and what each interaction of the history adds, weighted by how much the
candidate attends to it (DIN, Zhou et al., KDD 2018). As the history enters by this sum alone, the effect of each
interaction is known exactly. At the start the latter two parts are 0: learning begins with the order of the score
model, and little data change it little.

Training hides whole groups of features at random, so that a hidden group is a known case for the network: unknown
features do not confuse it in service, and explanations can hide groups to measure their effect.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GAP_BUCKETS = 24  # of powers of two of seconds
CLIP = 5.0  # standard deviations
RANK = 16
CROSSES = 2


class FeatureNetwork(nn.Module):
    """Features of n candidates -> the last hidden layer [n, hidden], and a part of each head's logit [n, heads]."""

    mean: Tensor
    spread: Tensor
    met: Tensor  # 1 for a column with a known value in training; nothing was learned about the others
    blend: Tensor  # [2 * columns], weights of the score model for each scaled column, and for its being known

    def __init__(self, columns: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("spread", torch.ones(columns))
        self.register_buffer("met", torch.ones(columns))
        width = 2 * columns
        self.register_buffer("blend", torch.zeros(width))
        self.worth = nn.Parameter(torch.ones(heads))  # of the score model
        self.narrow = nn.ModuleList([nn.Linear(width, RANK, bias=False) for _ in range(CROSSES)])
        self.widen = nn.ModuleList([nn.Linear(RANK, width) for _ in range(CROSSES)])
        self.deep = nn.Sequential(
            nn.Linear(width, 2 * hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden), nn.GELU()
        )
        self.mix = nn.Sequential(nn.Linear(width + hidden, hidden), nn.GELU())
        self.heads = nn.Linear(hidden, heads)
        self.straight = nn.Linear(width, heads, bias=False)
        for layer in (*self.widen, self.heads, self.straight):
            nn.init.zeros_(layer.get_parameter("weight"))

    def forward(self, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """`values` [n, columns] count where `known` [n, columns] is 1; what they are elsewhere does not matter."""
        known = known * self.met
        scaled = ((values - self.mean) / self.spread).clamp(-CLIP, CLIP) * known
        given = torch.cat([scaled, known], 1)
        crossed = given
        for narrow, widen in zip(self.narrow, self.widen, strict=True):
            crossed = given * widen(narrow(crossed)) + crossed
        hidden = self.mix(torch.cat([crossed, self.deep(given)], 1))
        return hidden, self.heads(hidden) + self.straight(given) + (given @ self.blend)[:, None] * self.worth


class HistoryNetwork(nn.Module):
    """Pairs of n candidates and h interactions -> what each interaction adds to each head's logit, [n, h, heads]."""

    def __init__(self, channels: int, kinds: int, places: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.pair = nn.Linear(channels, hidden)
        self.kind = nn.Embedding(kinds, hidden)
        self.gap = nn.Embedding(GAP_BUCKETS, hidden)
        self.place = nn.Embedding(places, hidden)
        for table in (self.kind, self.gap, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.attend = nn.Linear(hidden, 1)
        self.tell = nn.Linear(hidden, heads)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, pairs: Tensor, kinds: Tensor, gaps: Tensor, there: Tensor) -> Tensor:
        """`pairs` [n, h, channels]; `kinds`, `gaps` in seconds, and `there` (0 for padding, else 1) [n, h].

        Histories end at the right. What a candidate attends to adds up to at most one: it may attend to nothing.
        """
        places = pairs.shape[1] - 1 - torch.arange(pairs.shape[1], device=pairs.device)
        buckets = torch.log2(gaps.clamp(min=1)).long().clamp(max=GAP_BUCKETS - 1)
        mixed = self.mix(self.pair(pairs) + self.kind(kinds) + self.gap(buckets) + self.place(places))
        strength = torch.exp(self.attend(mixed).clamp(-15, 15)) * there[..., None]  # [n, h, 1]
        attention = strength / (1 + strength.sum(1, keepdim=True))
        added: Tensor = attention * self.tell(mixed)
        return added


class ScorerNetwork(nn.Module):
    """Both networks, for n candidates at a time; `heads` are predicted, one logit each."""

    def __init__(
        self, columns: int, channels: int, kinds: int, places: int, heads: Sequence[str], hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.features = FeatureNetwork(columns, len(heads), hidden, dropout)
        self.history = HistoryNetwork(channels, kinds, places, len(heads), hidden)

    def forward(
        self, values: Tensor, known: Tensor, pairs: Tensor, kinds: Tensor, gaps: Tensor, there: Tensor
    ) -> Tensor:
        """The logits, [n, heads]."""
        logits: Tensor = self.features(values, known)[1] + self.history(pairs, kinds, gaps, there).sum(1)
        return logits
