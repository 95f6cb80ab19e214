"""DeepEMD (Zhang et al., CVPR 2020), the fully convolutional variant: earth mover's distance between feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from episodes.arguments import positive, whole
from episodes.class_rows import PADDING, at_least_float32, check_episodes, class_means, mask_absent, unit
from fewshot.transport import exact_solver_name, exact_transport, sinkhorn

SOLVERS = ("exact", "sinkhorn")
NORMS = ("center", "none")


def node_weights(maps: Tensor, other_mean: Tensor) -> Tensor:
    """Weight of every position: relu(<f_i, mean of the other map>) + 1e-3, plus 1e-5, scaled to sum M.

    maps: (..., M, C); other_mean: (..., C), broadcast against the leading axes. Returns (..., M).
    The two constants are those of the released code: the first is in its cross reference, the second in its solver.
    """
    weights = F.relu((maps @ other_mean.unsqueeze(-1)).squeeze(-1)) + 1e-3 + 1e-5
    return weights * (weights.shape[-1] / weights.sum(-1, keepdim=True))


def emd_logits(
    class_maps: Tensor,
    query: Tensor,
    temperature: float = 12.5,
    norm: str = "center",
    solver: str = "exact",
    regularisation: float = 0.05,
    iterations: int = 100,
) -> Tensor:
    """Score maps against class maps: (E, K, M, C), (E, Q, M, C) -> (E, Q, K).

    similarity = cosine of descriptors after `norm` ("center" takes the mean over channels off each descriptor);
    the plan moves the query's node weights to the class's at cost 1 - similarity, and
    logit = temperature / M * sum(plan * similarity).
    """
    n_positions = query.shape[2]
    query_weights = node_weights(query.unsqueeze(2), class_maps.mean(2).unsqueeze(1))  # (E, Q, K, M)
    class_weights = node_weights(class_maps.unsqueeze(1), query.mean(2).unsqueeze(2))
    if norm == "center":
        class_maps = class_maps - class_maps.mean(-1, keepdim=True)
        query = query - query.mean(-1, keepdim=True)
    unit_query, unit_class = unit(query), unit(class_maps)
    similarity = unit_query.unsqueeze(2) @ unit_class.unsqueeze(1).transpose(-1, -2)  # (E, Q, K, M, M)
    if solver == "exact":
        plan = exact_transport(1 - similarity, query_weights, class_weights)
    else:
        plan = sinkhorn(1 - similarity, query_weights, class_weights, regularisation, iterations)
    return (plan * similarity).sum((-1, -2)) * (temperature / n_positions)


class DeepEMD(nn.Module):
    """Score a query map by the cost of moving its descriptors onto the map of every class.

    temperature: factor of the mean transported similarity (12.5 in the released code).
    norm: "center" or "none", see `emd_logits`.
    solver: "exact" solves every transport problem by a linear program (evaluation; the plan carries no gradient, the
        similarities do) or "sinkhorn", the entropic plan of all pairs at once (training), with `regularisation` and
        `iterations`. "auto" (default) is sinkhorn in train mode and exact in eval mode.
    The exact plans are solved one pair after the other on the CPU, by POT where it is installed: 58 to 80 ms an episode
        of 5 classes and 75 queries on 5x5 maps, several times as long by SciPy. POT keeps Python's lock while it solves
        (two threads took as long as one), so that only more processes would share them.
    Several shots: the map of a class starts at the mean of its support maps and is tuned by SGD for `tune_passes`
    passes over the support in batches of `tune_batch` (rate tune_lr, momentum 0.9 with dampening 0.9, always with
    the sinkhorn plan). The order of the batches comes from `seed` and is the same for every episode. As in the
    released code a tuned map is a constant for the outer gradient. 0 passes keep the mean. Episodes in which no
    class has two shots are not tuned.
    """

    def __init__(
        self,
        temperature: float = 12.5,
        norm: str = "center",
        solver: str = "auto",
        regularisation: float = 0.05,
        iterations: int = 100,
        tune_passes: int = 100,
        tune_lr: float = 0.1,
        tune_batch: int = 4,
        seed: int = 0,
    ):
        super().__init__()
        if solver not in (*SOLVERS, "auto"):
            raise ValueError(f"unknown solver '{solver}' of DeepEMD; known: {', '.join(SOLVERS)}, auto")
        if norm not in NORMS:
            raise ValueError(f"unknown norm '{norm}' of DeepEMD; known: {', '.join(NORMS)}")
        self.temperature = positive("temperature", temperature)
        self.norm = norm
        self.solver = solver
        self.regularisation = positive("regularisation", regularisation)
        self.iterations = whole("iterations", iterations, 1)
        self.tune_passes = whole("tune_passes", tune_passes)
        self.tune_lr = positive("tune_lr", tune_lr)
        self.tune_batch = whole("tune_batch", tune_batch, 1)
        self.seed = whole("seed", seed)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, C, H, W), (E, S), (E, Q, C, H, W) -> logits (E, Q, K); -inf for a class without support."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = (x.flatten(3).transpose(2, 3) for x in at_least_float32(support, query))
        with torch.autocast(support.device.type, enabled=False):
            class_maps, counts = self.class_maps(support, support_labels, n_way)
            return mask_absent(self._logits(class_maps, query, self.chosen_solver), counts)

    @property
    def chosen_solver(self) -> str:
        """The solver of the queries' plans in the present mode."""
        return self.solver if self.solver != "auto" else "sinkhorn" if self.training else "exact"

    @property
    def note(self) -> str:
        """Which optimal transport scores the queries in the present mode, for logs and tables."""
        if self.chosen_solver == "exact":
            return f"optimal transport solved exactly, by {exact_solver_name()}"
        return f"entropic optimal transport, {self.iterations} Sinkhorn iterations at {self.regularisation:g}"

    def class_maps(self, support: Tensor, support_labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        """Return the map of every class (E, K, M, C) that queries are compared with, and the support counts (E, K).

        support: (E, S, M, C), float32 or better.
        """
        class_maps, counts = class_means(support, support_labels, n_way)
        several = counts.amax(-1) > 1
        if self.tune_passes and bool(several.any()):
            tuned = self._tune(class_maps, support, support_labels, counts)
            class_maps = torch.where(several[:, None, None, None], tuned, class_maps)
        return class_maps, counts

    def _logits(self, class_maps: Tensor, query: Tensor, solver: str) -> Tensor:
        return emd_logits(class_maps, query, self.temperature, self.norm, solver, self.regularisation, self.iterations)

    @torch.enable_grad()
    def _tune(self, class_maps: Tensor, support: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """Fit the class maps (E, K, M, C) to classify the support: all episodes step together, each on its own loss."""
        support = support.detach().masked_fill((labels < 0)[..., None, None], 0.0)
        maps = class_maps.detach().clone().requires_grad_()
        optimiser = torch.optim.SGD([maps], lr=self.tune_lr, momentum=0.9, dampening=0.9)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.tune_passes):
            order = torch.randperm(labels.shape[1], generator=generator).to(labels.device)
            for batch in order.split(self.tune_batch):
                logits = mask_absent(self._logits(maps, support[:, batch], "sinkhorn"), counts)
                target = labels[:, batch]
                losses = F.cross_entropy(
                    logits.flatten(0, 1), target.flatten(), ignore_index=PADDING, reduction="none"
                ).view(target.shape)
                number = (target >= 0).sum(1).clamp(min=1)
                optimiser.zero_grad()
                (losses.sum(1) / number).sum().backward()
                optimiser.step()
        return maps.detach()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, norm='{self.norm}', solver='{self.solver}'"
