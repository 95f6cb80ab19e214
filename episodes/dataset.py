"""What a data set is here, and the two kinds that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import UserError, nearest
from .rgb import reason, to_rgb


@runtime_checkable
class ImageSet(Protocol):
    """A labelled set of images. `labels` and `class_names` are known without opening an image.

    labels: (N,) int64 in 0..K-1.  class_names: K names, position = label.
    set[i] -> (image, label): a PIL RGB image (sets of files) or a uint8 tensor (3, H, W) (sets in memory).
    """

    labels: np.ndarray
    class_names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, int]: ...


class ArraySet:
    """Images that are in memory as one uint8 tensor: (N, H, W) grey, shown as three equal channels, or (N, 3, H, W)."""

    def __init__(self, images: Tensor, labels: np.ndarray, class_names: Sequence[str]):
        self.images = images
        self.labels, self.class_names = _checked(len(images), labels, class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return (image if image.ndim == 3 else image.expand(3, -1, -1)), int(self.labels[index])

    def batch(self, indices: np.ndarray | Sequence[int] | Tensor) -> Tensor:
        """Images at `indices` (B,) in one step: uint8 (B, 3, H, W)."""
        images = self.images[torch.from_numpy(np.array(indices, dtype=np.int64))]
        return images if images.ndim == 4 else images.unsqueeze(1).expand(-1, 3, -1, -1)

    def take(self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> ArraySet:
        """The items at `indices`, with new labels and class names."""
        return ArraySet(self.images[torch.as_tensor(indices)], labels, class_names)


class FileSet:
    """Images that are read one at a time. `names[i]` says where item i lies; `read(name)` opens it.

    read: callable name -> PIL image; picklable, so that loader workers get their own copy.
    A file that cannot be read is a `UserError` with its name when it is asked for; nothing is put in its place.
    """

    def __init__(
        self,
        names: Sequence[Any],
        labels: np.ndarray,
        class_names: Sequence[str],
        read: Callable[[Any], Image.Image],
        origin: str = "",
    ):
        self.names = names if isinstance(names, Sequence) else list(names)
        self.read, self.origin = read, origin
        self.labels, self.class_names = _checked(len(self.names), labels, class_names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        try:
            image = to_rgb(self.read(self.names[index]))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise UserError(
                f"cannot read image {self.where(index)} ({reason(error)}): replace or delete the "
                "file, or leave such files out with --skip-broken (in Python skip_broken=True)"
            ) from error
        return image, int(self.labels[index])

    def where(self, index: int) -> str:
        """Name of item `index`, for messages."""
        name = self.names[index]
        return f"'{name}'" + (f" of {self.origin}" if self.origin else "")

    def take(self, indices: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> FileSet:
        """The items at `indices`, with new labels and class names."""
        return FileSet([self.names[i] for i in indices], labels, class_names, self.read, self.origin)


def _checked(count: int, labels: np.ndarray, class_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    labels, class_names = np.asarray(labels, dtype=np.int64), [str(name) for name in class_names]
    if labels.shape != (count,):
        raise UserError(f"{count} images but labels of shape {labels.shape}: give one label per image")
    if len(set(class_names)) != len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise UserError(f"class name '{twice}' occurs twice: class names must differ")
    if count and (labels.min() < 0 or labels.max() >= len(class_names)):
        bad = labels.min() if labels.min() < 0 else labels.max()
        raise UserError(
            f"label {bad} has no class name ({len(class_names)} names): labels must be 0..{len(class_names) - 1}"
        )
    sizes = np.bincount(labels, minlength=len(class_names))
    if len(class_names) and sizes.min() == 0:
        raise UserError(f"class '{class_names[int(sizes.argmin())]}' has no image: add images or remove the class")
    return labels, class_names


def select_classes(dataset: Any, class_names: Sequence[str]) -> Any:
    """The items of the named classes; class j of the result is `class_names[j]`. Items keep their order.

    Raises UserError if a name is not a class of the set.
    """
    position = {name: i for i, name in enumerate(dataset.class_names)}
    missing = [name for name in class_names if name not in position]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(class_names)} wanted classes are not in the data set, the first is "
            f"'{missing[0]}'{nearest(missing[0], list(position)[:30])}"
        )
    new_label = np.full(len(position), -1)
    new_label[[position[name] for name in class_names]] = np.arange(len(class_names))
    labels = new_label[dataset.labels]
    indices = np.flatnonzero(labels >= 0)
    return dataset.take(indices, labels[indices], class_names)


def to_memory(dataset: ImageSet, size: int, resize: int | None = None) -> ArraySet:
    """Decode every image of `dataset` once, at size x size pixels, so that small data train without file reading.

    resize: length of the shorter side before the centre crop of `size`; default: the crop keeps the full shorter side.
    """
    from torchvision.transforms import v2

    shrink = v2.Compose([v2.Resize(resize or size, antialias=True), v2.CenterCrop(size), v2.PILToTensor()])
    images = torch.empty(len(dataset), 3, size, size, dtype=torch.uint8)
    for i in range(len(dataset)):
        image = dataset[i][0]
        if isinstance(image, Tensor):
            image = v2.functional.to_pil_image(image)
        images[i] = shrink(image)
    return ArraySet(images, dataset.labels, dataset.class_names)
