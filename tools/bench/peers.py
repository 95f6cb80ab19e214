"""Bench: testing ProtoNet on features that are at hand, against easyfsl and learn2learn.

easyfsl's task sampler passes an argument that torch's Sampler no longer takes, so its method object is given our
episodes. learn2learn brings sampler and classifier, used as its documentation has it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator

from tools.bench.case import Case, PeerMissing

CLASSES, ITEMS, LENGTH = 20, 600, 640  # the test split of miniImageNet, spatial means of ResNet-12
WAYS, SHOTS, QUERIES = 5, 1, 15
EPISODES = 2000
PEER_EPISODES = 200


def cases(device: str = "cpu") -> Iterator[Case | PeerMissing]:
    """One unit is one episode: sampled, gathered, scored and counted. Runs on the CPU alone."""
    for name in PEERS:
        try:
            yield case(name)
        except ImportError as error:
            yield PeerMissing(f"{name} can't be imported ({error}): `make setup` installs it")


def case(name: str, n_classes: int = CLASSES, n_items: int = ITEMS, episodes: int = EPISODES, repeats: int = 5) -> Case:
    """Compare with the peer `name` on the same features; raises ImportError where it is not installed."""
    from episodes.evaluate import evaluate_features
    from episodes.sampler import EpisodeSampler
    from fewshot.protonet import ProtoNet
    from tools.bench.stored import class_features, store_of

    features, labels = class_features(n_classes, n_items, LENGTH)
    store, folder = store_of(features)
    count = min(episodes, PEER_EPISODES)
    other = PEERS[name](features, labels, count)

    def ours() -> object:
        assert folder  # the store's folder lives as long as this function
        sampler = EpisodeSampler(labels, WAYS, SHOTS, QUERIES, episodes)
        return evaluate_features(ProtoNet(), store, sampler, n_classes, show=False).accuracies

    shape = f"{WAYS}-way {SHOTS}-shot {QUERIES}-query D={LENGTH} of {n_classes}x{n_items} items"
    return Case("peers", shape, ours, other, name, repeats, episodes, other_count=count)


def easyfsl_loop(features, labels, episodes: int) -> Callable[[], list[float]]:
    """Score episodes with easyfsl's prototypical networks on features (no backbone)."""
    import torch
    from easyfsl.methods import PrototypicalNetworks

    from episodes.sampler import EpisodeSampler
    from tools.bench.stored import plain_loop

    method = PrototypicalNetworks(torch.nn.Identity())

    def predict(support: torch.Tensor, support_labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        method.process_support_set(support, support_labels)
        return method(query).argmax(1)

    @torch.no_grad()
    def run() -> list[float]:
        return plain_loop(predict, features, EpisodeSampler(labels, WAYS, SHOTS, QUERIES, episodes))

    return run


def learn2learn_loop(features, labels, episodes: int) -> Callable[[], list[float]]:
    """Score tasks of learn2learn's fused transform with its prototypical classifier; the user splits a task."""
    import torch

    with contextlib.redirect_stderr(io.StringIO()):  # gym, which it loads, prints a page of advice
        import learn2learn.data
        from learn2learn.data.transforms import ConsecutiveLabels, FusedNWaysKShots, LoadData, RemapLabels
        from learn2learn.nn import PrototypicalClassifier

    by_class = {c: (labels == c).nonzero()[0].tolist() for c in set(labels.tolist())}
    pairs = torch.utils.data.TensorDataset(features, torch.from_numpy(labels))
    data = learn2learn.data.MetaDataset(
        pairs, indices_to_labels=dict(enumerate(labels.tolist())), labels_to_indices=by_class
    )
    transforms = [
        FusedNWaysKShots(data, n=WAYS, k=SHOTS + QUERIES), LoadData(data), RemapLabels(data), ConsecutiveLabels(data)
    ]  # fmt: skip
    tasks = learn2learn.data.Taskset(data, transforms, num_tasks=-1)
    is_support = (torch.arange(WAYS * (SHOTS + QUERIES)) % (SHOTS + QUERIES)) < SHOTS

    @torch.no_grad()
    def run() -> list[float]:
        accuracies = []
        for _ in range(episodes):
            rows, truth = tasks.sample()
            classifier = PrototypicalClassifier(rows[is_support], truth[is_support])
            right = classifier(rows[~is_support]).argmax(1) == truth[~is_support]
            accuracies.append(right.float().mean().item())
        return accuracies

    return run


PEERS = {"easyfsl": easyfsl_loop, "learn2learn": learn2learn_loop}
