"""Bench: testing a prototype head on stored features, against the plain loop over episodes."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench.case import Case

CLASSES, ITEMS, LENGTH = 20, 600, 640  # the test split of miniImageNet, spatial means of ResNet-12
WAYS, SHOTS, QUERIES = 5, 1, 15
EPISODES = 2000


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode: sampled, gathered, scored and counted. Runs on the CPU alone."""
    yield case()


def case(n_classes: int = CLASSES, n_items: int = ITEMS, episodes: int = EPISODES, repeats: int = 5) -> Case:
    """Compare with a loop that indexes, takes the mean of each class, measures distances and counts."""
    import torch

    from episodes.evaluate import evaluate_features
    from episodes.sampler import EpisodeSampler
    from fewshot.protonet import ProtoNet
    from tools.bench.stored import class_features, plain_loop, store_of

    features, labels = class_features(n_classes, n_items, LENGTH)
    store, folder = store_of(features)

    def sampler() -> EpisodeSampler:
        return EpisodeSampler(labels, WAYS, SHOTS, QUERIES, episodes)

    def ours() -> object:
        assert folder  # the store's folder lives as long as this function
        return evaluate_features(ProtoNet(), store, sampler(), n_classes, show=False).accuracies

    def nearest(support: torch.Tensor, support_labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        prototypes = torch.stack([support[support_labels == c].mean(0) for c in range(WAYS)])
        return torch.cdist(query, prototypes).argmin(1)

    @torch.no_grad()
    def other() -> object:
        return plain_loop(nearest, features, sampler())

    shape = f"{WAYS}-way {SHOTS}-shot {QUERIES}-query D={LENGTH} of {n_classes}x{n_items} items"
    return Case("prototypes", shape, ours, other, "plain loop over episodes", repeats, episodes)
