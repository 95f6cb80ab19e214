"""Write a data set as WebDataset shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torchvision.transforms import v2

from backbones.checkpoint import write_atomically
from backbones.errors import UserError
from episodes.dataset import ImageSet
from episodes.run import write_text
from episodes.seeds import ORDER, derive


def write_shards(
    dataset: ImageSet,
    out: Path,
    name: str = "train",
    per_shard: int = 1000,
    size: int | None = None,
    quality: int = 95,
    seed: int = 1,
    overwrite: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Write `NAME-000000.tar`, ... and `classes.txt`; returns the paths of the shards.

    Pictures come in an order that mixes the classes, by `seed`. Each is KEY.EXT and KEY.cls, the number of its class.
    size: shrink pictures to this shorter side, as JPEG of `quality`; None: files are copied as they are, pictures in
        memory become PNG.
    advance: called after every picture.
    Raises UserError where shards of this name are there already, or other shards whose `classes.txt` names other
    classes: their labels are numbers, which this set's names would turn into wrong ones.
    """
    count = -(-len(dataset) // per_shard)
    paths = [out / f"{name}-{number:06d}.tar" for number in range(count)]
    old = sorted(out.glob(f"{name}-*.tar")) if out.is_dir() else []
    if old and not overwrite:
        raise UserError(f"'{old[0]}' exists: give another --out or --name, or --overwrite true")
    _check_classes(out, dataset.class_names, others=bool(set(out.glob("*.tar")) - set(old)))
    order = np.random.Generator(np.random.PCG64(derive(ORDER, seed, 0))).permutation(len(dataset))
    for number, path in enumerate(paths):
        items = order[number * per_shard : (number + 1) * per_shard]
        write_atomically(path, lambda target, items=items: _write(dataset, items, target, size, quality, advance))
    for path in set(old) - set(paths):
        path.unlink()  # of an earlier, longer set
    write_text(out / "classes.txt", "".join(f"{one}\n" for one in dataset.class_names))
    return paths


def _check_classes(out: Path, class_names: Sequence[str], others: bool) -> None:
    """Refuse to name the classes of other shards of a folder anew; their names are in the same file."""
    file = out / "classes.txt"
    if others and file.is_file() and file.read_text(encoding="utf-8").splitlines() != list(class_names):
        raise UserError(
            f"'{file}' names other classes, or in another order, than this data set, and belongs to other shards too: "
            "give a folder of its own, --out"
        )


def _write(dataset: ImageSet, items: np.ndarray, path: str, size: int | None, quality: int, advance: Callable) -> None:
    with tarfile.open(path, "w") as archive:
        for item in items.tolist():
            suffix, content = _content(dataset, item, size, quality)
            for kind, part in ((suffix, content), (".cls", str(int(dataset.labels[item])).encode())):
                entry = tarfile.TarInfo(f"{item:08d}{kind}")
                entry.size = len(part)
                archive.addfile(entry, io.BytesIO(part))
            advance()


def _content(dataset: ImageSet, item: int, size: int | None, quality: int) -> tuple[str, bytes]:
    """Return a picture's suffix and bytes."""
    names = getattr(dataset, "names", None)
    if size is None and names is not None and isinstance(names[item], str) and Path(names[item]).is_file():
        dataset[item]  # a broken one is refused here, and not when it is trained on
        return Path(names[item]).suffix.lower(), Path(names[item]).read_bytes()
    image = dataset[item][0]
    image = v2.functional.to_pil_image(image) if isinstance(image, Tensor) else image
    if size is not None and min(image.size) > size:
        image = v2.functional.resize(image, [size], antialias=True)
    bytes_ = io.BytesIO()
    if size is None:
        image.save(bytes_, "PNG")
        return ".png", bytes_.getvalue()
    image.save(bytes_, "JPEG", quality=quality)
    return ".jpg", bytes_.getvalue()
