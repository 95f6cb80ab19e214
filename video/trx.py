"""TRX, temporal-relational cross-transformers (Perrett et al., CVPR 2021): videos compared by tuples of frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.video_vit import position_table
from episodes.arguments import at_least, whole
from episodes.class_rows import ClassRows, at_least_float32, check_episodes, group_by_class, mask_absent
from video.otam import check_frames

# Numbers of the largest tensor that is made at a time without gradients: a CPU is faster on what stays in its caches.
BLOCK_NUMBERS, FAR_BLOCK_NUMBERS = 2**22, 2**27


class TupleProjection(nn.Module):
    """Linear layer on ordered tuples of frames, computed frame by frame: (..., t, C) -> (..., n, D).

    W [a; b] = W_1 a + W_2 b: every frame passes once for each place in a tuple, not once for each of its tuples, of
    which there are n = t! / (w! (t - w)!).
    size: w, frames in a tuple.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(size * in_channels, out_channels, bias=bias)

    def forward(self, frames: Tensor, tuples: Tensor) -> Tensor:
        """Project the tuples (n, w) of frame numbers."""
        weight = self.linear.weight.unflatten(1, (self.size, -1)).transpose(0, 1).flatten(0, 1)  # (w * D, C)
        parts = functional.linear(frames, weight).unflatten(-1, (self.size, -1)).unbind(-2)
        total = sum(part.index_select(-2, tuples[:, place]) for place, part in enumerate(parts))
        return total if self.linear.bias is None else total + self.linear.bias


class TupleAttention(nn.Module):
    """The cross-transformer of one cardinality w: query and class videos -> squared distances.

    Keys (with LayerNorm) and values of all tuples of frames; every tuple of a query looks at all tuples of all supports
    of a class and gets a prototype of its own, which is compared with its own value.
    A bias of the values would cancel in that comparison, so there is none.
    """

    def __init__(self, in_channels: int, size: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        self.size = size
        self.key = TupleProjection(in_channels, key_dim, size)
        self.key_norm = nn.LayerNorm(key_dim)
        self.value = TupleProjection(in_channels, value_dim, size, bias=False)

    def forward(self, query: Tensor, support: ClassRows) -> Tensor:
        """(E, Q, t, C) and rows (E, K, R, t, C) -> squared distances (E, Q, K), averaged over the query's tuples."""
        tuples = torch.combinations(torch.arange(query.shape[2], device=query.device), self.size)
        n_way, shots = support.mask.shape[1:]
        keys = self.key_norm(self.key(support.rows, tuples)).flatten(1, 3)  # (E, K * R * n, D)
        values = self.value(support.rows, tuples).flatten(2, 3)  # (E, K, R * n, D)
        absent = ~support.mask[:, None, :, :, None]  # (E, 1, K, R, 1)
        # Scores, or prototypes and their differences, of one query of all episodes.
        numbers = len(query) * len(tuples) * n_way * max(shots * len(tuples), 2 * values.shape[-1])
        parts = query.split(_block(query, query.shape[1], numbers), dim=1)
        return torch.cat([self._distances(part, tuples, keys, values, absent) for part in parts], dim=1)

    def support_numbers(self, shots: int, frames: int) -> int:
        """Return how many numbers the keys and values of `shots` supports are."""
        widths = self.key.linear.out_features + self.value.linear.out_features
        return shots * math.comb(frames, self.size) * widths

    def _distances(self, query: Tensor, tuples: Tensor, keys: Tensor, values: Tensor, absent: Tensor) -> Tensor:
        n_way, shots = absent.shape[2:4]
        looking = self.key_norm(self.key(query, tuples)).flatten(1, 2) / math.sqrt(keys.shape[-1])
        own = self.value(query, tuples)  # (E, Q, n, D)
        scores = (looking @ keys.transpose(1, 2)).unflatten(2, (n_way, shots, -1))  # (E, Q * n, K, R, n)
        # Not -inf: a class without any support keeps numbers here, and gets its -inf at the end.
        scores = scores.masked_fill(absent, torch.finfo(scores.dtype).min).flatten(3)
        weights = scores.softmax(-1).transpose(1, 2)  # (E, K, Q * n, R * n)
        difference = (weights @ values).unflatten(2, own.shape[1:3]) - own.unsqueeze(1)  # (E, K, Q, n, D)
        return torch.linalg.vector_norm(difference, dim=(3, 4)).square().transpose(1, 2) / len(tuples)


class TRX(nn.Module):
    """Score a video by the distance of its frame tuples to prototypes that are put together anew for every tuple.

    Takes frame features (E, N, t, C), see `video.pools.FrameMeans`.
    in_channels: C; `create_video_head` fills it in. 2048 is the paper's ResNet-50.
    cardinalities: frames in a tuple, {2, 3} in the paper's best model; a clip needs as many frames as the largest.
    key_dim, value_dim: widths of keys and values (paper: 1152).
    dropout: of frame features, behind the positional encoding, in training (public implementation: 0.1).
    position_scale: factor of the sine and cosine positions that are added to the frames (public implementation: 0.1).

    Logit: minus the squared distance, averaged over the tuples of the query and over the cardinalities (the square and
    the second average follow public implementations). Keys and values have weights for each cardinality, shared by
    query and support; learned on episodes, random at the start.
    """

    near_bytes = 1 << 20  # see `episodes.evaluate`: attention makes far more than it is given
    random_start = True  # see `fewshot.card.Loaded.load_head`

    def __init__(
        self,
        in_channels: int = 2048,
        cardinalities: Sequence[int] = (2, 3),
        key_dim: int = 1152,
        value_dim: int = 1152,
        dropout: float = 0.1,
        position_scale: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("key_dim", key_dim), ("value_dim", value_dim)):
            whole(name, value, 1)
        if isinstance(cardinalities, (int, str)) or not cardinalities or len(set(cardinalities)) < len(cardinalities):
            raise ValueError(f"cardinalities must be different whole numbers such as [2, 3], not {cardinalities!r}")
        if at_least("dropout", dropout) >= 1:
            raise ValueError(f"dropout must be below 1, not {dropout!r}")
        self.in_channels, self.dropout = in_channels, dropout
        self.position_scale = at_least("position_scale", position_scale)
        sizes = [whole("a cardinality", size, 1) for size in cardinalities]
        self.attention = nn.ModuleList(TupleAttention(in_channels, size, key_dim, value_dim) for size in sizes)

    @property
    def least_frames(self) -> int:
        """Frames that a clip's features must have: those of the largest tuple."""
        return max(attention.size for attention in self.attention)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, t, C), (E, S), (E, Q, t, C) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        self._check(support)
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            support, query = self._placed(support), self._placed(query)
            rows, mask = group_by_class(support, support_labels, n_way)
            numbers = max(a.support_numbers(mask[0].numel(), support.shape[2]) for a in self.attention)
            episodes = _block(query, len(query), numbers)
            parts = [part.split(episodes) for part in (query, rows, mask)]
            distances = [self._distances(q, ClassRows(r, m)) for q, r, m in zip(*parts, strict=True)]
            return mask_absent(-torch.cat(distances), mask.sum(2))

    def _distances(self, query: Tensor, classes: ClassRows) -> Tensor:
        return sum(attention(query, classes) for attention in self.attention) / len(self.attention)

    def _check(self, support: Tensor) -> None:
        check_frames(support, "TRX")
        frames, channels = support.shape[2:]
        if channels != self.in_channels:
            raise ValueError(
                f"this TRX head compares frames of {self.in_channels} channels and got {channels}: "
                "build it with in_channels of the backbone"
            )
        if frames < self.least_frames:
            raise ValueError(
                f"TRX makes tuples of {self.least_frames} frames and the features have {frames}: "
                "give clips more frames or smaller cardinalities"
            )

    def _placed(self, frames: Tensor) -> Tensor:
        """Add the positions of the frames, and drop features in training."""
        positions = position_table(*frames.shape[2:]).to(frames) * self.position_scale
        return functional.dropout(frames + positions, self.dropout, self.training)

    def extra_repr(self) -> str:
        """Show the choices in printed models."""
        sizes = [attention.size for attention in self.attention]
        return f"cardinalities={sizes}, dropout={self.dropout:g}, position_scale={self.position_scale:g}"


def _block(like: Tensor, count: int, numbers: int) -> int:
    """Return how many of `count` parts to compute at a time, each of which makes so many numbers."""
    if torch.is_grad_enabled():  # they are all kept for the backward pass
        return max(count, 1)
    return max(1, (BLOCK_NUMBERS if like.device.type == "cpu" else FAR_BLOCK_NUMBERS) // max(numbers, 1))
