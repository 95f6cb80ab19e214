"""scikit-learn's scans of handwritten digits: 1797 pictures of 8 x 8 pixels, shipped with that package."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ..dataset import ArraySet
from ..errors import UserError


def digit_set(size: int = 32) -> ArraySet:
    """The ten digits at size x size pixels (bilinear), dark ink on light paper as in the other character sets."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    if size < 8:
        raise UserError(f"digits need size >= 8, not {size}")
    scans = load_digits()
    ink = torch.from_numpy(scans.images).float().unsqueeze(1) / 16
    ink = F.interpolate(ink, (size, size), mode="bilinear", align_corners=False).squeeze(1)
    return ArraySet((255 * (1 - ink)).round().to(torch.uint8), np.asarray(scans.target), [str(d) for d in range(10)])
