"""The two towers: items and shoppers' histories become vectors, whose inner product says what comes next.

The item tower adds what it knows of an item: its content (image, text, tags, price) through a small network, and a
vector of its own. That own vector is left out at random in training, so that content alone places a new item well
(DropoutNet, Volkovs et al., NeurIPS 2017). The user tower is a causal Transformer over the last interactions (SASRec,
Kang and McAuley, ICDM 2018), each the item's vector, what was done, and how long before the next one.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from embed.behaviour.interactions import KINDS
from embed.towers.features import PRICE_PARTS, FeatureRows
from embed.towers.settings import TowerSettings

GAP_BUCKETS = 24  # of powers of two of seconds: the last is half a year


@dataclass(frozen=True)
class Sizes:
    """How many items and tags the embeddings have rows for, 0 for none; the dimension of each content space."""

    items: int
    tags: int = 0
    content: dict[str, int] = field(default_factory=dict)
    price: bool = False


class ItemTower(nn.Module):
    """Features of n items -> vectors [n, dim]; the longer, the more they are wanted by everybody."""

    def __init__(self, sizes: Sizes, settings: TowerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.item_dropout = settings.item_dropout
        self.identity = nn.Embedding(sizes.items + 1, dim, padding_idx=0) if sizes.items else None
        self.content = nn.ModuleDict({name: nn.Linear(width, dim, bias=False) for name, width in sizes.content.items()})
        self.tags = nn.EmbeddingBag(sizes.tags + 1, dim, mode="mean", padding_idx=0) if sizes.tags else None
        self.price = nn.Linear(PRICE_PARTS, dim, bias=False) if sizes.price else None
        self.mix = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(2 * dim, dim),
        )
        self.has_content = bool(self.content or self.tags is not None or self.price is not None)
        for table in (self.identity, self.tags):
            if table is not None:
                nn.init.normal_(table.weight, std=dim**-0.5)
                with torch.no_grad():
                    table.weight[0] = 0

    def forward(self, rows: FeatureRows) -> Tensor:
        parts: list[Tensor] = [layer(rows.content[name]) for name, layer in self.content.items()]
        if self.tags is not None:
            parts.append(self.tags(rows.tags, rows.tag_starts))
        if self.price is not None:
            parts.append(self.price(rows.price))
        vectors: Tensor | None = None
        if parts:
            content = torch.stack(parts).sum(0)  # [n, dim]
            vectors = content + self.mix(content)
        if self.identity is not None:
            own = self.identity(rows.identity)  # [n, dim]
            if self.training and vectors is not None and self.item_dropout:
                kept = torch.rand(len(own), 1, device=own.device) >= self.item_dropout
                own = own * kept
            vectors = own if vectors is None else own + vectors
        assert vectors is not None  # noqa: S101
        return vectors


class UserTower(nn.Module):
    """Histories of b shoppers -> a vector [b, length, dim] after each of their interactions."""

    def __init__(self, settings: TowerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.scale = dim**0.5
        self.kinds = nn.Embedding(len(KINDS), dim)
        self.gaps = nn.Embedding(GAP_BUCKETS, dim)
        self.places = nn.Embedding(settings.history, dim)
        for table in (self.kinds, self.gaps, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.enter = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.blocks)])
        self.leave = nn.LayerNorm(dim)

    def forward(self, items: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        """`items` [b, length, dim] are vectors of the item tower; `kinds` and `gaps` [b, length] are numbers.

        Rows are filled from the left. What is beyond a row's end changes nothing before it, as attention is causal;
        so padding needs no mask, only to be left out of what is read.
        """
        places = torch.arange(items.shape[1], device=items.device)
        hidden = items * self.scale + self.kinds(kinds) + self.gaps(gaps) + self.places(places)
        hidden = self.enter(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        vectors: Tensor = self.leave(hidden)
        return vectors


class Block(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer."""

    def __init__(self, settings: TowerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.heads, self.dropout = settings.heads, settings.dropout
        self.before_attention, self.before_feed = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attend = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.feed = nn.Sequential(
            nn.Linear(dim, 2 * dim),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(2 * dim, dim),
            nn.Dropout(settings.dropout),
        )
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, dim = hidden.shape
        queries, keys, values = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)  # [batch, heads, length, dim / heads]
            for part in self.attend(self.before_attention(hidden)).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        hidden = hidden + self.drop(self.project(seen.transpose(1, 2).reshape(batch, length, dim)))
        after: Tensor = hidden + self.feed(self.before_feed(hidden))
        return after


class Towers(nn.Module):
    """Both towers. The score of an item is the inner product of its vector and the shopper's.

    `reach` is the length of the longest item vector: see embed.towers.two_tower_model, which makes cosines of inner
    products.
    """

    reach: Tensor

    def __init__(self, sizes: Sizes, settings: TowerSettings) -> None:
        super().__init__()
        self.sizes, self.settings = sizes, settings
        self.item_tower, self.user_tower = ItemTower(sizes, settings), UserTower(settings)
        self.register_buffer("reach", torch.ones(()))


def gap_buckets(seconds: Tensor) -> Tensor:
    """The bucket of each time gap: 0 for unknown or none, then powers of two."""
    return torch.log2(seconds.clamp(min=0) + 1).floor().long().clamp(max=GAP_BUCKETS - 1)
