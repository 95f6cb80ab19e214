"""Whose statistics batch norm uses while a network adapts to an episode, for any network and without touching it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

KINDS = ("support", "running", "transductive")


class BatchStatistics(TorchFunctionMode):
    """Batch norm inside this context takes its statistics from where `kind` says.

    kind: "support": from the first `n_support` rows of the batch, whatever comes behind them (Bronskill et al.,
            TaskNorm, ICML 2020, section 3.2, there called MetaBN); queries are then scored one by one.
        "running": the statistics that the network carries, which do not move.
        "transductive": from all rows of the batch, as in the code of Finn et al., where the queries of an episode pass
            the network together and help each other.
    n_support: rows of the support; None stands for the whole batch.
    update: let the running statistics follow those of the batch.
    """

    def __init__(self, kind: str, n_support: int | None = None, update: bool = False) -> None:
        super().__init__()
        self.kind, self.n_support, self.update = kind, n_support, update

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Redirect `batch_norm`, pass everything else on."""
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        return self._batch_norm(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """The signature of `torch.nn.functional.batch_norm`; `training` is overruled."""
        if self.kind == "running" and running_mean is not None:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        shown = input if self.kind != "support" or self.n_support is None else input[: self.n_support]
        if len(shown) == len(input) and shown[:, :1].numel() > 1:
            means = (running_mean, running_var) if self.update else (None, None)
            return F.batch_norm(input, *means, weight, bias, True, momentum if self.update else 0.0, eps)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
        shown = shown.to(torch.promote_types(input.dtype, torch.float32))
        mean, variance = shown.mean(axes), shown.var(axes, correction=0)
        if self.update and running_mean is not None:
            count = shown[:, :1].numel()
            running_mean.lerp_(mean.detach().to(running_mean), momentum)
            running_var.lerp_((variance.detach() * count / max(count - 1, 1)).to(running_var), momentum)
        scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
        shift = -mean * scale if bias is None else bias - mean * scale
        return (input * scale.view(shape) + shift.view(shape)).to(input.dtype)
