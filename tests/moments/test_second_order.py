"""Second-order pooling layers: what they compute, derivatives of both orders, precision, options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from moments import (
    BilinearPool,
    CompactBilinearPool,
    CovariancePool,
    NewtonSchulzRoot,
    covariance,
    from_upper_triangle,
    gaussian_pool,
    isqrt_pool,
    mpn_pool,
    newton_schulz_root,
    reorder_triangle,
    upper_triangle,
)

BUILDERS = {
    "covariance": CovariancePool,
    "isqrt": lambda c, **o: isqrt_pool(c, 3, **o),
    "isqrt frobenius": lambda c, **o: isqrt_pool(c, 2, norm="frobenius", eps=1e-5, **o),
    "mpn": lambda c, **o: mpn_pool(c, threshold=1e-10, **o),
    "gaussian": gaussian_pool,
    "gaussian steps": lambda c, **o: gaussian_pool(c, iterations=3, beta="learned", **o),
    "bilinear": BilinearPool,
    "compact bilinear": lambda c, **o: CompactBilinearPool(c, 7, **o),
}


def maps(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("options", [{}, {"reduction": (5, 3)}])
def test_first_and_second_derivatives(name, options):
    torch.manual_seed(0)
    pool = BUILDERS[name](4, **options).double().eval()
    for norm in pool.modules():
        if isinstance(
            norm, torch.nn.BatchNorm2d
        ):  # as built, a position whose channels are all cut off meets ReLU's kink
            torch.nn.init.normal_(norm.bias)
    x = maps(2, 4, 3, 2).requires_grad_()
    parameters = tuple(pool.parameters())
    assert pool(x).shape == (2, pool.out_dim)
    assert gradcheck(lambda x, *_: pool(x), (x, *parameters))
    assert gradgradcheck(lambda x, *_: pool(x), (x, *parameters))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_layer_in_half_precision_and_on_empty_maps(name):
    """float32 inside autocast, finite values and gradients for loud, silent and constant maps, a batch of one."""
    pool = BUILDERS[name](6, reduction=4)
    x = maps(3, 6, 7, 7, dtype=torch.float32) * 300
    x[0], x[1] = 0, 5
    exact = pool.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.to(torch.bfloat16).requires_grad_()
        out = pool(leaf)
    out.square().sum().backward()
    assert out.dtype == torch.float32 and out.isfinite().all() and leaf.grad.isfinite().all()
    assert (out[2] - exact[2]).norm() < 0.05 * exact[2].norm()
    plain = BUILDERS[name](6)
    for dtype in (torch.float16, torch.bfloat16):
        assert plain(x.to(dtype)).dtype == torch.float32
    torch.testing.assert_close(plain(x[2:]), plain(x)[2:], rtol=1e-4, atol=1e-5)
    assert plain(x[:, :, :1, :1]).isfinite().all()  # a single position


def test_positions_may_lie_in_any_shape_and_order():
    x = maps(2, 4, 2, 3, 5)
    for name, build in BUILDERS.items():
        if name.startswith(("bilinear", "compact")):
            continue
        pool = build(4).double()
        torch.testing.assert_close(pool(x), pool(x.flatten(2)))
        torch.testing.assert_close(pool(x), pool(x.flatten(2)[:, :, torch.randperm(30)]))


@pytest.mark.parametrize("order", ["row", "column"])
def test_groups_are_parts_of_their_own(order):
    x, root = maps(2, 6, 9), NewtonSchulzRoot(4)
    pool = CovariancePool(6, root, groups=3, order=order)
    expected = [upper_triangle(newton_schulz_root(covariance(part), 4), order) for part in x.split(2, dim=1)]
    torch.testing.assert_close(pool(x), torch.cat(expected, dim=1))
    assert pool.out_dim == 3 * 3
    whole = CovariancePool(6, root, vectorize=False)
    torch.testing.assert_close(whole(x).view(2, 6, 6), newton_schulz_root(covariance(x), 4))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99))
def test_triangle_orders(d, seed):
    matrix = maps(2, d, d, seed=seed)
    matrix = matrix + matrix.mT
    row, column = upper_triangle(matrix), upper_triangle(matrix, "column")
    assert column.tolist() == [[m[i, j].item() for j in range(d) for i in range(j + 1)] for m in matrix]
    for order, vector in (("row", row), ("column", column)):
        torch.testing.assert_close(from_upper_triangle(vector, order), matrix)
    assert torch.equal(reorder_triangle(row, "row", "column"), column)
    assert torch.equal(reorder_triangle(column, "column", "row"), row)


def test_progressive_reduction_and_state():
    pool = isqrt_pool(8, 5, reduction=(6, 4))
    assert [key for key in pool.state_dict() if key.endswith("weight")] == [
        "reduce.0.weight",
        "reduce.1.weight",
        "reduce.3.weight",
        "reduce.4.weight",
    ]
    assert pool.out_dim == 10 and "iterations=5" in repr(pool)
    assert not isqrt_pool(8).state_dict()
    assert gaussian_pool(8, beta="learned").beta.requires_grad and gaussian_pool(8).out_dim == 45


def test_compact_bilinear_is_the_circular_convolution_of_sketches():
    """The definition with FFTs at every position."""
    pool, x = CompactBilinearPool(5, 11).double(), maps(2, 5, 6)
    total = torch.zeros(2, 11, dtype=torch.float64)
    for position in range(6):
        spectra = []
        for bins, signs in ((pool.hash1, pool.sign1), (pool.hash2, pool.sign2)):
            sketch = torch.zeros(2, 11, dtype=torch.float64)
            for channel in range(5):
                sketch[:, bins[channel]] += signs[channel] * x[:, channel, position]
            spectra.append(torch.fft.fft(sketch))
        total += torch.fft.ifft(spectra[0] * spectra[1]).real
    total = total.sign() * (total.abs() + 1e-8).sqrt()
    empty = total.abs() < 1.1e-4  # a bin that nothing falls into: rounding there, exactly zero here
    expected = total.masked_fill(empty, 0.0)
    torch.testing.assert_close(pool(x), expected / expected.norm(dim=1, keepdim=True))


def test_compact_bilinear_draws_by_its_own_seed():
    before = torch.get_rng_state()
    one, same, other = (CompactBilinearPool(50, 64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.hash1, same.hash1) and not torch.equal(one.hash1, other.hash1)
    assert set(one.state_dict()) == {"hash1", "hash2", "sign1", "sign2"}
    x = maps(4, 50, 30).relu()
    full = BilinearPool(50, eps=0.0).double()(x)
    many = torch.stack([CompactBilinearPool(50, 4096, seed=s, eps=0.0).double()(x) for s in range(4)])
    cosines = torch.stack([(m @ m.T)[0, 1] for m in many]).mean()
    assert abs(cosines - (full @ full.T)[0, 1]) < 0.1  # inner products are kept, nearly


def test_bilinear_of_nothing_has_no_gradient():
    x = torch.zeros(1, 3, 4, requires_grad=True)
    out = BilinearPool(3)(x)
    out.sum().backward()
    assert not out.any() and not x.grad.any()
    columns = BilinearPool(3, vectorize=False)(maps(2, 3, 9)).norm(dim=1)
    torch.testing.assert_close(columns, torch.ones_like(columns))


def test_bad_arguments():
    for call, message in (
        (lambda: CovariancePool(6, groups=4), "do not split into 4"),
        (lambda: CovariancePool(6, order="diagonal"), "order 'diagonal'"),
        (lambda: upper_triangle(torch.zeros(1, 2, 2), "zigzag"), "order 'zigzag'"),
        (lambda: gaussian_pool(6, beta="free"), "beta is 'free'"),
        (lambda: CompactBilinearPool(6, 0), "at least 1"),
        (lambda: isqrt_pool(6, reduction=0), "reduction to 0"),
        (lambda: isqrt_pool(6, 0), "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
