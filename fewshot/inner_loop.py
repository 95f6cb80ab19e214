"""What MAML and ANIL share: the settings of the inner loop and the linear layer that it starts from.

The linear layer of an episode has one row a class. Which rows it starts from decides what n_way may be:

- "zeros": no class differs from another before the first step, so any n_way and any order of the classes do. Rows that
  are all equal, learned or not, give the very same predictions and gradients: softmax does not see what is common to
  all classes (Ye & Chao, "How to train your MAML", ICLR 2022; Kao et al., "MAML is a noisy contrastive learner", ICLR
  2022, who start from zero).
- "prototypes": the Euclidean prototype classifier, w = 2 m and b = -|m|^2 for the class mean m (Proto-MAML,
  Triantafillou et al., ICLR 2020); any n_way as well.
- "learned": the rows of the original papers, meta-learned one by one; episodes may have as many classes or fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbones import UserError
from episodes.arguments import flag, positive, whole
from episodes.class_rows import class_means
from episodes.learn2learn.library import import_learn2learn

STARTS = ("zeros", "prototypes", "learned")
LIBRARIES = ("torch", "learn2learn")


@dataclass(frozen=True)
class InnerLoop:
    """Gradient descent on the mean cross-entropy of an episode's support.

    steps: in training. test_steps: in testing; None takes as many as in training.
    lr: of plain gradient descent.
    first_order: take the inner gradients for constants in the meta-gradient (FOMAML).
    start: of the linear layer, see above. n_way: rows of a learned start.
    library: torch, or learn2learn's MAML class, which clones the network for every episode; the numbers are the same.
    """

    steps: int = 5
    test_steps: int | None = 10
    lr: float = 0.01
    first_order: bool = False
    start: str = "zeros"
    n_way: int | None = None
    library: str = "torch"

    def __post_init__(self) -> None:
        whole("inner_steps", self.steps, 1)
        whole("test_steps", self.test_steps, optional=True)
        positive("inner_lr", self.lr)
        flag("first_order", self.first_order)
        whole("n_way", self.n_way, 1, optional=True)
        for name, value, known in (("start", self.start, STARTS), ("library", self.library, LIBRARIES)):
            if value not in known:
                raise UserError(f"unknown {name} '{value}' of the inner loop; known: {', '.join(known)}")
        if (self.start == "learned") != (self.n_way is not None):
            raise UserError(
                f"start='{self.start}' with n_way={self.n_way}: a learned start needs n_way, the classes of a training "
                "episode, and the other starts know no n_way"
            )
        if self.start == "prototypes" and self.library == "learn2learn":
            raise UserError("start='prototypes' needs library='torch': learn2learn clones parameters alone")
        if self.library == "learn2learn":
            import_learn2learn()  # its absence is said here, before long work

    def count(self, training: bool) -> int:
        """Return how many steps to take."""
        return self.steps if training or self.test_steps is None else self.test_steps


def add_start(head: nn.Module, loop: InnerLoop, in_channels: int) -> None:
    """Give a head the parameters `weight` (n_way, D) and `bias` (n_way,) of a learned start, or None for the others.

    Drawn as `nn.Linear` draws them.
    """
    whole("in_channels", in_channels, 1)
    layer = nn.Linear(in_channels, loop.n_way) if loop.start == "learned" else None
    head.random_start = layer is not None  # see `fewshot.card.Loaded.load_head`
    head.register_parameter("weight", layer.weight if layer else None)
    head.register_parameter("bias", layer.bias if layer else None)


def check_way(loop: InnerLoop, n_way: int) -> None:
    """Refuse episodes with more classes than the rows of a learned start."""
    if loop.n_way is not None and n_way > loop.n_way:
        raise UserError(
            f"the learned start of the inner loop has {loop.n_way} classes, an episode has {n_way}: lower n_way, or "
            "train with start='zeros', which knows no n_way"
        )


def start_rows(
    head: nn.Module, loop: InnerLoop, support: Tensor, labels: Tensor, n_way: int
) -> tuple[Tensor, Tensor] | None:
    """Return the weights (E, K, D) and biases (E, K) that E episodes start from; None stands for zeros.

    support: features (E, S, D). labels: (E, S), -1 for padding.
    """
    if loop.start == "zeros":
        return None
    if loop.start == "prototypes":
        means = class_means(support, labels, n_way)[0]
        return 2 * means, -means.square().sum(-1)
    weight, bias = head.weight[:n_way].to(support.dtype), head.bias[:n_way].to(support.dtype)
    return weight.expand(len(support), -1, -1), bias.expand(len(support), -1)


def absent(labels: Tensor, n_way: int) -> Tensor:
    """Return (n_way,) True for the classes without a row in labels (S,)."""
    return torch.bincount(labels, minlength=n_way)[:n_way] == 0
