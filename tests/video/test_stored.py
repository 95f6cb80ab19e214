"""Stored stems: the rest of a network on them is the network, and who shares the weights finds them again."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.encoder import Encoder
from backbones.video_zoo import create_video_backbone
from episodes.errors import UserError
from episodes.loaders import EpisodeImages
from episodes.sampler import EpisodeSampler
from tests.video.films import grey_frames
from tests.video.tiny import tiny_tamt, tiny_vit
from video.clips import Clips, ClipSet
from video.clips_views import ClipView
from video.encoders import AfterStem, freeze_for, stem
from video.frames import FrameSampling
from video.pools import TokenMean
from video.readers_stills import ArrayReader
from video.stored import row_bytes, set_drop_path, stem_key, stem_of, store_clips


class Films:
    """Opens films by the number that is their file's name: grey ramps, each with its own step."""

    def __call__(self, name: str) -> ArrayReader:
        return ArrayReader(grey_frames(12, 10, 12, step=3 + int(Path(name).name)), name, 10.0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Six files, which are what a data set is told by."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        Path(str(i)).touch()


def films(view: str = "center") -> Clips:
    names = [str(i) for i in range(6)]
    dataset = ClipSet(names, np.arange(6) % 2, ["even", "odd"], Films())
    return Clips(dataset, ClipView(8, view, resize=8), FrameSampling("segments", 8))


def float_tamt(**options):
    return tiny_tamt(**options).float()


@pytest.fixture
def encoders() -> dict[str, torch.nn.Module]:
    framewise = create_video_backbone("frames:conv4", width=6, pooled_stages=2, frames=8)
    torch.manual_seed(0)
    return {
        "tamt": float_tamt(),
        "whole": Encoder(tiny_vit().float(), TokenMean(24)),
        "frames": Encoder(framewise, TokenMean(6)),
    }


@pytest.mark.parametrize("cache", ["disk", "memory"])
@pytest.mark.parametrize("name", ["tamt", "whole", "frames"])
def test_the_rest_on_stored_clips_is_the_network(encoders, name, cache, tmp_path):
    encoder, clips = encoders[name].eval(), films()
    stored = store_clips(stem_of(encoder), clips, stem_key(encoder), cache, tmp_path, show=False)
    index = np.array([4, 0, 4])
    found = AfterStem(encoder)(stored.load(index, 1, places=[0, 1, 2]))
    torch.testing.assert_close(found, encoder(clips.load(index)), rtol=1e-5, atol=1e-5)
    assert not torch.equal(found[0], found[1]) and stored.dataset is clips.dataset
    assert row_bytes(stem_of(encoder), clips) == stored.load([0])[0].numel() * 4


def test_what_is_stored_is_of_eval_mode_and_leaves_the_mode():
    encoder = float_tamt(vit=tiny_vit(depth=4)).train()
    set_drop_path(encoder, 0.9)
    encode, clips = stem_of(encoder), films().load(range(6))
    assert torch.equal(encode(clips), encode(clips)) and encoder.training
    assert not torch.equal(stem(encoder, clips), encode(clips))  # the paths of the frozen blocks do drop in training
    assert encoder.backbone.vit.blocks[2].drop_path.drop_prob == pytest.approx(0.6)


def test_episodes_of_stored_clips_have_the_shapes_of_the_stem(encoders, tmp_path):
    encoder, clips = encoders["tamt"], films()
    stored = store_clips(stem_of(encoder), clips, stem_key(encoder), "disk", tmp_path, show=False)
    sampler = EpisodeSampler(clips.dataset.labels, 2, 1, 2, 2)
    step = EpisodeImages(stored, sampler)[0]
    assert step["images"].shape == (1, 6, 4, 2, 2, 24)
    rows = EpisodeImages(clips, sampler)[0]["images"][0]
    torch.testing.assert_close(step["images"][0], stem(encoder.eval(), rows))


def test_float16_takes_half_the_room(encoders, tmp_path):
    encoder, clips = encoders["tamt"], films()
    encode = stem_of(encoder)
    exact = store_clips(encode, clips, "a", "memory", show=False).load(range(6))
    for cache in ("memory", "disk"):
        half = store_clips(encode, clips, "a", cache, tmp_path, "float16", show=False)
        torch.testing.assert_close(half.load(range(6)), exact, rtol=1e-3, atol=1e-3)
        assert half.load([0]).dtype == torch.float32
    assert row_bytes(encode, clips, "float16") * 2 == row_bytes(encode, clips)
    with pytest.raises(ValueError, match="float32 or float16"):
        store_clips(encode, clips, "a", "memory", dtype="int8", show=False)
    with pytest.raises(ValueError, match="disk or in memory"):
        store_clips(encode, clips, "a", "tape", show=False)


def test_the_key_is_of_the_frozen_part_alone():
    vit = tiny_vit()
    first, other = tiny_tamt(vit=vit), tiny_tamt(seed=5, vit=vit, head={"groups": 4})
    assert stem_key(first) == stem_key(other)
    assert stem_key(first, "bf16-mixed") != stem_key(first)
    key, whole = stem_key(first), stem_key(Encoder(vit, TokenMean(24)))
    assert whole != key  # that one runs all blocks
    set_drop_path(first, 0.3)
    assert stem_key(first) == key
    changed = copy.deepcopy(vit)
    with torch.no_grad():
        changed.blocks[1].mlp.fc1.weight[0, 0] += 1  # an adapted block: behind the stem
    assert stem_key(tiny_tamt(vit=changed)) == key
    with torch.no_grad():
        changed.blocks[0].mlp.fc1.weight[0, 0] += 1
    assert stem_key(tiny_tamt(vit=changed)) != key
    assert stem_key(tiny_tamt(vit=tiny_vit(trained_grid=(4, 3, 3)))) != stem_key(tiny_tamt(vit=tiny_vit()))


@pytest.mark.parametrize("cache", ["disk", "memory"])
def test_views_that_change_are_refused(encoders, cache, tmp_path):
    with pytest.raises(UserError, match="changes with every look"):
        store_clips(stem_of(encoders["tamt"]), films("train"), "key", cache, tmp_path, show=False)


def test_another_target_finds_what_is_stored(encoders, tmp_path):
    """The second encoder would give other numbers if it ran: it has other weights and the same key."""
    first, clips = encoders["tamt"], films()
    stored = store_clips(stem_of(first), clips, "key", "disk", tmp_path, show=False)
    other = float_tamt(seed=7)
    again = store_clips(stem_of(other), clips, "key", "disk", tmp_path, show=False)
    assert torch.equal(stored.load(range(6)), again.load(range(6)))


def test_adapters_that_are_not_trained_keep_their_statistics(encoders):
    encoder, clips = encoders["tamt"], films().load(range(6))
    freeze_for(encoder, "head")
    norm = encoder.backbone.adapters["1"].norm
    before = norm.running_mean.clone()
    encoder.train()(clips)
    assert torch.equal(norm.running_mean, before) and encoder.pool.reduce_norm1.num_batches_tracked == 1
    freeze_for(encoder, "adapters")
    encoder.train()(clips)
    assert not torch.equal(norm.running_mean, before)
