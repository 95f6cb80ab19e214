"""The options of `tools.gcp_study`. No heavy import here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tools.classify_config import ClassData, Probe, TestData
from tools.groups import Machine

# Letters in other hands: the same classes, drawn anew.
TRAIN, VAL = "glyphs:greek?size=32&variants=2", "glyphs:greek?size=32&variants=1&seed=1"
Part = Literal["landscape", "schedules", "robustness", "curvature"]


@dataclass
class Pair:
    """The network that is trained twice, with average (GAP) and with covariance pooling (GCP).

    Args:
        backbone: resnet18 ... resnet152, mobilenet_v2 or shufflenet_v2_x0_5 ... x2_0 of the study, or any other
            backbone that can be cut after its stem (conv4, resnet12, timm:resnet26, ...).
        options: arguments of the backbone.
        reduction: channels that enter the covariance.
        iterations: Newton-Schulz steps.
        last_stride: with GCP, of a backbone that is not the study's: 1 keeps the last map twice as large; null as is.
        dropout: before the classifier; null as released (MobileNetV2 0.2), else none.
    """

    backbone: str = "conv4"
    options: dict[str, Any] = field(default_factory=lambda: {"width": 32, "input_size": 32})
    reduction: int = 32
    iterations: int = 5
    last_stride: int | None = 1
    dropout: float | None = None


@dataclass
class Schedules:
    """How both are trained: SGD, momentum 0.9.

    Args:
        family: resnet, mobilenet or shufflenet: whose recipes; null: of the backbone's name, else resnet.
        names: schedules to compare; the first is what the others are held against, and its networks are tested further.
        stretch: epochs for one of the recipe; ResNet's take 100, 30 and 50.
        batch_size: pictures a step; null as published.
        lr: base rate; null: the published one, in proportion to the batch size.
        weight_decay: null as published.
        seeds: of weights, order and augmentation; each trains all networks once.
    """

    family: Literal["resnet", "mobilenet", "shufflenet"] | None = None
    names: list[Literal["LRnorm", "LRfast", "LRadju"]] = field(default_factory=lambda: ["LRnorm", "LRfast", "LRadju"])
    stretch: float = 0.2
    batch_size: int | None = 32
    lr: float | None = None
    weight_decay: float | None = None
    seeds: list[int] = field(default_factory=lambda: [1])


@dataclass
class Robust:
    """How the trained networks are tested for robustness, on the validation pictures.

    Args:
        corruptions: by name; null: the 15 that count.
        validation_corruptions: score the 4 others too; they are no part of mCE.
        severities: 1 to 5.
        perturbations: by name; null: all ten.
        difficulty: 1 to 3.
        limit: pictures that are corrupted, a fixed choice of the validation's; null: all.
        sequences: pictures that sequences are made of; 0 leaves the perturbations out.
        frost: folder with photographs of frost; null: textures are made, and the report says so.
        baseline: JSON file with the errors that mCE and mFR divide by; null: AlexNet's on ImageNet, and GAP's here.
        scale_lengths: blurs and shifts have the published size relative to the picture; false: in pixels.
        batch_size: pictures at a time.
    """

    corruptions: list[str] | None = None
    validation_corruptions: bool = False
    severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    perturbations: list[str] | None = None
    difficulty: int = 1
    limit: int | None = 500
    sequences: int = 50
    frost: str | None = None
    baseline: str | None = None
    scale_lengths: bool = True
    batch_size: int = 16


@dataclass
class GcpStudy:
    """Study what covariance pooling changes in training: landscapes, fast schedules, robustness, curvature.

    Args:
        run: folder of the study; the trainings lie in it.
        resume: go on with a study: what is finished is kept.
        overwrite: start anew in a folder that holds a study.
        seed: of the corruptions and the choice of pictures.
        parts: landscape (with predictiveness and smoothness), schedules, robustness, curvature. Transfer to detection
            is no part of this tool.
        data: the pictures; validation pictures are needed
        network: the network
        schedules: the trainings
        probe: the landscapes, of the first schedule and seed
        robust: the tests of robustness
        machine: the machine
    """

    run: str = "runs/gcp_study"
    resume: bool = False
    overwrite: bool = False
    seed: int = 0
    parts: list[Part] = field(default_factory=lambda: ["landscape", "schedules", "robustness", "curvature"])
    data: ClassData = field(default_factory=lambda: ClassData(TRAIN, VAL, 32, augment="light", in_memory=True))
    network: Pair = field(default_factory=Pair)
    schedules: Schedules = field(default_factory=Schedules)
    probe: Probe = field(default_factory=lambda: Probe(every=20))
    robust: Robust = field(default_factory=Robust)
    machine: Machine = field(default_factory=Machine)


@dataclass
class RobustScore:
    """Test trained networks for robustness: raw errors, mCE, mFR and mT5D, against any baseline.

    Args:
        run: folder of this test.
        seed: of the corruptions and the choice of pictures.
        overwrite: replace an earlier test in the folder.
        checkpoints: name -> weights of tools.classify; the first becomes a baseline for others.
        folder: pictures that are corrupted already, as CORRUPTION/SEVERITY/CLASS/FILE (the layout of ImageNet-C); null:
            they are made on the way.
        data: the clean pictures
        robust: what is tested
        machine: the machine
    """

    run: str = "runs/robustness"
    seed: int = 0
    overwrite: bool = False
    checkpoints: dict[str, str] = field(default_factory=dict)
    folder: str | None = None
    data: TestData = field(default_factory=TestData)
    robust: Robust = field(default_factory=Robust)
    machine: Machine = field(default_factory=Machine)


@dataclass
class CorruptFolder:
    """Write corrupted pictures into folders, CORRUPTION/SEVERITY/CLASS/FILE.

    Args:
        data: data set.
        out: folder that they are written to.
        corruptions: by name; null: the 15 that count and the 4 others.
        severities: 1 to 5.
        size: side of the pictures.
        resize: shorter side before the centre crop; null: size / 0.875.
        quality: of JPEG; null writes PNG. Published: 85.
        seed: of the corruptions.
        frost: folder with photographs of frost; null: textures are made.
        scale_lengths: blurs and shifts have the published size relative to the picture; false: in pixels.
        skip_broken: leave out files that cannot be read, with their names in a warning.
    """

    data: str = "digits"
    out: str = "corrupted"
    corruptions: list[str] | None = None
    severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    size: int = 224
    resize: int | None = None
    quality: int | None = 85
    seed: int = 0
    frost: str | None = None
    scale_lengths: bool = True
    skip_broken: bool = False
