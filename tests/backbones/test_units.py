"""Numbers with their units."""

from __future__ import annotations

import pytest

from backbones.units import file_size


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
