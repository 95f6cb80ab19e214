"""RelationNet (Sung et al., CVPR 2018): a small network that compares a query map with a class map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes.arguments import whole
from episodes.class_rows import at_least_float32, check_episodes, class_means, class_sums, mask_absent

CLASS_MAPS = {"mean": class_means, "sum": class_sums}
PAIR_NUMBERS = 2**24  # numbers of the pair maps at a time in eval mode: 64 MB, whatever the number of episodes


class RelationNet(nn.Module):
    """Score every pair of query and class by a learned network on their two maps, laid on top of each other.

    Network: two blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling, then two linear layers. The logit is
    the score before the paper's sigmoid: its order, and so every prediction, is that of the sigmoid, and the toolkit's
    cross-entropy trains it (as Chen et al., ICLR 2019, do); the paper's loss is the squared error between
    `logits.sigmoid()` and the one-hot labels.
    in_channels: channels C of the backbone's map; `create_head` fills it in. 64 is the paper's Conv-4.
    hidden, units: channels of the blocks and width of the first linear layer (64 and 8 in the paper).
    class_map: "mean" of the support maps of a class (default: later public code, and the only one that does not
        change its scale with the number of shots) or "sum" (the paper).
    Maps of any size run: the convolutions pad, pooling rounds up, and a global average stands before the linear
    layers, where the paper flattens maps of one fixed size.
    In train mode batch norm sees all pairs of all episodes of the step.
    """

    near_bytes = 2 << 20  # see `episodes.evaluate`
    random_start = True  # see `fewshot.card.Loaded.load_head`

    def __init__(self, in_channels: int = 64, hidden: int = 64, units: int = 8, class_map: str = "mean"):
        super().__init__()
        if class_map not in CLASS_MAPS:
            raise ValueError(f"unknown class_map '{class_map}' of RelationNet; known: {', '.join(CLASS_MAPS)}")
        for name, value in (("in_channels", in_channels), ("hidden", hidden), ("units", units)):
            whole(name, value, 1)
        self.in_channels = in_channels
        self.class_map = class_map
        self.compare = nn.Conv2d(2 * in_channels, hidden, 3, padding=1)
        self.relate = nn.Sequential(
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(hidden, units),
            nn.ReLU(),
            nn.Linear(units, 1),
        )

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, C, H, W), (E, S), (E, Q, C, H, W) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        if support.dim() != 5 or support.shape[2] != self.in_channels:
            raise ValueError(
                f"this RelationNet head compares maps of {self.in_channels} channels and got {tuple(support.shape)} "
                "(E, S, C, H, W): build it with in_channels of the backbone"
            )
        support, query = at_least_float32(support, query)
        with torch.autocast(support.device.type, enabled=False):
            class_maps, counts = CLASS_MAPS[self.class_map](support, support_labels, n_way)
            # the first convolution is linear in the two halves of a pair: each half passes it once, not once a pair
            class_weight, query_weight = self.compare.weight.split(self.in_channels, 1)
            class_part = _convolve(class_maps, class_weight, self.compare.bias)
            query_part = _convolve(query, query_weight, None)
            block = len(query)
            # batch norm in train mode needs all pairs at once, and an exported program works on one episode
            if not self.training and not torch.compiler.is_compiling():
                block = max(1, PAIR_NUMBERS // max(query_part[0].numel() * n_way, 1))
            parts = zip(query_part.split(block), class_part.split(block), strict=True)
            return mask_absent(torch.cat([self._score(q, c) for q, c in parts]), counts)

    def _score(self, query_part: Tensor, class_part: Tensor) -> Tensor:
        pairs = query_part.unsqueeze(2) + class_part.unsqueeze(1)  # (E, Q, K, hidden, H, W)
        return self.relate(pairs.flatten(0, 2)).view(pairs.shape[:3])

    def extra_repr(self) -> str:
        return f"class_map='{self.class_map}'"


def _convolve(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3 convolution of maps (E, N, C, H, W) that keeps their size."""
    return F.conv2d(maps.flatten(0, 1), weight, bias, padding=1).unflatten(0, maps.shape[:2])
