"""The shared zoo of feature-map backbones and their checkpoints."""

from backbones.checkpoint import from_official, load_weights, read_checkpoint, save_weights, to_official
from backbones.classifier import ImageClassifier
from backbones.conv4 import Conv4
from backbones.dropblock import DropBlock
from backbones.errors import UserError
from backbones.networks import NETWORKS, create_network
from backbones.released import load_released
from backbones.resnet import ResNet
from backbones.resnet12 import ResNet12
from backbones.token_heads import SoTHead, SoViTHead, TokenClassifier
from backbones.trained import load_backbone
from backbones.zoo import BACKBONES, create_backbone, freeze, list_backbones

__all__ = [
    "BACKBONES",
    "Conv4",
    "DropBlock",
    "ImageClassifier",
    "NETWORKS",
    "ResNet",
    "ResNet12",
    "SoTHead",
    "SoViTHead",
    "TokenClassifier",
    "UserError",
    "create_backbone",
    "create_network",
    "freeze",
    "from_official",
    "list_backbones",
    "load_backbone",
    "load_released",
    "load_weights",
    "read_checkpoint",
    "save_weights",
    "to_official",
]
