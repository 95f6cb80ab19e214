"""Bench: one training episode of Meta DeepBDC, optimiser step included, against the plain BDC layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

from tools.bench.case import Case

WAYS, SHOTS, QUERIES, SIDE_PX = 5, 1, 15, 84
REPEATS = 3  # a step takes many seconds, nearly all of them in the same backbone
LR = 1e-4  # of the miniImageNet recipe


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one step on one episode of noise images: ResNet-12, 640 x 10 x 10 maps, no reduction."""
    from fewshot.methods import create_encoder

    yield case(create_encoder("meta_deepbdc"), SIDE_PX, REPEATS, device)


def case(encoder: object, side_px: int, repeats: int, device: str = "cpu") -> Case:
    """Compare steps of an encoder with `moments.BDC` pooling, and of a copy of it with the plain layer."""
    plain = plain_copy(encoder)
    images = WAYS * (SHOTS + QUERIES)
    shape = f"{images}x3x{side_px}x{side_px}, {WAYS}-way {SHOTS}-shot {QUERIES}-query"
    ours, other = step(encoder, side_px, device), step(plain, side_px, device)
    return Case("episode", shape, ours, other, "plain BDC layer", repeats, device=device)


def plain_copy(encoder: object) -> object:
    """Return an encoder with the same backbone, of its own, and the plain BDC layer."""
    from tools.bench.plain import PlainBDC

    plain = copy.deepcopy(encoder)
    plain.pool = PlainBDC(encoder.backbone.out_channels)
    return plain


def step(encoder: object, side_px: int, device: str) -> Callable[[], None]:
    """Return one step: forward, loss, backward, optimiser. Gradients are dropped at its end, to count as its memory."""
    import torch

    from episodes.optim import build_optimizer
    from fewshot.encoder import EpisodeModel, episode_step
    from fewshot.meta_deepbdc import MetaDeepBDC

    model = EpisodeModel(encoder, MetaDeepBDC(k_shot=SHOTS)).to(device).train()
    optimizer = build_optimizer(model, lr=LR)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, WAYS * (SHOTS + QUERIES), 3, side_px, side_px, generator=generator).to(device)
    labels = torch.arange(WAYS, device=device)
    batch = {
        "images": images,
        "support_labels": labels.repeat_interleave(SHOTS)[None],
        "query_labels": labels.repeat_interleave(QUERIES)[None],
    }

    def run() -> None:
        episode_step(model, batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
