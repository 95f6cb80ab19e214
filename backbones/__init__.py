"""The shared zoo of feature-map backbones and their checkpoints."""

from backbones.checkpoint import from_official, load_weights, read_checkpoint, save_weights, to_official
from backbones.conv4 import Conv4
from backbones.dropblock import DropBlock
from backbones.errors import UserError
from backbones.resnet import ResNet
from backbones.resnet12 import ResNet12
from backbones.zoo import BACKBONES, create_backbone, freeze, list_backbones

__all__ = [
    "BACKBONES",
    "Conv4",
    "DropBlock",
    "ResNet",
    "ResNet12",
    "UserError",
    "create_backbone",
    "freeze",
    "from_official",
    "list_backbones",
    "load_weights",
    "read_checkpoint",
    "save_weights",
    "to_official",
]
