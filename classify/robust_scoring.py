"""Networks scored on corrupted pictures and perturbed sequences, which are made once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.errors import UserError
from classify.corruptions import corrupt, find_corruption
from classify.mixing import single
from classify.perturbations import larger_side, perturbed
from classify.robustness import NOISE_PERTURBATIONS, flip_probability, ranking, top5_distance, zipf_distance
from classify.views import Shown
from episodes.loaders import numbered_loader
from episodes.processes import sum_up, team_of, together
from episodes.transforms import normalise_batch

Say = Callable[[str], None]


class Variants(Dataset):
    """Batches of pictures in several variants each; item i is {"images": (n, V, 3, size, size), "items": (n,)}.

    shown: pictures in one test view. make: (pixels (side, side, 3) uint8, item) -> (V, size, size, 3) uint8.
    items: of the data set. The batches are shared out over the processes.
    """

    def __init__(
        self,
        shown: Shown,
        make: Callable[[np.ndarray, int], np.ndarray],
        items: np.ndarray,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shown, self.make = shown, make
        starts = range(0, len(items), batch_size)
        self._parts = [items[start : start + batch_size] for start in starts][rank::world_size]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        items = self._parts[number]
        pictures = [self.make(self.shown.pixels(int(item)).permute(1, 2, 0).numpy(), int(item)) for item in items]
        images = torch.from_numpy(np.stack(pictures)).permute(0, 1, 4, 2, 3)
        normal = normalise_batch(images.flatten(0, 1), self.shown.mean, self.shown.std)
        return {"images": normal.view(images.shape), "items": torch.from_numpy(np.array(items))}


@dataclass
class Trial:
    """What is scored, and how: networks by name, which take the same pictures; pictures; and their labels (N,).

    limit: of the pictures, a fixed choice; None: all. seed: of everything random.
    frost: photographs for the corruption of that name. scale_lengths: see `classify.corruptions.corrupted`.
    """

    fabric: object
    networks: Mapping[str, nn.Module]
    shown: Shown
    labels: np.ndarray
    batch_size: int = 16
    workers: int = 0
    seed: int = 0
    limit: int | None = None
    frost: Sequence[np.ndarray] = ()
    scale_lengths: bool = True
    say: Say = print

    @property
    def items(self) -> np.ndarray:
        """Return the numbers of the pictures that are scored, in their order."""
        count = len(self.labels)
        if self.limit is None or self.limit >= count:
            return np.arange(count)
        choice = np.random.default_rng(np.random.SeedSequence([self.seed, 0xC0])).permutation(count)
        return np.sort(choice[: self.limit])

    @torch.no_grad()
    def answers(self, shown: Shown, make, batch_size: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield (network, items (n,), logits (n, V, K)) of this process's pictures."""
        team = team_of(self.fabric)
        batches = Variants(
            shown, make, self.items, batch_size, getattr(self.fabric, "global_rank", 0), team.size
        )  # fmt: skip
        for batch in numbered_loader(batches, self.workers):
            images = self.fabric.to_device(batch["images"])
            for name, network in self.networks.items():
                with self.fabric.autocast():
                    logits = single(network(images.flatten(0, 1)))
                yield name, batch["items"].numpy(), logits.view(*images.shape[:2], -1).cpu().numpy()


def score_corruptions(
    trial: Trial, corruptions: Sequence[str], severities: Sequence[int] = (1, 2, 3, 4, 5)
) -> dict[str, dict]:
    """Return, for every network, {"clean_error", "errors": {corruption: errors at the severities}}, fractions.

    All processes call it and get the same. Raises UserError for unknown names, before anything is scored.
    """
    for name in corruptions:
        find_corruption(name)
    found = {name: {"clean_error": 0.0, "errors": {}} for name in trial.networks}

    def score(make, variants: int) -> dict[str, np.ndarray]:
        sums = {name: np.zeros(variants) for name in trial.networks}
        with together(team_of(trial.fabric)):
            for name, items, logits in trial.answers(trial.shown, make, trial.batch_size):
                sums[name] += (logits.argmax(-1) != trial.labels[items][:, None]).sum(0)
        return _shared(trial, sums)

    for name, errors in score(lambda pixels, item: pixels[None], 1).items():
        found[name]["clean_error"] = float(errors[0])
    for corruption in corruptions:

        def make(pixels: np.ndarray, item: int, corruption: str = corruption) -> np.ndarray:
            return np.stack(
                [
                    corrupt(pixels, corruption, severity, trial.seed, item, trial.frost, trial.scale_lengths)
                    for severity in severities
                ]
            )

        errors = score(make, len(severities))
        for name, values in errors.items():
            found[name]["errors"][corruption] = values.tolist()
        told = ", ".join(f"{name} {100 * values.mean():.1f} %" for name, values in errors.items())
        trial.say(f"{corruption}: mean error {told}")
    return found


def score_perturbations(trial: Trial, perturbations: Sequence[str], difficulty: int = 1) -> dict[str, dict]:
    """Return, for every network, {"flips", "top5", "zipf"}: perturbation -> mean over the sequences.

    All processes call it and get the same. Raises UserError for unknown names.
    """
    size = trial.shown.view.size
    side = larger_side(size)
    whole = replace(trial.shown.view, size=side, resize=side)
    larger = Shown(trial.shown.dataset, whole, trial.shown.mean, trial.shown.std)
    found = {name: {"flips": {}, "top5": {}, "zipf": {}} for name in trial.networks}
    for perturbation in perturbations:

        def make(pixels: np.ndarray, item: int, perturbation: str = perturbation) -> np.ndarray:
            return perturbed(pixels, perturbation, size, trial.seed, item, difficulty)

        how = {"noise": perturbation in NOISE_PERTURBATIONS, "difficulty": difficulty}
        sums = {name: np.zeros(3) for name in trial.networks}
        with together(team_of(trial.fabric)):
            for name, items, logits in trial.answers(larger, make, max(1, trial.batch_size // 4)):
                ranks = ranking(logits)
                means = [measure(ranks, **how) for measure in (flip_probability, top5_distance, zipf_distance)]
                sums[name] += len(items) * np.array(means)
        shared = _shared(trial, sums)
        for name, values in shared.items():
            for key, value in zip(("flips", "top5", "zipf"), values, strict=True):
                found[name][key][perturbation] = float(value)
        trial.say(f"{perturbation}: flips " + ", ".join(f"{n} {100 * v[0]:.2f} %" for n, v in shared.items()))
    return found


def _shared(trial: Trial, sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the sums of all processes over the number of pictures."""
    team, count = team_of(trial.fabric), len(trial.items)
    if count == 0:
        raise UserError("there are no pictures to score: raise robust.limit")
    totals = {n: sum_up(team, {str(place): float(v) for place, v in enumerate(own)}) for n, own in sums.items()}
    return {name: np.array(list(total.values())) / count for name, total in totals.items()}
