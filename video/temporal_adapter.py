"""Temporal-aware adapter (TAA): scale and shift of every frame's tokens, learned from the frame averages around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.video_vit import Grid


class TemporalAdapter(nn.Module):
    """Tokens (B, N, C) -> tokens: U * gamma + beta_scale * beta, gamma and beta (B, C, t) from the frame averages of U.

    kernel: of the shared down-projection C -> C / reduction over time.
    up_kernel: of the two up-projections; 1 in the released code, 3 in the paper.
    beta_scale: 0.1 in the released code, 1 in the paper.
    batch_norm: after the first convolution, as in the released code; its statistics run over clips and frames.

    Not the identity at the start: gamma is about 0.5. Source: TAMT, section 3.3 of the paper.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 4,
        kernel: int = 3,
        up_kernel: int = 1,
        beta_scale: float = 0.1,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0 or up_kernel % 2 == 0:
            raise ValueError(f"temporal kernels must be odd to keep the number of frames, got {kernel} and {up_kernel}")
        if dim // reduction < 1:
            raise ValueError(f"reduction {reduction} leaves nothing of {dim} channels: use at most {dim}")
        inner = dim // reduction
        self.beta_scale = beta_scale
        self.down = nn.Conv1d(dim, inner, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(inner) if batch_norm else nn.Identity()
        self.scale = nn.Conv1d(inner, dim, up_kernel, padding=up_kernel // 2, bias=False)
        self.shift = nn.Conv1d(inner, dim, up_kernel, padding=up_kernel // 2, bias=False)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Adapt tokens that lie on `grid` (t, h, w)."""
        frames = tokens.unflatten(1, (grid[0], -1))  # (B, t, S, C)
        hidden = self.norm(self.down(frames.mean(2).transpose(1, 2))).relu()
        gamma, beta = (convolution(hidden).transpose(1, 2).unsqueeze(2) for convolution in (self.scale, self.shift))
        return torch.addcmul(self.beta_scale * beta, frames, gamma.sigmoid()).flatten(1, 2)
