"""TAMT, temporal-aware model tuning (Wang et al., 2024): a frozen video transformer, adapters and a moment head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones import UserError
from backbones.errors import nearest
from backbones.video_vit import Grid, VideoViT
from video.gtmt import GTMT
from video.temporal_adapter import TemporalAdapter
from video.token_mix import Moments, TokenMix

# Options of the parts, by part. The released code is the default of each of them.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "reference": {"adapter": {}, "mix": {}, "head": {}},
    "paper": {
        "adapter": {"up_kernel": 3, "beta_scale": 1.0, "batch_norm": False},
        "mix": {"temporal_mix": "none", "norms": False},
        "head": {"iterations": 0},
    },
}


def adapted_blocks(depth: int, adapt: int | str | Sequence[int] = 2) -> tuple[int, ...]:
    """Return the numbers of the blocks that get an adapter, from 0.

    adapt: how many of the last blocks; or "reference", every block above number 9, as the released code tests it
        whatever the depth; or the numbers themselves.
    Raises UserError for blocks that the network does not have.
    """
    if isinstance(adapt, str):
        if adapt != "reference":
            raise UserError(f"adapted blocks '{adapt}' make no sense: give a number, block numbers or 'reference'")
        return tuple(range(10, depth))
    numbers = tuple(range(depth - adapt, depth)) if isinstance(adapt, int) else tuple(sorted(set(adapt)))
    if any(not 0 <= number < depth for number in numbers) or (isinstance(adapt, int) and adapt < 0):
        raise UserError(f"adapted blocks {adapt} don't exist in a network of {depth} blocks: they count from 0")
    return numbers


class TamtBackbone(nn.Module):
    """Frozen video transformer with adapters beside its last blocks: clips (B, 3, T, H, W) -> `Moments`.

    vit: shared, not copied: one network in memory serves the adapters of many targets.
    adapt: see `adapted_blocks`. adapter, mix: options of `TemporalAdapter` and `TokenMix`.
    freeze: stop gradients of `vit`; False for full fine-tuning.

    A frozen network still follows `train()`: its DropPath stays active while adapters are trained, as published. State
    dict: `vit.*`, `adapters.<block>.*`, `mix.*`.
    """

    def __init__(
        self,
        vit: VideoViT,
        adapt: int | str | Sequence[int] = 2,
        freeze: bool = True,
        adapter: dict[str, Any] | None = None,
        mix: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(False) if freeze else vit
        blocks = adapted_blocks(vit.depth, adapt)
        dim = vit.out_channels
        self.adapters = nn.ModuleDict({str(number): TemporalAdapter(dim, **(adapter or {})) for number in blocks})
        self.mix = TokenMix(dim, **(mix or {}))
        self.out_channels, self.input_size, self.frames = dim, vit.input_size, vit.frames
        self.mean, self.std = vit.mean, vit.std

    def train(self, mode: bool = True) -> TamtBackbone:
        """Switch the mode; adapters that are not trained keep their statistics."""
        super().train(mode)
        for adapter in self.adapters.values():
            if not any(parameter.requires_grad for parameter in adapter.parameters()):
                adapter.eval()
        return self

    @property
    def first_adapted(self) -> int:
        """Number of the first block with an adapter; the depth when none has one."""
        return min((int(number) for number in self.adapters), default=self.vit.depth)

    def stem(self, clips: Tensor) -> Tensor:
        """Return the tokens (B, N, C) in front of the first adapted block: the same for every target.

        With a deterministic view and in eval mode they can be stored once and given to `tune` in every epoch.
        """
        return self.vit.run_blocks(self.vit.embed(clips), self.vit.grid(clips), 0, self.first_adapted)

    def tune(self, tokens: Tensor, grid: Grid) -> Moments:
        """Run what is adapted on the tokens of `stem`."""
        adapters = {int(number): adapter for number, adapter in self.adapters.items()}
        return self.mix(self.vit.run_blocks(tokens, grid, self.first_adapted, None, adapters), grid)

    def forward(self, clips: Tensor) -> Moments:
        """Clips -> `Moments`."""
        return self.tune(self.stem(clips), self.vit.grid(clips))


class TamtModel(nn.Module):
    """Backbone and moment head: clips (B, 3, T, H, W) -> representations (B, C).

    Has the two parts of an image encoder, `backbone` and `pool`, so that whatever trains or tests one works on it.
    Score its representations with inner products at one shot and minus squared distances otherwise, as released
    (`MetaDeepBDC`), or with distances alone, as in the paper.
    """

    def __init__(self, backbone: TamtBackbone, pool: GTMT) -> None:
        super().__init__()
        self.backbone, self.pool = backbone, pool

    @property
    def out_dim(self) -> int:
        """Length of a representation."""
        return self.pool.out_dim

    def forward(self, clips: Tensor) -> Tensor:
        """Represent clips."""
        return self.pool(self.backbone(clips))


def create_tamt(
    vit: VideoViT,
    adapt: int | str | Sequence[int] = 2,
    variant: str = "reference",
    freeze: bool = True,
    adapter: dict[str, Any] | None = None,
    mix: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
) -> TamtModel:
    """Build TAMT around a video transformer.

    variant: "reference", as the released code computes, or "paper", as the paper's formulas have it.
    adapter, mix, head: options of `TemporalAdapter`, `TokenMix` and `GTMT` that win over the variant's.
    Raises UserError for an unknown variant or an option that does not fit.
    """
    if variant not in VARIANTS:
        raise UserError(f"TAMT variant '{variant}' is unknown{nearest(variant, VARIANTS)}")
    parts = VARIANTS[variant]
    tubelet = vit.patch_embed.size[0]
    try:
        backbone = TamtBackbone(
            vit, adapt, freeze, {**parts["adapter"], **(adapter or {})}, {**parts["mix"], **(mix or {})}
        )
        options = {"dim": vit.out_channels, "frames": vit.frames // tubelet, **parts["head"], **(head or {})}
        return TamtModel(backbone, GTMT(**options))
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"TAMT can't be built like this: {error}") from error


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the part of a model's state dict that tuning changes: a small file beside one shared backbone.

    Trained parameters, and the buffers (batch norm statistics) of every module that has one.
    """
    prefixes = {name.rpartition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    buffers = dict(model.named_buffers())
    return {
        key: value.detach()
        for key, value in model.state_dict().items()
        if key.rpartition(".")[0] in prefixes and (key in buffers or model.get_parameter(key).requires_grad)
    }


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return (all, trained) numbers of parameters."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def load_trainable_state(model: nn.Module, state: dict[str, Tensor], where: str = "adapter file") -> None:
    """Load what `trainable_state` returned into a model of the same kind.

    Raises UserError, naming the keys, unless names and shapes are exactly those that this model trains.
    """
    wanted = trainable_state(model)
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    other = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if missing or unknown or other:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
            for keys, what in ((missing, "are missing"), (unknown, "fit nowhere"), (other, "have another shape"))
            if keys
        ]
        raise UserError(f"{where} belongs to another model: {'; '.join(parts)}; build it with the same options")
    with torch.no_grad():
        model.load_state_dict(state, strict=False)
