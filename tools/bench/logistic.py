"""Bench: testing the logistic-regression head of STL DeepBDC on stored features, against scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench.case import Case

# D -> (classes, items of each, episodes a call, rounds): spatial means of ResNet-12, BDC vectors with d=128 and d=640.
# The first two have as many items as the test split of miniImageNet; as many of the third would fill 10 GB.
SETS = {640: (20, 600, 256, 5), 8256: (20, 600, 64, 5), 205120: (10, 25, 6, 3)}
PENALTY = {1: 0.1, 5: 2.0}  # C of the miniImageNet scripts, by shots
WAYS, QUERIES = 5, 15


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode: sampled, gathered, normalised, fitted and counted."""
    for length in SETS:
        for k_shot in PENALTY:
            yield case(k_shot, length, *SETS[length], device=device)
    yield variable_case(device=device)


def case(
    k_shot: int,
    length: int,
    n_classes: int,
    n_items: int,
    episodes: int,
    repeats: int,
    device: str = "cpu",
    name: str = "logistic",
    other_episodes: int | None = None,
) -> Case:
    """Compare on rectified class centres plus noise.

    other_episodes: how many scikit-learn does, where all of them would take too long; each side is then run once.

    scikit-learn runs with its defaults (tolerance 1e-4) on the CPU, one episode after the other, as the published code
    calls it; the head here goes on to a gradient of 1e-8, on the given device.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    from episodes.evaluate import evaluate_features
    from episodes.sampler import EpisodeSampler
    from fewshot.stl_deepbdc import STLDeepBDC
    from tools.bench.stored import class_features, plain_loop, store_of

    features, labels = class_features(n_classes, n_items, length)
    store, folder = store_of(features)
    head = STLDeepBDC(C=PENALTY[k_shot])

    def sampler(count: int) -> EpisodeSampler:
        return EpisodeSampler(labels, WAYS, k_shot, QUERIES, count)

    def ours() -> object:
        assert folder  # the store's folder lives as long as this function
        return evaluate_features(head, store, sampler(episodes), n_classes, show=False, device=device).accuracies

    def regression(support: torch.Tensor, support_labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        train, test = (x / (x.norm(dim=1, keepdim=True) + 1e-6) for x in (support, query))
        model = LogisticRegression(C=PENALTY[k_shot], max_iter=1000).fit(train.numpy(), support_labels.numpy())
        return torch.from_numpy(model.predict(test.numpy()))

    def other() -> object:
        return plain_loop(regression, features, sampler(other_episodes or episodes))

    shape = f"{WAYS}-way {k_shot}-shot {QUERIES}-query D={length} of {n_classes}x{n_items} items"
    if other_episodes is not None:
        shape = f"{episodes:,} episodes {shape}"
    other_name = "scikit-learn" if other_episodes is None else f"scikit-learn on {other_episodes} episodes"
    return Case(
        name, shape, ours, other, other_name, repeats, episodes, device, other_episodes, other_episodes is not None
    )


def variable_case(
    n_classes: int = 40,
    n_items: int = 100,
    length: int = 512,
    episodes: int = 32,
    repeats: int = 3,
    device: str = "cpu",
) -> Case:
    """Compare on episodes of 5 to 50 classes and up to 500 support rows, in one padded batch.

    Only the fit and the prediction count. scikit-learn runs with its defaults, one episode after the other, without
    padding; the head goes on to a gradient of 1e-8.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    from episodes.evaluate import take
    from episodes.sampler import EpisodeSampler
    from episodes.sizes import MetaDatasetSizes
    from fewshot.stl_deepbdc import STLDeepBDC
    from tools.bench.stored import class_features

    features, labels = class_features(n_classes, n_items, length)
    penalty = PENALTY[5]
    head = STLDeepBDC(C=penalty).to(device)
    batch = EpisodeSampler(labels, n_episodes=episodes, variable=MetaDatasetSizes()).batch(list(range(episodes)))
    support, query = take(features, batch.support), take(features, batch.query)
    support_labels, query_labels = torch.tensor(batch.support_labels), torch.tensor(batch.query_labels)

    def ours() -> object:
        arguments = (x.to(device) for x in (support, support_labels, query))
        hits = head(*arguments, batch.classes.shape[1]).argmax(-1).cpu() == query_labels
        return (hits.sum(1) / (query_labels >= 0).sum(1)).numpy()

    def other() -> object:
        accuracies = []
        for x, y, q, q_labels in zip(support, support_labels, query, query_labels, strict=True):
            train, test = (z / (z.norm(dim=1, keepdim=True) + 1e-6) for z in (x[y >= 0], q[q_labels >= 0]))
            model = LogisticRegression(C=penalty, max_iter=1000).fit(train.numpy(), y[y >= 0].numpy())
            accuracies.append(float((model.predict(test.numpy()) == q_labels[q_labels >= 0].numpy()).mean()))
        return accuracies

    n_way = batch.classes.shape[1]
    shape = f"{episodes} episodes of variable sizes, up to {support.shape[1]} rows of {n_way} classes, D={length}"
    return Case("logistic", shape, ours, other, "scikit-learn", repeats, episodes, device)
