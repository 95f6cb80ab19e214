"""Where in a picture the evidence for a class lies: gradient-weighted maps, for any pooling layer or token head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import SoTHead
from backbones.errors import UserError
from classify.mixing import single
from moments import BDC, CovariancePool


def heat_maps(network: nn.Module, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return logits (B, K), and maps (B, H, W) of what speaks for a class, from 0 to 1.

    network: an `ImageClassifier` or `TokenClassifier`, in eval mode. images: (B, 3, H, W), normalised.
    classes: (B,); None: the likeliest ones.

    With x_p the features at position p that enter the pooling (after its reduction, or the visual tokens) and g_p the
    gradient of the class's logit by them, the position has relu(g_p . x_p) (HiResCAM, Draelos and Carin 2020). With
    average pooling this is the class activation map (Zhou et al. 2016).
    A covariance does not change with the mean m of the features, so that g_p . x_p would depend on where zero happens
    to lie: there it is relu(g_p . (x_p - m)), the position's own part 2 (x_p - m)' G (x_p - m) of the logit, with G the
    gradient by the covariance. Grad-CAM, which averages g over positions, would find nothing: it sums up to zero.
    Maps are scaled by their maximum; one without any evidence is zero.
    """
    with torch.no_grad():
        tokens = hasattr(network, "tokens")
        features = network.tokens(images) if tokens else network.backbone(images)
    with torch.enable_grad():
        leaf, logits = _answer(network, features.detach().requires_grad_())
        logits = single(logits)
        chosen = logits.argmax(1) if classes is None else classes
        gradient = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)[0]
    values = leaf.detach()
    if tokens:
        prefix = int(network.head.class_token)
        gradient, values = (part[:, prefix:].transpose(1, 2) for part in (gradient, values))  # (B, C, N)
    if _centred(network):
        values = values - values.flatten(2).mean(2).view(*values.shape[:2], *[1] * (values.dim() - 2))
    heat = (gradient * values).float().sum(1)
    heat = (_grid(heat, images.shape[-2:]) if tokens else heat).relu()
    heat = F.interpolate(heat[:, None], images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return logits.detach(), heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def _answer(network: nn.Module, features: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    """Return what the gradient is taken by, and logits; a reduction in front of the pooling is passed before."""
    if hasattr(network, "tokens"):
        return features, network.head(features)
    leaves = [features]

    def cut(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    reduction = getattr(network.pool, "reduce", None)
    hook = reduction.register_forward_hook(cut) if isinstance(reduction, nn.Module) else None
    try:
        logits = network.classifier(network.dropout(network.pool(features)))
    finally:
        if hook is not None:
            hook.remove()
    return leaves[-1], logits


def _centred(network: nn.Module) -> bool:
    """Whether the mean of the features makes no difference to the answer."""
    if hasattr(network, "tokens"):
        return getattr(network.head, "second_order", isinstance(network.head, SoTHead))
    return isinstance(network.pool, BDC) or (isinstance(network.pool, CovariancePool) and not network.pool.gaussian)


def _grid(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Arrange token values (B, N) as the picture's positions (B, h, w)."""
    count = values.shape[1]
    height = max(round((count * size[0] / size[1]) ** 0.5), 1)
    if count % height:
        raise UserError(f"{count} tokens of a picture of {size[0]} x {size[1]} pixels are no grid: give square ones")
    return values.unflatten(1, (height, -1))
