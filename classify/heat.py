"""Where in a picture the evidence for a class lies: gradient-weighted maps, for any pooling layer or token head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.errors import UserError
from classify.mixing import single


def heat_maps(network: nn.Module, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return logits (B, K), and maps (B, H, W) of what speaks for a class, from 0 to 1.

    network: an `ImageClassifier` or `TokenClassifier`, in eval mode. images: (B, 3, H, W), normalised.
    classes: (B,); None: the likeliest ones.

    With f the last map (or the visual tokens) and g the gradient of the class's logit by it, position p has
    relu(sum_c g_cp f_cp) (HiResCAM, Draelos and Carin 2020). With average pooling this is the class activation map
    (Zhou et al. 2016); a second-order head weights every position by itself, g being 2 G (x_p - mean) with G the
    gradient by the covariance, which the channel weights of Grad-CAM, averaged over positions, would hide.
    Maps are scaled by their maximum; one without any evidence is zero.
    """
    with torch.no_grad():
        features, prefix = _features(network, images)
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = single(_answer(network, features))
        chosen = logits.argmax(1) if classes is None else classes
        gradient = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), features)[0]
    product = (gradient * features.detach()).float()
    heat = product.sum(1) if prefix is None else _grid(product[:, prefix:].sum(2), images.shape[-2:])
    heat = F.interpolate(heat.relu()[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return logits.detach(), heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _features(network: nn.Module, images: Tensor) -> tuple[Tensor, int | None]:
    """Return the last map and None, or tokens (B, N, C) and how many of them are no positions."""
    if hasattr(network, "tokens"):
        return network.tokens(images), int(network.head.class_token)
    return network.backbone(images), None


def _answer(network: nn.Module, features: Tensor) -> Tensor | tuple[Tensor, ...]:
    if hasattr(network, "tokens"):
        return network.head(features)
    return network.classifier(network.dropout(network.pool(features)))


def _grid(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Arrange token values (B, N) as the picture's positions (B, h, w)."""
    count = values.shape[1]
    height = max(round((count * size[0] / size[1]) ** 0.5), 1)
    if count % height:
        raise UserError(f"{count} tokens of a picture of {size[0]} x {size[1]} pixels are no grid: give square ones")
    return values.unflatten(1, (height, -1))
