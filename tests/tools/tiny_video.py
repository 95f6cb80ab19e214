"""Films, networks and files of video models so small that a script's whole job takes a second or two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from backbones.checkpoint import save_tensors, save_weights
from backbones.video_mae import MaskedAutoencoder
from fewshot.encoder import EpisodeModel
from tests.tools import tiny
from tests.video.films import write_film
from tools.config import Evaluate
from tools.video.methods import create_video_head
from tools.video.models import VideoArchitecture, design_video, source_key
from tools.video_groups import VideoModel, View
from video.classifier import VideoClassifier
from video.encoders import freeze_for
from video.tamt import trainable_state

NETWORK = {"dim": 24, "depth": 3, "heads": 3, "patch_size": 8, "input_size": 16}
SIZE, FRAMES = 16, 8


def films(root: Path, classes: int = 6, items: int = 8, seed: int = 0, first: int = 0, noise: float = 20.0) -> str:
    """Write a folder of class folders with films; every class has a pattern of its own. Returns what opens it."""
    generator = np.random.default_rng(seed)
    for number, images in enumerate(tiny.class_images(classes, items, size=32, seed=seed, noise=noise), start=first):
        for i, image in enumerate(images):
            shifts = generator.integers(0, 3, 12).cumsum()
            frames = np.stack([np.roll(image, shift, axis=1) for shift in shifts])
            write_film(root / f"action{number:02d}" / f"{i}.mp4", frames)
    return str(root)


def model(method: str = "tamt", **options) -> VideoModel:
    return VideoModel(method, "video_vit_small", dict(NETWORK), **options)


def jiggle(module: nn.Module, seed: int) -> None:
    """Move every weight and statistic away from its start, which tells what was loaded from what was not."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if value.is_floating_point():
                value += 0.05 * torch.rand(value.shape, generator=generator) + (0.2 if "var" in name else 0)


def source(path: Path, stage: str = "supervised", seed: int = 1, names: list[str] | None = None) -> Path:
    """Write source weights as `tools.video_pretrain` does."""
    plan = VideoArchitecture("protonet", "video_vit_small", dict(NETWORK), {}, SIZE, FRAMES)
    if stage == "ssl":
        plan.backbone_options["final_norm"] = True
        whole = MaskedAutoencoder(plan.network(), 16, 1, 2)
    else:
        whole = VideoClassifier(plan.network(), 5)
    jiggle(whole, seed)
    card = plan.card(f"video_{stage}", **({"class_names": names} if names else {}))
    save_weights(whole, path, {key: value for key, value in card.items() if key not in ("method", "options", "pool")})
    return path


def tuned(
    path: Path, source_file: Path | None, method: str = "tamt", tune: str = "adapters", seed: int = 2, **facts
) -> EpisodeModel:
    """Write a tuned file as `tools.video_tune` does; returns the model that it is of."""
    from tools.video.models import read_video_model

    loaded = read_video_model(source_file, model(method), say=lambda text: None) if source_file else None
    plan, encoder = (loaded.architecture, loaded.encoder) if loaded else design_video(model(method), SIZE, FRAMES)
    head = create_video_head(method, 1, encoder.out_dim, **facts.get("head", {}))
    whole = EpisodeModel(encoder, head)
    freeze_for(encoder, tune)
    key = source_key(encoder)
    for value in trainable_state(whole).values():
        if value.is_floating_point():
            value += 0.05 * torch.rand(value.shape, generator=torch.Generator().manual_seed(seed))
    card = plan.card("video_tune", tune=tune, k_shot=1, n_way=5, source=source_file and str(source_file), **facts)
    state = whole.state_dict() if tune == "all" else trainable_state(whole)
    save_tensors(state, path, card if tune == "all" else {**card, "source_key": key})
    return whole.requires_grad_(False).eval()


def clips(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def evaluate_options(run: Path, checkpoint: Path | str | None, test: str | list[str], **options) -> Evaluate:
    """Options of a test of 20 episodes, without pictures; clips are read in this very process."""
    checkpoint = str(checkpoint) if checkpoint else None
    return tiny.evaluate_options(
        run, checkpoint, test, **{"episodes": 20, "n_query": 4, "video": View(limit_s=0), **options}
    )
