"""The plain way to compute BDC, which the bench compares with: the formula read off as matrix products.

It is written here, from the formula of DeepBDC (Xie et al., CVPR 2022, section 3.1), as it is commonly computed: six
(d, d, d) products per image, with matrices of ones and an identity, and the triangle taken by advanced indexing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def plain_bdc_vector(x: Tensor, temperature: Tensor, eps: float = 1e-5) -> Tensor:
    """Upper triangle of the BDC matrix of x (B, d, H, W) or (B, d, M), like `moments.bdc_vector`; (B, d(d+1)/2)."""
    x = x.flatten(2)
    batch, d, _ = x.shape
    ones = torch.ones(batch, d, d, dtype=x.dtype, device=x.device)
    eye = torch.eye(d, dtype=x.dtype, device=x.device).repeat(batch, 1, 1)
    gram = x.bmm(x.transpose(1, 2))
    norms = gram * eye
    squared = (norms.bmm(ones) + ones.bmm(norms) - 2 * gram).clamp(min=0)  # products 1 and 2
    distance = (temperature.exp() * squared + eps).sqrt()
    # products 3 to 6
    centred = distance - distance.bmm(ones) / d - ones.bmm(distance) / d + ones.bmm(distance).bmm(ones) / d**2
    position = torch.ones(d, d, device=x.device).triu().flatten().nonzero().flatten()
    return centred.flatten(1)[:, position]


class PlainBDC(nn.Module):
    """`plain_bdc_vector` with a learned temperature; the same parameters as `moments.BDC` without reduction."""

    def __init__(self, in_channels: int, map_size: tuple[int, int] = (10, 10)) -> None:
        super().__init__()
        self.out_dim = in_channels * (in_channels + 1) // 2
        self.temperature = nn.Parameter(torch.full((1, 1), -math.log(2 * map_size[0] * map_size[1])))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_dim)."""
        return plain_bdc_vector(x, self.temperature)
