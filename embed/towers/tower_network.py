"""The network of the two towers: items and user histories become vectors, whose inner product scores the next item.

The item tower adds two vectors: the content of an item (image, text, tags, price), passed through a small network, and
an embedding of its id. The id embedding is dropped at random in training, so that a new item gets a good vector from
its content alone (DropoutNet, Volkovs et al., NeurIPS 2017). The user tower is a causal Transformer over the last
interactions (SASRec, Kang and McAuley, ICDM 2018). Each interaction is the item's vector, the kind of interaction, and
the time since the one before.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from embed.behaviour.interactions import KINDS
from embed.towers.tower_features import PRICE_PARTS, FeatureRows
from embed.towers.tower_settings import TowerSettings

GAP_BUCKETS = 24  # powers of two of seconds; the last is half a year


@dataclass(frozen=True)
class EmbeddingSizes:
    """Rows of the item and tag embeddings, 0 for none, and the dimension of each content space."""

    items: int
    tags: int = 0
    content: dict[str, int] = field(default_factory=dict)
    price: bool = False


class ItemTower(nn.Module):
    """Maps features of n items to vectors [n, dim]; popular items have longer vectors."""

    def __init__(self, sizes: EmbeddingSizes, settings: TowerSettings) -> None:
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
            embedded = self.identity(rows.identity)  # [n, dim]
            if self.training and vectors is not None and self.item_dropout:
                keep = torch.rand(len(embedded), 1, device=embedded.device) >= self.item_dropout
                embedded = embedded * keep
            vectors = embedded if vectors is None else embedded + vectors
        assert vectors is not None  # noqa: S101
        return vectors


class UserTower(nn.Module):
    """Maps histories of b users to vectors [b, length, dim], one after each interaction."""

    def __init__(self, settings: TowerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.scale = dim**0.5
        self.kinds = nn.Embedding(len(KINDS), dim)
        self.gaps = nn.Embedding(GAP_BUCKETS, dim)
        self.places = nn.Embedding(settings.history, dim)  # of positions; the name is part of saved weights
        for table in (self.kinds, self.gaps, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.enter = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList([TransformerBlock(settings) for _ in range(settings.blocks)])
        self.leave = nn.LayerNorm(dim)

    def forward(self, items: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        """Encode histories: `items` [b, length, dim] from the item tower, `kinds` and `gaps` [b, length] as indices.

        Rows are filled from the left. Attention is causal, so padding at the end of a row does not change the vectors
        before it and needs no mask; callers must ignore the vectors of padding.
        """
        positions = torch.arange(items.shape[1], device=items.device)
        hidden = items * self.scale + self.kinds(kinds) + self.gaps(gaps) + self.places(positions)
        hidden = self.enter(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        vectors: Tensor = self.leave(hidden)
        return vectors


class TransformerBlock(nn.Module):
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
        attended = functional.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        hidden = hidden + self.drop(self.project(attended.transpose(1, 2).reshape(batch, length, dim)))
        after: Tensor = hidden + self.feed(self.before_feed(hidden))
        return after


class Towers(nn.Module):
    """Both towers. The score of an item is the inner product of its vector and the user's.

    `reach` is the length of the longest item vector, with which embed.towers.two_tower_model turns inner products into
    cosines.
    """

    reach: Tensor

    def __init__(self, sizes: EmbeddingSizes, settings: TowerSettings) -> None:
        super().__init__()
        self.sizes, self.settings = sizes, settings
        self.item_tower, self.user_tower = ItemTower(sizes, settings), UserTower(settings)
        self.register_buffer("reach", torch.ones(()))


def gap_buckets(seconds: Tensor) -> Tensor:
    """Return the bucket of each time gap in seconds: 0 for unknown or none, then powers of two."""
    return torch.log2(seconds.clamp(min=0) + 1).floor().long().clamp(max=GAP_BUCKETS - 1)
