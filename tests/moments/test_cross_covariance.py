"""Covariances of tokens: against loops, the published centring and the exact one, normalisations of the heads."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from moments import covariance
from moments.cross_covariance import NORMS, CrossCovariance, MultiHeadCovariance, cross_covariance, token_covariance

D64 = torch.float64


def test_cross_covariance_is_a_block_of_the_covariance():
    x = torch.randn(2, 7, 3, 4, dtype=D64)
    torch.testing.assert_close(cross_covariance(x[:, :4], x[:, 4:]), covariance(x)[:, :4, 4:])
    plain = torch.einsum("bcn,bdn->bcd", x[:, :4].flatten(2), x[:, 4:].flatten(2)) / 12
    torch.testing.assert_close(cross_covariance(x[:, :4], x[:, 4:], centred=False), plain)
    with pytest.raises(ValueError, match="12 and 9"):
        cross_covariance(x, x[:, :, :, :3])


def test_published_centring_removes_one_number_a_sample():
    q, k = torch.randn(2, 5, 3, dtype=D64) + 2, torch.randn(2, 5, 4, dtype=D64) - 1
    expected = torch.stack([(a - a.mean()).T @ (b - b.mean()) / 5 for a, b in zip(q, k, strict=True)])
    torch.testing.assert_close(token_covariance(q, k), expected)
    alone = torch.stack([(a - a.mean()).T @ (a - a.mean()) / 3 for a in q])  # divided by the dimension
    torch.testing.assert_close(token_covariance(q), alone)


def test_exact_centring_removes_every_dimensions_mean():
    q, k = torch.randn(2, 5, 3, dtype=D64), torch.randn(2, 5, 4, dtype=D64)
    exact = token_covariance(q, k, centre="exact")
    torch.testing.assert_close(exact, token_covariance(q + torch.randn(3), k, centre="exact"))
    torch.testing.assert_close(token_covariance(q, centre="exact"), covariance(q.transpose(1, 2)))
    assert not torch.allclose(exact, token_covariance(q, k))
    with pytest.raises(ValueError, match="centre 'mean' is unknown"):
        token_covariance(q, k, centre="mean")


def test_derivatives():
    q, k = (torch.randn(2, 4, 3, dtype=D64, requires_grad=True) for _ in range(2))
    for run in (cross_covariance, token_covariance, lambda a, b: token_covariance(a) + token_covariance(b)):
        assert gradcheck(run, (q, k)) and gradgradcheck(run, (q, k))


def test_float32_inside_autocast():
    x = torch.randn(2, 6, 50) + 100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = cross_covariance(x[:, :2], x[:, 2:])
    torch.testing.assert_close(mixed, cross_covariance(x[:, :2], x[:, 2:]), rtol=0, atol=0)
    half = token_covariance(x.half(), x.half())
    assert half.dtype == torch.float32 and torch.isfinite(half).all()


@pytest.mark.parametrize(("dims", "shape"), [((6, 4), (6, 4)), ((5,), (5, 5)), (None, (8, 8))])
def test_branches(dims, shape):
    layer, x = CrossCovariance(8, dims).eval(), torch.randn(2, 8, 3, 3)
    out = layer(x)
    assert out.shape == (2, *shape) == (2, *layer.out_shape)
    torch.testing.assert_close(out, layer(x.flatten(2)[..., torch.randperm(9)]))  # positions have no order
    if dims is None:
        torch.testing.assert_close(out, covariance(x))
    with pytest.raises(ValueError, match="one or two branches"):
        CrossCovariance(8, (2, 2, 2))


@pytest.mark.parametrize("norm", NORMS)
def test_heads_are_independent_and_normalised(norm):
    torch.manual_seed(0)
    layer, tokens = MultiHeadCovariance(6, heads=2, width=3, norm=norm).eval(), torch.randn(2, 5, 6)
    out = layer(tokens)
    assert out.shape == (2, 18) == (2, layer.out_dim)
    weight = layer.project.weight.unflatten(0, (2, 2, 3))
    for head in range(2):
        q, k = tokens @ weight[0, head].T, tokens @ weight[1, head].T
        alone = layer.norm(token_covariance(q, k)).flatten(1)
        torch.testing.assert_close(out[:, 9 * head : 9 * head + 9], alone)
    torch.testing.assert_close(layer(tokens[:, torch.randperm(5)]), out)
    torch.testing.assert_close(layer(tokens.transpose(1, 2).reshape(2, 6, 5, 1)), out)
    layer.train()(torch.zeros(2, 5, 6)).sum().backward()  # nothing varies
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_divisions():
    tokens = torch.randn(2, 5, 6)
    layers = {norm: MultiHeadCovariance(6, 2, 4, norm=norm) for norm in ("none", "sqrt_d", "sqrt_t")}
    for layer in layers.values():
        layer.project.weight = layers["none"].project.weight
    for name in ("sqrt_d", "sqrt_t"):
        torch.testing.assert_close(layers[name](tokens), layers["none"](tokens) / 2)
    assert len(list(layers["sqrt_t"].parameters())) == 2 and len(list(layers["sqrt_d"].parameters())) == 1


@pytest.mark.parametrize(
    ("options", "hint"),
    [({"norm": "l2"}, "norm 'l2'"), ({"norm": "layer", "alpha": 0.5}, "takes no options"), ({"centre": "x"}, "'x'")],
)
def test_wrong_options(options, hint):
    with pytest.raises(ValueError, match=hint):
        MultiHeadCovariance(6, **options)
