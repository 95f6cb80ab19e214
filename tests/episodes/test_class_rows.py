"""Class sums, grouping and distances."""

from __future__ import annotations

import torch

from episodes.class_rows import class_means, group_by_class, squared_distances
from tests.fewshot.episodes import MAP, random_episodes


def test_class_means_of_maps_with_unequal_shots():
    data = random_episodes(MAP, (3, 1, 2))
    means, counts = class_means(data.support, data.labels, 4)
    assert counts.tolist() == [[3, 1, 2, 0]] * 2
    for e in range(2):
        for k in range(3):
            torch.testing.assert_close(means[e, k], data.support[e][data.labels[e] == k].mean(0))
    assert (means[:, 3] == 0).all()


def test_group_by_class_keeps_every_row_once():
    data = random_episodes((2,), (3, 1, 2))
    data.labels[1, 2] = -1
    rows, mask = group_by_class(data.support, data.labels, 4)
    assert rows.shape == (2, 4, 3, 2)
    for e in range(2):
        for k in range(4):
            torch.testing.assert_close(rows[e, k][mask[e, k]], data.support[e][data.labels[e] == k])
    assert (rows[~mask] == 0).all()


def test_group_by_class_of_padding_alone():
    rows, mask = group_by_class(torch.ones(1, 2, 3), torch.full((1, 2), -1), 2)
    assert not mask.any()
    assert (rows == 0).all()


def test_squared_distances_in_float32_survive_a_large_common_part():
    """BDC vectors of two images differ little beside what they share; without centring this fails by 1e-1."""
    generator = torch.Generator().manual_seed(0)
    common = 30 * torch.randn(20_000, generator=generator)
    query = common + torch.randn(1, 6, 20_000, generator=generator)
    prototypes = common + torch.randn(1, 4, 20_000, generator=generator)
    exact = (query.double().unsqueeze(2) - prototypes.double().unsqueeze(1)).square().sum(-1)
    plain = (
        query.square().sum(-1, keepdim=True)
        + prototypes.square().sum(-1).unsqueeze(1)
        - 2 * query @ prototypes.transpose(1, 2)
    )
    error = ((squared_distances(query, prototypes) - exact) / exact).abs().max()
    assert error < 1e-5
    assert ((plain - exact) / exact).abs().max() > 10 * error


def test_squared_distance_of_equal_vectors_is_zero():
    rows = torch.randn(1, 3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert squared_distances(rows, rows)[0].diagonal().abs().max() < 1e-12
