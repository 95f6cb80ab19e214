"""The bench cases of video networks and heads: both sides compute the same."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from backbones.video_vit import VideoViT
from tools.bench import alignment, show, tamt_step
from tools.bench.case import measure


def tiny_vit() -> VideoViT:
    return VideoViT(dim=24, depth=3, heads=3, patch_size=4, input_size=8, frames=8, drop_path=0.3)


@pytest.fixture
def both():
    """Our model and the plain one, with the same weights, none of them at its start value."""
    from video import create_tamt

    torch.manual_seed(0)
    model = create_tamt(tiny_vit())
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model, tamt_step.plain_of(model).tuned()


def test_plain_tamt_computes_what_ours_does(both):
    model, plain = (side.double().eval() for side in both)
    clips = torch.randn(3, 3, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(clips), model(clips), rtol=1e-7, atol=1e-9)


def test_plain_tamt_learns_what_ours_does(both):
    """A training step: the same draws of DropPath, batch statistics and gradients; the same parameters are frozen."""
    model, plain = (side.double().train() for side in both)
    clips = torch.randn(3, 3, 8, 8, 8, dtype=torch.float64)
    for side in both:
        torch.manual_seed(1)
        side(clips).square().sum().backward()
    ours, others = dict(model.named_parameters()), dict(plain.named_parameters())
    pairs = {
        "pool.project.weight": "head2.weight",
        "pool.reduce1.weight": "layer_reduce1.weight",
        "backbone.adapters.1.down.weight": "feature.blocks.1.tam.L.0.weight",
        "backbone.mix.temporal_conv.weight": "feature.temporal_conv.weight",
    }
    for own, other in pairs.items():
        torch.testing.assert_close(others[other].grad, ours[own].grad, rtol=1e-5, atol=1e-8)
    for name in (
        "feature.blocks.2.attn.qkv.weight",
        "feature.patch_embed.proj.weight",
        "feature.blocks.0.norm3.weight",
    ):
        assert not others[name].requires_grad
    assert not ours["backbone.vit.blocks.2.attn.qkv.weight"].requires_grad


@pytest.mark.parametrize("mode", [*tamt_step.MODES, tamt_step.STORED])
def test_tamt_steps_are_measured_in_parts(mode):
    row = measure(tamt_step.case(tiny_vit(), 1, mode, repeats=1))
    assert row.clock == "process" and mode in row.shape
    assert list(row.parts) == ([] if mode == "inference" else ["forward", "backward"])
    assert "published forward" in row.facts
    assert (row.facts["trained, ours"] == "-") == (mode == "inference")


def test_published_figures_stand_in_a_column_of_their_own():
    row = measure(tamt_step.case(tiny_vit(), 8, "full fine-tuning", repeats=1))
    console = Console(file=io.StringIO(), width=200)
    show.show_table([row], "cpu", console)
    text = console.file.getvalue()
    assert all(part in text for part in ("published memory", "1,980 MiB", "23.91 M", "  backward", "rounds, cpu"))
    assert '"published forward": "2.4 s"' in show.json_line(row)


@pytest.mark.parametrize(("name", "options"), [("otam", {}), ("trx", {"key_dim": 8, "value_dim": 8})])
def test_heads_of_frames_score_as_the_plain_loop(name, options):
    case = alignment.case(name, 2, 6, 20, (4, 12), episodes=5, **options)
    ours, plain = case.ours(), case.other()
    assert len(ours) == case.unit_count == 5
    assert ours == pytest.approx(plain, abs=1 / 75)
