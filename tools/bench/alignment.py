"""Bench: heads that compare the frames of videos, on stored features, against the plain loop over episodes."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench.case import Case

CLASSES, ITEMS, FRAMES, CHANNELS = 10, 60, 8, 384  # a small test split; 16 frames at 112 px through ViT-S
WAYS, QUERIES = 5, 15
SHOTS = (1, 5)
EPISODES = {"otam": 64, "trx": 4}


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode: sampled, gathered, scored and counted. Runs on the CPU alone."""
    for name in EPISODES:
        for shots in SHOTS:
            yield case(name, shots)


def case(
    name: str,
    shots: int,
    n_classes: int = CLASSES,
    n_items: int = ITEMS,
    shape: tuple[int, int] = (FRAMES, CHANNELS),
    episodes: int | None = None,
    repeats: int = 3,
    **options: int,
) -> Case:
    """Compare with a loop that indexes features in memory. options: of the head, which both sides have."""
    import math

    import torch

    from episodes.evaluate import evaluate_features
    from episodes.sampler import EpisodeSampler
    from tools.bench.plain_alignment import plain_otam, plain_trx
    from tools.bench.stored import class_features, plain_loop, store_of
    from video.otam import OTAM
    from video.trx import TRX

    episodes = episodes or EPISODES[name]
    features, labels = class_features(n_classes, n_items, math.prod(shape))
    features = features.unflatten(1, shape)
    store, folder = store_of(features)
    torch.manual_seed(0)
    head = (OTAM(**options) if name == "otam" else TRX(shape[1], **options)).eval()

    def sampler() -> EpisodeSampler:
        return EpisodeSampler(labels, WAYS, shots, QUERIES, episodes)

    def ours() -> object:
        assert folder  # the store's folder lives as long as this function
        return evaluate_features(head, store, sampler(), n_classes, show=False).accuracies

    def alone(support: torch.Tensor, support_labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        tensors = support, support_labels, query, WAYS
        return (plain_otam(*tensors) if name == "otam" else plain_trx(head, *tensors)).argmax(1)

    @torch.no_grad()
    def other() -> object:
        return plain_loop(alone, features, sampler())

    text = f"{name} {WAYS}-way {shots}-shot {QUERIES}-query of {'x'.join(map(str, shape))}"
    return Case("alignment", text, ours, other, "plain loop over episodes", repeats, episodes, clock="process")
