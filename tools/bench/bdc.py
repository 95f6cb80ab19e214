"""Bench: the BDC layer, forward and backward, against the plain matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tools.bench.case import Case

# (B, d, H, W): 80 images are a 5-way 1-shot 15-query episode. ResNet-12 with 5x5 and 10x10 maps, d=640 or d=256.
SHAPES = {(80, 640, 5, 5): 5, (80, 256, 10, 10): 15, (8, 640, 10, 10): 15}  # and how many rounds


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one forward and backward pass of a batch."""
    for shape, repeats in SHAPES.items():
        yield case(shape, repeats, device)


def case(shape: tuple[int, int, int, int], repeats: int = 5, device: str = "cpu") -> Case:
    """Compare on rectified noise of the given shape (B, d, H, W)."""
    from moments import bdc_vector
    from tools.bench.plain import plain_bdc_vector

    ours, other = passes(bdc_vector, shape, device), passes(plain_bdc_vector, shape, device)
    return Case("bdc", "x".join(map(str, shape)), ours, other, "plain products", repeats, device=device)


def passes(function: Callable, shape: tuple[int, int, int, int], device: str) -> Callable[[], None]:
    """Return one forward and backward pass of `function(x, temperature)`.

    The gradient that comes from above is dense noise, made once. Output and gradients are dropped after each pass, so
    that they are part of the memory that a pass needs, and the next pass adds nothing up.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).relu_().to(device).requires_grad_()
    temperature = torch.full((1, 1), -5.0, device=device, requires_grad=True)
    upstream = torch.randn(shape[0], shape[1] * (shape[1] + 1) // 2, generator=generator).to(device)

    def run() -> None:
        function(x, temperature).backward(upstream)
        x.grad = temperature.grad = None

    return run
