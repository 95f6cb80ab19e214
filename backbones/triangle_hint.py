"""What the shapes of a covariance network's weights do not tell: the order of its triangles and its steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from moments import reorder_triangle
from moments.triangle import ORDERS, triangle_side

# Standard errors: as far as the diagonal's weights stand out by chance once in some thousand files, and twice as far
# as those of the other order.
CLEAR = 4.0


def diagonal_places(d: int, order: str) -> Tensor:
    """Return where the d diagonal entries stand in the triangle of a (d, d) matrix, "row" or "column" first."""
    n = torch.arange(d)
    return n * (n + 3) // 2 if order == "column" else n * d - n * (n - 1) // 2


def triangle_order_hint(weight: Tensor) -> str | None:
    """Guess the order of the triangles, "row" or "column", that a linear layer's inputs are; None: it does not show.

    weight: (K, d(d+1)/2). Variances are unlike covariances, being positive and large, so training gives their weights
    another size. The order whose diagonal stands out clearly, and clearer than the other's, is the one.
    """
    try:
        d = triangle_side(weight.shape[1])
    except ValueError:
        return None
    if d < 4:
        return None
    size = weight.double().square().sum(0).add(1e-30).log()
    scores = {}
    for order in ("row", "column"):
        places = diagonal_places(d, order)[1:-1]  # the first and the last entry are the same in both
        rest = torch.ones(len(size), dtype=torch.bool)
        rest[places] = False
        error = size[rest].std() / len(places) ** 0.5
        scores[order] = float((size[places].mean() - size[rest].mean()).abs() / error.clamp_min(1e-12))
    best = max(scores, key=scores.__getitem__)
    other = scores["column" if best == "row" else "row"]
    return best if scores[best] > CLEAR and scores[best] > 2 * other else None


def _classifier_weight(model: nn.Module, state: Mapping[str, Tensor], drop: tuple[str, ...]) -> str | None:
    """Return the name of the linear weights upon the pool's output, where they will be loaded; VGG has three layers."""
    size = getattr(getattr(model, "pool", None), "out_dim", None)
    for key, value in model.state_dict().items():
        if key.startswith("classifier.") and key.endswith("weight") and value.dim() == 2 and value.shape[1] == size:
            dropped = bool(drop) and key.startswith(drop)
            return None if dropped or key not in state or state[key].shape != value.shape else key
    return None


def settle_order(
    model: nn.Module, state: Mapping[str, Tensor], drop: tuple[str, ...], order: str | None, published: str | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Bring the classifier of a file to the triangle order of a model; returns (state, notes for the report).

    model: `ImageClassifier`; models whose pool has no triangles, and files whose classifier is dropped, pass unchanged.
    order: of the file, where the caller knows it. published: of the file's layout.
    Raises UserError for an unknown order, and where nothing was said and the file shows another order than the model's.
    """
    if order not in (None, *ORDERS):
        raise UserError(f"order '{order}' is unknown: use one of {', '.join(ORDERS)}")
    pool = getattr(model, "pool", None)
    mine = getattr(pool, "order", None) if getattr(pool, "vectorize", False) else None
    name = _classifier_weight(model, state, drop) if mine else None
    if name is None:
        return dict(state), []
    groups = getattr(pool, "groups", 1)
    parts = state[name].unflatten(1, (groups, -1))
    if order and order != mine:
        changed = {**state, name: reorder_triangle(parts, order, mine).flatten(1)}
        return changed, [f"classifier rearranged from {order} to {mine} order"]
    found = order or triangle_order_hint(parts.flatten(0, 1)) or published
    if found is None:
        return dict(state), [
            f"the order of its triangles does not show in its weights: taken for {mine}, the model's (else say order=)"
        ]
    if found != mine:
        raise UserError(
            f"its classifier was trained on triangles in {found} order and the model has {mine} order: build the pool "
            f"with order='{found}', or load with order='{found}' to rearrange the weights (order='{mine}' if that "
            "is known to be the file's)"
        )
    return dict(state), []


def check_steps(model: nn.Module, state: Mapping[str, Tensor], drop: tuple[str, ...], steps: int | None) -> None:
    """Raise UserError when a file was trained with another number of Newton-Schulz steps than the model takes, or none.

    steps: of the file; None: not known, nothing is checked.
    """
    power = getattr(getattr(model, "pool", None), "power", None)
    mine = getattr(power, "iterations", None)
    if not steps or power is None or mine == steps or not _classifier_weight(model, state, drop):
        return
    if mine is None:
        what = "none at all" if isinstance(power, nn.Identity) else f"the root by {type(power).__name__} in their place"
        raise UserError(
            f"it was trained with {steps} Newton-Schulz steps and the model takes {what}, which is another network: "
            f"build it with isqrt pooling and iterations={steps}, or leave the classifier of the file out"
        )
    raise UserError(
        f"it was trained with {steps} Newton-Schulz steps and the model takes {mine}, which is another network: "
        f"build the pool with iterations={steps} (or load with iterations={mine} if that is known to be the file's)"
    )
