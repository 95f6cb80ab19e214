"""Good-Embed (Tian et al., ECCV 2020): logistic regression on frozen, normalised features."""

from __future__ import annotations

from torch import Tensor, nn

from episodes.arguments import at_least, positive, whole
from episodes.class_rows import check_episodes, drop_padding
from fewshot.logistic import fit_logistic, fit_sklearn

SOLVERS = ("newton", "sklearn")


class GoodEmbed(nn.Module):
    """Fit a multinomial logistic regression on the support of every episode and return its decision values.

    C: weight of the cross-entropy. DeepBDC's tables use 0.1 for 1-shot and 2 for 5-shot; Good-Embed's own code 1.
    norm_eps: rows are divided by (L2 norm + norm_eps); 0 is Good-Embed's own normalisation, DeepBDC's scripts add
        1e-6. None fits the rows as they are.
    tol, max_iter: see `fewshot.logistic.fit_logistic`; the default is the optimum for all practical purposes, where
        scikit-learn's default stop depends on its version.
    solver: "newton" solves all episodes at once; "sklearn" calls scikit-learn for each, to compare.

    The logits carry no gradient: the head is for frozen features, not for meta-training.
    """

    def __init__(
        self,
        C: float = 1.0,
        norm_eps: float | None = 1e-6,
        tol: float = 1e-8,
        max_iter: int = 100,
        solver: str = "newton",
    ):
        super().__init__()
        if solver not in SOLVERS:
            raise ValueError(f"unknown solver '{solver}' of the logistic head; known: {', '.join(SOLVERS)}")
        self.C = positive("C", C)
        self.norm_eps = at_least("norm_eps", norm_eps, optional=True)
        self.tol = positive("tol", tol)
        self.max_iter = whole("max_iter", max_iter, 1)
        self.solver = solver

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int | None = None) -> Tensor:
        """(E, S, D), (E, S), (E, Q, D) -> logits (E, Q, K) in the dtype of the query; -inf for an absent class."""
        n_way = check_episodes(support, support_labels, query, n_way)
        support, query = support.detach(), query.detach()
        if self.solver == "newton":
            fit = fit_logistic(
                support, support_labels, n_way, self.C, norm_eps=self.norm_eps, tol=self.tol, max_iter=self.max_iter
            )
            return fit.decision(query).to(query.dtype)
        support = normalise(drop_padding(support, support_labels).double(), self.norm_eps)
        coef, intercept = fit_sklearn(support, support_labels, n_way, self.C)
        logits = normalise(query.double(), self.norm_eps) @ coef.transpose(1, 2) + intercept.unsqueeze(1)
        return logits.to(query.dtype)

    @property
    def note(self) -> str:
        """What solves the regression, for logs and tables."""
        if self.solver == "sklearn":
            return f"logistic regression with C = {self.C:g}, each episode by scikit-learn"
        return f"logistic regression with C = {self.C:g}, episodes together by Newton's method"

    def extra_repr(self) -> str:
        return f"C={self.C}, norm_eps={self.norm_eps}, tol={self.tol}, solver='{self.solver}'"


def normalise(rows: Tensor, norm_eps: float | None = 1e-6) -> Tensor:
    """Return rows / (L2 norm + norm_eps) over the last axis; unchanged when norm_eps is None."""
    if norm_eps is None:
        return rows
    return rows / (rows.norm(dim=-1, keepdim=True) + norm_eps)
