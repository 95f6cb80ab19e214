"""Source pre-training of video networks: batches of clips, and one step of each stage (VideoMAE's recipes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import v2

from backbones.video_mae import tube_mask
from episodes.seeds import MASK, ORDER, derive

from .classifier import VideoClassifier
from .clips import Clips

Grid = tuple[int, int, int]
Step = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]


class SourceBatches(Dataset):
    """Shuffled batches of clips; item b of an epoch holds `repeats` clips of every video of batch b.

    batch_size: videos, over all processes. repeats: clips of a video, each with frames and augmentation of its own
        (repeated augmentation, Hoffer et al. 2020).
    grid, mask_ratio: (t, h, w) tokens of a clip; with them every clip gets a tube mask (n, t * h * w).

    The order is a function of (seed, epoch), what is random in a clip and its mask of (seed, epoch, batch, place): the
    first clips of all videos, then the second ones. With several processes each takes every world_size-th place, and
    "weight" is its share times world_size, as in `episodes.loaders.BatchImages`.
    """

    def __init__(
        self,
        clips: Clips,
        batch_size: int,
        repeats: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        grid: Grid | None = None,
        mask_ratio: float = 0.9,
    ) -> None:
        self.pictures, self.batch_size, self.repeats, self.seed = clips, batch_size, repeats, seed
        self.rank, self.world_size, self.grid, self.mask_ratio = rank, world_size, grid, mask_ratio
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew for another epoch."""
        self.epoch = epoch
        generator = np.random.Generator(np.random.PCG64(derive(ORDER, self.seed, epoch)))
        self._order = generator.permutation(len(self.pictures.dataset))

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        whole = np.tile(self._order[number * self.batch_size : (number + 1) * self.batch_size], self.repeats)
        places = range(self.rank, len(whole), self.world_size)
        weight = len(places) * self.world_size / len(whole)
        places = places or range(1)  # fewer clips than processes: take part with no weight
        mine, seed = whole[places.start :: places.step], (self.seed, self.epoch, number)
        batch = {
            "images": self.pictures.load(mine, *seed, 0, places=places),
            "labels": torch.from_numpy(self.pictures.dataset.labels[mine]),
            "weight": torch.tensor(weight),
        }
        if self.grid is not None:
            batch["mask"] = draw_masks(self.grid, self.mask_ratio, [(*seed, place) for place in places])
        return batch

    def first(self, most: int) -> tuple[Tensor, np.ndarray]:
        """Return clips of the first videos that are trained on, and their labels, to be looked at."""
        mine = self._order[:most]
        return self.pictures.load(mine, self.seed, self.epoch, 0, 0), self.pictures.dataset.labels[mine]


def draw_masks(grid: Grid, ratio: float, seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Return one tube mask for each seed: (n, N) bool, True = hidden."""
    return torch.stack([tube_mask(grid, ratio, np.random.default_rng(derive(MASK, *seed))) for seed in seeds])


class OrderedClips(Dataset):
    """All clips in the order of the data set, in batches that several processes share out.

    Item i is this process's i-th batch: {"images", "labels", "items"}, with masks as in `SourceBatches`, the same at
    every look.
    """

    def __init__(
        self,
        clips: Clips,
        batch_size: int = 16,
        rank: int = 0,
        world_size: int = 1,
        grid: Grid | None = None,
        mask_ratio: float = 0.9,
    ) -> None:
        self.pictures, self.grid, self.mask_ratio = clips, grid, mask_ratio
        starts = range(0, len(clips.dataset), batch_size)
        self._parts = [np.arange(start, min(start + batch_size, len(clips.dataset))) for start in starts]
        self._parts = self._parts[rank::world_size]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        items = self._parts[number]
        batch = {
            "images": self.pictures.load(items, 0),
            "labels": torch.from_numpy(self.pictures.dataset.labels[items]),
        }
        if self.grid is not None:
            batch["mask"] = draw_masks(self.grid, self.mask_ratio, [(0, 0, 0, int(item)) for item in items])
        return {**batch, "items": torch.from_numpy(items)}


class BatchNormed(nn.Module):
    """A classifier whose features are normalised over the batch while it is trained, without learned factors.

    Averages of tokens hardly differ between clips (their deviation is a hundredth of their size after masked
    pre-training), so the steps of a short training move what all clips share and never get to the rest; linear probes
    of masked auto-encoders take the same norm (He et al. 2022, A.1). Statistics are of each process's share.
    """

    def __init__(self, classifier: VideoClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.norm = nn.BatchNorm1d(classifier.head.in_features, affine=False)

    def features(self, clips: Tensor) -> Tensor:
        """Return normalised averages (B, C); those of a single clip by the running statistics."""
        features, norm = self.classifier.features(clips).float(), self.norm
        if len(features) > 1:
            return norm(features)
        return F.batch_norm(features, norm.running_mean, norm.running_var, eps=norm.eps)

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips (B, 3, T, H, W) -> (B, num_classes)."""
        return self.classifier.head(self.features(clips))

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Return the state dict of the plain `VideoClassifier` that computes the same in eval mode."""
        state = dict(self.classifier.state_dict())
        scale = (self.norm.running_var + self.norm.eps).rsqrt()
        bias = (state["fc_norm.bias"] - self.norm.running_mean) * scale
        return {**state, "fc_norm.weight": state["fc_norm.weight"] * scale, "fc_norm.bias": bias}


def ssl_step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss of masked reconstruction; model: a `MaskedAutoencoder`, batch: with "mask"."""
    return {"loss": model(batch["images"], batch["mask"])}


def supervised_step(num_classes: int, mixup: float = 0.8, cutmix: float = 1.0, label_smoothing: float = 0.1) -> Step:
    """Return the step of the classification stage: logits against soft targets.

    mixup, cutmix: alphas; 0 leaves one out, and where both are on a step takes either with probability 0.5 (VideoMAE).
    Accuracy counts a mixed clip as right when the class that it has most of is on top.
    """
    mix = clip_mix(num_classes, mixup, cutmix)

    def step(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        clips, targets = batch["images"], batch["labels"]
        if mix is not None:
            clips, targets = mix(clips, targets)
        logits = model(clips).float()
        own = targets if mix is None else targets.argmax(1)
        return {
            "loss": F.cross_entropy(logits, targets, label_smoothing=label_smoothing),
            "accuracy": (logits.argmax(1) == own).float().mean(),
        }

    return step


def clip_mix(num_classes: int, mixup: float, cutmix: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return what mixes clips (B, 3, T, H, W) with their neighbours in the batch; None where both alphas are 0.

    The result is clips of the same shape and soft targets (B, num_classes). All frames of a clip share the weight, or
    the box. Draws come from torch's global generator, which the training loop seeds for each step.
    """
    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    if not chosen:
        return None
    pick = v2.RandomChoice(chosen)

    def mix(clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # torchvision mixes pictures: frames become channels for it
        mixed, targets = pick(clips.flatten(1, 2), labels)
        return mixed.unflatten(1, clips.shape[1:3]), targets

    return mix
