"""Every second-order layer on what breaks layers: dead, constant, dependent and empty input, layouts, tracing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moments import (
    BilinearPool,
    CompactBilinearPool,
    CovariancePool,
    CrossCovariance,
    GSoP,
    MultiHeadCovariance,
    covariance,
    gaussian_pool,
    isqrt_pool,
    mpn_pool,
    newton_schulz_root,
)
from moments.svpn import SVPN
from moments.unit_length import unit_length

C = 6
LAYERS = {
    "covariance": lambda: CovariancePool(C, groups=2),
    "isqrt": lambda: isqrt_pool(C, 5, reduction=4),
    "isqrt frobenius": lambda: isqrt_pool(C, 3, norm="frobenius"),
    "mpn": lambda: mpn_pool(C),
    "mpn spectral": lambda: mpn_pool(C, scale="spectral"),
    "gaussian": lambda: gaussian_pool(C, beta="learned"),
    "gaussian steps": lambda: gaussian_pool(C, iterations=3),
    "bilinear": lambda: BilinearPool(C),
    "bilinear columns": lambda: BilinearPool(C, vectorize=False),
    "compact bilinear": lambda: CompactBilinearPool(C, 11),
    "cross": lambda: nn.Sequential(CrossCovariance(C, (4, 3)), SVPN(4)),
    "cross two values": lambda: nn.Sequential(CrossCovariance(C, None), SVPN(C, singular_values=2, iterations=2)),
    "heads": lambda: MultiHeadCovariance(C, 2, 3),
    "heads power": lambda: MultiHeadCovariance(C, 2, 3, norm="power"),
    "heads layer": lambda: MultiHeadCovariance(C, 2, 3, norm="layer"),
    "gsop channel": lambda: GSoP(C, "channel", 4),
    "gsop position": lambda: GSoP(C, "position", 4),
    "gsop max": lambda: GSoP(C, "fusion_max", 4),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[name]().eval()


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_derivatives_of_both_orders_stay_finite(name):
    x = maps(5, C, 5, 4)
    x[0], x[1], x[2, 1::2], x[3, 2] = 0, 3, x[2, ::2], 0  # dead, constant, of half the rank, one dead channel
    layer = made(name)
    tiny = 1e-10 * x[4:]
    for given in (x, x[:, :, :1, :1], x[:1], x[:0], 1e-4 * x[4:], 1e6 * x[4:], tiny):
        leaf = given.clone().requires_grad_()
        out = layer(leaf)
        assert out.shape[0] == len(given) and out.isfinite().all()
        (grad,) = torch.autograd.grad(out.square().sum() + out.sum(), leaf, create_graph=True)
        assert grad.isfinite().all()
        if given is tiny:
            continue  # squares of variances are below what float32 holds, and the second derivative divides by them
        (second,) = torch.autograd.grad(grad.sum() + grad.square().sum(), leaf, materialize_grads=True)
        assert second.isfinite().all()


@pytest.mark.parametrize("name", LAYERS)
def test_layouts_of_memory_change_nothing(name):
    layer, x = made(name), maps(2, C, 5, 4)
    leaves = [
        x.clone(),
        x.to(memory_format=torch.channels_last),
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ]
    found = []
    for leaf in leaves:
        leaf.requires_grad_()
        out = layer(leaf)
        found.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_half_precision(name):
    x = maps(2, C, 5, 4)
    expected = made(name)(x)
    found = made(name).to(torch.bfloat16)(x.to(torch.bfloat16))
    assert found.isfinite().all() and found.shape == expected.shape


@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_program_takes_any_batch(name):
    layer, x = made(name), maps(5, C, 5, 4)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (x[:2],), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(x), layer(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["isqrt", "mpn", "gaussian", "compact bilinear", "cross", "gsop channel"])
def test_compiled_in_one_graph(name):
    layer, x = made(name), maps(3, C, 5, 4)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    found = []
    for run in (layer, compiled):
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        found.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


def test_a_compiled_root_has_the_symmetric_gradient():
    s, upstream = covariance(maps(2, 4, 9)).requires_grad_(), maps(2, 4, 4)  # noise above: not symmetric
    compiled = torch.compile(lambda s: newton_schulz_root(s, 3), backend="aot_eager", fullgraph=True)
    roots = [newton_schulz_root(s, 3), compiled(s)]
    grads = [torch.autograd.grad(root, s, upstream)[0] for root in roots]
    torch.testing.assert_close(*roots)
    torch.testing.assert_close(*grads)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["isqrt frobenius", "mpn", "gaussian"])
def test_function_transforms(name):
    layer, x = made(name).double(), maps(2, C, 2, 3).double()

    def total(one):
        return layer(one[None]).square().sum()

    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(layer(leaf).square().sum(), leaf, create_graph=True)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x), grad.detach())
    (product,) = torch.autograd.grad(grad, leaf, x)
    hessian = torch.func.jacrev(torch.func.jacrev(total))(x[0])
    torch.testing.assert_close((hessian * x[0]).flatten(3).sum(3), product[0])
    torch.testing.assert_close(torch.func.jacrev(layer)(x), torch.autograd.functional.jacobian(layer, x))


def test_a_gaussian_of_few_positions_is_the_one_of_float64():
    """Eigenvalues that are zero must not count: by float32's rounding they would pass the threshold of 1e-10."""
    x = 100 * maps(2, 40, 3, 3).relu()  # a ratio of eigenvalues that float32 cannot hold
    pool, found = gaussian_pool(40), []
    for leaf in (x.clone(), x.double()):
        out = pool(leaf.requires_grad_())
        out.sum().backward()
        found.append((out.double(), leaf.grad.double()))
    assert pool(x).dtype == torch.float32
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_unit_length_is_the_usual_one():
    x = maps(3, 5).double().requires_grad_()
    expected = nn.functional.normalize(x, dim=1)
    torch.testing.assert_close(unit_length(x), expected)
    (a, b) = (torch.autograd.grad(value[:, 0].sum(), x)[0] for value in (unit_length(x), expected))
    torch.testing.assert_close(a, b)
    assert not unit_length(torch.zeros(2, 3)).any()


def test_another_number_of_channels_is_one_sentence():
    with pytest.raises(ValueError, match="made for 6 channels, got a map of 4"):
        isqrt_pool(6)(maps(2, 4, 3, 3))
