"""Bench: TAMT on clips, against the plain way, beside the published figures of the released code.

The sides compute the same numbers from the same weights (see `tools.bench.plain_tamt`). What is published was measured
on another machine: compare ratios and memory. The second table has them, and the numbers of trained parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tools.bench.case import Case, Parts, now

SIDE, FRAMES = 112, 16
BATCHES = {1: 7, 8: 3}  # clips -> rounds
MODES = ("inference", "TAMT tuning", "full fine-tuning")
STORED = "TAMT tuning on kept features"
# Of the released code, one thread of an AMD EPYC; (clips, mode) -> forward, backward, memory, trained parameters.
PUBLISHED = {
    (1, "inference"): ("0.34 s", None, "44 MiB", None),
    (1, "TAMT tuning"): ("0.30-0.37 s", "0.04-0.06 s", "77 MiB", "2.00 M"),
    (1, "full fine-tuning"): ("0.32-0.35 s", "0.59-0.61 s", "300 MiB", "23.91 M"),
    (8, "inference"): ("2.6 s", None, "180 MiB", None),
    (8, "TAMT tuning"): ("2.2 s", "0.37 s", "385 MiB", "2.00 M"),
    (8, "full fine-tuning"): ("2.4 s", "4.1 s", "1,980 MiB", "23.91 M"),
}


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one call on all clips of a batch: forward, and backward where something is trained; ViT-S, 112 px."""
    from backbones.video_zoo import create_video_backbone

    for clips, repeats in BATCHES.items():
        for mode in (*MODES, STORED):
            vit = create_video_backbone("video_vit_small", drop_path=0.1)
            yield case(vit, clips, mode, repeats, device)


def case(vit: Any, clips: int, mode: str, repeats: int, device: str = "cpu") -> Case:
    """Compare a transformer of ours with TAMT around it, and the same weights the plain way."""
    import torch

    from video.encoders import AfterStem, freeze_for, stem
    from video.tamt import create_tamt

    torch.manual_seed(0)
    model = create_tamt(vit)
    freeze_for(model, "all" if mode == "full fine-tuning" else "adapters")
    plain = plain_of(model)
    if mode != "full fine-tuning":
        plain.tuned()
    side, frames = vit.input_size, vit.frames
    batch = torch.randn(clips, 3, frames, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    training, ours, given = mode != "inference", model.to(device), batch
    if mode == STORED:
        with torch.no_grad():
            ours, given = AfterStem(model), stem(model.eval(), batch)
    facts = {"trained, ours": millions(model, training), "trained, other": millions(plain, training)}
    facts |= published(clips, mode)
    shape = f"{mode}, {clips}x3x{frames}x{side}x{side}"
    runs = step(ours, given, training, device), step(plain.to(device), batch, training, device)
    clock = "process" if device == "cpu" else "wall"
    return Case("tamt_step", shape, *runs, "plain way", repeats, device=device, clock=clock, facts=facts)


def plain_of(model: Any) -> Any:
    """Return the plain model with the weights, sizes and drop rates of ours."""
    from tools.bench.plain_tamt import PlainTamt
    from video.tamt_layout import to_reference

    vit, pool = model.backbone.vit, model.pool
    rate, patch = vit.blocks[-1].drop_path.drop_prob, vit.patch_embed.size[1]
    plain = PlainTamt(vit.out_channels, vit.depth, vit.heads, patch, pool.frames, pool.groups, rate)
    plain.load_state_dict(to_reference(model))
    return plain


def step(model: Any, clips: Any, training: bool, device: str) -> Callable[[], Parts]:
    """Return one step without its optimiser, whose cost is small and the same; gradients count as its memory."""
    import torch

    model.train(training)
    clock = "process" if device == "cpu" else "wall"

    def run() -> Parts:
        start = now(clock, device)
        with torch.set_grad_enabled(training):
            loss = model(clips).square().sum()
        middle = now(clock, device)
        if not training:
            return Parts()
        loss.backward()
        end = now(clock, device)
        model.zero_grad()
        return Parts(forward=middle - start, backward=end - middle)

    return run


def millions(model: Any, training: bool) -> str:
    """Return the number of parameters that require a gradient: '2.00 M'; '-' where nothing is trained."""
    from video.tamt import count_parameters

    return f"{count_parameters(model)[1] / 1e6:.2f} M" if training else "-"


def published(clips: int, mode: str) -> dict[str, str]:
    """Return the published figures, labelled as such; dashes where there are none."""
    names = ("forward", "backward", "memory", "trained")
    figures = PUBLISHED.get((clips, mode), (None,) * len(names))
    return {f"published {name}": figure or "-" for name, figure in zip(names, figures, strict=True)}
