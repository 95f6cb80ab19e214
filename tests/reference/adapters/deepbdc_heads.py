"""DeepBDC: the episode heads on given features, and their losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewshot.adm import ADM, gaussian_kl
from fewshot.covnet import CovNet, second_moment_root
from fewshot.deepemd import DeepEMD
from fewshot.frn import FRN
from fewshot.good_embed import GoodEmbed, normalise
from fewshot.logistic import fit_logistic
from fewshot.losses import accuracy, cross_entropy, distillation_loss
from fewshot.meta_baseline import MetaBaseline
from fewshot.meta_deepbdc import MetaDeepBDC
from fewshot.protonet import ProtoNet
from fewshot.stl_deepbdc import STLDeepBDC
from tests.reference.case import Case, Result


def split_episode(x: Tensor, n_shot: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[way, k+q, ...] -> support (1, way*k, ...), its labels, query (1, way*q, ...), its labels, both class-major."""
    n_way, n_rows = x.shape[:2]
    classes = torch.arange(n_way)
    support, query = (part.reshape(1, -1, *x.shape[2:]) for part in (x[:, :n_shot], x[:, n_shot:]))
    return (
        support,
        classes.repeat_interleave(n_shot).unsqueeze(0),
        query,
        classes.repeat_interleave(n_rows - n_shot).unsqueeze(0),
    )


def episode_head(method: str, n_shot: int) -> nn.Module:
    """Return the prototype head that a `method` argument names."""
    if method == "meta_deepbdc":
        return MetaDeepBDC(k_shot=n_shot)
    if method == "protonet":
        return ProtoNet()
    raise ValueError(f"unknown method '{method}' of an episode head")


def set_parameters(module: nn.Module, dtype: torch.dtype, **values: float | Sequence[float]) -> nn.Module:
    """Give the module its dtype and the named parameters (at the top of the module) their values."""
    module.to(dtype)
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.as_tensor(value, dtype=dtype))
    return module


def head_score(case: Case) -> Result:
    z = case.inputs["z"].requires_grad_()
    n_way, n_shot = case.args["n_way"], case.args["n_shot"]
    support, labels, query, query_labels = split_episode(z, n_shot)
    logits = episode_head(case.args["method"], n_shot)(support, labels, query, n_way)
    values = {
        "scores": logits[0],
        "loss": cross_entropy(logits, query_labels),
        "labels": query_labels[0],
        "pred": logits[0].argmax(-1),
        "accuracy": accuracy(logits, query_labels)[0],
    }
    return Result(values, {"grad_z": z})


def logistic_head(case: Case) -> Result:
    """Both `proba` and `proba_optimum` come from the optimum: the solver knows no early stop."""
    args = case.args
    head_class = {"stl_deepbdc": STLDeepBDC, "good_embed": GoodEmbed}[args["method"]]
    # the stopping rule of the reference is not the solver's: tol and max_iter of the item name the early stop
    head = head_class(C=args["penalty_C"], norm_eps=args["norm_eps"])
    support, labels, query, query_labels = split_episode(case.inputs["z"], args["n_shot"])
    logits = head(support, labels, query, args["n_way"])
    fit = fit_logistic(support, labels, args["n_way"], args["penalty_C"], norm_eps=args["norm_eps"])
    probabilities = fit.probabilities(query)[0]
    best = probabilities.topk(2, -1).values
    coef, intercept = fit.coef()[0], fit.intercept[0]
    if args["n_way"] == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    values = {
        "labels": query_labels[0],
        "pred": logits[0].argmax(-1),
        "accuracy": 100 * accuracy(logits, query_labels)[0],
        "proba": logits[0].softmax(-1),
        "proba_optimum": probabilities,
        "intercept": intercept,
        "coef": coef,
        "coef_row_norm": coef.norm(dim=-1),
        "support_norm": normalise(support[0], args["norm_eps"]),
        "query_norm": normalise(query[0], args["norm_eps"]),
        "margin": best[:, 0] - best[:, 1],
    }
    return Result(values)


def distill_loss(case: Case) -> Result:
    student = case.inputs["student"].requires_grad_()
    args = case.args
    terms = distillation_loss(
        student,
        case.inputs["teacher"],
        case.inputs["labels"].long(),
        temperature=args.get("T", 4.0),
        ce_weight=args.get("ce_weight", 0.5),
        kd_weight=args.get("kd_weight", 0.5),
    )
    return Result(terms._asdict(), {"grad_kd_student": student, "grad_student": student})


def _scored(head: nn.Module, x: Tensor, n_shot: int, n_way: int) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities (queries, way) of a head on one episode, and the loss."""
    support, labels, query, query_labels = split_episode(x, n_shot)
    logits = head(support, labels, query, n_way)
    return logits[0].log_softmax(-1), cross_entropy(logits, query_labels)


def covnet_head(case: Case) -> Result:
    x = case.inputs["x"].requires_grad_()
    eps = case.args.get("eps", 1e-5)
    logp, loss = _scored(CovNet(eps=eps), x, case.args["n_shot"], case.args["n_way"])
    feat = second_moment_root(x.flatten(0, 1), eps)
    return Result({"logp": logp, "loss": loss, "feat": feat}, {"grad_x": x})


def frn_head(case: Case) -> Result:
    """The input holds all support maps, class by class, then all query maps, class by class."""
    args = case.args
    x = case.inputs["x"].requires_grad_()
    head = set_parameters(FRN(), case.dtype, alpha=args["alpha"], beta=args["beta"], scale=args["scale"])
    n_way, n_shot = args["n_way"], args["n_shot"]
    classes = torch.arange(n_way)
    support, query = x[: n_way * n_shot], x[n_way * n_shot :]
    labels = classes.repeat_interleave(n_shot)
    query_labels = classes.repeat_interleave(len(query) // n_way)
    logits = head(support[None], labels[None], query[None], n_way)
    loss = cross_entropy(logits, query_labels[None])
    grad_alpha, grad_beta = torch.autograd.grad(loss, [head.alpha, head.beta], retain_graph=True)
    values = {"logp": logits[0].log_softmax(-1), "loss": loss, "grad_r": torch.stack([grad_alpha, grad_beta])}
    return Result(values, {"grad_scale": head.scale, "grad_x": x})


def metabaseline_head(case: Case) -> Result:
    z = case.inputs["z"].requires_grad_()
    head = MetaBaseline(temperature=case.args.get("temperature", 10.0)).to(case.dtype)
    support, labels, query, query_labels = split_episode(z, case.args["n_shot"])
    logits = head(support, labels, query, case.args["n_way"])
    return Result({"scores": logits[0], "loss": cross_entropy(logits, query_labels)}, {"grad_z": z})


def adm_head(case: Case) -> Result:
    args = case.args
    n_way = args["n_way"]
    head = ADM(n_way=n_way, top_k=args.get("top_k", 3)).to(case.dtype).train(case.mode == "train")
    state = case.weights()
    head.norm.load_state_dict({key.removeprefix("normLayer."): v for key, v in state.items() if "normLayer." in key})
    set_parameters(head, case.dtype, taps=state["fcLayer.weight"].flatten())
    support, labels, query, _ = split_episode(case.inputs["raw"], args["n_shot"])
    query.requires_grad_()
    kl, _ = gaussian_kl(support.flatten(3), labels, query.flatten(3), n_way, head.ridge)
    scores = head(support, labels, query, n_way)[0]
    after = {f"after/normLayer.{key}": value for key, value in head.norm.state_dict().items()}
    return Result({"kl": kl[0], "scores": scores, **after}, {"grad_query": query})


def deepemd_head(case: Case) -> Result:
    args = case.args
    if args.get("metric", "cosine") != "cosine":
        raise ValueError(f"unknown metric '{args['metric']}' of DeepEMD; its definition here has 'cosine' only")
    head = DeepEMD(temperature=args.get("temperature", 12.5), norm=args.get("norm", "center"), solver="exact")
    support, labels, query, _ = split_episode(case.inputs["raw"], 1)
    return Result({"logits": head(support, labels, query, args["n_way"])[0]})


HEAD_KINDS = {
    "head_score": head_score,
    "logistic_head": logistic_head,
    "distill_loss": distill_loss,
    "covnet_head": covnet_head,
    "frn_head": frn_head,
    "metabaseline_head": metabaseline_head,
    "adm_head": adm_head,
    "deepemd_head": deepemd_head,
}
