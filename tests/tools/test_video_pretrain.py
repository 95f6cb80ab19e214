"""Source training from the command to the weights, in both stages: what is left behind, starts, resuming, bad input."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import video.pretraining
from backbones import UserError, read_checkpoint, save_weights
from backbones.checkpoint import save_tensors
from backbones.video_layouts import foreign_key, vit_keys
from backbones.video_vit import VideoViT
from fewshot.card import read_card
from tests.tools import tiny
from tests.video.films import write_film
from tools.groups import Episodes
from tools.video.stages import resolve
from tools.video_config import VideoPretrain
from tools.video_groups import SourceOptim, Videos
from tools.video_pretrain import video_pretrain

NETWORK = {"dim": 12, "depth": 2, "heads": 2, "patch_size": 8}
FILMS = "motions:digits?items=2&size=16"
TRAIN, NEW, OTHER = f"{FILMS}&split=val", f"{FILMS}&split=test", "motions:night?items=2&size=16&split=val"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> None:
    """A cache folder of the tests' own."""
    monkeypatch.setenv("COVEY_CACHE", str(tmp_path_factory.getbasetemp() / "covey-cache"))


def options(run: Path, stage: str, val: str | None = None, **more) -> VideoPretrain:
    """Two epochs on 16 films of 8 classes, 16 pixels, 4 frames."""
    optim = {"epochs": 2, "batch_size": 6, "lr": 0.05, **more.pop("optim", {})}
    data = {"train": TRAIN, "val": val, "size": 16, "frames": 4, **more.pop("data", {})}
    fitting = {"mask_ratio": 0.5, "decoder": {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}}
    start = replace(VideoPretrain().data, **data)
    return VideoPretrain(
        str(run), stage,
        **{"backbone_options": NETWORK, "pictures": False, "machine": tiny.CPU, **fitting, **more},
        data=start, optim=SourceOptim(**optim), validation=Episodes(n_query=1, episodes=10),
    )  # fmt: skip


def history(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    clock = ("seconds", "wait_share", "clips_per_second")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "best.safetensors")[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for steps of a rate of next to nothing."""
    return torch.allclose(one, other, rtol=0, atol=1e-20)


@pytest.fixture(scope="module")
def ssl(tmp_path_factory) -> Path:
    """A finished run of masked reconstruction, with pictures."""
    run = tmp_path_factory.mktemp("ssl") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COVEY_CACHE", str(tmp_path_factory.getbasetemp() / "covey-cache"))
        video_pretrain(options(run, "ssl", NEW, pictures=True))
    return run


def test_masked_reconstruction_leaves_everything_behind(ssl):
    assert {path.name for path in ssl.iterdir()} == {
        *("config.yaml", "environment.json", "log.jsonl", "history.csv", "metrics.json", "tensorboard", "card.md"),
        *("best.safetensors", "last.ckpt", "curves.png", "clips.png", "reconstruction.png"),
    }
    rows = history(ssl)
    assert rows[1]["loss"] < rows[0]["loss"] and rows[1]["val_loss"] < rows[0]["val_loss"]
    card = read_card(ssl / "best.safetensors")
    expected = {"domain": "video", "stage": "video_ssl", "size": 16, "frames": 4, "sampling": "window", "step": 4}
    assert expected.items() <= card.items() and card["backbone_options"] == NETWORK
    assert not {"class_names", "method", "pool"} & card.keys()
    assert card["epoch"] == 2
    config = yaml.safe_load((ssl / "config.yaml").read_text())  # what the stage decided is written down
    assert (config["optim"]["beta2"], config["data"]["augment"]) == (0.95, "multiscale")
    text = (ssl / "card.md").read_text()
    assert "reconstructing masked clips" in text and f"{rows[1]['val_loss']:.4f}" in text
    assert "clips_per_second" in (ssl / "history.csv").read_text()


def test_classification_goes_on_from_reconstruction(ssl, tmp_path, capsys):
    run = tmp_path / "run"
    start = {"weights": str(ssl / "best.safetensors"), "optim": {"lr": 1e-30, "final_lr": 0.0, "repeats": 2}}
    metrics = video_pretrain(options(run, "supervised", OTHER, **start, pictures=True))
    said = capsys.readouterr().out
    assert re.search(r"\d+ tensors matched, \d+ not wanted by the model", said)
    assert "starting fresh: fc_norm, head" in said
    assert "top-1 on 16 videos of 8 of the 8 classes" in said and "layer decay 0.75" in said
    assert {"clips.png", "confusion.png"} <= {path.name for path in run.iterdir()}
    before, after = weights(ssl), weights(run)
    moved = [key for key in after if key.startswith("backbone.")]
    assert len(moved) == len(vit_keys(2))
    assert all(near(after[key], before[key.replace("backbone.", "encoder.")]) for key in moved)
    card = read_card(run / "best.safetensors")
    assert (card["stage"], card["num_classes"]) == ("video_supervised", 8)
    assert card["class_names"][0] == "spiral_out" and card["sampling"] == "window"
    assert {"val_accuracy", "val_interval", "val_top5", "val_videos"} <= metrics["kept"].keys()
    assert metrics["steps"] == 6
    assert "top-5" in (run / "card.md").read_text()


def test_new_classes_are_validated_by_episodes(tmp_path, capsys):
    metrics = video_pretrain(options(tmp_path, "supervised", NEW))
    assert "10 episodes, 5-way 1-shot, of 10 other classes, prototypes of averages" in capsys.readouterr().out
    assert metrics["kept_epoch"] == max(history(tmp_path), key=lambda row: row["val_accuracy"])["epoch"]
    assert "val_top5" not in metrics["kept"]
    assert "10 episodes, 5-way 1-shot" in (tmp_path / "card.md").read_text()


def test_a_batch_norm_of_the_training_is_folded_into_the_file(tmp_path):
    """What the file's plain classifier says is what validation saw, and it is resumed with its statistics."""
    config = options(tmp_path / "run", "supervised", TRAIN, batch_norm=True, select="last")
    metrics = video_pretrain(config)
    assert not [key for key in weights(tmp_path / "run") if not key.startswith(("backbone.", "fc_norm.", "head."))]
    again = {"weights": metrics["weights"], "optim": {"epochs": 1, "lr": 1e-30, "final_lr": 0.0}, "select": "last"}
    found = video_pretrain(options(tmp_path / "again", "supervised", TRAIN, **again))
    assert found["kept"]["val_accuracy"] == metrics["kept"]["val_accuracy"]
    assert found["kept"]["val_top5"] == metrics["kept"]["val_top5"]


def test_classification_learns(tmp_path):
    """Two kinds of film that differ at every pixel, by an image network, which learns in fewer steps."""
    for label, name in enumerate(("dark", "light")):
        for item in range(4):
            frames = np.full((6, 16, 16, 3), 40 + 150 * label + 4 * item, dtype=np.uint8)
            write_film(tmp_path / "films" / name / f"{item}.mp4", frames)
    net = {"backbone": "frames:conv4", "backbone_options": {"width": 8, "pooled_stages": 2, "input_size": 16}}
    quiet = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0}
    data = {"train": str(tmp_path / "films"), "augment": "none"}
    optim = {"epochs": 8, "batch_size": 4, "lr": 2.0}
    metrics = video_pretrain(
        options(tmp_path / "run", "supervised", str(tmp_path / "films"), **net, **quiet, optim=optim, data=data)
    )
    rows = history(tmp_path / "run")
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    assert metrics["kept"]["val_accuracy"] == 1.0 and "val_top5" not in metrics["kept"]


@pytest.mark.parametrize("stage", ["ssl", "supervised"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, stage):
    """It stops after the forward pass of step 7 of 9, two steps after the last checkpoint."""
    optim = {"epochs": 3, "save_steps": 2, "accumulate": 2, "repeats": 2}
    more = {"optim": optim, "data": {"augment": "randaug"}, "batch_norm": True}
    name = {"ssl": "ssl_step", "supervised": "supervised_step"}[stage]
    plain, steps = getattr(video.pretraining, name), iter(range(6))

    def stopping(step):
        def run(model, batch):
            values = step(model, batch)
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return values

        return run

    broken = stopping(plain) if stage == "ssl" else lambda *args: stopping(plain(*args))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(video.pretraining, name, broken)
        video_pretrain(options(tmp_path / "cut", stage, NEW, **more))
    video_pretrain(options(tmp_path / "cut", stage, NEW, **more, resume=True))
    video_pretrain(options(tmp_path / "whole", stage, NEW, **more))
    assert history(tmp_path / "cut") == history(tmp_path / "whole")
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_workers_and_decoded_stores_change_nothing_but_speed(tmp_path):
    video_pretrain(options(tmp_path / "plain", "ssl", NEW))
    video_pretrain(options(tmp_path / "workers", "ssl", NEW, data={"workers": 2}))
    assert history(tmp_path / "plain") == history(tmp_path / "workers")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "workers"))
    metrics = video_pretrain(options(tmp_path / "store", "ssl", NEW, data={"store": 18}))
    assert metrics["steps"] == 6


def test_a_longer_resume_is_another_schedule(ssl):
    config = options(ssl, "ssl", NEW, pictures=True, resume=True, optim={"epochs": 4})
    with pytest.raises(UserError, match=r"optim.epochs was 2 and is now 4|optim.warmup_epochs"):
        video_pretrain(config)


def test_image_networks_on_every_frame_are_classified_and_not_masked(tmp_path):
    net = {"backbone": "frames:conv4", "backbone_options": {"width": 8, "pooled_stages": 2, "input_size": 16}}
    video_pretrain(options(tmp_path / "a", "supervised", NEW, **net))
    assert read_card(tmp_path / "a" / "best.safetensors")["backbone"] == "frames:conv4"
    start = str(tmp_path / "a" / "best.safetensors")
    still = {"epochs": 1, "lr": 1e-30, "final_lr": 0.0}
    video_pretrain(options(tmp_path / "b", "supervised", None, **net, weights=start, optim=still))
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert near(one["head.weight"], other["head.weight"])  # the same classes: the classifier goes on too
    with pytest.raises(UserError, match="can't be trained by masked reconstruction"):
        video_pretrain(options(tmp_path / "c", "ssl", None, **net))
    with pytest.raises(UserError, match="layer_decay needs a network of blocks"):
        video_pretrain(options(tmp_path / "d", "supervised", None, **net, optim={"layer_decay": 0.5}))


def vit_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return VideoViT(**NETWORK, input_size=16, frames=4).state_dict()


@pytest.mark.parametrize(
    ("stage", "layout"),
    [
        *(("ssl", layout) for layout in ("videomae_finetuned", "videomae_pretrained", "transformers")),
        *(("supervised", layout) for layout in ("videomae_finetuned", "transformers")),
    ],
)
def test_weights_of_other_programs_are_starts(tmp_path, stage, layout):
    """Stage ssl needs the encoder's norm, which files of classifiers lack: they are refused."""
    state, file = {}, tmp_path / "foreign.pt"
    for key, value in vit_state().items():
        place = foreign_key(key, layout)
        parts = value.chunk(3) if isinstance(place, list) else [value]
        state |= dict(zip(place if isinstance(place, list) else [place], parts, strict=True))
    norms = {"videomae_pretrained": "encoder.norm.", "transformers": "videomae.layernorm."}
    if layout in norms:
        state |= {f"{norms[layout]}{leaf}": torch.full((12,), 0.5) for leaf in ("weight", "bias")}
    torch.save({"module" if layout == "videomae_finetuned" else "model": state}, file)
    config = options(tmp_path / "run", stage, weights=str(file), optim={"epochs": 1, "lr": 1e-30, "final_lr": 0.0})
    if layout == "videomae_finetuned" and stage == "ssl":
        with pytest.raises(UserError, match="encoder.norm"):
            video_pretrain(config)
        return
    video_pretrain(config)
    prefix = "encoder." if stage == "ssl" else "backbone."
    found = weights(tmp_path / "run")
    assert all(near(found[prefix + key], value) for key, value in vit_state().items())
    if stage == "ssl":
        assert near(found["encoder.norm.weight"], torch.full((12,), 0.5))


def test_reconstruction_goes_on_with_its_decoder(ssl, tmp_path, capsys):
    start = {"weights": str(ssl / "best.safetensors"), "optim": {"epochs": 1, "lr": 1e-30, "final_lr": 0.0}}
    video_pretrain(options(tmp_path / "same", "ssl", **start))
    assert "the decoder goes on" in capsys.readouterr().out
    before, after = weights(ssl), weights(tmp_path / "same")
    assert before.keys() == after.keys() and all(near(before[key], after[key]) for key in before)
    video_pretrain(options(tmp_path / "other", "ssl", **start, decoder={"decoder_dim": 4, "decoder_heads": 1}))
    assert "the decoder starts fresh" in capsys.readouterr().out


def test_a_broken_loss_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="(the loss became|no longer finite).*lower the rate"):
        video_pretrain(options(tmp_path, "ssl", optim={"lr": 1e30}))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"mask_ratio": 0.1}, "can't be masked: mask ratio 0.1 hides 0 of 4"),
        ({"optim": {"warmup_epochs": 3}}, "3 warm-up epochs are more than the 2 epochs"),
        ({"decoder": {"decoder_dim": 9, "decoder_heads": 2}}, "the decoder can't be built like this: width 9"),
        ({"decoder": {"depth": 2}}, "the decoder can't be built like this"),
        ({"data": {"size": 20}}, "takes no clips of 4 frames of 20 pixels"),
        ({"data": {"train": "motions:digit"}}, "no domain 'digit' among the motions; did you mean 'digits'"),
        ({"backbone_options": {"dim": 12, "deep": 3}}, "does not take these options"),
        ({"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\)"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
        ({"data": {"store": 8}}, "store is 8"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_written(tmp_path, more, sentence):
    with pytest.raises(UserError, match=sentence) as raised:
        video_pretrain(options(tmp_path / "run", "ssl", **more))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_classes_and_starts_that_do_not_fit(tmp_path):
    save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no weights of a video transformer"):
        video_pretrain(options(tmp_path / "a", "supervised", weights=str(tmp_path / "other.safetensors")))
    deeper = VideoViT(**{**NETWORK, "depth": 3}, input_size=16, frames=4)
    save_tensors(deeper.state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(UserError, match=r"3 blocks, .*, and the network has . blocks?: give --backbone_options '{dim"):
        video_pretrain(options(tmp_path / "a", "supervised", weights=str(tmp_path / "deep.safetensors")))
    small = Episodes(n_way=5, n_query=9)
    with pytest.raises(UserError, match="per class"):
        video_pretrain(replace(options(tmp_path / "a", "supervised", NEW), validation=small))


def test_the_stage_decides_what_is_left_open():
    ssl = resolve(VideoPretrain(stage="ssl", optim=SourceOptim(epochs=400)))
    supervised = resolve(VideoPretrain(stage="supervised", weights="ssl.safetensors", optim=SourceOptim(epochs=150)))

    def rates(config):
        optim = config.optim
        return optim.lr, optim.final_lr, optim.warmup_epochs, optim.beta2, optim.layer_decay, config.data.augment

    assert rates(ssl) == (1.5e-4, 1e-5, 40, 0.95, 1.0, "multiscale")
    assert rates(supervised) == (5e-4, 1e-6, 5, 0.999, 0.75, "randaug")
    assert (ssl.data.sampling, ssl.data.step) == (supervised.data.sampling, supervised.data.step) == ("window", 4)
    assert resolve(VideoPretrain(stage="supervised")).optim.layer_decay == 1.0
    named = resolve(VideoPretrain(data=Videos(augment="none", sampling="segments"), optim=SourceOptim(lr=1.0)))
    assert (named.data.augment, named.data.sampling, named.optim.lr) == ("none", "segments", 1.0)
