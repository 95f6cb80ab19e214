"""What the frozen part of an encoder says of every video, computed once: tuning then runs the rest alone.

A stored clip is the encoder's stem in eval mode on the deterministic view. Two things therefore differ from tuning on
clips as TAMT's code does it: nothing is augmented, and DropPath of the *frozen* blocks, which stays active there while
adapters are trained, is off. The tuned blocks drop their paths in both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbones.encoder import Encoder
from backbones.video_vit import VideoViT
from episodes.evaluate import StoredFeatures, encode_batch, take
from episodes.features import DTYPES, open_features
from episodes.fingerprint import tensors_key, weights_key
from episodes.processes import ALONE, Team
from episodes.shards import extract_shared
from video.clips import Clips, ClipSet
from video.encoders import stem
from video.tamt import TamtModel

BATCH = 16  # clips that pass the frozen part at a time: on a CPU more are no faster and take more memory
Encode = Callable[[Tensor], Tensor]


class StoredClips:
    """Takes the place of `Clips` where the frozen part has been run: rows (t, h, w, C) for clips (3, T, S, S).

    features: (N, t, h, w, C) of the videos of `dataset`, a tensor or a store on disk.
    """

    in_memory, augment = False, "none"

    def __init__(self, dataset: ClipSet, features: Tensor | StoredFeatures) -> None:
        self.dataset, self.features = dataset, features

    def load(self, indices: np.ndarray | Sequence[int], *seed: int, places: Sequence[int] | None = None) -> Tensor:
        """Return rows (N, t, h, w, C), float32; nothing is random, so that `seed` and `places` change nothing."""
        return take(self.features, np.asarray(indices)).float()


def frozen_network(encoder: TamtModel | Encoder) -> nn.Module:
    """Return the network that adapters and heads are tuned around: what one file holds for many targets."""
    return encoder.backbone.vit if isinstance(encoder, TamtModel) else encoder.backbone


def stem_key(encoder: TamtModel | Encoder, *facts: object) -> str:
    """Return the hash of everything that decides what `stem` says: other targets, heads and seeds have the same.

    facts: what else decides it, for instance the precision.
    """
    network = frozen_network(encoder)
    if not isinstance(network, VideoViT):
        return weights_key(network, *facts)
    blocks = encoder.backbone.first_adapted if isinstance(encoder, TamtModel) else network.depth
    wanted = ("patch_embed.", *(f"blocks.{number}." for number in range(blocks)))
    wanted += () if isinstance(encoder, TamtModel) else ("norm.",)
    eps = network.blocks[0].norm1.eps if network.depth else None
    what = ("video stem", blocks, network.heads, network.patch_embed.size, network.trained_grid, eps, facts)
    # not repr(network), which tells the rates of DropPath: they change nothing in eval mode
    kept = [(key, value) for key, value in network.state_dict().items() if key.startswith(wanted)]
    return tensors_key(kept, str(what))


def set_drop_path(encoder: nn.Module, rate: float) -> None:
    """Give the blocks of the video transformer inside an encoder drop rates from 0 to `rate`, as VideoMAE has them."""
    for vit in (module for module in encoder.modules() if isinstance(module, VideoViT)):
        for number, block in enumerate(vit.blocks):
            block.drop_path.drop_prob = rate * number / max(vit.depth - 1, 1)


@torch.no_grad()
def stem_of(
    encoder: nn.Module, context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
) -> Encode:
    """Return the function clips -> (B, t, h, w, C) of an encoder, in eval mode; context: of the precision."""

    @torch.no_grad()
    def encode(clips: Tensor) -> Tensor:
        training = encoder.training
        encoder.eval()
        try:
            with context():
                return stem(encoder, clips).contiguous()
        finally:
            encoder.train(training)

    return encode


def row_bytes(encode: Encode, clips: Clips, dtype: str = "float32", device: torch.device | str = "cpu") -> int:
    """Return how many bytes one video takes when its stem is kept; one video is decoded for it."""
    return encode_batch(encode, clips, np.arange(1), device)[0].numel() * np.dtype(dtype).itemsize


def store_clips(
    encode: Encode,
    clips: Clips,
    key: str,
    cache: str = "disk",
    folder: str | Path | None = None,
    dtype: str = "float32",
    *,
    show: bool = True,
    say: Callable[[str], None] = print,
    team: Team = ALONE,
) -> StoredClips:
    """Run the frozen part over all videos and keep what it says, on disk (where it is found again) or in memory.

    encode: of `stem_of`. key: of `stem_key`. folder, dtype: see `episodes.features.open_features`.
    Raises UserError for clips that change with every look, and all that `open_features` raises.
    """
    if dtype not in DTYPES:
        raise ValueError(f"stored clips are {' or '.join(DTYPES)}, not {dtype}")
    if cache == "disk":
        store = open_features(
            encode, clips, key, folder, dtype,
            batch_size=BATCH, block_rows=4 * BATCH, device=team.device, show=show, say=say, team=team,
        )  # fmt: skip
        return StoredClips(clips.dataset, store)
    if cache != "memory":
        raise ValueError(f"clips are stored on disk or in memory, not '{cache}'")
    clips.facts()  # refuses views that change
    # all rows together may be more than a device holds; several processes exchange them there
    rows = encode if team.size > 1 else lambda batch: encode(batch).cpu()
    kept = extract_shared(team, rows, clips, BATCH, "stored clips", show)
    return StoredClips(clips.dataset, kept.to("cpu", getattr(torch, dtype)))
