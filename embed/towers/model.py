"""The two towers: items and shoppers' histories become vectors of one space, where a dot product says what comes next.

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

GAP_BUCKETS = 24  # of powers of two of seconds: the last is half a year


@dataclass(frozen=True)
class TowerShape:
    """What the towers are made of: `items` and `tags` are how many the embeddings have rows for, 0 for none.

    `content` maps a space to its dimension. `history` is how many interactions the user tower reads.
    """

    items: int
    tags: int = 0
    content: dict[str, int] = field(default_factory=dict)
    price: bool = False
    dim: int = 64
    blocks: int = 1
    heads: int = 2
    history: int = 50
    dropout: float = 0.4
    item_dropout: float = 0.1
    temperature: float = 0.07


class ItemTower(nn.Module):
    """Features of n items -> vectors [n, dim], not scaled to length one."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.item_dropout = shape.item_dropout
        self.identity = nn.Embedding(shape.items + 1, shape.dim, padding_idx=0) if shape.items else None
        self.content = nn.ModuleDict(
            {name: nn.Linear(dim, shape.dim, bias=False) for name, dim in shape.content.items()}
        )
        self.tags = nn.EmbeddingBag(shape.tags + 1, shape.dim, mode="mean", padding_idx=0) if shape.tags else None
        self.price = nn.Linear(PRICE_PARTS, shape.dim, bias=False) if shape.price else None
        self.mix = nn.Sequential(
            nn.LayerNorm(shape.dim),
            nn.Linear(shape.dim, 2 * shape.dim),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(2 * shape.dim, shape.dim),
        )
        self.has_content = bool(self.content or self.tags is not None or self.price is not None)
        for table in (self.identity, self.tags):
            if table is not None:
                nn.init.normal_(table.weight, std=shape.dim**-0.5)
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

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.kinds = nn.Embedding(len(KINDS), shape.dim)
        self.gaps = nn.Embedding(GAP_BUCKETS, shape.dim)
        self.places = nn.Embedding(shape.history, shape.dim)
        for table in (self.kinds, self.gaps, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.enter = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.blocks)])
        self.leave = nn.LayerNorm(shape.dim)

    def forward(self, items: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        """`items` [b, length, dim] are unit vectors of the item tower; `kinds` and `gaps` [b, length] are numbers.

        Rows are filled from the left. What is beyond a row's end changes nothing before it, as attention is causal;
        so padding needs no mask, only to be left out of what is read.
        """
        places = torch.arange(items.shape[1], device=items.device)
        hidden = items * self.shape.dim**0.5 + self.kinds(kinds) + self.gaps(gaps) + self.places(places)
        hidden = self.enter(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        vectors: Tensor = self.leave(hidden)
        return vectors


class Block(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.before_attention, self.before_feed = nn.LayerNorm(shape.dim), nn.LayerNorm(shape.dim)
        self.attend = nn.Linear(shape.dim, 3 * shape.dim)
        self.project = nn.Linear(shape.dim, shape.dim)
        self.feed = nn.Sequential(
            nn.Linear(shape.dim, 2 * shape.dim),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(2 * shape.dim, shape.dim),
            nn.Dropout(shape.dropout),
        )
        self.drop = nn.Dropout(shape.dropout)

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
    """Both towers. Scores are cosines of their vectors, divided by a temperature that is learned with them."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.item_tower, self.user_tower = ItemTower(shape), UserTower(shape)
        self.log_scale = nn.Parameter(torch.tensor(-torch.log(torch.tensor(shape.temperature)).item()))


def gap_buckets(seconds: Tensor) -> Tensor:
    """The bucket of each time gap: 0 for unknown or none, then powers of two."""
    return torch.log2(seconds.clamp(min=0) + 1).floor().long().clamp(max=GAP_BUCKETS - 1)
