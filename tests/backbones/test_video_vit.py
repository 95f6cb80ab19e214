"""Video transformers: a naive second implementation, sizes and grids, frozen blocks, the table, frame by frame."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from backbones import UserError
from backbones.video_vit import Attention, VideoViT, as_map, as_tokens, position_table
from backbones.video_zoo import VIDEO_VITS, create_video_backbone, list_video_backbones

TINY = {"dim": 24, "depth": 3, "heads": 3, "patch_size": 4, "input_size": 8, "frames": 4}


def tiny(**options) -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(**{**TINY, **options}).double()


def clips(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_position_table_by_the_formula():
    table = position_table(7, 6)
    for p in range(7):
        for j in range(6):
            angle = p / 10000 ** (2 * (j // 2) / 6)
            expected = math.sin(angle) if j % 2 == 0 else math.cos(angle)
            assert abs(float(table[p, j]) - expected) < 1e-7
    assert table.dtype == torch.float32
    torch.testing.assert_close(position_table(20, 6)[:7], table, rtol=0, atol=0)  # counts flattened tokens


def naive(vit: VideoViT, x: torch.Tensor) -> torch.Tensor:
    """One clip (3, T, H, W): tubelets by slicing, attention by its formula, head by head."""
    tubelet, patch, _ = vit.patch_embed.size
    weight, rows = vit.patch_embed.proj.weight.flatten(1), []
    for t in range(0, x.shape[1], tubelet):
        for i in range(0, x.shape[2], patch):
            for j in range(0, x.shape[3], patch):
                rows.append(weight @ x[:, t : t + tubelet, i : i + patch, j : j + patch].reshape(-1))
    tokens = torch.stack(rows) + vit.patch_embed.proj.bias
    tokens = tokens + position_table(len(tokens), tokens.shape[1]).double()
    for block in vit.blocks:
        y, attn = block.norm1(tokens), block.attn
        q, k, v = (y @ w.T for w in attn.qkv.weight.chunk(3))
        q, v = q + attn.q_bias, v + attn.v_bias  # none on keys
        size = q.shape[1] // attn.heads
        heads = [
            (q[:, h] @ k[:, h].T / math.sqrt(size)).softmax(-1) @ v[:, h]
            for h in (slice(n * size, (n + 1) * size) for n in range(attn.heads))
        ]
        tokens = tokens + attn.proj(torch.cat(heads, 1))
        y = block.norm2(tokens)
        tokens = tokens + block.mlp.fc2(functional.gelu(block.mlp.fc1(y)))
    return tokens


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 8, 8), (6, 4, 12), (4, 16, 4)])
def test_equals_a_naive_one_on_any_grid(shape):
    vit, x = tiny(), clips(2, 3, *shape)
    for parameter in vit.parameters():  # zero biases would hide a mistake
        torch.nn.init.normal_(parameter, std=0.2)
    out = vit(x)
    assert out.shape == (2, 24, shape[0] // 2, shape[1] // 4, shape[2] // 4)
    for one, mine in zip(x, as_tokens(out), strict=True):
        torch.testing.assert_close(mine, naive(vit, one))
    torch.testing.assert_close(as_map(as_tokens(out), tuple(out.shape[2:])), out, rtol=0, atol=0)


def test_a_clip_that_does_not_fit():
    vit = tiny()
    for shape, message in (((3, 8, 8), "3 frames"), ((4, 9, 8), "9 rows"), ((4, 8, 2), "2 columns")):
        with pytest.raises(ValueError, match=message):
            vit(clips(1, 3, *shape))
    with pytest.raises(ValueError, match="channels before frames"):
        vit(clips(1, 4, 3, 8, 8))
    with pytest.raises(ValueError, match="5 heads"):
        Attention(24, 5)


def test_resampled_positions():
    vit, x = tiny(trained_grid=(2, 4, 4)), clips(1, 3, 4, 8, 8)
    table = vit.positions((2, 2, 2), x)
    whole = position_table(32, 24).double().T.reshape(1, 24, 2, 4, 4)
    torch.testing.assert_close(table.T.reshape(1, 24, 2, 2, 2), functional.avg_pool3d(whole, (1, 2, 2)))
    plain = tiny()
    assert not torch.allclose(vit(x), plain(x))
    big = clips(1, 3, 4, 16, 16)  # the grid it was trained on: nothing to resample
    torch.testing.assert_close(vit(big), plain(big), rtol=0, atol=0)


def test_frozen_blocks_keep_nothing_and_compute_the_same():
    x = clips(2, 3, 4, 8, 8)
    vit = tiny(drop_path=0.5).train()
    torch.manual_seed(3)
    expected = vit(x)
    assert expected.requires_grad
    vit.requires_grad_(False)
    torch.manual_seed(3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        frozen = vit(x)
    torch.testing.assert_close(frozen, expected, rtol=0, atol=0)  # DropPath included
    assert not kept and not frozen.requires_grad
    vit.blocks[2].requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        vit(x).sum().backward()
    assert kept and vit.blocks[2].mlp.fc1.weight.grad is not None and vit.blocks[1].mlp.fc1.weight.grad is None


def test_gradient_reaches_the_clip_through_frozen_blocks():
    vit, x = tiny().requires_grad_(False), clips(1, 3, 4, 8, 8).requires_grad_()
    vit(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("trained_grid", [None, (2, 4, 4)])
def test_traced_before_it_ever_ran(trained_grid):
    """Sizes of its own, so that no other test has filled the cache of positions."""
    vit, x = tiny(dim=30, trained_grid=trained_grid).eval(), clips(2, 3, 4, 12, 8)
    program = torch.export.export(vit, (x,)).module()
    torch.testing.assert_close(program(x), vit(x))


def test_drop_path_rates_and_layer_scale():
    vit = tiny(depth=5, drop_path=0.1)
    assert [block.drop_path.drop_prob for block in vit.blocks] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    closed, x = tiny(layer_scale=0.0), clips(1, 3, 4, 8, 8)
    torch.testing.assert_close(as_tokens(closed(x)), closed.embed(x), rtol=0, atol=0)  # every branch is scaled away


def test_initialisation():
    vit = tiny(dim=96, depth=1)
    block = vit.blocks[0]
    assert 0.018 < block.mlp.fc1.weight.std() < 0.022 and not block.mlp.fc1.bias.any()
    assert not block.attn.q_bias.any() and not block.attn.v_bias.any()


@pytest.mark.parametrize("name", sorted(VIDEO_VITS))
def test_published_sizes(name):
    with torch.device("meta"):
        vit = create_video_backbone(name)
    millions = {"small": 21.9, "base": 86.2, "large": 303.9, "huge": 631.7, "giant": 1011.7}[name.split("_")[-1]]
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_by_name():
    assert "video_vit_small" in list_video_backbones()
    small = create_video_backbone("video_vit_small", depth=1, input_size=224)
    assert (small.out_channels, small.depth, small.input_size, small.frames) == (384, 1, 224, 16)
    with pytest.raises(UserError, match="did you mean 'video_vit_small'"):
        create_video_backbone("video_vit_smal")
    with pytest.raises(UserError, match="does not take these options: .*colour"):
        create_video_backbone("video_vit_small", colour="red")


def test_image_backbones_frame_by_frame():
    network = create_video_backbone("frames:conv4", width=8, frames=3).eval()
    x = torch.rand(2, 3, 3, 32, 32)
    out = network(x)
    assert out.shape == (2, 8, 3, 2, 2) and network.frames == 3 and network.mean == network.backbone.mean
    for b in range(2):
        for t in range(3):
            torch.testing.assert_close(out[b, :, t], network.backbone(x[b, None, :, t])[0])
