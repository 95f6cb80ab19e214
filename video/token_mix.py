"""End of TAMT's backbone: the average of all tokens, and tokens mixed over time, each behind a norm."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from backbones.video_vit import Grid, as_map

MIXES = ("reference", "aligned", "none")


class Moments(NamedTuple):
    """What the moment head takes: `pooled` (B, C) and the token map (B, C, t, h, w)."""

    pooled: Tensor
    map: Tensor


class TokenMix(nn.Module):
    """Tokens (B, N, C) of the last block -> `Moments`.

    temporal_mix: what a depth-wise convolution over time (kernel 3), computed for every position and channel, adds to
        the tokens. "reference": the released code's result, which is laid out (position, channel, time) and only
        reinterpreted as (token, channel), so that values land at other tokens and channels; published weights need it.
        "aligned": every value where it belongs. "none": nothing is added and there is no convolution, as in the paper.
    norms: LayerNorm on the average and on the tokens (released code); the paper has none.
    """

    def __init__(self, dim: int, temporal_mix: str = "reference", norms: bool = True, norm_eps: float = 1e-6) -> None:
        super().__init__()
        if temporal_mix not in MIXES:
            raise ValueError(f"temporal_mix '{temporal_mix}' is unknown: use one of {', '.join(MIXES)}")
        self.temporal_mix = temporal_mix
        convolution = nn.Conv1d(dim, dim, 3, padding=1, groups=dim)
        self.temporal_conv = convolution if temporal_mix != "none" else None
        self.fc_norm = nn.LayerNorm(dim, eps=norm_eps) if norms else nn.Identity()
        self.fc_norm2 = nn.LayerNorm(dim, eps=norm_eps) if norms else nn.Identity()

    def convolve(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return the temporal convolution (B, S, C, t) of tokens (B, N, C), contiguous."""
        series = tokens.unflatten(1, (grid[0], -1)).permute(0, 2, 3, 1)  # (B, S, C, t)
        return self.temporal_conv(series.flatten(0, 1)).unflatten(0, series.shape[:2])

    def forward(self, tokens: Tensor, grid: Grid) -> Moments:
        """Pool and mix tokens that lie on `grid` (t, h, w)."""
        pooled = self.fc_norm(tokens.mean(1))
        if self.temporal_conv is not None:
            mixed = self.convolve(tokens, grid)
            if self.temporal_mix == "aligned":
                mixed = mixed.permute(0, 3, 1, 2)
            tokens = tokens + mixed.reshape(tokens.shape)
        return Moments(pooled, as_map(self.fc_norm2(tokens), grid))
