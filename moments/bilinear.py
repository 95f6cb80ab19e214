"""Bilinear pooling (BCNN, Lin et al., ICCV 2015) and its compact form by tensor sketch (Gao et al., CVPR 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from moments.covariance import covariance

# Added to |s| inside the signed root, after which an entry next to zero is not zero but 1e-4.
ROOT_EPS = 1e-8


def signed_root(x: Tensor, eps: float = ROOT_EPS) -> Tensor:
    """Element-wise sign(x) sqrt(|x| + eps), in float32 or better; exactly 0, with gradient 0, where x is 0."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x.sign() * (x.abs() + eps).sqrt()


def bilinear_matrix(x: Tensor, eps: float = ROOT_EPS) -> Tensor:
    """Signed root of the second moment X X^T / M of a map (no mean removed), not yet normalised.

    x: (B, C, H, W) or (B, C, M). Returns (B, C, C) in float32 or better.
    """
    return signed_root(covariance(x, centred=False), eps)


def sketch_bins(hash1: Tensor, hash2: Tensor, size: int) -> Tensor:
    """Return (C*C,) bins of the tensor sketch: the product of channels i and j goes to hash1[i] + hash2[j] mod size."""
    return (hash1.long()[:, None] + hash2.long()[None, :]).remainder(size).flatten()


def compact_bilinear_vector(x: Tensor, bins: Tensor, sign1: Tensor, sign2: Tensor, size: int) -> Tensor:
    """Tensor sketch of the outer products of a map's positions with themselves, summed over the positions.

    x: (B, C, H, W) or (B, C, M).
    bins: (C*C,) from `sketch_bins`; sign1, sign2: (C,) of +-1; size: length of the sketch.
    Returns (B, size) in float32 or better.

    The sketch of an outer product is the circular convolution of two count sketches, usually taken by FFTs of length
    `size` at every position. It is linear in the outer product, so that the sum over positions is the sketch of the
    second moment: one matrix product, and each of its C^2 entries goes to its bin. The values are those of the FFT, but
    for its rounding: a bin that nothing falls into is exactly zero here.
    """
    x = x.flatten(2)
    moment = covariance(x, centred=False) * x.shape[2]
    signs = sign1.to(moment.dtype)[:, None] * sign2.to(moment.dtype)
    return moment.new_zeros(x.shape[0], size).index_add(1, bins, (moment * signs).flatten(1))
