"""What becomes of maps: averages, frames, positions, BDC matrices of tokens."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

from backbones.encoder import Encoder
from backbones.video_layouts import load_source
from moments import bdc_vector
from tests.video.tiny import numbers, tiny_vit
from video.classifier import VideoClassifier
from video.encoders import AfterStem, stem
from video.pools import FrameMeans, TokenBDC, TokenMap, TokenMean

MAP = numbers(2, 6, 4, 3, 2)


def clips(batch: int = 2) -> torch.Tensor:
    return numbers(batch, 3, 8, 8, 8, seed=5)


def test_averages():
    plain = TokenMean(6, norm=False)(MAP)
    for b in range(2):
        for c in range(6):
            assert plain[b, c].item() == pytest.approx(MAP[b, c].sum().item() / 24)
    pool = TokenMean(6).double()
    assert pool.out_dim == 6 and pool.fc_norm.eps == 1e-6
    torch.testing.assert_close(pool(MAP), torch.nn.functional.layer_norm(plain, (6,), eps=1e-6))


def test_frames_and_positions_keep_their_order():
    frames = FrameMeans(6)(MAP)
    assert frames.shape == (2, 4, 6) and FrameMeans(6).out_dim == 6
    torch.testing.assert_close(frames[1, 2], MAP[1, :, 2].mean((1, 2)))
    positions = TokenMap(6)(MAP)
    assert positions.shape == (2, 6, 12, 2) and TokenMap(6).out_dim == 6
    torch.testing.assert_close(positions[1, :, 2 * 3 + 1, 0], MAP[1, :, 2, 1, 0])


def test_bdc_of_tokens():
    pool = TokenBDC(6, map_size=(12, 2)).double()
    assert pool.out_dim == 21
    assert [name for name, _ in pool.named_parameters()] == ["bdc.temperature"]
    assert pool.bdc.temperature.item() == pytest.approx(-math.log(2 * 24))
    torch.testing.assert_close(pool(MAP), bdc_vector(MAP.flatten(2), pool.bdc.temperature))


def test_bdc_is_the_same_for_any_order_of_the_tokens():
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    pool = TokenBDC(6, 4, (12, 2)).double().eval()
    torch.testing.assert_close(pool(MAP.flatten(2)[:, :, order].view_as(MAP)), pool(MAP))
    assert pool(MAP[:1]).shape == (1, 10)


def test_the_average_takes_the_norm_of_a_classifier(tmp_path):
    trained = VideoClassifier(tiny_vit(), 5).double()
    torch.nn.init.normal_(trained.fc_norm.weight)
    save_file(trained.state_dict(), tmp_path / "source.safetensors")
    encoder = Encoder(tiny_vit(1), TokenMean(24)).double()
    report = load_source(encoder, tmp_path / "source.safetensors", say=lambda _: None)
    assert not report.missing
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(clips()), trained.eval().features(clips()))


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (TokenMean(24), (2, 24)),
        (FrameMeans(24), (2, 4, 24)),
        (TokenMap(24), (2, 24, 8, 2)),
        (TokenBDC(24), (2, 300)),
        (TokenBDC(24, 5), (2, 15)),
    ],
    ids=["mean", "frames", "map", "bdc", "reduced bdc"],
)
def test_stored_stems_give_the_same(pool, shape):
    encoder = Encoder(tiny_vit(), pool.double()).eval()
    with torch.no_grad():
        direct = encoder(clips())
        again = AfterStem(encoder)(stem(encoder, clips()))
    assert direct.shape == shape
    assert encoder.out_dim == pool.out_dim
    torch.testing.assert_close(again, direct)


def test_gradients_reach_the_map():
    for pool in (TokenMean(6), FrameMeans(6), TokenMap(6), TokenBDC(6, map_size=(12, 2))):
        x = MAP.clone().requires_grad_()
        pool.double()(x).square().sum().backward()
        assert x.grad.abs().sum() > 0
