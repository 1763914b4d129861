"""The trained two-tower model: vectors of items and users, and the folder that stores the model.

    towers.json            sizes, settings, vocabulary
    items.json             the item ids of the vocabulary
    weights.safetensors
    facts.json             how the towers were trained, and their quality

The folder's name is the fingerprint: a hash of all files except facts.json.

The towers score by inner products, an index by cosines of unit vectors. So item vectors are divided by the length of
the longest one and get one more component, which makes their length one; that component is zero in users' vectors. The
order by cosine is then the order by inner product (Bachrach et al., "Speeding Up the Xbox Recommender System", RecSys
2014).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn import functional

from embed.behaviour.interactions import Interactions
from embed.catalogue import Item
from embed.durable import write_folder
from embed.errors import Damaged, Missing
from embed.towers.batches import make_histories
from embed.towers.tower_features import Content, ItemFeatures, Vocabulary
from embed.towers.tower_network import EmbeddingSizes, Towers, gap_buckets
from embed.towers.tower_settings import TowerSettings

FORMAT = 1
ITEM_BATCH = 4096  # items that go through the item tower at once
USER_BATCH = 512


@dataclass
class TrainedTowers:
    """Towers ready for use on CPU or GPU. `facts` describe their data, settings and quality."""

    towers: Towers
    vocabulary: Vocabulary
    facts: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.towers.to(self.device).eval()

    @property
    def settings(self) -> TowerSettings:
        return self.towers.settings

    @property
    def width(self) -> int:
        """The dimension of the space: one more than that of the towers."""
        return self.settings.dim + 1

    @cached_property
    def fingerprint(self) -> str:
        """Hash that identifies the space of these towers."""
        return _fingerprint(self._files())

    @torch.inference_mode()
    def item_vectors(self, features: ItemFeatures) -> NDArray[np.float32]:
        """Return unit vectors of n items, [n, width]."""
        vectors = self._raw(features) / self.towers.reach.cpu()
        length = vectors.norm(dim=-1, keepdim=True)
        vectors = vectors / length.clamp(min=1)  # a new item may exceed the longest item of the training
        rest = (1 - length.clamp(max=1).square()).clamp(min=0).sqrt()
        return torch.cat([vectors, rest], dim=-1).numpy()

    @torch.inference_mode()
    def set_reach(self, features: ItemFeatures) -> None:
        """Set `reach` to the length of the longest vector of n items."""
        self.towers.reach.fill_(self._raw(features).norm(dim=-1).max().clamp(min=1e-6))

    def _raw(self, features: ItemFeatures) -> Tensor:
        """Return the output of the item tower for n items, [n, dim]."""
        parts = [
            self.towers.item_tower(
                features.rows(np.arange(start, min(start + ITEM_BATCH, len(features))), self.device)
            ).float()
            for start in range(0, len(features), ITEM_BATCH)
        ]
        return torch.cat([*parts, torch.empty(0, self.settings.dim, device=self.device)]).cpu()

    def _user(self, items: Tensor, kinds: Tensor, gaps: Tensor) -> Tensor:
        """Apply the user tower to item vectors of this space, [b, length, width]; return unit vectors of the space."""
        after = self.towers.user_tower(items[..., :-1] * self.towers.reach, kinds, gap_buckets(gaps)).float()
        return functional.pad(functional.normalize(after, dim=-1), (0, 1)).cpu()

    def encode_items(self, items: Iterable[Item], content: Mapping[str, Content]) -> NDArray[np.float32]:
        """Return unit vectors of catalogue items, [n, width]; `content` has the vectors of each content space."""
        return self.item_vectors(self.vocabulary.features(items, content))

    @torch.inference_mode()
    def user_vector(
        self, items: NDArray[np.float32], kinds: NDArray[np.int64], times: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return a user's unit vector [width] after h >= 1 interactions, of which the last `settings.history` count.

        The interactions, the latest last, are item vectors [h, width], kinds [h] and times [h] in epoch seconds.
        """
        recent = slice(-self.settings.history, None)
        gaps = np.diff(times[recent], prepend=times[recent][:1]).astype(np.float32)
        after = self._user(
            torch.from_numpy(np.ascontiguousarray(items[recent]))[None].to(self.device),
            torch.from_numpy(kinds[recent])[None].to(self.device),
            torch.from_numpy(gaps)[None].to(self.device),
        )
        vector: NDArray[np.float32] = after[0, -1].numpy()
        return vector

    @torch.inference_mode()
    def user_vectors(self, items: NDArray[np.float32], interactions: Interactions) -> NDArray[np.float32]:
        """Return unit vectors of m users [m, width], given those of all items [n, width]; zero without a history."""
        recent = interactions.last(self.settings.history)
        lengths = np.diff(recent.starts)
        vectors = np.zeros((len(lengths), self.width), np.float32)
        item_vectors = torch.from_numpy(items).to(self.device)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        for start in range(0, len(order), USER_BATCH):
            users = order[start : start + USER_BATCH]
            batch = make_histories(recent, recent.starts[users], recent.starts[users + 1])
            after = self._user(
                item_vectors[torch.from_numpy(batch.item).to(self.device)],
                torch.from_numpy(batch.kind).to(self.device),
                torch.from_numpy(batch.gap).to(self.device),
            )
            vectors[users] = after[torch.arange(len(users)), torch.from_numpy(batch.length - 1)].numpy()
        return vectors

    def save(self, parent: Path) -> Path:
        """Write a folder under `parent`, named by the fingerprint, in one atomic step."""
        facts = orjson.dumps(self.facts, option=orjson.OPT_INDENT_2)
        return write_folder(parent, self.fingerprint, self._files() | {"facts.json": facts})

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> "TrainedTowers":
        """Read what `save` wrote; raises Missing, or Damaged if it is not what was written."""
        try:
            files = {
                name: (folder / name).read_bytes() for name in ("towers.json", "weights.safetensors", "items.json")
            }
            facts = orjson.loads((folder / "facts.json").read_bytes())
        except OSError as error:
            raise Missing(f"no towers in {folder} ({error.strerror}): train them again", folder.name) from error
        except orjson.JSONDecodeError as error:
            raise Damaged(f"{folder / 'facts.json'} is damaged: {error}", "facts.json") from error
        actual = _fingerprint(files)
        if actual != folder.name:
            raise Damaged(f"the towers in {folder} are damaged (fingerprint {actual}): train them again", folder.name)
        try:
            metadata = orjson.loads(files["towers.json"])
            if metadata["format"] != FORMAT:
                raise Damaged(
                    f"the towers in {folder} have format {metadata['format']}, this version reads {FORMAT}: retrain",
                    folder.name,
                )
            vocabulary = Vocabulary(
                orjson.loads(files["items.json"]),
                metadata["tags"],
                {name: (dim, fingerprint) for name, (dim, fingerprint) in metadata["spaces"].items()},
                metadata["price_mean"],
                metadata["price_spread"],
            )
            towers = Towers(EmbeddingSizes(**metadata["sizes"]), TowerSettings(**metadata["settings"]))
            towers.load_state_dict(load_tensors(files["weights.safetensors"]))
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise Damaged(f"the towers in {folder} cannot be used ({error}): train them again", folder.name) from error
        return cls(towers, vocabulary, facts, device)

    def _files(self) -> dict[str, bytes]:
        metadata = {
            "format": FORMAT,
            "sizes": asdict(self.towers.sizes),
            "settings": self.settings.model_dump(),
            "tags": list(self.vocabulary.tags),
            "spaces": {name: list(space) for name, space in self.vocabulary.spaces.items()},
            "price_mean": self.vocabulary.price_mean,
            "price_spread": self.vocabulary.price_spread,
        }
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.towers.state_dict().items()}
        return {
            "towers.json": orjson.dumps(metadata),
            "weights.safetensors": save_tensors(weights),
            "items.json": orjson.dumps(list(self.vocabulary.item_ids)),
        }


def _fingerprint(files: Mapping[str, bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(files):
        digest.update(hashlib.blake2b(files[name]).digest())
    return digest.hexdigest()
