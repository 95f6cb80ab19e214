"""Any timm or torchvision classification network as a feature-map backbone."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from backbones.errors import UserError, nearest
from backbones.normalisation import IMAGENET_MEAN, IMAGENET_STD
from backbones.strides import _evaluating


class FeatureMap(nn.Module):
    """Wrap a network whose last features are tokens or a map, in whatever layout, as (B, 3, H, W) -> (B, C, h, w).

    network: module with the released parameter names, reached as `network.*`.
    features: name of the method of `network` that returns the features ('forward' or 'forward_features').
    out_channels: C, used to tell (B, C, h, w) from (B, h, w, C).
    prefix_tokens: class and register tokens to drop before tokens become a map.
    """

    def __init__(
        self,
        network: nn.Module,
        features: str,
        out_channels: int,
        input_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.features = network, features
        self.out_channels, self.input_size, self.prefix_tokens = out_channels, input_size, prefix_tokens
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map (B, C, h, w)."""
        out = self.network.forward_features(x) if self.features == "forward_features" else self.network(x)
        if isinstance(out, dict) and len(out) == 1:
            (out,) = out.values()
        if not isinstance(out, Tensor):
            raise UserError(
                f"{type(self.network).__name__} returns a {type(out).__name__} of {len(out)} and no single map: "
                "take another network, or one that returns its last map alone"
            )
        if out.dim() == 3:
            tokens = out[:, self.prefix_tokens :]
            height = round(math.sqrt(tokens.shape[1] * x.shape[2] / x.shape[3]))
            if height == 0 or tokens.shape[1] % height:
                raise ValueError(f"{tokens.shape[1]} tokens from a {tuple(x.shape[2:])} image are no grid")
            return tokens.transpose(1, 2).unflatten(2, (height, -1))
        if out.dim() == 4 and out.shape[1] != self.out_channels and out.shape[3] == self.out_channels:
            return out.permute(0, 3, 1, 2)
        return out


def feature_map(
    network: nn.Module,
    size: int,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> FeatureMap:
    """Make a backbone of a network of your own: (B, 3, H, W) -> its last map (B, C, h, w), channels first.

    size: side in pixels that the network is meant for; a picture of zeros of this size tells C.
    mean, std: of the normalisation of images.
    Raises UserError for a network that returns anything but a map.
    """
    weight = next(iter(network.parameters()), torch.zeros(()))
    with _evaluating(network):
        out = network(torch.zeros(1, 3, size, size, dtype=weight.dtype, device=weight.device))
    if not isinstance(out, Tensor) or out.dim() != 4:
        found = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise UserError(
            f"{type(network).__name__} returns {found} and no map (B, C, h, w): cut it before its pooling "
            "(those of libraries: create_backbone('timm:NAME') or 'torchvision:NAME')"
        )
    return FeatureMap(network, "forward", out.shape[1], size, mean, std)


@contextlib.contextmanager
def _fetching(name: str, pretrained: bool) -> Iterator[None]:
    """Tell in one sentence why released weights cannot be had; what the hub's client logs of its retries is left out.

    The client tries a host that does not answer six times, for nearly a minute; there is no setting for that.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    try:
        if pretrained:
            hub.setLevel(logging.CRITICAL)
        yield
    except (OSError, RuntimeError) as error:
        if not pretrained or isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot fetch the weights of {name} ({reason}): give them as a file with --model.weights, "
            "or use another network"
        ) from error
    finally:
        hub.setLevel(level)


def timm_backbone(name: str, pretrained: bool = False, input_size: int | None = None, **options) -> FeatureMap:
    """Build the timm model `name` without its classifier.

    pretrained: let timm download or find its weights; otherwise weights are random or come from `load_weights`.
    input_size: side in pixels when it differs from the model's own.
    options: passed to `timm.create_model`.
    Raises UserError for a name that timm does not know, and for weights that cannot be fetched.
    """
    import timm

    if not timm.is_model(name):
        raise UserError(f"timm has no model '{name}'{nearest(name.split('.')[0], timm.list_models())}")
    with _fetching(f"timm:{name}", pretrained):
        try:
            sized = {"img_size": input_size} if input_size else {}
            network = timm.create_model(name, pretrained=pretrained, num_classes=0, **sized, **options)
        except TypeError:  # convolutional networks take images of any size and no such argument
            network = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    config = timm.data.resolve_model_data_config(network)
    return FeatureMap(
        network,
        "forward_features",
        out_channels=network.num_features,
        input_size=input_size or config["input_size"][-1],
        mean=config["mean"],
        std=config["std"],
        prefix_tokens=getattr(network, "num_prefix_tokens", 0),
    )


# Where the last map or token sequence stands in torchvision's families, tried in this order.
TORCHVISION_NODES = (
    "layer4",
    "trunk_output",
    "conv5",
    "layers",
    "encoder.ln",
    "permute",
    "relu",
    "features",
    "blocks",
    "Mixed_7c",
    "inception5b",
)


def _torchvision_node(network: nn.Module) -> str | None:
    from torchvision.models import DenseNet
    from torchvision.models.feature_extraction import get_graph_node_names

    names = get_graph_node_names(network)[1]
    top = {name.split(".")[0] for name in names} | set(names)
    for node in TORCHVISION_NODES:
        if node == "relu" and not isinstance(network, DenseNet):
            continue
        if node in top:
            return node
    return None


def torchvision_backbone(name: str, pretrained: bool = False, input_size: int | None = None, **options) -> FeatureMap:
    """Build the torchvision classification model `name`, cut before its final pooling.

    pretrained: download torchvision's default weights.
    Raises UserError for an unknown name, a family without a single last map, and weights that cannot be fetched.
    """
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classification model '{name}'{nearest(name, known)}")
    presets = models.get_model_weights(name).DEFAULT.transforms()
    size = input_size or presets.crop_size[0]
    if "vit" in name and input_size:
        options["image_size"] = input_size
    with _fetching(f"torchvision:{name}", pretrained):
        network = models.get_model(name, weights="DEFAULT" if pretrained else None, **options).eval()
    node = _torchvision_node(network)
    if node is None:
        raise UserError(f"torchvision model '{name}' has no single last feature map: take another, or one of timm's")
    extractor = create_feature_extractor(network, {node: "features"})
    with torch.no_grad():
        shape = extractor(torch.zeros(1, 3, size, size))["features"].shape
    tokens = len(shape) == 3
    return FeatureMap(
        extractor.train(),
        "forward",
        out_channels=shape[2] if tokens else shape[1],
        input_size=size,
        mean=getattr(presets, "mean", IMAGENET_MEAN),
        std=getattr(presets, "std", IMAGENET_STD),
        prefix_tokens=1 if tokens else 0,
    )
