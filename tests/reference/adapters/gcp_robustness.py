"""The GCP study's corruptions and robustness metrics."""

from __future__ import annotations

import numpy as np

from classify.corruption_blur import motion_blurred
from classify.corruptions import corrupted
from classify.robustness import (
    Baseline,
    corruption_scores,
    flip_probability,
    perturbation_scores,
    ranking,
    top5_distance,
    zipf_distance,
)
from tests.reference.case import Case, Result


def corruption(case: Case) -> Result:
    args, random = case.args, np.random.RandomState(case.args["seed"])
    return Result({"out": corrupted(case.inputs["image"].numpy(), args["corruption"], args["severity"], random)})


def motion_blur_array(case: Case) -> Result:
    args, image = case.args, case.inputs["image"].numpy()
    out = motion_blurred(image.astype(np.float64), args["radius"], args["sigma"], args["angle"])
    return Result({"out": np.clip(out, 0, 255)})


def corruption_metrics(case: Case) -> Result:
    args = case.args
    baseline = Baseline("given", args["baseline_clean_error"], args["baseline_average_error"])
    return Result(corruption_scores(args["errors"], args["clean_error"], baseline))


def perturbation_summary(case: Case) -> Result:
    args = case.args
    baseline = Baseline("given", flips=args["baseline_flip"], top5=args["baseline_top5"])
    return Result(perturbation_scores(args["flip"], args["top5"], baseline))


def perturbation_metrics(case: Case) -> Result:
    ranks = ranking(case.inputs["logits"].numpy())
    how = {"noise": case.args["perturbation"] == "noise", "difficulty": case.args["difficulty"]}
    return Result(
        {
            "flip": flip_probability(ranks, **how),
            "top5": top5_distance(ranks, **how),
            "zipf": zipf_distance(ranks, **how),
        }
    )


ROBUSTNESS_KINDS = {
    "corruption": corruption,
    "motion_blur_array": motion_blur_array,
    "corruption_metrics": corruption_metrics,
    "perturbation_metrics": perturbation_metrics,
    "perturbation_summary": perturbation_summary,
}
