"""What becomes of a video backbone's map (B, C, t, h, w): an average, frame averages, BDC matrix, or positions.

Each has `out_dim`, the length of a representation (channels, where frames or positions are kept).
"""

from __future__ import annotations

from torch import Tensor, nn

from moments import BDC


class TokenMean(nn.Module):
    """Average of all tokens, behind a norm: (B, C, t, h, w) -> (B, C).

    dim: C. norm: LayerNorm after the average, as `VideoClassifier.features` and VideoMAE's classifiers have it;
        `load_source` gives it the weights of the file. False: the plain average.
    """

    def __init__(self, dim: int, norm: bool = True, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.out_dim = dim
        self.fc_norm = nn.LayerNorm(dim, eps=norm_eps) if norm else None

    def forward(self, video_map: Tensor) -> Tensor:
        """Average."""
        mean = video_map.flatten(2).mean(2)
        return mean if self.fc_norm is None else self.fc_norm(mean)


class FrameMeans(nn.Module):
    """Averages over space, for heads that compare frames: (B, C, t, h, w) -> (B, t, C).

    dim: C. A "frame" is one step of the map along time: two frames of the clip for a transformer of tubelets of two.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, video_map: Tensor) -> Tensor:
        """Average over rows and columns."""
        return video_map.mean((3, 4)).transpose(1, 2)


class TokenMap(nn.Module):
    """The tokens as positions of one map, for heads that take whole maps: (B, C, t, h, w) -> (B, C, t * h, w).

    dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, video_map: Tensor) -> Tensor:
        """Lay the frames below each other."""
        return video_map.flatten(2, 3)


class TokenBDC(nn.Module):
    """BDC matrix of the channels over all tokens of a clip (DeepBDC on tokens): (B, C, t, h, w) -> (B, d(d+1)/2).

    dim: C. reduce_dim: d, channels after a 1x1 convolution, batch norm and ReLU; None keeps C, and the temperature is
        then all that it learns.
    map_size: (t * h, w), which sets the start of the temperature, log(1 / (2 t h w)); maps of any size are accepted.
    """

    def __init__(self, dim: int, reduce_dim: int | None = None, map_size: tuple[int, int] = (56, 7)) -> None:
        super().__init__()
        self.bdc = BDC(dim, reduce_dim, map_size)
        self.out_dim = self.bdc.out_dim

    def forward(self, video_map: Tensor) -> Tensor:
        """Pool all positions of all frames."""
        return self.bdc(video_map.flatten(2, 3))
