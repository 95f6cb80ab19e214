"""DeepBDC: whole models, and a few steps of the three training loops on a tiny backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.checkpoint import load_state, to_official
from episodes.optim import build_optimizer, build_schedule
from fewshot.encoder import Encoder, EpisodeModel, PretrainModel, classification_step, episode_step
from fewshot.losses import distillation_loss
from fewshot.methods import create_encoder, find_method
from moments import BDC, GlobalAveragePool
from tests.reference.adapters.deepbdc_heads import episode_head, split_episode
from tests.reference.case import Case, Result

BACKBONES = {
    "ResNet12": "resnet12",
    "ResNet34s": "resnet34s",
    "ResNet10": "resnet10",
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
}


def load_reference(module: nn.Module, state: dict[str, Tensor], case: Case) -> nn.Module:
    """Load a reference state dict, every key of it, through the converter; set dtype and mode."""
    module.to(case.dtype).train(case.mode == "train")
    report = load_state(module, state, case.vector.name)
    if report.unused:
        raise AssertionError(f"reference keys that fit nowhere: {', '.join(report.unused)}")
    return module


def parameter_leaves(module: nn.Module) -> dict[str, Tensor]:
    """Return {grad/<reference key>: parameter}."""
    return {f"grad/{key}": value for key, value in to_official(dict(module.named_parameters())).items()}


def state_values(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return {<prefix>/<reference key>: a copy} of the state dict as it is now."""
    return {f"{prefix}/{key}": value.clone() for key, value in to_official(module.state_dict()).items()}


def _encoder(case: Case) -> Encoder:
    args = case.args
    return create_encoder(args["method"], BACKBONES[args["arch"]], reduce_dim=args.get("reduce_dim"))


def pretrain_model(case: Case) -> Result:
    args = case.args
    model = PretrainModel(_encoder(case), args["num_classes"], args.get("dropout", 0.0))
    load_reference(model, case.weights(), case)
    with torch.set_grad_enabled(case.wants_gradients):
        x = case.inputs["x"].requires_grad_(case.wants_gradients)
        # in train mode one pass only: a second would move the running statistics again
        feat = model.features(x)
        logits = model.classifier(model.dropout(feat))
    after = state_values(model, "after")
    if case.mode == "eval":
        torch.testing.assert_close(model(x), logits, rtol=0, atol=0)
    return Result({"feat": feat, "logits": logits, **after}, {"grad_x": x, **parameter_leaves(model)})


def _episode_batch(x: Tensor, n_shot: int) -> dict[str, Tensor]:
    support, labels, query, query_labels = split_episode(x, n_shot)
    return {"images": torch.cat([support, query], 1), "support_labels": labels, "query_labels": query_labels}


def episode_model(case: Case) -> Result:
    args = case.args
    model = EpisodeModel(_encoder(case), episode_head(args["method"], args["n_shot"]))
    load_reference(model, case.weights(), case)
    x = case.inputs["x"].requires_grad_(case.wants_gradients)
    batch = _episode_batch(x, args["n_shot"])
    with torch.set_grad_enabled(case.wants_gradients):
        logits = model(batch["images"], batch["support_labels"], args["n_way"])
        loss = nn.functional.cross_entropy(logits[0], batch["query_labels"][0])
    correct = (logits[0].argmax(-1) == batch["query_labels"][0]).sum()
    values = {"scores": logits[0], "loss": loss, "correct": correct, "count": batch["query_labels"].numel()}
    return Result({**values, **state_values(model, "after")}, {"grad_x": x, **parameter_leaves(model)})


class TinyBackbone(nn.Module):
    """conv3x3 (no bias) - batch norm - ReLU - 2x2 max-pool, as the loop kinds describe it."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.bn(self.conv(x)).relu(), 2)


def _tiny_encoder(case: Case) -> Encoder:
    args = case.args
    channels, size = args["backbone_channels"], args["backbone_size"]
    bdc = find_method(args["method"]).pool == "bdc"
    pool = BDC(channels, args["reduce_dim"], (size, size)) if bdc else GlobalAveragePool(channels)
    return Encoder(TinyBackbone(channels), pool)


def _optimiser(model: nn.Module, case: Case):
    args = case.args
    optimizer = build_optimizer(
        model,
        args["lr"],
        weight_decay=args["weight_decay"],
        momentum=args["momentum"],
        nesterov=args["nesterov"],
        temperature_lr=args.get("t_lr"),
    )
    milestones, gamma = args["milestones"], args["gamma"]
    return optimizer, build_schedule(optimizer, "multistep", args["epochs"], milestones, gamma)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _tiny_classifier(case: Case, weights: str) -> PretrainModel:
    args = case.args
    model = PretrainModel(_tiny_encoder(case), args["num_classes"], args.get("dropout", 0.0))
    return load_reference(model, case.weights(weights), case).train()


def _batches(case: Case) -> list[dict[str, Tensor]]:
    pairs = zip(case.inputs["batches"], case.inputs["labels"], strict=True)
    return [{"images": images, "labels": labels.long()} for images, labels in pairs]


def pretrain_loop(case: Case) -> Result:
    model = _tiny_classifier(case, "model")
    optimizer, schedule = _optimiser(model, case)
    losses = []
    for _ in range(case.args["epochs"]):
        for batch in _batches(case):
            loss = classification_step(model, batch)["loss"]
            _step(optimizer, loss)
            losses.append(loss.item())
        schedule.step()
    return Result({"losses": losses, **state_values(model, "final")})


def distill_loop(case: Case) -> Result:
    args = case.args
    student, teacher = _tiny_classifier(case, "student"), _tiny_classifier(case, "teacher")
    teacher.train(args["teacher_mode"] == "train")
    optimizer, schedule = _optimiser(student, case)
    kd_losses = []
    for _ in range(args["epochs"]):
        for batch in _batches(case):
            with torch.no_grad():
                target = teacher(batch["images"])
            terms = distillation_loss(
                student(batch["images"]), target, batch["labels"], args["T"], args["ce_weight"], args["kd_weight"]
            )
            _step(optimizer, terms.loss)
            kd_losses.append(terms.kd.item())
        schedule.step()
    states = {**state_values(student, "final"), **state_values(teacher, "teacher_final")}
    return Result({"kd_losses": kd_losses, **states})


def meta_loop(case: Case) -> Result:
    args = case.args
    model = EpisodeModel(_tiny_encoder(case), episode_head(args["method"], args["n_shot"]))
    load_reference(model, case.weights(), case)
    optimizer, schedule = _optimiser(model, case)
    batches = [_episode_batch(x, args["n_shot"]) for x in case.inputs["episodes"]]
    losses = []
    for _ in range(args["epochs"]):
        model.train()
        for batch in batches:
            loss = episode_step(model, batch)["loss"]
            _step(optimizer, loss)
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            losses += [episode_step(model, batches[i])["loss"].item() for i in args["validation_episodes"]]
        schedule.step()
    return Result({"losses": losses, **state_values(model, "final")})


MODEL_KINDS = {
    "pretrain_model": pretrain_model,
    "episode_model": episode_model,
    "pretrain_loop": pretrain_loop,
    "distill_loop": distill_loop,
    "meta_loop": meta_loop,
}
