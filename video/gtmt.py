"""Global temporal-aware moment tuning (GTMT): a clip's mean plus what its long-short-term covariances say (ELSTC)."""

from __future__ import annotations

from torch import Tensor, nn

from moments import covariance, newton_schulz_root
from video.token_mix import Moments

SECONDS = ("elstc", "tcov", "none")


class GTMT(nn.Module):
    """Moment head: `Moments` of clips -> representations (B, C).

    dim: C. frames: tokens along time t.
    groups: G; group e holds the frames e, e + G, e + 2G, ... (long and short distances in time at once).
    iterations, eps: Newton-Schulz steps and trace guard of the matrix root; iterations 0: the plain covariance, as the
        paper's formulas have it.
    second_moment: "elstc", covariance of every group's frames, stacked as channels; "tcov", one covariance of the
        channels over all frames and positions; "none", the first moment alone.
    first_moment: add the pooled average; False leaves the second moment alone (an ablation of the paper).

    Widths follow the paper's ratios: C -> C/3 -> C/6 channels; root side m = C/6 * t/G; ceil(m/2)^2 values -> C.
    The convolutions see root matrices as images. Source: TAMT, section 3.4 and released code.
    """

    def __init__(
        self,
        dim: int = 384,
        frames: int = 8,
        groups: int = 4,
        iterations: int = 3,
        eps: float = 1e-5,
        second_moment: str = "elstc",
        first_moment: bool = True,
    ) -> None:
        super().__init__()
        if second_moment not in SECONDS:
            raise ValueError(f"second_moment '{second_moment}' is unknown: use one of {', '.join(SECONDS)}")
        if second_moment == "none" and not first_moment:
            raise ValueError("a head without first and second moment has nothing to say: keep one of them")
        if dim < 6:
            raise ValueError(f"{dim} channels are too few: they are reduced to a sixth")
        self.out_dim, self.frames, self.iterations, self.eps = dim, frames, iterations, eps
        self.second_moment, self.first_moment = second_moment, first_moment
        self.groups = groups = groups if second_moment == "elstc" else 1
        if groups < 1 or frames % groups:
            raise ValueError(f"{frames} frames can't be dealt to {groups} groups: G must divide them")
        if second_moment == "none":
            return
        self.side = dim // 6 * (frames // groups if second_moment == "elstc" else 1)
        inner, half = dim // 3, max(groups // 2, 1)
        self.reduce1 = nn.Conv2d(dim, inner, 1, bias=False)
        self.reduce_norm1 = nn.BatchNorm2d(inner)
        self.reduce2 = nn.Conv2d(inner, dim // 6, 1, bias=False)
        self.reduce_norm2 = nn.BatchNorm2d(dim // 6)
        self.aggregate1 = nn.Conv2d(groups, half, 3, padding=1, bias=False)
        self.aggregate_norm1 = nn.BatchNorm2d(half)
        self.aggregate2 = nn.Conv2d(half, max(groups // 4, 1), 3, stride=2, padding=1, bias=False)
        self.aggregate_norm2 = nn.BatchNorm2d(max(groups // 4, 1))
        self.project = nn.Linear(max(groups // 4, 1) * ((self.side + 1) // 2) ** 2, dim)

    def reduced(self, video_map: Tensor) -> Tensor:
        """(B, C, t, h, w) -> what covariances are taken of, one channel a variable.

        elstc: (B * G, C/6 * t/G, h, w), the frames of a group beside each other, channel major.
        tcov: (B, C/6, t * h, w).
        """
        batch, _, frames, height, width = video_map.shape
        x = video_map.flatten(2, 3)  # frames below each other: tokens in memory order stay a view
        x = self.reduce_norm1(self.reduce1(x)).relu()
        x = self.reduce_norm2(self.reduce2(x)).relu()
        if self.second_moment == "tcov":
            return x
        if frames != self.frames:
            raise ValueError(f"the head was built for {self.frames} frames of tokens, the clips have {frames}")
        x = x.reshape(batch, -1, frames // self.groups, self.groups, height, width)
        return x.permute(0, 3, 1, 2, 4, 5).reshape(batch * self.groups, self.side, height, width)

    def roots(self, matrices: Tensor) -> Tensor:
        """Normalise covariances (n, m, m)."""
        return newton_schulz_root(matrices, self.iterations, eps=self.eps) if self.iterations else matrices

    def aggregated(self, roots: Tensor) -> Tensor:
        """Merge the groups' matrices: (B * G, m, m) -> (B, 1, ceil(m/2), ceil(m/2))."""
        x = roots.unflatten(0, (-1, self.groups))
        x = self.aggregate_norm1(self.aggregate1(x)).relu()
        return self.aggregate_norm2(self.aggregate2(x)).relu()

    def second(self, video_map: Tensor) -> Tensor:
        """Return the second-order part (B, C)."""
        roots = self.roots(covariance(self.reduced(video_map)))
        return self.project(self.aggregated(roots).flatten(1))

    def forward(self, moments: Moments) -> Tensor:
        """Represent clips by (B, C)."""
        if self.second_moment == "none":
            return moments.pooled
        second = self.second(moments.map)
        return moments.pooled + second if self.first_moment else second
