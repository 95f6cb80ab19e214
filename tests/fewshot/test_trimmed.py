"""Blocks of episodes of like size hold every real row and class once, and little else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot.trimmed import trimmed_blocks


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 60, 10_000]))
def test_every_real_row_is_in_one_block_under_its_own_class(seed, n_episodes, numbers):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 6, (n_episodes, 7), generator=generator)
    met = torch.full_like(labels, -1)
    for block in trimmed_blocks(labels, 6, numbers):
        real = block.labels >= 0
        own = block.classes.gather(1, block.labels.clamp(min=0))
        met[block.episodes.unsqueeze(1), block.rows] = torch.where(real, own, -1)
        b, s, k = len(block.episodes), block.rows.shape[1], block.classes.shape[1]
        assert b == 1 or b * s * s * k <= numbers
        assert s == max(1, int(real.sum(1).max()))
        assert k == max(1, int(block.labels.max()) + 1)
        rows = torch.arange(n_episodes * 7 * 2).reshape(n_episodes, 7, 2)
        assert (block.take(rows)[:, 0, 0] == (block.episodes * 7 + block.rows[:, 0]) * 2).all()
    assert torch.equal(met, labels)


def test_put_is_the_way_back():
    labels = torch.tensor([[-1, 2, 2, 5], [0, 1, 3, 3], [4, -1, -1, -1]])
    dual, intercept = torch.zeros(3, 4, 6), torch.zeros(3, 6)
    for block in trimmed_blocks(labels, 6, 1):
        member = torch.nn.functional.one_hot(block.labels, block.classes.shape[1]).float()
        block.put(dual, member)
        block.put(intercept, member.sum(1))
    expected = (labels.unsqueeze(-1) == torch.arange(6)).float()
    assert torch.equal(dual, expected)
    assert torch.equal(intercept, expected.sum(1))
