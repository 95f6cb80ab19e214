"""Numbers in sentences, with their nouns and units."""

from __future__ import annotations

import pytest

from backbones.wording import file_size, many


def test_one_and_many():
    assert [many(count, "tensor") for count in (0, 1, 2, 4096)] == [
        "0 tensors",
        "1 tensor",
        "2 tensors",
        "4,096 tensors",
    ]
    assert (many(1, "key is", "keys are"), many(3, "key is", "keys are")) == ("1 key is", "3 keys are")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0.0 kB"),
        (1300, "1.3 kB"),
        (99_900, "99.9 kB"),
        (100_000, "0.10 MB"),
        (8.1e6, "8.10 MB"),
        (2.5e9, "2.50 GB"),
    ],
)
def test_file_sizes(count, said):
    assert file_size(count) == said
