"""Bench: a whole test of STL DeepBDC on stored features, five runs of 2,000 episodes as the paper reports them."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench import logistic
from tools.bench.case import Case

LENGTH, CLASSES, ITEMS = 8256, 20, 600  # BDC vectors with d=128 of the test split of miniImageNet
EPISODES, OTHER_EPISODES = 10_000, 100


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode: sampled, gathered, normalised, fitted and counted; scikit-learn does fewer of them."""
    for k_shot in logistic.PENALTY:
        yield case(k_shot, device=device)


def case(
    k_shot: int,
    length: int = LENGTH,
    n_classes: int = CLASSES,
    n_items: int = ITEMS,
    episodes: int = EPISODES,
    other_episodes: int = OTHER_EPISODES,
    device: str = "cpu",
) -> Case:
    """Compare the whole test with the plain loop on its first episodes."""
    return logistic.case(k_shot, length, n_classes, n_items, episodes, 1, device, "stl_test", other_episodes)
