"""Bench: the Newton-Schulz root, forward and backward, against the published form with its saved iterates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tools.bench.case import Case

# (B, d, d), each with the number of passes timed together; 256 channels are those of the published networks.
SHAPES = {(8, 256, 256): 1, (64, 64, 64): 4}
STEPS = 5
REPEATS = 11


def cases(device: str = "cpu") -> Iterator[Case]:
    """One unit is one forward and backward pass of a batch. On a GPU the compiled root is measured too."""
    for shape, count in SHAPES.items():
        yield case(shape, count, device=device)
        if device == "cuda":
            yield compiled_case(shape, count, device=device)


def case(shape: tuple[int, int, int], count: int = 1, repeats: int = REPEATS, device: str = "cpu") -> Case:
    """Compare on covariances of rectified noise of the given shape (B, d, d), `count` passes a call."""
    from moments import newton_schulz_root
    from tools.bench.plain_isqrt import saved_iterates_root

    ours, other = (passes(function, shape, count, device) for function in (newton_schulz_root, saved_iterates_root))
    return Case("isqrt", "x".join(map(str, shape)), ours, other, "saved iterates", repeats, count, device)


def compiled_case(
    shape: tuple[int, int, int], count: int = 1, repeats: int = REPEATS, device: str = "cuda", backend: str = "inductor"
) -> Case:
    """Compare the plain root with what torch.compile makes of it: a ratio below 1 says that compiling wins."""
    import torch

    from moments import newton_schulz_root

    compiled = torch.compile(newton_schulz_root, backend=backend, fullgraph=True)
    ours, other = (passes(function, shape, count, device) for function in (newton_schulz_root, compiled))
    return Case("isqrt", "x".join(map(str, shape)), ours, other, f"compiled, {backend}", repeats, count, device)


def passes(function: Callable, shape: tuple[int, int, int], count: int, device: str) -> Callable[[], None]:
    """Return a call that runs `count` forward and backward passes of `function(matrices, STEPS)`.

    The gradient that comes from above is dense noise, made once; output and gradient are dropped after each pass.
    """
    import torch

    from moments import covariance

    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(shape[0], shape[1], 14, 14, generator=generator).relu_()
    matrices = covariance(maps).to(device).requires_grad_()
    upstream = torch.randn(shape, generator=generator).to(device)

    def run() -> None:
        for _ in range(count):
            function(matrices, STEPS).backward(upstream)
            matrices.grad = None

    return run
