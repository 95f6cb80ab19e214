"""TAMT's parts by their formulas, and the tuned model: what is trained, shared, cached, saved and refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from backbones import UserError
from backbones.video_vit import as_map, as_tokens
from fewshot import MetaDeepBDC
from fewshot.encoder import EpisodeModel
from tests.video.tiny import numbers, tiny_tamt, tiny_vit
from video import GTMT, Moments, TemporalAdapter, TokenMix, load_trainable_state, trainable_state
from video.tamt import VARIANTS, adapted_blocks, count_parameters
from video.tuning import random_classes


def test_adapter_by_its_formula():
    adapter = TemporalAdapter(8, up_kernel=3, beta_scale=0.3).double().eval()
    x = numbers(2, 8, 5, 2, 3)
    f = x.mean((3, 4))
    hidden = functional.conv1d(f, adapter.down.weight, padding=1) / (1 + 1e-5) ** 0.5  # fresh running statistics
    hidden = hidden.clamp(min=0)
    gamma = torch.sigmoid(functional.conv1d(hidden, adapter.scale.weight, padding=1))
    beta = functional.conv1d(hidden, adapter.shift.weight, padding=1)
    expected = x * gamma[..., None, None] + 0.3 * beta[..., None, None]
    torch.testing.assert_close(adapter(as_tokens(x), (5, 2, 3)), as_tokens(expected))


def test_adapter_mixes_time_and_nothing_else():
    adapter, x = TemporalAdapter(8).double().eval(), numbers(1, 6 * 4, 8)
    changed = x.clone()
    changed[0, 0] += 1  # frame 0, first position
    moved = (adapter(changed, (6, 2, 2)) - adapter(x, (6, 2, 2))).reshape(6, 4, 8).abs().amax(2) > 1e-12
    assert moved[:2].any(1).all() and not moved[2:].any()  # a kernel of three frames
    for kernels in ({"kernel": 2}, {"up_kernel": 4}):
        with pytest.raises(ValueError, match="must be odd"):
            TemporalAdapter(8, **kernels)
    with pytest.raises(ValueError, match="leaves nothing of 8 channels"):
        TemporalAdapter(8, reduction=9)


def naive_convolution(mix: TokenMix, x: torch.Tensor, t: int, s: int) -> torch.Tensor:
    """V[b, s, c, t] of the specification, element by element."""
    weight, bias = mix.temporal_conv.weight, mix.temporal_conv.bias
    v = torch.zeros(len(x), s, x.shape[2], t, dtype=x.dtype)
    for place in range(s):
        for frame in range(t):
            for d in (-1, 0, 1):
                if 0 <= frame + d < t:
                    v[:, place, :, frame] += weight[:, 0, d + 1] * x[:, (frame + d) * s + place]
            v[:, place, :, frame] += bias
    return v


def test_token_mixes_by_their_formulas():
    t, s, c = 4, 6, 8
    x = numbers(2, t * s, c)
    for mode in ("reference", "aligned"):
        mix = TokenMix(c, mode, norms=False).double()
        v, y = naive_convolution(mix, x, t, s), torch.empty_like(x)
        for n in range(t * s):
            for channel in range(c):
                if mode == "reference":
                    place = v[:, n // t, ((n % t) * c + channel) // t, channel % t]
                else:
                    place = v[:, n % s, channel, n // s]
                y[:, n, channel] = place
        moments = mix(x, (t, 2, 3))
        torch.testing.assert_close(as_tokens(moments.map), x + y)
        torch.testing.assert_close(moments.pooled, x.mean(1))
    plain = TokenMix(c, "none", norms=False)
    torch.testing.assert_close(as_tokens(plain(x, (t, 2, 3)).map), x)
    assert not list(plain.parameters())
    odd = TokenMix(5, "reference").double()  # C need not be divisible by T
    assert odd(numbers(1, 4 * 6, 5), (4, 2, 3)).map.shape == (1, 5, 4, 2, 3)
    with pytest.raises(ValueError, match="temporal_mix 'swirl'"):
        TokenMix(8, "swirl")


def test_groups_of_frames_and_their_channel_order():
    head = GTMT(dim=12, frames=6, groups=3).double().eval()
    video_map = numbers(2, 12, 6, 2, 3)
    frames = [head.reduce_norm1(head.reduce1(video_map[:, :, t])).relu() for t in range(6)]
    frames = [head.reduce_norm2(head.reduce2(x)).relu() for x in frames]  # each (2, C/6, 2, 3)
    found = head.reduced(video_map)
    assert found.shape == (2 * 3, 2 * 2, 2, 3)
    for b in range(2):
        for e in range(3):
            for channel in range(2):
                for a in range(2):
                    mine = found[b * 3 + e, channel * 2 + a]
                    torch.testing.assert_close(mine, frames[e + 3 * a][b, channel])


def test_moment_head_on_any_shape():
    for dim, frames, groups, height, width in ((12, 6, 3, 2, 3), (13, 4, 1, 3, 3), (18, 8, 8, 1, 5), (48, 4, 2, 4, 2)):
        head = GTMT(dim, frames, groups).double()
        moments = Moments(numbers(3, dim), numbers(3, dim, frames, height, width).requires_grad_())
        z = head(moments)
        assert z.shape == (3, dim) == (3, head.out_dim)
        z.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head(Moments(numbers(1, 48), numbers(1, 48, 4, 6, 6))).shape == (1, 48)  # another picture size, same weights
    with pytest.raises(ValueError, match="built for 4 frames of tokens, the clips have 6"):
        head(Moments(numbers(1, 48), numbers(1, 48, 6, 2, 2)))


def test_moment_head_options():
    moments = Moments(numbers(2, 24), numbers(2, 24, 4, 3, 3))
    first = GTMT(24, 4, 2, second_moment="none")
    torch.testing.assert_close(first(moments), moments.pooled, rtol=0, atol=0)
    assert not list(first.parameters())
    whole = GTMT(24, 4, 2).double().eval()
    alone = GTMT(24, 4, 2, first_moment=False).double().eval()
    alone.load_state_dict(whole.state_dict())
    torch.testing.assert_close(whole(moments), moments.pooled + alone(moments))
    tcov = GTMT(24, 4, 2, second_moment="tcov").double().eval()
    assert tcov.reduced(moments.map).shape == (2, 4, 12, 3) and tcov(moments).shape == (2, 24)
    plain = GTMT(24, 4, 2, iterations=0).double()
    matrices = numbers(4, 8, 8)
    assert plain.roots(matrices) is matrices
    for options, message in (
        ({"groups": 3}, "4 frames can't be dealt to 3 groups"),
        ({"second_moment": "third"}, "'third' is unknown"),
        ({"second_moment": "none", "first_moment": False}, "nothing to say"),
    ):
        with pytest.raises(ValueError, match=message):
            GTMT(24, 4, **options)
    with pytest.raises(ValueError, match="5 channels are too few"):
        GTMT(5, 4)


def test_which_blocks_are_adapted():
    assert adapted_blocks(12) == adapted_blocks(12, "reference") == (10, 11)
    assert adapted_blocks(24, "reference") == tuple(range(10, 24)) and adapted_blocks(24) == (22, 23)
    assert adapted_blocks(10, "reference") == () and adapted_blocks(3, 0) == () and adapted_blocks(3, (2, 0)) == (0, 2)
    for adapt in (4, (3,), (-1,), -1):
        with pytest.raises(UserError, match="don't exist in a network of 3 blocks"):
            adapted_blocks(3, adapt)
    with pytest.raises(UserError, match="adapted blocks 'all'"):
        adapted_blocks(3, "all")


def test_only_what_is_tuned_is_trained_and_all_of_it():
    model, x = tiny_tamt(), numbers(4, 3, 8, 8, 8)
    model.train()(x).pow(2).sum().backward()
    for name, value in model.named_parameters():
        assert value.requires_grad != name.startswith("backbone.vit."), name
        assert (value.grad is not None) == value.requires_grad, name
    total, trained = count_parameters(model)
    assert trained == sum(p.numel() for n, p in model.named_parameters() if ".vit." not in n) < total
    whole = tiny_tamt(freeze=False)
    whole.train()(x).sum().backward()
    assert all(p.grad is not None for p in whole.parameters())  # full fine-tuning


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_variants(variant):
    model, x = tiny_tamt(variant=variant), numbers(2, 3, 8, 8, 8)
    torch.testing.assert_close(model.eval()(x)[:1], model(x[:1]))
    assert model(x).shape == (2, 24) == (2, model.out_dim)
    has_norm = any("norm" in name for name, _ in model.backbone.mix.named_parameters())
    assert has_norm == (variant == "reference")
    wide = tiny_tamt(variant=variant, head={"groups": 4, "iterations": 2}, adapter={"reduction": 2})
    assert (wide.pool.groups, wide.pool.iterations, wide.backbone.adapters["1"].down.out_channels) == (4, 2, 12)
    for options, message in (
        ({"variant": "papre"}, "did you mean 'paper'"),
        ({"head": {"groups": 3}}, "can't be built like this: 4 frames"),
        ({"adapter": {"colour": 1}}, "can't be built like this: .*colour"),
    ):
        with pytest.raises(UserError, match=message):
            tiny_tamt(**options)


def test_stored_stems_give_the_same_tuning():
    """Frozen blocks first, adapted ones later: features and gradients as in one pass."""
    model, x = tiny_tamt().eval(), numbers(2, 3, 8, 8, 12)
    stem, grid = model.backbone.stem(x), model.backbone.vit.grid(x)
    assert not stem.requires_grad and grid == (4, 2, 3) and model.backbone.first_adapted == 1
    z = model.pool(model.backbone.tune(stem, grid))
    torch.testing.assert_close(z, model(x), rtol=0, atol=0)
    gradients = [torch.autograd.grad(value.sum(), model.backbone.adapters["1"].down.weight) for value in (z, model(x))]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_drop_path_stays_active_in_frozen_blocks():
    model, x = tiny_tamt(vit=tiny_vit(drop_path=0.9), adapt=1), numbers(8, 3, 8, 8, 8)
    torch.manual_seed(0)
    assert not torch.allclose(model.train().backbone.stem(x), model.eval().backbone.stem(x))


def test_one_backbone_serves_many_targets():
    vit, x = tiny_vit(), numbers(2, 3, 8, 8, 8)
    first, second = tiny_tamt(1, vit), tiny_tamt(2, vit)
    assert first.backbone.vit is second.backbone.vit
    first.train()(x)  # moves batch norm statistics
    small = trainable_state(first)
    assert not any(".vit." in key for key in small)
    assert {key for key in first.state_dict() if ".vit." not in key} == set(small)  # statistics included
    before = first.eval()(x)
    assert not torch.allclose(second.eval()(x), before)
    load_trainable_state(second, {key: value.clone() for key, value in small.items()})
    torch.testing.assert_close(second(x), before, rtol=0, atol=0)
    del small["pool.project.bias"]
    with pytest.raises(UserError, match=r"1 are missing \(pool.project.bias\)"):
        load_trainable_state(second, small)
    with pytest.raises(UserError, match="fit nowhere"):
        load_trainable_state(tiny_tamt(adapt=1), trainable_state(first))
    with pytest.raises(UserError, match="have another shape"):
        load_trainable_state(tiny_tamt(head={"groups": 4}), trainable_state(first))


def test_it_trains_in_the_episode_model_of_images():
    """Clips in place of images, nothing else changed; and the classes become apart."""
    model = EpisodeModel(tiny_tamt(vit=tiny_vit(drop_path=0.1)), MetaDeepBDC(2))
    direction = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(4)  # class = which way time runs
    ramp = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None, None]
    clips = (direction[:, None, None, None] * ramp).unsqueeze(1) + 0.3 * numbers(8, 3, 8, 8, 8)
    order = torch.tensor([0, 1, 4, 5, 2, 3, 6, 7])  # two supports of each class, then two queries
    clips = clips[order][None]
    labels, truth = torch.tensor([[0, 0, 1, 1]]), torch.tensor([0, 0, 1, 1])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    frozen = model.backbone.vit.state_dict()["blocks.0.mlp.fc1.weight"].clone()
    model.train()
    assert model.backbone.training  # it has trained parts, so it is not held in eval mode
    losses = []
    for _ in range(15):
        loss = functional.cross_entropy(model(clips, labels)[0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    torch.testing.assert_close(model.backbone.vit.blocks[0].mlp.fc1.weight, frozen, rtol=0, atol=0)


def test_map_is_a_view_of_the_tokens():
    tokens = numbers(2, 24, 8)
    assert as_map(tokens, (4, 2, 3)).data_ptr() == tokens.data_ptr()


def test_classes_of_an_episode():
    generator = torch.Generator().manual_seed(3)
    drawn = random_classes(7, 4, generator)
    assert len(set(drawn.tolist())) == 4 and drawn.min() >= 0 and drawn.max() < 7
    assert sorted(random_classes(5, 5).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="6 classes can't be drawn from 5"):
        random_classes(5, 6)
