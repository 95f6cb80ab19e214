"""The recipes of classification hold the published settings, and their networks can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbones.networks import NETWORKS
from classify.study_schedules import learning_rate, recipe
from tools.classify_config import ClassifyTrain
from tools.classify_training import rate_of
from tools.cli import parse

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "classify"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> ClassifyTrain:
    return parse(ClassifyTrain, "classify train", ["--config", str(FOLDER / f"{name}.yaml")])


# epochs, pictures a step, rate, weight decay, classifier factor, rate at epoch 30 and in the last one (specifications)
PUBLISHED = {
    "imagenet_mpncov_resnet50": (65, 160, 0.1, 1e-4, 1.0, 1e-2, 1e-4),
    "imagenet_gsop_net1_resnet50": (95, 384, 0.1, 1e-4, 1.0, 1e-2, 1e-4),
    "imagenet_gsop_net2_resnet50": (65, 384, 0.1, 1e-4, 1.0, 1e-2, 1e-4),
    "imagenet_eca_resnet50": (100, 256, 0.1, 1e-4, 1.0, 1e-2, 1e-4),
    "imagenet_eca_mobilenet_v2": (400, 96, 0.045, 4e-5, 1.0, 0.045 * 0.98**30, 0.045 * 0.98**399),
    "imagenet_so_vit_7": (310, 512, 1e-3, 0.03, 1.0, None, 1e-5),
    "imagenet_so_vit_10": (310, 512, 1e-3, 0.03, 1.0, None, 1e-5),
    "imagenet_so_vit_14": (310, 512, 1e-3, 0.05, 1.0, None, 1e-5),
    "imagenet_so_vit_19": (310, 512, 1e-3, 0.05, 1.0, None, 1e-5),
    "imagenet_sot_tiny": (310, 1024, 1e-3, 0.03, 1.0, None, 1e-5),
    "imagenet_sot_small": (310, 1024, 1e-3, 0.03, 1.0, None, 1e-5),
    "imagenet_sot_base": (310, 512, 5e-4, 0.065, 1.0, None, 1e-5),
    "cub_mpncov_resnet50": (100, 10, 1.2e-3, 1e-4, 5.0, 1.2e-3, 1.2e-3),
    "aircraft_mpncov_resnet50": (100, 10, 1.2e-3, 1e-4, 5.0, 1.2e-3, 1.2e-3),
    "cars_mpncov_resnet50": (100, 10, 1.2e-3, 1e-4, 5.0, 1.2e-3, 1.2e-3),
    "cub_mpncov_vgg16_bn": (40, 10, 3e-3, 1e-4, 20.0, 3e-4, 3e-4),
    "cub_bcnn_vgg16_1": (100, 40, 1e-3, 5e-4, 1000.0, 1e-3, 1e-3),
    "cub_bcnn_vgg16_2": (100, 10, 1e-3, 5e-4, 1000.0, 1e-3, 1e-3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_as_published(name):
    epochs, batch, lr, decay, factor, later, last = PUBLISHED[name]
    optim = read(name).optim
    assert (optim.epochs, optim.batch_size, optim.lr) == (epochs, batch, lr)
    assert (optim.weight_decay, optim.classifier_factor) == (decay, factor)
    rate = rate_of(optim)
    assert later is None or rate(30, 0, 10) == pytest.approx(later)
    assert rate(epochs - 1, 0, 10) == pytest.approx(last)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("study_")])
def test_the_studys_recipes_are_the_published_ones(name):
    optim = read(name).optim
    published = recipe(optim.family, optim.schedule)
    found = (optim.lr, optim.epochs, optim.batch_size, optim.weight_decay)
    assert found == (published.base_lr, published.epochs, published.batch, published.weight_decay)
    rate = rate_of(optim)
    for epoch in (0, 1, 20, published.epochs - 1):
        assert rate(epoch, 0, 10) == pytest.approx(learning_rate(optim.family, optim.schedule, epoch))
    assert (optim.name, optim.momentum, optim.nesterov) == ("sgd", 0.9, False)


def test_so_vit_is_regularised_as_published():
    for name in (name for name in NAMES if "_so" in name):
        config = read(name)
        regular, data = config.regular, config.data
        assert (regular.mixup, regular.cutmix, regular.mix_share, regular.cutmix_share) == (0.8, 1.0, 1.0, 0.5)
        assert (regular.label_smoothing, regular.average, regular.average_warmup) == (0.1, 0.99996, False)
        assert (data.randaug, data.erasing, data.interpolation) == ("rand-m9-mstd0.5-inc1", 0.25, "random")
        assert (config.optim.name, config.optim.decay_vectors, config.network.options) == (
            "adamw",
            False,
            {"drop_path": 0.1},
        )


def test_fine_grained_pictures_are_cut_as_published():
    seen = {name: read(name).data for name in NAMES if name.startswith(("cub", "aircraft", "cars"))}
    assert {(data.size, data.augment, data.flip) for data in seen.values()} == {(448, "centre", 0.5)}
    crops = {name.split("_")[0]: (data.resize, data.squash) for name, data in seen.items()}
    assert crops == {"cub": (448, False), "aircraft": (512, True), "cars": (448, True)}


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_known_and_options_fit(name):
    """Weights without memory, and nothing is downloaded."""
    from classify.networks import Design
    from tools.classify_session import design_of

    config = read(name)
    options = {key: value for key, value in config.network.options.items() if key != "pretrained"}
    config.network.options = options
    assert config.network.pool or config.network.name in NETWORKS
    if config.network.pool:  # its strides are found by a picture, which takes real memory
        return
    with torch.device("meta"):
        network = Design.build(design_of(config.network, config.data.size), 3)
    assert sum(p.numel() for p in network.parameters()) > 1e6
