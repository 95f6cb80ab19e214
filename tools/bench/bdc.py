"""Bench: the BDC layer, forward and backward, against the plain matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tools.bench.case import Case

# (B, d, H, W). 80 images are a 5-way 1-shot 15-query episode; d=640 is ResNet-12 as it is, d=256 a reduced one.
# Each with the number of passes timed together: a short one alone would show how cold the caches are after the other
# side and what the neighbours on the machine do, more than the work.
SHAPES = {(80, 640, 5, 5): 1, (80, 256, 10, 10): 5, (8, 640, 10, 10): 5}
REPEATS = 7


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one forward and backward pass of a batch."""
    for shape, count in SHAPES.items():
        yield case(shape, count, device=device)


def case(shape: tuple[int, int, int, int], count: int = 1, repeats: int = REPEATS, device: str = "cpu") -> Case:
    """Compare on rectified noise of the given shape (B, d, H, W), `count` passes a call."""
    from moments import bdc_vector
    from tools.bench.plain import plain_bdc_vector

    ours, other = (passes(function, shape, count, device) for function in (bdc_vector, plain_bdc_vector))
    return Case("bdc", "x".join(map(str, shape)), ours, other, "plain products", repeats, count, device)


def passes(function: Callable, shape: tuple[int, int, int, int], count: int, device: str) -> Callable[[], None]:
    """Return a call that runs `count` forward and backward passes of `function(x, temperature)`.

    The gradient that comes from above is dense noise, made once. Output and gradients are dropped after each pass, so
    that they are part of the memory that a pass needs, and the next pass adds nothing up.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).relu_().to(device).requires_grad_()
    temperature = torch.full((1, 1), -5.0, device=device, requires_grad=True)
    upstream = torch.randn(shape[0], shape[1] * (shape[1] + 1) // 2, generator=generator).to(device)

    def run() -> None:
        for _ in range(count):
            function(x, temperature).backward(upstream)
            x.grad = temperature.grad = None

    return run
