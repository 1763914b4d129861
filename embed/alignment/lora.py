"""LoRA fine-tuning of both CLIP towers on the shop's own pairs of image and text, with PEFT.

The adapters are merged into the weights. The result is a folder with all that the encoder needs, which has its own
fingerprint. It is written only if it finds held-out products significantly better.

All linear layers are adapted, and the fused query, key and value weights of attention, which are a bare parameter in
open_clip. The output weights of torch's MultiheadAttention are not, because PEFT 0.21 adds an adapter to them twice.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

import hashlib
import math
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embed.alignment.adapter_training import compare_ranks, split_products
from embed.alignment.alignment import AdapterEvaluation
from embed.alignment.pairs import MAX_PAIRS, MAX_SHARING
from embed.alignment.text_adapter import MAX_INVERSE_TEMPERATURE, image_ranks
from embed.catalogue import Catalogue
from embed.durable import move_into_place, sync
from embed.encoders import Device, Vectors
from embed.encoders.clip import ClipEncoder
from embed.encoders.clip_model import load_clip, save_clip
from embed.encoders.clip_source import ClipSource, find_clip
from embed.encoders.encoder import Prepared, make_fingerprint
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.errors import BadInput
from embed.images import ImageRefused, ImageSource, decode_pixels
from embed.progress import Progress
from embed.text_composition import search_texts
from embed.training_loop import fit

MAX_CROP = 0.2  # share of a side that augmentation may cut off
CHECKED_PAIRS = 64  # pairs whose vectors are compared after loading
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class LoraReport:
    """Result of fine-tuning: pairs used, items whose main image was `refused`, epochs, evaluation, and weights folder.

    `of_words` is None if there were too few products, `weights` if fine-tuning did not help.
    """

    pairs: int
    refused: int
    epochs: int = 0
    of_words: AdapterEvaluation | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class _Settings:
    seed: int
    rank: int
    batch: int
    learning_rate: float


@dataclass(frozen=True)
class _Pairs:
    """n items: the product [n] of each, and indices of its image [n] and its v texts [v, n].

    `images` (uint8 [side, side, 3]) and `texts` are distinct.
    """

    images: list[Prepared]
    texts: list[str]
    product: Indices
    image: Indices
    text: Indices

    def fingerprint(self) -> str:
        digest = hashlib.blake2b("\n".join(self.texts).encode(), digest_size=16)
        for array in (*self.images, self.product, self.image, self.text):
            digest.update(array.tobytes())
        return digest.hexdigest()


def learn_lora(
    name: str,
    options: EncoderOptions,
    catalogue: Catalogue,
    source: ImageSource,
    products: Indices,
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
    """Fine-tune a CLIP encoder on a catalogue.

    Weights that help are written to the folder `folder/FINGERPRINT`, to be loaded as open_clip:local-dir:FOLDER. A call
    with the same arguments resumes after the last complete epoch; `folder/training` holds checkpoints.

    Args:
        name: The encoder, `open_clip:...`.
        options: Its options.
        catalogue: The items.
        source: Reads their images.
        products: Product of each item [items].
        folder: Where weights and checkpoints are written.
        device: The device to train on.
        progress: Called with steps done and steps in total.
        seed: Seed of all random choices.
        rank: Rank of the adapters.
        epochs: Maximum number of epochs.
        patience: Epochs without improvement after which training stops.
        batch: Pairs of a batch.
        learning_rate: Learning rate of AdamW.

    Returns:
        What was done, and where the weights are.

    Raises:
        BadInput: The encoder cannot be fine-tuned, PEFT is not installed, or a setting is invalid.
        Missing, Damaged: The encoder cannot be loaded.
    """
    _check(name, learning_rate, rank=rank, epochs=epochs, patience=patience, batch=batch)
    clip_source = find_clip(spec := name.removeprefix("open_clip:"), options)
    encoder = ClipEncoder(spec, device, options)
    pairs, refused = _collect(catalogue, source, products, encoder, seed, device.threads)
    parts = split_products(pairs.product)
    if parts is None:
        return LoraReport(len(pairs.product), refused)
    training, validation, test = (np.flatnonzero(np.isin(pairs.product, part)) for part in parts)
    settings = _Settings(seed, rank, batch, learning_rate)
    identity = make_fingerprint(encoder=encoder.fingerprint, pairs=pairs.fingerprint(), settings=str(settings))
    for other in (folder / "training").glob("*"):
        if other.name != identity:
            shutil.rmtree(other)
    learner = _LoraLearner(clip_source, pairs, training, validation, device, identity, settings)
    all_pairs = np.arange(len(pairs.product))
    before = learner.image_ranks(test, all_pairs)  # adapters start as the identity
    work = folder / "training" / identity
    state = fit(learner, work, epochs, patience, learner.measure, "mrr", progress)
    learner.merge()
    evaluation = compare_ranks(before, learner.image_ranks(test, all_pairs), 10)
    if not evaluation.better:
        return LoraReport(len(pairs.product), refused, state.best_epoch, evaluation)
    shutil.rmtree(fresh := work / "merged", ignore_errors=True)  # of a call that was killed
    learner.save(fresh)
    loaded = ClipEncoder(f"local-dir:{fresh}", device, NO_OPTIONS)
    learner.check_equal(loaded, test[:CHECKED_PAIRS])
    weights = folder.resolve() / loaded.fingerprint
    if not weights.exists():
        for path in fresh.iterdir():
            sync(path)
        move_into_place(fresh, weights)
    return LoraReport(len(pairs.product), refused, state.best_epoch, evaluation, weights)


class _LoraLearner:
    """CLIP with adapters, and the pairs for training and validation; a Learner of embed.training_loop."""

    def __init__(
        self,
        source: ClipSource,
        pairs: _Pairs,
        training: Indices,
        validation: Indices,
        device: Device,
        identity: str,
        settings: _Settings,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        self.device, self._half = device.kind, device.half
        self._pairs, self._training, self._validation, self._identity = pairs, training, validation, identity
        self._seed, self._batch = settings.seed, settings.batch
        self._source, self._loaded = source, load_clip(source)
        # Stays in evaluation mode: no dropout, and no batch statistics, which few pairs would distort.
        self._clip = self._loaded.module.to(device.kind)
        self._tokens = torch.from_numpy(self._loaded.tokenize(pairs.texts))  # [texts, context_length]
        torch.manual_seed(settings.seed)
        linear = (name for name, module in self._clip.named_modules() if type(module) is torch.nn.Linear)
        layers = "|".join(map(re.escape, linear))  # a pattern, because names in a list also match as suffixes
        fused = [name for name, _ in self._clip.named_parameters() if name.endswith(".in_proj_weight")]
        rank = settings.rank
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, target_parameters=fused)
        self._peft = get_peft_model(self._clip, config)
        adapters = [parameter for parameter in self._clip.parameters() if parameter.requires_grad]
        scale = self._clip.logit_scale.requires_grad_()
        self.module = torch.nn.ParameterList([*adapters, scale])  # what is trained, and what a checkpoint contains
        self.optimizer = torch.optim.AdamW(
            [{"params": adapters, "weight_decay": 0.01}, {"params": [scale], "weight_decay": 0.0}],
            lr=settings.learning_rate,
        )

    def identity(self) -> Mapping[str, Any]:
        """Return what a checkpoint belongs to."""
        return {"of": self._identity}

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Train on each pair once, each batch with another text of the items; return the mean loss."""
        random = np.random.default_rng([self._seed, epoch])
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        steps = -(-len(self._training) // self._batch)
        total = 0.0
        for step, rows in enumerate(np.array_split(random.permutation(self._training), steps)):
            loss = self._loss(rows, (epoch * steps + step) % len(self._pairs.text), generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            with torch.no_grad():
                self._clip.logit_scale.clamp_(max=math.log(MAX_INVERSE_TEMPERATURE))
            total += loss.item()
            if progress:
                progress(step + 1, steps)
        return total / steps

    def _loss(self, rows: Indices, view: int, generator: torch.Generator) -> Tensor:
        """Return the symmetric InfoNCE loss; an item with the same image or text does not count as a negative."""
        image, text = self._pairs.image[rows], self._pairs.text[view, rows]
        scores = (
            self._encode_images(image, generator) @ self._encode_texts(text).T * self._clip.logit_scale.exp()
        )  # [n, n]
        same = torch.from_numpy((image[:, None] == image) | (text[:, None] == text)).to(self.device)
        scores = scores.masked_fill(same.fill_diagonal_(False), -torch.inf)
        right = torch.arange(len(rows), device=self.device)
        return (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)) / 2

    def _encode_images(self, indices: Indices, generator: torch.Generator | None = None) -> Tensor:
        """Encode images as unit vectors [n, d], augmented if a generator is given."""
        pixels = torch.from_numpy(np.stack([self._pairs.images[index] for index in indices])).to(self.device)
        pixels = self._loaded.normalized(pixels)  # [n, 3, height, width]
        pixels = pixels if generator is None else _augmented(pixels, generator)
        with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            return functional.normalize(self._clip.encode_image(pixels).float(), dim=1)

    def _encode_texts(self, indices: Indices) -> Tensor:
        """Encode texts as unit vectors [n, d]."""
        tokens = self._tokens[torch.from_numpy(indices)].to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self._half):
            return functional.normalize(self._clip.encode_text(tokens).float(), dim=1)

    @torch.no_grad()
    def _vectors(self, encode: Callable[[Indices], Tensor], indices: Indices) -> Vectors:
        """Encode many images or texts in batches, as vectors [n, d]."""
        batches = np.array_split(indices, -(-len(indices) // self._batch))
        return np.concatenate([encode(batch).cpu().numpy() for batch in batches])

    def image_ranks(self, queries: Indices, candidates: Indices) -> Indices:
        """Return the rank, from 1, of the own image for the texts of n pairs, among the images of m candidates."""
        images = self._vectors(self._encode_images, self._pairs.image[candidates])
        texts = self._vectors(self._encode_texts, self._pairs.text[0, queries])
        return image_ranks(texts, images[np.searchsorted(candidates, queries)], images)

    def measure(self) -> dict[str, float]:
        """Return the mean reciprocal rank of the validation pairs, among the images of training and validation."""
        return {
            "mrr": float((1 / self.image_ranks(self._validation, np.union1d(self._training, self._validation))).mean())
        }

    def merge(self) -> None:
        """Merge the adapters into the weights, which ends training."""
        self._clip = self._peft.merge_and_unload()

    def save(self, folder: Path) -> None:
        """Write the model with all that its encoder needs."""
        save_clip(replace(self._loaded, module=self._clip), self._source, folder)

    def check_equal(self, loaded: ClipEncoder, rows: Indices) -> None:
        """Raise RuntimeError if a loaded encoder gives other vectors for the images or texts of pairs."""
        image, text = self._pairs.image[rows], self._pairs.text[0, rows]
        images = loaded.encode_images([self._pairs.images[index] for index in image])
        texts = loaded.encode_texts([self._pairs.texts[index] for index in text]).vectors
        own = self._vectors(self._encode_images, image), self._vectors(self._encode_texts, text)
        cosine = min((own[0] * images).sum(1).min(), (own[1] * texts).sum(1).min())
        # On CPU the encoder may run in bf16, and this model does not.
        if not cosine > (0.9999 if self._half else 0.999):
            raise RuntimeError(f"{loaded.name} differs from the model that was saved (cosine {cosine:.5f})")


def _augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Crop each of n images [n, 3, height, width] at random, scale it back, and mirror half of them."""
    n = len(pixels)
    scale = 1 - MAX_CROP * torch.rand(n, generator=generator)
    sides = torch.where(torch.rand(n, generator=generator) < 0.5, -scale, scale)
    transforms = torch.zeros(n, 2, 3)  # from positions in the output to positions in the image, both from -1 to 1
    transforms[:, 0, 0], transforms[:, 1, 1] = sides, scale
    transforms[:, :, 2] = (1 - scale)[:, None] * (2 * torch.rand(n, 2, generator=generator) - 1)
    grid = functional.affine_grid(transforms.to(pixels.device), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _collect(
    catalogue: Catalogue, source: ImageSource, products: Indices, encoder: ClipEncoder, seed: int, threads: int
) -> tuple[_Pairs, int]:
    """Collect at most 10,000 items with text and image, chosen at random, and count the images that cannot be read.

    An image that over 50 items share is not used.
    """
    entries = [
        (product, item.images[0], views)
        for product, item in zip(products.tolist(), catalogue.items(), strict=True)
        if item.images and (views := search_texts(item))
    ]
    random = np.random.default_rng(seed)
    entries = [entries[row] for row in np.sort(random.permutation(len(entries))[:MAX_PAIRS])]

    def read(reference: str) -> tuple[bytes, Prepared] | None:
        try:
            key, data = source.load(reference, lambda _: False)
            return key, encoder.prepare(decode_pixels(data or b"", source.limits, shrink_to=encoder.shrink_to))
        except ImageRefused:
            return None

    images: dict[bytes, int] = {}
    texts: dict[str, int] = {}
    pixels: list[Prepared] = []
    rows: list[list[int]] = []  # product, image, texts
    with ThreadPoolExecutor(threads, thread_name_prefix="image-reader") as pool:
        results = pool.map(read, [reference for _, reference, _ in entries])
        for (product, _, views), result in zip(entries, results, strict=True):
            if result is None:
                continue
            key, prepared = result
            if key not in images:
                pixels.append(prepared)
            image = images.setdefault(key, len(images))
            rows.append([product, image, *(texts.setdefault(view, len(texts)) for view in views)])
    table = np.array(rows or np.empty((0, 5)), np.int64)
    shared = np.bincount(table[:, 1])[table[:, 1]] > MAX_SHARING
    product, image, *text = np.ascontiguousarray(table[~shared].T)
    return _Pairs(pixels, list(texts), product, image, np.stack(text)), len(entries) - len(rows)


def _check(name: str, learning_rate: float, **counts: int) -> None:
    """Raise BadInput for an encoder that cannot be fine-tuned, and for invalid settings."""
    if not name.startswith("open_clip:"):
        raise BadInput(f"encoder {name!r} cannot be fine-tuned: use open_clip:MODEL/WEIGHTS", "encoder")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise BadInput(
            "LoRA is not available: PEFT is not installed; run pip install 'vetrina[lora]'", "lora"
        ) from None
    for field, value in counts.items():
        if value < (minimum := 2 if field == "batch" else 1):
            raise BadInput(f"{field} {value} is too small: give at least {minimum}", field)
    if not 0 < learning_rate < 1:
        raise BadInput(f"learning_rate {learning_rate} is invalid: give a value between 0 and 1", "learning_rate")
