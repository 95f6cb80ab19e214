"""Batches and steps of source pre-training: who gets which clip, masks, mixing, losses; reconstructions as pictures."""

from __future__ import annotations

import warnings

import lightning_fabric
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.video_mae import MaskedAutoencoder, reconstruction_target
from backbones.video_vit import VideoViT
from episodes.engine import Plan, fit
from episodes.loaders import numbered_loader
from tests.episodes.test_processes import by_two
from video import VideoClassifier
from video.clips import Clips
from video.clips_open import open_clips
from video.clips_views import ClipView
from video.frames import FrameSampling
from video.pretraining import BatchNormed, OrderedClips, SourceBatches, clip_mix, ssl_step, supervised_step
from video.reconstruction_plot import join_tubes, plain_clips, plot_reconstruction, reconstruct

SIZE, FRAMES, GRID = 16, 4, (2, 4, 4)


@pytest.fixture
def clips(own_cache) -> Clips:
    videos = open_clips("motions:digits?items=2&size=16&split=test")  # 20 videos of 10 classes
    return Clips(videos, ClipView(SIZE, "train", "multiscale"), FrameSampling("segments", FRAMES))


def network(**options) -> VideoViT:
    return VideoViT(dim=12, depth=1, heads=2, patch_size=4, input_size=SIZE, frames=FRAMES, **options)


def autoencoder() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(network(final_norm=True), 8, 1, 2).double()


def random_clips(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_every_video_comes_once_an_epoch_and_each_time_in_another_order(clips):
    batches = SourceBatches(clips, 6, seed=3)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        orders.append(np.concatenate([batches[number]["labels"] for number in range(len(batches))]))
    assert len(batches) == 4 and len(batches[3]["images"]) == 2
    np.testing.assert_array_equal(*(np.sort(order) for order in orders))
    assert not np.array_equal(*orders)
    again = SourceBatches(clips, 6, seed=3)
    again.set_epoch(1)
    assert torch.equal(batches[1]["images"], again[1]["images"])


def test_repeated_clips_are_other_looks_at_the_same_videos(clips):
    one, three = (SourceBatches(clips, 5, repeats, grid=GRID, mask_ratio=0.5)[1] for repeats in (1, 3))
    assert three["images"].shape == (15, 3, FRAMES, SIZE, SIZE)
    assert torch.equal(three["labels"], one["labels"].repeat(3))
    assert torch.equal(three["images"][:5], one["images"]) and torch.equal(three["mask"][:5], one["mask"])
    looks = three["images"].unflatten(0, (3, 5))
    assert not torch.equal(looks[0], looks[1]) and not torch.equal(looks[1], looks[2])


@pytest.mark.parametrize("batch", [4, 3])
def test_processes_share_a_batch_with_its_masks(clips, batch):
    """Batch 5 of 3 videos: 2 videos are left, 4 clips for 3 processes; batches of 4: 8 clips."""
    number = -(-20 // batch) - 1
    whole = SourceBatches(clips, batch, 2, grid=GRID, mask_ratio=0.5)[number]
    parts = [SourceBatches(clips, batch, 2, 0, rank, 3, GRID, 0.5)[number] for rank in range(3)]
    for key in ("images", "labels", "mask"):
        merged = torch.empty_like(whole[key])
        for rank, part in enumerate(parts):
            merged[rank::3] = part[key]
        assert torch.equal(merged, whole[key])
    assert sum(float(part["weight"]) for part in parts) == pytest.approx(3)


def test_a_process_without_a_clip_takes_part_with_no_weight(clips):
    parts = [SourceBatches(clips, 19, 1, 0, rank, 2)[1] for rank in range(2)]
    assert [float(part["weight"]) for part in parts] == [2.0, 0.0]
    assert len(parts[1]["images"]) == 1


def test_masks_are_tubes_of_the_given_ratio_and_each_of_its_own(clips):
    masks = SourceBatches(clips, 20, grid=GRID, mask_ratio=0.8)[0]["mask"].unflatten(1, GRID)
    assert torch.equal(masks[:, 0], masks[:, 1])
    assert (masks[:, 0].sum((1, 2)) == int(0.8 * 16)).all()
    assert len(masks[:, 0].flatten(1).unique(dim=0)) > 10


def test_validation_sees_all_videos_once_under_the_same_masks(clips):
    clips = Clips(clips.dataset, ClipView(SIZE), clips.sampling)
    parts = [OrderedClips(clips, 3, rank, 2, GRID, 0.5) for rank in range(2)]
    batches = [part[number] for part in parts for number in range(len(part))]
    items = torch.cat([batch["items"] for batch in batches])
    assert torch.equal(items.sort().values, torch.arange(20))
    masks = torch.cat([batch["mask"] for batch in batches])[items.argsort()]
    alone = OrderedClips(clips, 20, grid=GRID, mask_ratio=0.5)[0]
    assert torch.equal(masks, alone["mask"])
    np.testing.assert_array_equal(alone["labels"], clips.dataset.labels)


def test_the_loss_of_reconstruction_counts_hidden_tubes_alone():
    model, x = autoencoder(), random_clips()
    mask = torch.zeros(3, 32, dtype=torch.bool)
    mask[:, [1, 5, 9, 17, 21, 25]] = True
    predicted, target = model.predict(x, mask)
    naive = sum(((predicted[b, n] - target[b, n]) ** 2).mean() for b in range(3) for n in range(6)) / 18
    torch.testing.assert_close(ssl_step(model, {"images": x, "mask": mask})["loss"], naive)


def test_the_step_of_classification_without_mixing():
    torch.manual_seed(0)
    model, x, labels = VideoClassifier(network(), 5).double(), random_clips(), torch.tensor([1, 4, 4])
    values = supervised_step(5, 0, 0, 0.1)(model, {"images": x, "labels": labels})
    logs = model(x).double().log_softmax(1)
    soft = torch.full((3, 5), 0.1 / 5, dtype=torch.float64)
    soft[range(3), labels] += 0.9
    torch.testing.assert_close(values["loss"].double(), -(soft * logs).sum(1).mean(), rtol=1e-5, atol=1e-6)
    assert float(values["accuracy"]) == pytest.approx(float((logs.argmax(1) == labels).double().mean()))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mixup_weighs_whole_clips_as_their_targets(seed):
    torch.manual_seed(seed)
    x, labels = random_clips(), torch.tensor([0, 1, 2])
    mixed, targets = clip_mix(4, 0.8, 0)(x, labels)
    assert mixed.shape == x.shape
    weight = targets[range(3), labels].double()
    other = targets[range(3), labels.roll(1)].double()
    torch.testing.assert_close(weight + other, torch.ones(3, dtype=torch.float64))
    at = weight.view(3, 1, 1, 1, 1)
    torch.testing.assert_close(mixed, at * x + (1 - at) * x.roll(1, 0), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cutmix_has_one_box_in_all_frames_of_the_size_of_its_weight(seed):
    torch.manual_seed(seed)
    x, labels = random_clips(), torch.tensor([0, 1, 2])
    mixed, targets = clip_mix(4, 0, 1.0)(x, labels)
    foreign = mixed != x
    assert torch.equal(foreign, foreign[:1, :1, :1].expand_as(foreign))
    assert torch.equal(mixed[foreign], x.roll(1, 0)[foreign])
    assert foreign[0, 0, 0].double().mean() == pytest.approx(float(targets[0, 1 if labels[0] else 2]), abs=1e-5)


def test_both_kinds_of_mixing_are_drawn_and_none_where_both_are_off():
    assert clip_mix(4, 0, 0) is None
    torch.manual_seed(0)
    mix, x, kinds = clip_mix(4, 0.8, 1.0), random_clips(), set()
    for _ in range(12):
        mixed, _ = mix(x, torch.tensor([0, 1, 2]))
        kinds.add(bool((mixed == x).any()))  # mixup changes every pixel
    assert kinds == {True, False}


def test_accuracy_of_mixed_clips_is_by_their_heaviest_class():
    class Knows(torch.nn.Module):
        """Says the class of the clip that has most of the pixels."""

        def forward(self, clips):
            shares = torch.stack([(clips == number).double().flatten(1).mean(1) for number in range(3)], 1)
            return 100 * shares

    torch.manual_seed(1)
    labels = torch.tensor([0, 1, 2])
    plain = labels.view(3, 1, 1, 1, 1).expand(3, 3, FRAMES, SIZE, SIZE).float()
    step = supervised_step(3, 0, 1.0, 0.0)
    for _ in range(5):
        assert float(step(Knows(), {"images": plain, "labels": labels})["accuracy"]) == 1.0


def test_a_few_steps_learn(clips):
    """Clips are plain paper for the most part, whose normalised pixels are noise: the loss falls by a part."""
    torch.manual_seed(0)
    batch = SourceBatches(clips, 20, grid=GRID, mask_ratio=0.5)[0]
    model = autoencoder().float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = ssl_step(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.87 * losses[0]


def test_features_are_normalised_over_the_batch_and_the_plain_classifier_computes_the_same():
    torch.manual_seed(0)
    plain = VideoClassifier(network(), 5, init_scale=1.0)
    model, x = BatchNormed(plain), random_clips(24).float()
    with torch.no_grad():
        plain.fc_norm.weight.uniform_(0.5, 2)
        plain.fc_norm.bias.normal_()
        for _ in range(40):
            features = model.features(x)
        torch.testing.assert_close(features.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
        torch.testing.assert_close(features.std(0, unbiased=False), torch.ones(12), atol=1e-2, rtol=0)
        model.eval()
        other = VideoClassifier(network(), 5)
        other.load_state_dict(model.folded())
        torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.features(x), model.features(x), rtol=1e-4, atol=1e-4)
        alone = model.features(x[:1])
        torch.testing.assert_close(model.train().features(x[:1]), alone)  # one clip has no deviation


def train(fabric, clips, stage: str):
    """Two epochs on each process; the last batch leaves one process with fewer clips."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    ssl = stage == "ssl"
    model = autoencoder().float() if ssl else VideoClassifier(network(), 10, init_scale=1.0)
    masks = {"grid": GRID, "mask_ratio": 0.5} if ssl else {}
    batches = SourceBatches(clips, 7, 1, 0, fabric.global_rank, fabric.world_size, **masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    plan, step = Plan(2, accumulate=2, schedule_steps=True), ssl_step if ssl else supervised_step(10, 0, 0)
    loader = lambda numbered, start: numbered_loader(numbered, start=start)  # noqa: E731
    state = fit(fabric, model, step, batches, loader, optimizer, schedule, plan, say=lambda text: None)
    return [p.detach().numpy().copy() for p in model.parameters()], [row["loss"] for row in state.history]


@pytest.mark.parametrize("stage", ["ssl", "supervised"])
def test_two_processes_equal_one(clips, stage):
    alone = train(lightning_fabric.Fabric(accelerator="cpu", devices=1), clips, stage)
    both = by_two(train, clips, stage)
    for one, other in zip(alone[0], both[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert alone[1] == pytest.approx(both[1], rel=1e-5)


def test_tubes_are_put_together_again():
    embed, x = autoencoder().encoder.patch_embed, random_clips()
    assert torch.equal(join_tubes(embed.tubes(x), embed, x.shape), x)


def test_a_reconstruction_is_what_the_model_predicts_in_the_place_of_what_is_hidden(tmp_path):
    model, x = autoencoder().eval(), random_clips()
    mask = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)).argsort(1).lt(10).repeat(1, 2)
    seen, made = reconstruct(model, x, mask)
    embed, pixels = model.encoder.patch_embed, x * x.new_tensor(model.std).view(3, 1, 1, 1)
    pixels = pixels + x.new_tensor(model.mean).view(3, 1, 1, 1)
    tubes, true = embed.tubes(made), embed.tubes(pixels)
    torch.testing.assert_close(tubes[~mask], true[~mask])  # what is visible is shown as it is
    torch.testing.assert_close(embed.tubes(seen)[~mask], true[~mask])
    assert (embed.tubes(seen)[mask] == 0.5).all()
    predicted, target = model.predict(x, mask)
    hidden, own = tubes[mask].flatten(2), true[mask].flatten(2)
    normal = (hidden - own.mean(2, keepdim=True)) / (own.std(2, keepdim=True) + 1e-6)
    torch.testing.assert_close(normal.transpose(1, 2).flatten(1), predicted.flatten(0, 1), check_dtype=False)
    torch.testing.assert_close(target.flatten(0, 1), reconstruction_target(embed.tubes(x), model.mean, model.std)[mask])
    plot_reconstruction(model.float(), x.float(), mask, tmp_path / "strips.png")
    assert (tmp_path / "strips.png").read_bytes().startswith(b"\x89PNG")


def test_plain_clips_undo_the_normalisation(clips):
    with clips.dataset.open(0) as video:
        frames = video.frames([0, 5])
    mean, std = ClipView().mean, ClipView().std
    shape = (3, 1, 1, 1)
    normal = torch.from_numpy(frames).permute(3, 0, 1, 2) / 255
    normal = (normal - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    np.testing.assert_array_equal(plain_clips(normal[None], mean, std)[0], frames.transpose(3, 0, 1, 2))
