"""`open_dataset`: find a data set by a short text."""

from __future__ import annotations

from typing import Any

from .check import drop_broken
from .dataset import FileSet
from .sources import open_source


def open_dataset(spec: str, *, skip_broken: bool = False, download: bool = False) -> Any:
    """Open the data set that `spec` names: ``SOURCE`` or ``SOURCE?option=value&option=value``.

    SOURCE: a path (a folder of class folders, with or without train/val/test above them; a JSON or CSV list or a
        folder of such lists; an .npz or .zip pack; WebDataset shards, as a folder of .tar files or
        ``path/train-{0000..1281}.tar``), ``glyphs:latin,greek``, ``digits``, ``torchvision:CIFAR100``.
        A prefix (``folder:``, ``json:``, ``csv:``, ``pack:``, ``shards:``) forces the kind of a path.
    Options of every source: ``split`` (train, val, test, or several as train+val: classes are numbered across them
        in that order), ``by`` (how classes fall into splits: a name in `episodes/splits`, e.g. mod5 or cifar_fs, or
        a JSON or YAML file with train, val and test lists), ``items`` (train, val, test: of every class the items with
        i % 5 < 3, 3 and 4, for the classification of known classes). Each source has more, see `episodes.sources`.
    skip_broken: read every file once and leave out the ones that cannot be opened, with a warning that names them.
    download: let torchvision fetch a data set that is absent. Nothing is ever downloaded without it.
    Returns an `ArraySet` or a `FileSet`; raises UserError with one sentence for anything that does not fit.
    """
    dataset = open_source(spec, download=download)
    if skip_broken and isinstance(dataset, FileSet):
        dataset = drop_broken(dataset)
    return dataset
