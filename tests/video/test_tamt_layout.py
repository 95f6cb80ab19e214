"""Tuned models in the released layout: a round trip, unused tensors, refusals."""

from __future__ import annotations

import pytest
import torch

from backbones import UserError
from tests.video.tiny import numbers, tiny_tamt, tiny_vit
from video.tamt_layout import keymap, load_tuned, reference_slots, save_tuned, to_reference


def test_round_trip(tmp_path):
    source, target, said, x = tiny_tamt(1), tiny_tamt(5), [], numbers(3, 3, 8, 8, 8)
    source.train()(x)  # statistics that are not the start ones
    save_tuned(source, tmp_path / "best_model.tar", epoch=7)
    content = torch.load(tmp_path / "best_model.tar", weights_only=True)
    assert content["epoch"] == 7 and set(content) == {"epoch", "state"}
    report, unused = load_tuned(target, tmp_path / "best_model.tar", say=said.append)
    torch.testing.assert_close(target.eval()(x), source.eval()(x), rtol=0, atol=0)
    assert len(report.matched) + len(unused) == len(content["state"])
    assert f"{len(unused)} tensors that nothing uses" in said[0]


def test_unused_tensors_are_kept(tmp_path):
    model = tiny_tamt()
    state = to_reference(model)
    mine = {slot.key: torch.full(slot.shape, 0.5) for slot in reference_slots(model) if slot.own is None}
    assert any(".norm3." in key for key in mine) and any(".tam.G." in key for key in mine)
    torch.save({"epoch": 1, "state": {**state, **mine}}, tmp_path / "a.tar")
    _, unused = load_tuned(model, tmp_path / "a.tar", say=lambda line: None)
    save_tuned(model, tmp_path / "b.tar", unused=unused)
    again = torch.load(tmp_path / "b.tar", weights_only=True)["state"]
    assert list(again) == list(state)
    assert all(torch.equal(again[key], value) for key, value in mine.items())
    assert (state["feature.blocks.0.norm3.weight"] == 1).all() and not state["feature.blocks.0.norm3.bias"].any()


def test_order_of_trained_tensors_is_that_of_the_modules():
    keys = [slot.key for slot in reference_slots(tiny_tamt()) if slot.trained and slot.own]
    assert keys[0] == "feature.blocks.1.tam.L.0.weight" and keys[-1] == "layer_reduce_bn4.bias"
    assert keys.index("feature.temporal_conv.bias") + 1 == keys.index("head2.weight")


def assert_refused(tmp_path, state, message, model=None):
    model = model or tiny_tamt()
    before = to_reference(model)
    before = {key: value.clone() for key, value in before.items()}
    torch.save({"state": state}, tmp_path / "bad.tar")
    with pytest.raises(UserError, match=message):
        load_tuned(model, tmp_path / "bad.tar", say=lambda line: None)
    assert all(torch.equal(value, before[key]) for key, value in to_reference(model).items())


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    state = to_reference(tiny_tamt())
    without = {key: value for key, value in state.items() if key != "head2.weight"}
    assert_refused(tmp_path, without, r"1 key is missing \(head2.weight\)")
    assert_refused(tmp_path, {**state, "extra": torch.zeros(1)}, r"1 fits nowhere \(extra\)")
    assert_refused(tmp_path, {**state, "head2.bias": torch.zeros(3)}, r"head2.bias \(3,\) instead of \(24,\)")
    assert_refused(tmp_path, state, "fit nowhere", model=tiny_tamt(adapt=1))
    assert_refused(tmp_path, state, "have another shape", model=tiny_tamt(head={"groups": 4}))
    bare = {key.removeprefix("feature."): value for key, value in state.items() if key.startswith("feature.")}
    assert_refused(
        tmp_path, bare, "is a source checkpoint .* load it with load_source"
    )  # silently nothing, as released
    assert_refused(tmp_path, tiny_vit().state_dict(), "is a source checkpoint")


@pytest.mark.parametrize(
    "options",
    [{"variant": "paper"}, {"mix": {"temporal_mix": "none"}}, {"head": {"groups": 2, "second_moment": "tcov"}}],
)
def test_options_that_the_layout_cannot_hold(options):
    with pytest.raises(UserError, match="options that the released TAMT layout can't hold"):
        to_reference(tiny_tamt(**options))


def test_keymap_tells_where_every_tensor_comes_from():
    model = tiny_tamt()
    table = keymap(model)
    assert list(table) == list(to_reference(model))
    fresh = [key for key, entry in table.items() if entry.get("videomae_finetuned", "head") is None]
    assert all(any(word in key for word in ("norm3", "temporal_conv", "tam.", "fc_norm2")) for key in fresh)
