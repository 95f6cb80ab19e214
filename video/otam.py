"""OTAM, ordered temporal alignment (Cao et al., CVPR 2020): videos compared along the cheapest way through time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from episodes.arguments import flag, positive
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    drop_padding,
    mask_absent,
    membership,
    unit,
)

CLASS_SCORES = ("mean", "prototype")
PAIR_NUMBERS = 2**22  # frame distances at a time (16 MB), whatever the number of episodes, queries and supports


def aligned(costs: Tensor, smoothing: float) -> Tensor:
    """Return the soft-minimal cost (...) of walking through the frame distances (a, b, ...) of two videos, in order.

    costs: distance of frame i of the walked video (axis 0, length a) and frame j of the other one (axis 1, length b).
    The paper's relaxed boundary: a column of zeros before the first frame i and one behind the last, in which j moves
    for nothing, so that a walk may start at any j and end at any j. In between i always moves on, and j stays or moves
    on with it; beside the zeros, at the first i, j may also move alone.
    smoothing: lambda; each minimum is -lambda log sum exp(-x / lambda), which tends to the minimum with lambda -> 0 and
        lies below it where several walks are alike, so that costs can be negative.

    Source: the paper's recursion for ordered alignment with a relaxed boundary, gamma(l, m) for its l = j and m = i. In
    between gamma depends on the i before alone, so that all j, and all pairs of videos, are computed at once; the two
    columns of zeros are summed up in closed form.
    """
    gains, two = costs / -smoothing, math.log(2)
    first = [gains[0, 0]]
    for gain in gains[0, 1:]:  # beside the zeros: from two of them, both at cost 0, or from the last j
        first.append(gain + torch.logaddexp(first[-1], gain.new_full((), two)))
    reached = torch.stack(first)
    for gain in gains[1:]:
        reached = torch.cat([reached[:1], torch.logaddexp(reached[1:], reached[:-1])]) + gain
    # Every j but the last has two ways into the zeros at the end, straight and diagonal.
    return torch.cat([reached[:-1] + two, reached[-1:]]).logsumexp(0) * -smoothing


def otam_distances(query: Tensor, support: Tensor, smoothing: float = 0.1, both: bool = True) -> Tensor:
    """Return the alignment costs (E, Q, S) of videos (E, Q, t, C) and (E, S, t, C), of 1 - cosine of their frames.

    both: the mean of walking through the support and through the query; False: through the support alone.
    """
    n_query, frames = query.shape[1:3]
    query, support = (unit(x).transpose(1, 2).flatten(1, 2) for x in (query, support))  # (E, t * N, C), frames first
    cosine = (query @ support.transpose(1, 2)).unflatten(2, (frames, -1)).unflatten(1, (frames, n_query))
    costs = 1 - cosine.permute(3, 1, 0, 2, 4).contiguous()  # (t of support, t of query, E, Q, S)
    walked = aligned(costs, smoothing)
    return (walked + aligned(costs.transpose(0, 1), smoothing)) / 2 if both else walked


class OTAM(nn.Module):
    """Score a video by how cheaply its frames can be aligned, in order, with those of every class.

    Takes frame features (E, N, t, C), see `video.pools.FrameMeans`. Nothing in it is learned: the encoder is.
    smoothing: lambda of the soft minimum; 0.1 in public implementations. See `aligned`.
    class_score: "mean", minus the mean cost over the supports of a class (paper, for several shots), or "prototype",
        minus the cost to the video of their mean frames (a choice of ours: cheaper, and it blurs unaligned supports).
    both: average over walking through the support and through the query. The paper's recursion treats its two videos
        differently; public implementations add both. The mean keeps the scale of one.
    scale: factor of the costs (a choice of ours); 1 is the paper's softmax over minus costs.
    """

    near_bytes = 2 << 20  # see `episodes.evaluate`

    def __init__(
        self, smoothing: float = 0.1, class_score: str = "mean", both: bool = True, scale: float = 1.0
    ) -> None:
        super().__init__()
        if class_score not in CLASS_SCORES:
            raise ValueError(f"unknown class_score '{class_score}' of OTAM; known: {', '.join(CLASS_SCORES)}")
        self.smoothing = positive("smoothing", smoothing)
        self.scale = positive("scale", scale)
        self.class_score, self.both = class_score, flag("both", both)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, t, C), (E, S), (E, Q, t, C) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        check_frames(support, "OTAM")
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            if self.class_score == "prototype":
                rows, counts = class_means(support, support_labels, n_way)
                shares = None
            else:
                rows, member = drop_padding(support, support_labels), membership(support_labels, n_way, support.dtype)
                counts = member.sum(1)
                shares = member / counts.clamp(min=1).unsqueeze(1)
            pairs = len(rows) * rows.shape[1] * rows.shape[2] ** 2  # frame distances of one query of every episode
            parts = []
            for part in query.split(max(1, PAIR_NUMBERS // max(pairs, 1)), dim=1):
                costs = otam_distances(part, rows, self.smoothing, self.both)
                parts.append(costs if shares is None else costs @ shares)
            return mask_absent(torch.cat(parts, dim=1) * -self.scale, counts)

    def extra_repr(self) -> str:
        """Show the choices in printed models."""
        return f"smoothing={self.smoothing:g}, class_score='{self.class_score}', both={self.both}, scale={self.scale:g}"


def check_frames(support: Tensor, head: str) -> None:
    """Raise ValueError unless the features of an episode are those of frames, (E, N, t, C)."""
    if support.dim() != 4 or support.shape[2] < 1:
        raise ValueError(
            f"{head} compares the frames of videos and got features {tuple(support.shape)}, not (E, N, t, C): "
            "pool the map with video.pools.FrameMeans"
        )
