"""DropBlock's mask against a loop, its ramp, and its place in checkpoints."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import DropBlock, create_backbone
from backbones.dropblock import block_mask, drop_blocks


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 4), st.integers(0, 10), st.integers(0, 99))
def test_every_seed_drops_its_whole_square(side, more_rows, more_columns, count, seed):
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.zeros(2, 3, 1 + more_rows, 1 + more_columns)
    flat = seeds.view(-1)
    flat[torch.randperm(flat.numel(), generator=generator)[:count]] = 1
    want = torch.ones(2, 3, more_rows + side, more_columns + side)
    for b, c, i, j in seeds.nonzero().tolist():
        want[b, c, i : i + side, j : j + side] = 0
    assert torch.equal(block_mask(seeds, side), want)


def test_survivors_keep_the_sum_of_a_constant_map():
    seeds = torch.zeros(1, 1, 6, 6)
    seeds[0, 0, 1, 1] = 1
    out = drop_blocks(torch.ones(1, 1, 10, 10), seeds, 5)
    assert (out == 0).sum() == 25
    torch.testing.assert_close(out.sum(), torch.tensor(100.0))


def test_rate_ramps_up_and_eval_is_the_identity():
    torch.manual_seed(0)
    layer = DropBlock(0.5, block_size=1, ramp_steps=100)
    x = torch.ones(8, 8, 20, 20)
    early = (layer(x) == 0).float().mean().item()
    layer.calls.fill_(1000)
    late = (layer(x) == 0).float().mean().item()
    assert early < 0.02 and abs(late - 0.5) < 0.03
    assert torch.equal(layer.eval()(x), x) and layer.calls == 1001
    counting = DropBlock(0.5, count_eval=True).eval()
    counting(x)
    assert counting.calls == 1


def test_map_smaller_than_the_square_and_saved_counter():
    network = create_backbone("resnet12", widths=(4, 4, 4, 4), drop_rate=0.3).train()
    assert torch.isfinite(network(torch.randn(2, 3, 16, 16))).all()
    assert network.state_dict()["layer4.0.drop.calls"] == 1


def test_a_map_that_is_dropped_whole_is_zero_and_not_nan():
    assert torch.equal(drop_blocks(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1), 3), torch.zeros(1, 1, 3, 3))
