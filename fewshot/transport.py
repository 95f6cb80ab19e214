"""Optimal transport between two weighted sets: the exact plan, and the entropic one for batches and gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

EXACT_SOLVERS = ("auto", "linprog", "pot")


def sinkhorn(
    cost: Tensor, source: Tensor, target: Tensor, regularisation: float = 0.05, iterations: int = 100
) -> Tensor:
    """Return the entropic transport plans (..., N, M) of cost (..., N, M), source (..., N), target (..., M).

    The weights are positive, with equal sums. Runs in the log domain, so a small regularisation cannot underflow, and
    is differentiable in everything. The last half-step fits the targets: column sums are exact, row sums nearly.
    regularisation: weight of the entropy, in units of the cost; smaller is closer to the exact plan and slower.
    """
    log_kernel = -cost / regularisation
    log_source, log_target = source.log(), target.log()
    v = torch.zeros_like(log_target)
    for _ in range(iterations):
        u = log_source - torch.logsumexp(log_kernel + v.unsqueeze(-2), -1)
        v = log_target - torch.logsumexp(log_kernel + u.unsqueeze(-1), -2)
    return (log_kernel + u.unsqueeze(-1) + v.unsqueeze(-2)).exp()


@torch.no_grad()
def exact_transport(cost: Tensor, source: Tensor, target: Tensor, solver: str = "auto") -> Tensor:
    """Return the optimal plans (..., N, M): the same arguments as `sinkhorn`, solved one pair after the other.

    solver: "linprog" (SciPy), "pot" (network simplex of the optional package POT, many times faster) or "auto",
        which takes POT where it is installed. The plan is a constant: it carries no gradient.
    """
    if solver not in EXACT_SOLVERS:
        raise ValueError(f"unknown transport solver '{solver}'; known: {', '.join(EXACT_SOLVERS)}")
    solve = _pot() if solver != "linprog" else None
    if solver == "pot" and solve is None:
        raise ImportError("transport solver 'pot' needs the package POT: pip install POT, or use solver='linprog'")
    n, m = cost.shape[-2:]
    costs = cost.reshape(-1, n, m).double().cpu().numpy()
    sources = source.expand(cost.shape[:-1]).reshape(-1, n).double().cpu().numpy()
    targets = target.expand(cost.shape[:-2] + (m,)).reshape(-1, m).double().cpu().numpy()
    targets = targets * (sources.sum(1) / targets.sum(1))[:, None]  # equal to the last bit, or there is no plan
    solve = solve or _linprog(n, m)
    plans = np.stack([solve(*pair) for pair in zip(sources, targets, costs, strict=True)]) if len(costs) else costs
    return torch.from_numpy(plans).to(cost).reshape(cost.shape)


def exact_solver_name(solver: str = "auto") -> str:
    """Say in words what `exact_transport` calls here."""
    return "SciPy's linear program" if solver == "linprog" or _pot() is None else "POT's network simplex"


def _pot():
    try:
        import ot
    except ImportError:
        return None
    return ot.emd


def _linprog(n: int, m: int):
    """Return a solver of n x m plans: rows and columns must sum to the weights, one redundant equation dropped."""
    try:
        from scipy.optimize import linprog
        from scipy.sparse import eye_array, kron, vstack
    except ImportError as error:
        raise ImportError("exact transport needs SciPy: pip install scipy, or use the 'sinkhorn' solver") from error
    rows = kron(eye_array(n), np.ones((1, m)))
    columns = kron(np.ones((1, n)), eye_array(m))
    equations = vstack([rows, columns]).tocsr()[:-1]

    def solve(source: np.ndarray, target: np.ndarray, cost: np.ndarray) -> np.ndarray:
        result = linprog(cost.ravel(), A_eq=equations, b_eq=np.concatenate([source, target])[:-1], method="highs")
        if not result.success:
            raise RuntimeError(f"transport problem of size {n} x {m} not solved: {result.message}")
        return result.x.reshape(n, m)

    return solve
