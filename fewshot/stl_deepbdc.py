"""STL DeepBDC (Xie et al., CVPR 2022): logistic regression on frozen, normalised BDC vectors."""

from __future__ import annotations

from fewshot.good_embed import GoodEmbed


class STLDeepBDC(GoodEmbed):
    """The head of Good-Embed on BDC vectors: only the feature and the default C differ.

    C of the shipped scripts, 1-shot / 5-shot: miniImageNet 0.1 / 2, tieredImageNet 0.05 / 30, CUB 20 / 20.
    """

    def __init__(
        self,
        C: float = 0.1,
        norm_eps: float | None = 1e-6,
        tol: float = 1e-8,
        max_iter: int = 100,
        solver: str = "newton",
    ):
        super().__init__(C=C, norm_eps=norm_eps, tol=tol, max_iter=max_iter, solver=solver)
