"""Bench: every method of the table on stored features, against the same head given one episode at a time."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench.case import Case

CLASSES, ITEMS = 20, 100
WAYS, SHOTS, QUERIES = 5, 1, 15
# by what the head takes: spatial means of ResNet-12, BDC vectors with d=64, maps of a Conv-4 for 42-pixel pictures
SHAPES = {"gap": (640,), "bdc": (64 * 65 // 2,), "map": (64, 5, 5)}
EPISODES = 128
SLOW = {"deepemd": 4, "tim": 32, "baseline": 32, "baseline_pp": 32}  # episodes of heads with a loop of their own


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode: sampled, gathered, scored and counted. Methods that adapt the network are left out."""
    from fewshot.methods import METHODS

    for name, method in METHODS.items():
        if not method.adapts:
            yield case(name, device=device)


def case(
    method: str,
    n_classes: int = CLASSES,
    n_items: int = ITEMS,
    episodes: int | None = None,
    repeats: int = 3,
    device: str = "cpu",
) -> Case:
    """Compare with a loop that indexes features in memory and asks the head about each episode alone."""
    import math

    import torch

    from episodes.evaluate import evaluate_features
    from episodes.sampler import EpisodeSampler
    from fewshot.methods import METHODS, create_head
    from tools.bench.stored import class_features, plain_loop, store_of

    shape, episodes = SHAPES[METHODS[method].pool], episodes or SLOW.get(method, EPISODES)
    features, labels = class_features(n_classes, n_items, math.prod(shape))
    features = features.unflatten(1, shape)
    store, folder = store_of(features)
    torch.manual_seed(0)
    head = create_head(method, SHOTS, shape[0]).to(device).eval()

    def sampler() -> EpisodeSampler:
        return EpisodeSampler(labels, WAYS, SHOTS, QUERIES, episodes)

    def ours() -> object:
        assert folder  # the store's folder lives as long as this function
        return evaluate_features(head, store, sampler(), n_classes, show=False, device=device).accuracies

    def alone(support: torch.Tensor, support_labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        tensors = (x[None].to(device) for x in (support, support_labels, query))
        return head(*tensors, n_way=WAYS)[0].argmax(1).cpu()

    @torch.no_grad()
    def other() -> object:
        return plain_loop(alone, features, sampler())

    text = f"{method} {WAYS}-way {SHOTS}-shot {QUERIES}-query of {'x'.join(map(str, shape))}"
    return Case("heads", text, ours, other, "one at a time", repeats, episodes, device)
