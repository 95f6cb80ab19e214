"""A few-shot classifier to work with: fit it to a few labelled pictures, ask it about others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones import UserError
from episodes.dataset import ArraySet, FileSet, ImageSet
from episodes.loaders import Pictures, numbered_loader
from episodes.progress import Progress
from episodes.sources.folder import folder_set, read_file
from episodes.sources.loose import UNLABELLED, find_pictures
from episodes.transforms import MEAN, STD
from fewshot.card import Loaded, load_encoder
from fewshot.fitted import fit_head
from fewshot.maml import as_they_are, with_encoder
from fewshot.methods import create_head, find_method

# What pictures can be given as: a data set, a folder, or a sequence of files, PIL images or one uint8 tensor.
Images = ImageSet | str | Path | Sequence[Any] | Tensor


def as_dataset(images: Images, labels: np.ndarray | None = None, class_names: Sequence[str] = (UNLABELLED,)) -> Any:
    """Give pictures as a data set.

    images: a data set (returned as it is), a folder of pictures in depth, one file, a sequence of files and PIL
        images, or a uint8 tensor (N, 3, H, W).
    labels: (N,), default all 0.
    Raises UserError for anything else, and for no picture at all.
    """
    if isinstance(images, str | Path):
        images = find_pictures([images])
    elif hasattr(images, "labels"):
        return images
    count = len(images)
    if not count:
        raise UserError("there are no pictures: give one at least")
    labels = np.zeros(count, dtype=np.int64) if labels is None else labels
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise UserError(
                f"a tensor of pictures must be uint8 (N, 3, H, W), not {images.dtype} {tuple(images.shape)}: "
                "give pixels as they are, before any normalisation"
            )
        return ArraySet(images, labels, class_names)
    odd = next((one for one in images if not isinstance(one, str | Path | Image.Image)), None)
    if odd is not None:
        raise UserError(f"a picture must be a file or a PIL image, not {type(odd).__name__}")
    return FileSet([str(one) if isinstance(one, Path) else one for one in images], labels, class_names, _open)


def _open(image: Any) -> Image.Image:
    return read_file(image) if isinstance(image, str) else image


class _Batches(Dataset):
    """Batches of pictures in order: (first position, images (B, 3, S, S))."""

    def __init__(self, pictures: Pictures, batch_size: int):
        self.pictures, self.batch_size = pictures, batch_size

    def __len__(self) -> int:
        return -(-len(self.pictures.dataset) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[int, Tensor]:
        first = number * self.batch_size
        last = min(first + self.batch_size, len(self.pictures.dataset))
        return first, self.pictures.load(np.arange(first, last))


class FewShotClassifier:
    """Tell classes apart that are known by a few pictures each.

    encoder: images (B, 3, size, size) -> features (B, ...), frozen and in eval mode: an `Encoder`, or any callable.
    head: the episode head, or a function of the number of shots that builds it (several heads depend on it). The shots
        of uneven classes are their mean, rounded down.
    size, mean, std: of the pictures that the encoder wants; they are prepared as in the evaluation.
    device: where both compute. batch_size: pictures at a time. workers: processes that read pictures ahead.
    prepare: data set -> its items as the encoder wants them (an object with `load`), where they are no pictures.

    Probabilities are the softmax of the head's logits: for logistic regression the fitted model's own, for prototype
    heads those of the published training loss. They rank and compare, but nobody has calibrated them for new classes.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        head: nn.Module | Callable[[int], nn.Module],
        size: int,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        workers: int = 0,
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        self.encoder, self.head = encoder, head
        self.prepare = prepare or (lambda dataset: Pictures(dataset, size, mean, std))
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)
        self.device, self.batch_size, self.workers = torch.device(device), batch_size, workers
        self.class_names: list[str] = []
        self.scorer: nn.Module | None = None

    def fit(self, images: Images, classes: Sequence[str] | None = None, show: bool = False) -> FewShotClassifier:
        """Learn the classes from their support pictures; returns the classifier.

        images: a folder with a sub-folder for each class, or a labelled data set; with `classes`, the name of each
            picture's class, what `as_dataset` takes.
        Raises UserError for fewer than two classes, and where names and pictures differ in number.
        """
        if classes is not None:
            names, labels = np.unique([str(name) for name in classes], return_inverse=True)
            found = as_dataset(images)
            if len(found) != len(labels):
                raise UserError(f"{len(found)} support pictures and {len(labels)} class names: give one for each")
            dataset = found.take(np.arange(len(found)), labels.astype(np.int64), names.tolist())
        elif isinstance(images, str | Path):
            dataset = folder_set(Path(images))
        elif hasattr(images, "labels"):
            dataset = images
        else:
            raise UserError("the classes of the support pictures are unknown: give classes, a name for each")
        if len(dataset.class_names) < 2:
            raise UserError(
                f"the support has one class ('{dataset.class_names[0]}'): give two at least, there is nothing to choose"
            )
        features = self.features(dataset, "supports", show)
        labels = torch.from_numpy(np.array(dataset.labels)).to(self.device)
        shots = max(1, len(labels) // len(dataset.class_names))
        head = self.head if isinstance(self.head, nn.Module) else self.head(shots)
        try:
            self.scorer = fit_head(head.to(self.device).eval(), features, labels, len(dataset.class_names))
        except ValueError as error:
            raise UserError(str(error)) from error
        self.class_names = list(dataset.class_names)
        return self

    @property
    def transductive(self) -> bool:
        """Whether the answer for a picture depends on the others that are asked about in the same call."""
        return bool(getattr(self._fitted(), "transductive", False))

    def _fitted(self) -> nn.Module:
        if self.scorer is None:
            raise UserError("the classifier knows no classes yet: call fit with support pictures first")
        return self.scorer

    @torch.no_grad()
    def logits(self, images: Images, show: bool = False) -> Tensor:
        """Return the head's logits of pictures, (N, K) on the CPU, columns as `class_names`.

        Features are not kept, unless the head is transductive and wants all pictures at once.
        """
        scorer = self._fitted()
        if self.transductive:
            return scorer(self.features(images, "pictures", show)).cpu()
        return torch.cat([scorer(part).cpu() for part in self._parts(as_dataset(images), "pictures", show)])

    def predict_proba(self, images: Images, show: bool = False) -> np.ndarray:
        """Return the class probabilities of pictures (N, K), columns as `class_names`; see the class on them."""
        return self.logits(images, show).double().softmax(-1).numpy()

    def predict(self, images: Images, show: bool = False) -> list[str]:
        """Return the class name of every picture."""
        return [self.class_names[k] for k in self.logits(images, show).argmax(-1).tolist()]

    def features(self, images: Images, label: str = "pictures", show: bool = False) -> Tensor:
        """Return the features (N, ...) of pictures on the device, in float32 or better."""
        return torch.cat(list(self._parts(as_dataset(images), label, show)))

    @torch.no_grad()
    def _parts(self, dataset: Any, label: str, show: bool) -> Iterator[Tensor]:
        """Yield the features of a data set batch by batch; raises UserError where they are not finite."""
        pictures = self.prepare(dataset)
        with Progress(len(dataset), label, on=show) as bar:
            for first, images in numbered_loader(_Batches(pictures, self.batch_size), self.workers):
                features = self.encoder(images.to(self.device))
                features = features.to(torch.promote_types(features.dtype, torch.float32))
                finite = torch.isfinite(features.flatten(1)).all(1)
                if not bool(finite.all()):
                    where = first + int((~finite).nonzero()[0])
                    raise UserError(
                        f"the features of picture {where} are not finite: the checkpoint's weights are broken"
                    )
                bar.advance(len(images))
                yield features


def load_classifier(
    checkpoint: str | Path,
    method: str | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> FewShotClassifier:
    """Build a classifier from a checkpoint of covey, ready for `fit`.

    method: whose head to use; None takes the one that the checkpoint is of, with the head that was trained with it.
    options: of the head, over those in the checkpoint.
    say: receives one line about the weights.
    """
    return classifier_of(load_encoder(checkpoint, say=say, method=method), options, device)


def classifier_of(
    loaded: Loaded,
    options: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    encode: Callable[[nn.Module, Tensor], Tensor] = lambda encoder, images: encoder(images),
    **settings: Any,
) -> FewShotClassifier:
    """Build a classifier from a model that was read already.

    options: of the head, over those in the checkpoint. settings: batch_size and workers of `FewShotClassifier`.
    encode: runs the encoder on images, for instance under autocast.
    """
    method = loaded.architecture.method
    adapts = find_method(method).adapts
    options = {**loaded.head_options(), **(options or {})}
    encoder = loaded.encoder.requires_grad_(False).eval().to(device)

    def head(k_shot: int) -> nn.Module:
        return with_encoder(loaded.load_head(create_head(method, k_shot, encoder.out_dim, **options)), encoder)

    head(1)  # what does not fit, or was never trained, is said before pictures are encoded
    backbone, size = encoder.backbone, loaded.architecture.size
    features = as_they_are if adapts else partial(encode, encoder)
    return FewShotClassifier(features, head, size, backbone.mean, backbone.std, device, **settings)
