"""Numbers in sentences."""

from __future__ import annotations

from backbones.wording import many


def test_one_and_many():
    assert [many(count, "tensor") for count in (0, 1, 2, 4096)] == [
        "0 tensors",
        "1 tensor",
        "2 tensors",
        "4,096 tensors",
    ]
    assert (many(1, "key is", "keys are"), many(3, "key is", "keys are")) == ("1 key is", "3 keys are")
