"""Bench: the logistic-regression head of STL DeepBDC and Good-Embed against scikit-learn, episode by episode."""

from __future__ import annotations

from collections.abc import Iterator

from tools.bench.case import Case

# (K ways, shots, D, C of the miniImageNet scripts): spatial means of ResNet-12, then BDC vectors with d=128
SHAPES = ((5, 1, 640, 0.1), (5, 5, 640, 2.0), (5, 1, 8256, 0.1), (5, 5, 8256, 2.0))
N_QUERY = 15


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one episode: normalise, fit, predict 15 queries per class."""
    for shape in SHAPES:
        yield case(*shape, device=device)


def case(
    n_way: int, k_shot: int, length: int, penalty: float, n_episodes: int = 40, repeats: int = 7, device: str = "cpu"
) -> Case:
    """Compare on class centres plus noise in 48 dimensions, embedded in `length`, as the reference vectors are made.

    scikit-learn runs with its defaults (tolerance 1e-4) on the CPU, as the published code calls it; the head here goes
    on to a gradient of 1e-8, on the given device.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    from fewshot.stl_deepbdc import STLDeepBDC

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n_episodes, n_way, k_shot + N_QUERY, 48, generator=generator)
    centres = 0.6 * torch.randn(n_episodes, n_way, 1, 48, generator=generator)
    rows = (noise + centres) @ torch.randn(48, length, generator=generator) / 48**0.5
    support, query = (part.flatten(1, 2).contiguous() for part in (rows[:, :, :k_shot], rows[:, :, k_shot:]))
    labels = torch.arange(n_way).repeat_interleave(k_shot).expand(n_episodes, -1)
    head = STLDeepBDC(C=penalty)
    on_device = [x.to(device) for x in (support, labels, query)]
    numpy_labels = labels[0].numpy()

    def ours() -> None:
        head(*on_device, n_way).argmax(-1)

    def other() -> None:
        for train, test in zip(support.numpy(), query.numpy(), strict=True):
            train, test = (x / ((x**2).sum(1, keepdims=True) ** 0.5 + 1e-6) for x in (train, test))
            LogisticRegression(C=penalty, max_iter=1000).fit(train, numpy_labels).predict(test)

    shape = f"{n_way}-way {k_shot}-shot D={length}"
    return Case("logistic", shape, ours, other, "scikit-learn", repeats, n_episodes, device)
