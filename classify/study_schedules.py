"""Training recipes and the three learning-rate schedules of the study of covariance pooling (CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import UserError, nearest

SCHEDULES = ("LRnorm", "LRfast", "LRadju")
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """Base rate, passes over ImageNet, batch size and weight decay; SGD with momentum 0.9."""

    base_lr: float
    epochs: int
    batch: int
    weight_decay: float


RECIPES: dict[str, dict[str, Recipe]] = {
    "resnet": {
        "LRnorm": Recipe(0.1, 100, 256, 1e-4),
        "LRfast": Recipe(0.1, 30, 256, 1e-4),
        "LRadju": Recipe(0.1, 50, 256, 1e-4),
    },
    "mobilenet": {
        "LRnorm": Recipe(0.045, 400, 96, 4e-5),
        "LRfast": Recipe(0.06, 100, 96, 4e-5),
        "LRadju": Recipe(0.06, 150, 192, 4e-5),
    },
    "shufflenet": {
        "LRnorm": Recipe(0.5, 240, 1024, 4e-5),
        "LRfast": Recipe(0.5, 60, 1024, 4e-5),
        "LRadju": Recipe(0.5, 100, 1024, 4e-5),
    },
}


def recipe(family: str, schedule: str) -> Recipe:
    """Return the published recipe of a family ("resnet", "mobilenet", "shufflenet") and schedule (`SCHEDULES`).

    Raises UserError for an unknown name.
    """
    for name, known, what in ((family, RECIPES, "family"), (schedule, SCHEDULES, "schedule")):
        if name not in known:
            raise UserError(f"{what} '{name}' is unknown{nearest(name, known)}")
    return RECIPES[family][schedule]


def learning_rate(
    family: str,
    schedule: str,
    epoch: float,
    base_lr: float | None = None,
    total_epochs: float | None = None,
) -> float:
    """Return the learning rate of a schedule.

    epoch: counted from 0; a fraction is a place inside an epoch, which moves the rate of ShuffleNetV2 alone (its rate
        changes with every step). Beyond the recipe the formulas go on; ShuffleNetV2's stays 0.
    base_lr, total_epochs: default to those of the recipe; the length enters the formula of ShuffleNetV2 only.

    As released, the ResNet formulas count from 1, so that the first epoch exceeds the base rate. The rates of
    MobileNetV2's LRadju between its start and its end are fixed numbers.
    """
    published = recipe(family, schedule)
    base = published.base_lr if base_lr is None else base_lr
    if family == "shufflenet":
        return base * max(0.0, 1 - epoch / (total_epochs or published.epochs))
    e = int(epoch)
    match family, schedule:
        case "resnet", "LRnorm":
            return base * 0.1 ** (e // 30)
        case "resnet", "LRfast":
            return base * (1 - (e - 1) / 52) ** 11
        case "resnet", "LRadju":
            return base * (1 - (e - 1) / 49) ** 2
        case "mobilenet", "LRnorm":
            return base * 0.98**e
        case "mobilenet", "LRfast":
            return base * 0.92**e
    for first, start, end in ((0, base, 0.01), (50, 0.01, 0.001), (100, 0.001, 1e-5)):
        if e < first + 50:
            return start - (start - end) / 50 * (e - first)
    return 1e-5


@dataclass(frozen=True)
class StudySchedule:
    """One of the schedules, made shorter or longer for a data set of another size.

    stretch: epochs of this training for one of the recipe; 0.1 goes through LRnorm's hundred epochs in ten.
    base_lr: None: the recipe's; another one scales the whole curve.
    """

    family: str
    schedule: str
    stretch: float = 1.0
    base_lr: float | None = None

    @property
    def epochs(self) -> int:
        """Return the length of the training, at least one epoch."""
        return max(1, round(recipe(self.family, self.schedule).epochs * self.stretch))

    def rate(self, epoch: float) -> float:
        """Return the rate at a place of this training, in its own epochs from 0."""
        published = recipe(self.family, self.schedule)
        factor = 1.0 if self.base_lr is None else self.base_lr / published.base_lr
        return max(0.0, factor * learning_rate(self.family, self.schedule, epoch / self.stretch + 1e-9))
