"""Short texts that change when what they stand for changes: weights, data sets, and how pictures are prepared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from episodes.dataset import ImageSet
from episodes.errors import UserError
from episodes.loaders import Pictures
from episodes.transforms import resize_for

# Counters that forward passes may move and that change nothing in eval mode.
COUNTERS = ("num_batches_tracked", "calls")


def weights_key(model: nn.Module, *facts: object) -> str:
    """Return the hash of a model: its architecture as printed, every parameter and buffer, and `facts`.

    facts: whatever else decides its output, for instance the precision it computes in.
    """
    return tensors_key((*model.named_parameters(), *model.named_buffers()), repr((model, facts)))


def tensors_key(tensors: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """Return the hash of named tensors and a text; counters that change nothing are left out."""
    digest = hashlib.sha256(text.encode())
    for name, value in tensors:
        if name.split(".")[-1] not in COUNTERS:
            digest.update(name.encode())
            _add(digest, value)
    return digest.hexdigest()


def dataset_key(dataset: ImageSet) -> str:
    """Return the hash of the items of a data set, their order and their labels.

    Pictures in memory count by their pixels, and files by name, size and time of the last change: they are not opened.
    (A file that was changed with its size and time kept passes for the old one.) Items of any other kind are read.
    """
    digest = hashlib.sha256(np.ascontiguousarray(dataset.labels, dtype=np.int64))
    images, names, archive = (getattr(dataset, name, None) for name in ("images", "names", "read"))
    archive = getattr(archive, "path", None)
    if isinstance(images, Tensor):
        _add(digest, images)
    elif names is not None and archive is not None:
        digest.update(repr((_file(archive), names)).encode())
    elif names is not None and all(isinstance(name, str | os.PathLike) for name in names):
        for name in names:
            digest.update(repr(_file(name)).encode())
    else:
        for index in range(len(dataset)):
            image = dataset[index][0]
            _add(digest, image if isinstance(image, Tensor) else torch.from_numpy(np.array(image)))
    return digest.hexdigest()


def picture_facts(pictures: Pictures) -> dict[str, Any]:
    """Return how pictures are prepared for the network, as plain values.

    Raises UserError for augmented pictures, which are others every time.
    """
    if hasattr(pictures, "facts"):  # clips know themselves
        return pictures.facts()
    if pictures.augment != "none":
        raise UserError(
            f"features of pictures with augmentation '{pictures.augment}' can't be kept, since they change with every "
            "look: open the pictures with augment='none'"
        )
    # sets in memory are not resized where their pictures have the network's size already
    return {
        "size": pictures.size,
        "resize": resize_for(pictures.size),
        "whole_batches": pictures.in_memory,
        "mean": [float(value) for value in pictures.mean],
        "std": [float(value) for value in pictures.std],
    }


def _file(path: str | os.PathLike) -> tuple[str, int, int]:
    path = os.path.abspath(path)
    try:
        facts = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read '{path}' ({error.strerror}): open the data set again") from error
    return path, facts.st_size, facts.st_mtime_ns


def _add(digest: Any, value: Tensor) -> None:
    """Feed type, shape and bytes of a tensor to a hash."""
    digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
    plain = value.detach().cpu().contiguous()
    if plain.numel():
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
