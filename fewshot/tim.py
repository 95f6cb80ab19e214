"""TIM (Boudiaf et al., NeurIPS 2020): class weights tuned for information between queries and labels (transductive)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.arguments import at_least, positive, whole
from episodes.class_rows import (
    at_least_float32,
    check_episodes,
    class_means,
    drop_padding,
    mask_absent,
    membership,
    unit,
)
from fewshot.transductive import real_queries


def tim_loss(
    support_logits: Tensor,
    target: Tensor,
    query_logits: Tensor,
    weight: Tensor,
    ce_weight: float = 0.1,
    marginal_weight: float = 1.0,
    conditional_weight: float = 0.1,
) -> Tensor:
    """Loss of every episode (E,): ce_weight CE - marginal_weight H(Y) + conditional_weight H(Y|X).

    support_logits, target: (E, S, K), target one-hot and all zero for padding. query_logits (E, Q, K), weight (E, Q).
    H(Y) is the entropy of the mean prediction of the queries, H(Y|X) the mean entropy of their predictions; both and
    the cross-entropy are means over real rows. A class without support (no 1 in target) takes no part.
    """
    absent = (target.sum(1) == 0).unsqueeze(1)
    support_log = support_logits.masked_fill(absent, float("-inf")).log_softmax(-1).masked_fill(absent, 0.0)
    query_log = query_logits.masked_fill(absent, float("-inf")).log_softmax(-1).masked_fill(absent, 0.0)
    probability = query_log.exp().masked_fill(absent, 0.0)
    share = weight / weight.sum(1, keepdim=True).clamp(min=1)
    cross_entropy = -(target * support_log).sum((1, 2)) / target.sum((1, 2)).clamp(min=1)
    conditional = -((probability * query_log).sum(-1) * share).sum(1)
    mean = (probability * share.unsqueeze(-1)).sum(1)
    # a mean that is zero (absent class, or no query) adds nothing; 1 there keeps the logarithm and its slope finite
    marginal = -(mean * torch.where(mean > 0, mean, 1.0).log()).sum(-1)
    return ce_weight * cross_entropy - marginal_weight * marginal + conditional_weight * conditional


class TIM(nn.Module):
    """Tune class weights by gradient descent on cross-entropy and mutual information (TIM-GD of the paper).

    Transductive. On L2-normalised features, logit_c = -temperature / 2 * |x - w_c|^2, w starting at the class means;
    Adam lowers `tim_loss` for `steps` steps, all episodes at once, each on its own loss.
    temperature, steps, lr and the three weights: of the released settings. 1000 small steps are slow on a CPU: fewer
    steps at a higher rate come close.

    The logits carry no gradient: the head is for frozen features, not for meta-training.
    """

    transductive = True

    def __init__(
        self,
        temperature: float = 15.0,
        steps: int = 1000,
        lr: float = 1e-4,
        ce_weight: float = 0.1,
        marginal_weight: float = 1.0,
        conditional_weight: float = 0.1,
    ):
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.steps = whole("steps", steps)
        self.lr = positive("lr", lr)
        self.loss_weights = (
            at_least("ce_weight", ce_weight),
            at_least("marginal_weight", marginal_weight),
            at_least("conditional_weight", conditional_weight),
        )

    @torch.no_grad()
    def forward(
        self,
        support: Tensor,
        support_labels: Tensor,
        query: Tensor,
        n_way: int | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K); -inf for a class without support; see `transductive`."""
        n_way = check_episodes(support, support_labels, query, n_way)
        dtype = query.dtype
        support, query = at_least_float32(drop_padding(support, support_labels), query)
        query, weight = real_queries(query, query_mask)
        with torch.autocast(support.device.type, enabled=False):
            support, query = unit(support), unit(query)
            target = membership(support_labels, n_way, support.dtype)
            means, counts = class_means(support, support_labels, n_way)
            weights = self._tune(means, support, target, query, weight)
            return mask_absent(self._logits(query, weights), counts).to(dtype)

    def _logits(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Return the logits up to |x|^2, which is the same for all classes."""
        return self.temperature * (rows @ weights.transpose(1, 2) - weights.square().sum(-1).unsqueeze(1) / 2)

    @torch.enable_grad()
    def _tune(self, means: Tensor, support: Tensor, target: Tensor, query: Tensor, weight: Tensor) -> Tensor:
        weights, n_support = means.clone().requires_grad_(), support.shape[1]
        rows = torch.cat([support, query], 1)
        optimiser = torch.optim.Adam([weights], lr=self.lr)
        for _ in range(self.steps):
            logits = self._logits(rows, weights)
            losses = tim_loss(logits[:, :n_support], target, logits[:, n_support:], weight, *self.loss_weights)
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
        return weights.detach()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, steps={self.steps}, lr={self.lr}, loss_weights={self.loss_weights}"
