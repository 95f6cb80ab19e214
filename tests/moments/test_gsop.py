"""GSoP attention: against loops and grouped convolutions, any size, clips, constant maps, in-place sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from moments.gsop import ATTENTIONS, ChannelScale, GSoP, PositionMap, filter_rows, position_covariance

D64 = torch.float64


def test_reference_centring_against_a_loop():
    z = torch.randn(2, 5, 2, 3, dtype=D64)
    flat, m = z.flatten(2), 6
    expected = torch.empty(2, m, m, dtype=D64)
    for b in range(2):
        for p in range(m):
            for q in range(m):
                u, v = flat[b, :, p], flat[b, :, q]
                expected[b, p, q] = (u @ v) / m - u.sum() * v.sum() / m**2
    torch.testing.assert_close(position_covariance(z), expected)


def test_centrings_agree_where_channels_are_as_many_as_positions_only():
    square, wide = torch.randn(2, 6, 2, 3, dtype=D64), torch.randn(2, 9, 2, 3, dtype=D64)
    torch.testing.assert_close(position_covariance(square), position_covariance(square, "exact"))
    exact = torch.stack([torch.cov(z.T, correction=0) for z in wide.flatten(2)])
    torch.testing.assert_close(position_covariance(wide, "exact"), exact)
    assert not torch.allclose(position_covariance(wide), exact)
    with pytest.raises(ValueError, match="centre 'true' is unknown"):
        position_covariance(wide, "true")


@pytest.mark.parametrize("bias", [True, False])
def test_rows_are_filtered_as_by_a_grouped_convolution(bias):
    matrix, weight = torch.randn(3, 5, 5, dtype=D64), torch.randn(20, 1, 5, 1, dtype=D64)
    shift = torch.randn(20, dtype=D64) if bias else None
    # the convolution has the row index as channel and runs its filter down the columns
    expected = F.conv2d(matrix[..., None], weight, shift, groups=5)
    torch.testing.assert_close(filter_rows(matrix, weight, shift), expected)


@pytest.mark.parametrize("centre", ["reference", "exact"])
def test_derivatives_of_the_position_covariance(centre):
    z = torch.randn(2, 3, 2, 2, dtype=D64, requires_grad=True)
    assert gradcheck(lambda x: position_covariance(x, centre), z)
    assert gradgradcheck(lambda x: position_covariance(x, centre), z)


@pytest.mark.parametrize("part", [ChannelScale(3, 2), PositionMap(3, 2, grid=2)])
def test_derivatives_of_whole_parts(part):
    part = part.to(D64).eval()
    x = (torch.rand(1, 3, 2, 3, dtype=D64) + 0.1).requires_grad_()
    assert gradcheck(part, x, fast_mode=True) and gradgradcheck(part, x, fast_mode=True)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (14, 14)])
def test_every_attention_takes_any_size_and_stands_before_an_in_place_sum(attention, size):
    layer = GSoP(64, attention, att_dim=8)
    u = torch.randn(2, 64, *size, requires_grad=True)
    out = layer(u)
    assert out.shape == u.shape
    out += u  # what a residual block does next: the released position attention breaks here
    out.relu_().sum().backward()
    assert torch.isfinite(u.grad).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert layer.eval()(u[:1]).shape == (1, 64, *size)


def test_fusions_are_made_of_the_parts():
    torch.manual_seed(0)
    layers = {name: GSoP(64, name, att_dim=8).eval() for name in ATTENTIONS}
    for name, layer in layers.items():
        if name != "fusion_concat":
            layer.load_state_dict(layers["fusion_concat"].state_dict(), strict=False)
    u = torch.randn(2, 64, 5, 5)
    channel, position = layers["channel"](u), layers["position"](u)
    scale, where = layers["channel"].channel(u.relu()), layers["position"].position(u.relu())
    torch.testing.assert_close(channel, u * scale)
    torch.testing.assert_close(position, (u * where).relu())
    torch.testing.assert_close(layers["fusion_avg"](u), channel + position)
    torch.testing.assert_close(layers["fusion_max"](u), channel.maximum(position))
    joined = layers["fusion_concat"]
    expected = joined.join_norm(joined.join_channel(channel) + joined.join_position(position))
    torch.testing.assert_close(joined(u), expected)


def test_position_attention_ignores_the_order_of_channels():
    part = PositionMap(6, 6).eval()
    part.reduce.weight.data = torch.eye(6)[:, :, None, None]
    x, order = torch.rand(1, 6, 8, 8), torch.randperm(6)
    part.reduce.bias.data.zero_()
    torch.testing.assert_close(part(x), part(x[:, order]))


def test_frames_of_a_clip_are_one_set_of_positions():
    part = ChannelScale(6, 4).eval()
    clip = torch.rand(2, 6, 3, 4, 5)
    tall = clip.flatten(2, 3)  # the frames one below the other
    torch.testing.assert_close(part(clip)[..., 0], part(tall))
    assert GSoP(6, att_dim=4)(clip).shape == clip.shape
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        GSoP(6, "position", att_dim=4)(clip)


def test_shortened_sizes_of_the_reduction():
    seen = []
    part = ChannelScale(6, 4, stride=2)
    part.reduce.register_forward_hook(lambda module, inputs, out: seen.append(tuple(out.shape[2:])))
    part(torch.rand(2, 6, 5, 8))
    assert seen == [(3, 4)]


def test_a_constant_map_and_half_precision():
    layer = GSoP(64, "fusion_avg", att_dim=8)
    u = torch.ones(2, 64, 4, 4, requires_grad=True)
    layer(u).sum().backward()
    assert torch.isfinite(u.grad).all()
    big = 300 * torch.randn(2, 64, 4, 4)  # squares beyond what half precision holds
    expected = layer.eval()(big)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(big)
    assert torch.isfinite(mixed).all()
    assert (mixed - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert torch.isfinite(layer.to(torch.bfloat16)(big.to(torch.bfloat16))).all()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"attention": "spatial"}, "attention 'spatial'"),
        ({"attention": "fusion_concat", "channels": 32}, "32 are too few"),
        ({"attention": "position", "centre": "x"}, "centre 'x'"),
    ],
)
def test_wrong_options(options, hint):
    with pytest.raises(ValueError, match=hint):
        GSoP(**{"channels": 64, **options})
