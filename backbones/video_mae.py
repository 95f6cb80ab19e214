"""Masked reconstruction of video clips (VideoMAE, Tong et al., NeurIPS 2022): tube masks, decoder, targets, loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from backbones.video_vit import Block, VideoViT, position_table

# VideoMAE's decoders, by the width of the encoder: width, heads, blocks (small: released code; others half as wide).
DECODERS = {384: (192, 3, 4), 768: (384, 6, 4), 1024: (512, 8, 12), 1280: (640, 8, 12), 1408: (512, 8, 4)}


def tube_mask(
    grid: tuple[int, int, int], ratio: float = 0.9, generator: np.random.Generator | np.random.RandomState | None = None
) -> Tensor:
    """Draw one tube mask: int(ratio * h * w) positions of a frame, hidden in every frame of the clip.

    grid: (t, h, w) tokens. generator: anything with numpy's `shuffle`; a legacy RandomState replays the released code.
    Returns (N,) bool, True = masked, in token order.
    Raises ValueError when nothing would be visible or nothing masked.
    """
    t, h, w = grid
    masked = int(ratio * h * w)
    if not 0 < masked < h * w:
        raise ValueError(f"mask ratio {ratio} hides {masked} of {h * w} positions: some must be hidden, not all")
    frame = np.zeros(h * w, dtype=bool)
    frame[h * w - masked :] = True
    (generator or np.random.default_rng()).shuffle(frame)
    return torch.from_numpy(np.tile(frame, t))


def tube_masks(batch: int, grid: tuple[int, int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """Draw tube masks (batch, N), each of its own, in one operation."""
    t, h, w = grid
    masked = int(ratio * h * w)
    if not 0 < masked < h * w:
        raise ValueError(f"mask ratio {ratio} hides {masked} of {h * w} positions: some must be hidden, not all")
    order = torch.rand(batch, h * w, generator=generator).argsort(1)
    return (order < masked).repeat(1, t)


def reconstruction_target(tubes: Tensor, mean: Sequence[float], std: Sequence[float], eps: float = 1e-6) -> Tensor:
    """Return what is to be predicted for tubelets: their pixels, normalised per tubelet and colour channel.

    tubes: (B, n, 3, t, p, p) of clips that were normalised with `mean` and `std`; pixels are brought back to [0, 1].
    eps: added to the (unbiased) deviation, for plain areas.
    Returns (B, n, t * p * p * 3), colour fastest.
    """
    scale = tubes.new_tensor(std)[:, None]
    pixels = tubes.flatten(3) * scale + tubes.new_tensor(mean)[:, None]  # (B, n, 3, t * p * p)
    centred = pixels - pixels.mean(3, keepdim=True)
    return (centred / (pixels.std(3, keepdim=True) + eps)).transpose(2, 3).flatten(2)


class Decoder(nn.Module):
    """Transformer from visible and mask tokens to pixels; `head` predicts the tubelets of the last tokens."""

    def __init__(
        self, dim: int, depth: int, heads: int, out_dim: int, mlp_ratio: float, qkv_bias: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, qkv_bias=qkv_bias, norm_eps=norm_eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.head = nn.Linear(dim, out_dim)

    def forward(self, tokens: Tensor, last: int) -> Tensor:
        """(B, N, D) -> pixels (B, last, out_dim)."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, -last:]))


class MaskedAutoencoder(nn.Module):
    """Encoder on visible tubelets, small decoder on all; parameters have the names of VideoMAE's pre-training files.

    encoder: a `VideoViT` with final_norm=True.
    decoder_dim, decoder_depth, decoder_heads: of the decoder; None: what VideoMAE takes for this width of encoder.
    mean, std: of the clips' normalisation, undone for the target.
    """

    def __init__(
        self,
        encoder: VideoViT,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if encoder.norm is None:
            raise ValueError("the encoder of masked pre-training ends in a norm: build it with final_norm=True")
        usual = DECODERS.get(encoder.out_channels, (max(encoder.out_channels // 2, 2), 1, 4))
        dim, heads, depth = decoder_dim or usual[0], decoder_heads or usual[1], decoder_depth or usual[2]
        tubelet, patch, _ = encoder.patch_embed.size
        pixels = tubelet * patch * patch * encoder.patch_embed.proj.in_channels
        self.mean, self.std, self.dim = tuple(mean), tuple(std), dim
        self.encoder = encoder
        self.encoder_to_decoder = nn.Linear(encoder.out_channels, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder = Decoder(dim, depth, heads, pixels, mlp_ratio, qkv_bias, norm_eps)
        self.apply(_init_xavier)
        trunc_normal_(self.mask_token, std=0.02)

    def predict(self, clips: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return predicted and true pixels of the masked tubelets, both (B, n_masked, pixels of a tubelet).

        clips: (B, 3, T, H, W), normalised. mask: (B, N) bool, True = masked, the same number in every clip.
        """
        encoder, grid = self.encoder, self.encoder.grid(clips)
        mask = self._checked(mask, grid, len(clips))
        tubes = encoder.patch_embed.tubes(clips)
        visible = _select(tubes, ~mask)  # only these are embedded: nine tenths are never needed
        tokens = encoder.patch_embed.embed_tubes(visible)
        tokens = tokens + _select(encoder.positions(grid, tokens).expand(len(clips), -1, -1), ~mask)
        tokens = self.encoder_to_decoder(encoder.norm(encoder.run_blocks(tokens, grid)))
        places = position_table(mask.shape[1], self.dim).to(tokens).expand(len(clips), -1, -1)
        hidden = self.mask_token + _select(places, mask)
        predicted = self.decoder(torch.cat([tokens + _select(places, ~mask), hidden], dim=1), last=hidden.shape[1])
        with torch.no_grad():
            target = reconstruction_target(_select(tubes, mask), self.mean, self.std)
        return predicted, target

    def forward(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Return the loss: mean squared error over the masked tubelets."""
        predicted, target = self.predict(clips, mask)
        return nn.functional.mse_loss(predicted, target)

    @staticmethod
    def _checked(mask: Tensor, grid: tuple[int, int, int], batch: int) -> Tensor:
        mask = mask.bool()
        tokens = grid[0] * grid[1] * grid[2]
        if mask.shape != (batch, tokens):
            raise ValueError(f"mask {tuple(mask.shape)} must be (clips, tokens) = {(batch, tokens)}")
        counts = mask.sum(1)
        if not bool((counts == counts[0]).all()) or not 0 < int(counts[0]) < tokens:
            raise ValueError(
                f"every clip must have the same number of masked tokens, between 1 and {tokens - 1}; "
                f"got {counts.min().item()} to {counts.max().item()}"
            )
        return mask


def _select(rows: Tensor, mask: Tensor) -> Tensor:
    """Take the rows (B, N, ...) where mask (B, N) is True, as many in every item: (B, n, ...), in index order."""
    return rows[mask].unflatten(0, (len(rows), -1))


def _init_xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
