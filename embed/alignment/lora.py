"""LoRA fine-tuning of both CLIP towers on a shop's own pairs of image and words, through PEFT.

What is learned is merged into the weights: the outcome is a weights file like any other, of an encoder with its own
fingerprint. It is written only where products that it did not learn from are surely found better with it.

All linear layers are adapted, and the fused query, key and value weights of attention, which are a bare parameter in
open_clip. The output weights of torch's MultiheadAttention are not: PEFT 0.21 adds an adapter to them twice.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

import hashlib
import math
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from embed.alignment.alignment import Measured
from embed.alignment.learning import measured, split_products
from embed.alignment.pairs import MAX_PAIRS, SHARED_BY
from embed.alignment.words import COLDEST, ranks
from embed.catalogue import Catalogue
from embed.compose import search_texts
from embed.durable import sync
from embed.encoders import Device, Vectors
from embed.encoders.clip import ClipEncoder
from embed.encoders.encoder import Prepared, make_fingerprint
from embed.errors import BadInput
from embed.images import ImageRefused, ImageSource, decode_image
from embed.training_loop import Progress, fit

CROP = 0.2  # of a side, at most, that augmentation cuts off
CHECKED = 64  # pairs whose vectors are compared after loading
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LoraReport:
    """What was learned from, for how long, how it measured, and the file of weights where it helps.

    Without `of_words` there were too few products; `refused` more items have a main image that cannot be read.
    """

    pairs: int
    refused: int
    epochs: int = 0
    of_words: Measured | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class _Settings:
    seed: int
    rank: int
    batch: int
    learning_rate: float


@dataclass(frozen=True)
class _Pairs:
    """n items: the product [n] of each, and which of the distinct images (uint8 [side, side, 3]) and texts are theirs,
    `image` [n] and `text` [v, n] in v ways to put the words."""

    images: list[Prepared]
    texts: list[str]
    product: Rows
    image: Rows
    text: Rows

    def fingerprint(self) -> str:
        digest = hashlib.blake2b("\n".join(self.texts).encode(), digest_size=16)
        for array in (*self.images, self.product, self.image, self.text):
            digest.update(array.tobytes())
        return digest.hexdigest()


def learn_lora(
    name: str,
    catalogue: Catalogue,
    source: ImageSource,
    products: Rows,
    folder: Path,
    device: Device,
    progress: Progress | None = None,
    *,
    seed: int = 0,
    rank: int = 8,
    epochs: int = 30,
    patience: int = 5,
    batch: int = 64,
    learning_rate: float = 2e-4,
) -> LoraReport:
    """Fine-tune `open_clip:MODEL/WEIGHTS` on a catalogue whose items are of the `products` [items].

    Weights that help are written to `folder/FINGERPRINT.safetensors`, to be loaded as open_clip:MODEL/FILE. When it is
    called again alike, training goes on after its last whole epoch; `folder/training` is its own. Raises BadInput, and
    what loading the encoder raises.
    """
    _check(name, learning_rate, rank=rank, epochs=epochs, patience=patience, batch=batch)
    encoder = ClipEncoder(spec := name.removeprefix("open_clip:"), device)
    pairs, refused = _collect(catalogue, source, products, encoder, seed, device.threads)
    parts = split_products(pairs.product)
    if parts is None:
        return LoraReport(len(pairs.product), refused)
    learn, choose, test = (np.flatnonzero(np.isin(pairs.product, part)) for part in parts)
    settings = _Settings(seed, rank, batch, learning_rate)
    of = make_fingerprint(encoder=encoder.fingerprint, pairs=pairs.fingerprint(), settings=str(settings))
    for other in (folder / "training").glob("*"):
        if other.name != of:
            shutil.rmtree(other)
    learner = _Learner(spec, pairs, learn, choose, device, of, settings)
    everything = np.arange(len(pairs.product))
    before = learner.ranks(test, everything)  # adapters begin as no change at all
    work = folder / "training" / of
    state = fit(learner, work, epochs, patience, learner.measure, "mrr", progress)
    learner.merge()
    told = measured(before, learner.ranks(test, everything), 10)
    if not told.better:
        return LoraReport(len(pairs.product), refused, state.best_epoch, told)
    learner.save(fresh := work / "merged.safetensors")
    loaded = ClipEncoder(f"{spec.partition('/')[0]}/{fresh}", device)
    learner.check_equal(loaded, test[:CHECKED])
    weights = folder / f"{loaded.fingerprint}.safetensors"
    fresh.replace(weights)
    sync(folder)
    return LoraReport(len(pairs.product), refused, state.best_epoch, told, weights)


class _Learner:
    """CLIP with adapters, and the pairs to learn from and to choose the epoch by; a Learner of embed.training_loop."""

    def __init__(
        self, spec: str, pairs: _Pairs, learn: Rows, choose: Rows, device: Device, of: str, settings: _Settings
    ) -> None:
        import open_clip
        from peft import LoraConfig, get_peft_model

        self.device, self._half = device.kind, device.half
        self._pairs, self._learn, self._choose, self._of = pairs, learn, choose, of
        self._seed, self._batch = settings.seed, settings.batch
        model, _, weights = spec.partition("/")
        self._clip, _, preprocess = open_clip.create_model_and_transforms(
            model, pretrained=weights, device=device.kind, weights_only=True
        )
        self._clip.eval()  # for good: no dropout, and no statistics of batches, which few pairs would spoil
        self._normalize = preprocess.transforms[-1]
        self._tokens = open_clip.get_tokenizer(model)(pairs.texts)  # [texts, context_length]
        torch.manual_seed(settings.seed)
        linear = (name for name, module in self._clip.named_modules() if type(module) is torch.nn.Linear)
        layers = "|".join(map(re.escape, linear))  # a pattern, as names in a list match endings of names too
        fused = [name for name, _ in self._clip.named_parameters() if name.endswith(".in_proj_weight")]
        rank = settings.rank
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, target_parameters=fused)
        self._peft = get_peft_model(self._clip, config)
        adapters = [parameter for parameter in self._clip.parameters() if parameter.requires_grad]
        scale = self._clip.logit_scale.requires_grad_()
        self.module = torch.nn.ParameterList([*adapters, scale])  # what is learned, and all that a checkpoint keeps
        self.optimizer = torch.optim.AdamW(
            [{"params": adapters, "weight_decay": 0.01}, {"params": [scale], "weight_decay": 0.0}],
            lr=settings.learning_rate,
        )

    def identity(self) -> Mapping[str, Any]:
        """What a checkpoint belongs to."""
        return {"of": self._of}

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Each pair once, each batch by another way to put the words; the mean loss."""
        random = np.random.default_rng([self._seed, epoch])
        chance = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        steps = -(-len(self._learn) // self._batch)
        total = 0.0
        for step, rows in enumerate(np.array_split(random.permutation(self._learn), steps)):
            loss = self._loss(rows, (epoch * steps + step) % len(self._pairs.text), chance)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            with torch.no_grad():
                self._clip.logit_scale.clamp_(max=math.log(COLDEST))
            total += loss.item()
            if progress:
                progress(step + 1, steps)
        return total / steps

    def _loss(self, rows: Rows, view: int, chance: torch.Generator) -> Tensor:
        """Symmetric InfoNCE, where an item with the same image or the same words is no negative."""
        image, text = self._pairs.image[rows], self._pairs.text[view, rows]
        scores = self._of_images(image, chance) @ self._of_texts(text).T * self._clip.logit_scale.exp()  # [n, n]
        same = torch.from_numpy((image[:, None] == image) | (text[:, None] == text)).to(self.device)
        scores = scores.masked_fill(same.fill_diagonal_(False), -torch.inf)
        right = torch.arange(len(rows), device=self.device)
        return (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)) / 2

    def _of_images(self, numbers: Rows, chance: torch.Generator | None = None) -> Tensor:
        """Unit vectors [n, d] of images, augmented where chance is given."""
        pixels = torch.from_numpy(np.stack([self._pairs.images[number] for number in numbers])).to(self.device)
        pixels = pixels.permute(0, 3, 1, 2).float() / 255  # [n, 3, height, width]
        pixels = self._normalize(pixels if chance is None else _augmented(pixels, chance))
        with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            return functional.normalize(self._clip.encode_image(pixels).float(), dim=1)

    def _of_texts(self, numbers: Rows) -> Tensor:
        """Unit vectors [n, d] of texts."""
        tokens = self._tokens[torch.from_numpy(numbers)].to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            return functional.normalize(self._clip.encode_text(tokens).float(), dim=1)

    @torch.no_grad()
    def _vectors(self, encode: Callable[[Rows], Tensor], numbers: Rows) -> Vectors:
        """Vectors [n, d] of many images or texts."""
        batches = np.array_split(numbers, -(-len(numbers) // self._batch))
        return np.concatenate([encode(batch).cpu().numpy() for batch in batches])

    def ranks(self, asked: Rows, everything: Rows) -> Rows:
        """At which place, from 1, the words of n pairs find their images among those of the m pairs `everything`."""
        images = self._vectors(self._of_images, self._pairs.image[everything])
        texts = self._vectors(self._of_texts, self._pairs.text[0, asked])
        return ranks(texts, images[np.searchsorted(everything, asked)], images)

    def measure(self) -> dict[str, float]:
        """The mean reciprocal rank of the pairs to choose by, among all images but those to be measured with."""
        return {"mrr": float((1 / self.ranks(self._choose, np.union1d(self._learn, self._choose))).mean())}

    def merge(self) -> None:
        """Make the adapters part of the weights; nothing more can be learned then."""
        self._clip = self._peft.merge_and_unload()

    def save(self, path: Path) -> None:
        """Write all weights."""
        tensors = self._clip.state_dict().items()
        # Cloned, as safetensors refuses tensors that share memory.
        save_file({name: tensor.cpu().clone().contiguous() for name, tensor in tensors}, path)
        sync(path)

    def check_equal(self, loaded: ClipEncoder, rows: Rows) -> None:
        """Raise RuntimeError where an encoder gives other vectors for images or words of pairs."""
        image, text = self._pairs.image[rows], self._pairs.text[0, rows]
        images = loaded.encode_images([self._pairs.images[number] for number in image])
        texts = loaded.encode_texts([self._pairs.texts[number] for number in text]).vectors
        own = self._vectors(self._of_images, image), self._vectors(self._of_texts, text)
        cosine = min((own[0] * images).sum(1).min(), (own[1] * texts).sum(1).min())
        # On CPU an encoder may run in bf16, which these were not computed in.
        if not cosine > (0.9999 if self._half else 0.999):
            raise RuntimeError(f"{loaded.name} gives other vectors than the model that was saved (cosine {cosine:.5f})")


def _augmented(pixels: Tensor, chance: torch.Generator) -> Tensor:
    """Images [n, 3, height, width], each cropped at random and scaled back, one in two mirrored."""
    n = len(pixels)
    kept = 1 - CROP * torch.rand(n, generator=chance)
    sides = torch.where(torch.rand(n, generator=chance) < 0.5, -kept, kept)
    places = torch.zeros(n, 2, 3)  # from where in the outcome to where in the image, both from -1 to 1
    places[:, 0, 0], places[:, 1, 1] = sides, kept
    places[:, :, 2] = (1 - kept)[:, None] * (2 * torch.rand(n, 2, generator=chance) - 1)
    grid = functional.affine_grid(places.to(pixels.device), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _collect(
    catalogue: Catalogue, source: ImageSource, products: Rows, encoder: ClipEncoder, seed: int, threads: int
) -> tuple[_Pairs, int]:
    """At most 10,000 items with words and image, chosen at random, and how many images could not be read.

    An image that over 50 items share is nobody's.
    """
    items = (item for batch in catalogue.batches() for item in batch)
    told = [
        (product, item.images[0], views)
        for product, item in zip(products.tolist(), items, strict=True)
        if item.images and (views := search_texts(item))
    ]
    random = np.random.default_rng(seed)
    told = [told[row] for row in np.sort(random.permutation(len(told))[:MAX_PAIRS])]

    def read(reference: str) -> tuple[bytes, Prepared] | None:
        try:
            key, data = source.load(reference, lambda _: False)
            return key, encoder.prepare(decode_image(data or b"", source.limits, shrink_to=encoder.shrink_to))
        except ImageRefused:
            return None

    images: dict[bytes, int] = {}
    texts: dict[str, int] = {}
    pixels: list[Prepared] = []
    rows: list[list[int]] = []  # product, image, texts
    with ThreadPoolExecutor(threads, thread_name_prefix="image-reader") as pool:
        found = pool.map(read, [reference for _, reference, _ in told])
        for (product, _, views), seen in zip(told, found, strict=True):
            if seen is None:
                continue
            if seen[0] not in images:
                pixels.append(seen[1])
            image = images.setdefault(seen[0], len(images))
            rows.append([product, image, *(texts.setdefault(view, len(texts)) for view in views)])
    table = np.array(rows or np.empty((0, 5)), np.int64)
    shared = np.bincount(table[:, 1])[table[:, 1]] > SHARED_BY
    product, image, *text = np.ascontiguousarray(table[~shared].T)
    return _Pairs(pixels, list(texts), product, image, np.stack(text)), len(told) - len(rows)


def _check(name: str, learning_rate: float, **numbers: int) -> None:
    """Raise BadInput for what cannot be fine-tuned, or not so."""
    import open_clip
    from open_clip.transform import PreprocessCfg

    if not name.startswith("open_clip:"):
        raise BadInput(f"encoder {name!r} cannot be fine-tuned: use one of open_clip:MODEL/WEIGHTS", "encoder")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise BadInput("LoRA needs PEFT: pip install 'vetrina[lora]'", "lora") from None
    default = asdict(PreprocessCfg())
    model, _, weights = name.removeprefix("open_clip:").partition("/")
    own = open_clip.get_pretrained_cfg(model, weights)  # empty for a file
    # A file of weights says nothing of how to prepare images: with one, open_clip takes its defaults.
    if other := {field: own[field] for field in default if field in own and own[field] != default[field]}:
        raise BadInput(
            f"{name} prepares images in its own way ({other}), which the file of new weights could not tell: use "
            f"weights without, such as open_clip:ViT-B-32/laion2b_s34b_b79k",
            "encoder",
        )
    for field, value in numbers.items():
        if value < (least := 2 if field == "batch" else 1):
            raise BadInput(f"{field} {value} is too small: give at least {least}", field)
    if not 0 < learning_rate < 1:
        raise BadInput(f"learning_rate {learning_rate} cannot be used: give one between 0 and 1", "learning_rate")
