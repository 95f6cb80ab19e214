"""TAMT: whole networks, episodes, source stages, checkpoints and what is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from backbones.video_layouts import split_state
from backbones.video_mae import MaskedAutoencoder, tube_mask
from backbones.video_vit import VideoViT, as_tokens
from backbones.video_zoo import VIDEO_VITS
from fewshot import MetaDeepBDC
from tests.reference.adapters.deepbdc_heads import split_episode
from tests.reference.adapters.tamt_layers import clean, gradient_leaves, head_of, run_head
from tests.reference.case import Case, Result
from video import TamtModel, VideoClassifier, create_tamt
from video.schedules import tuning_schedule
from video.tamt_layout import keymap, load_reference, reference_slots, to_reference

# Names of the released code -> ours, with what the name says.
MODELS = {
    f"vit_{size}_patch16_{side}": f"video_vit_{size}" for size in ("small", "base", "large") for side in (112, 224)
}


def build_vit(args, depth: str = "depth", dim: str = "embed_dim", heads: str = "num_heads", **options) -> VideoViT:
    """Build the transformer that the arguments of an item describe."""
    return VideoViT(
        dim=args[dim],
        depth=args[depth],
        heads=args[heads],
        mlp_ratio=args.get("mlp_ratio", 4),
        patch_size=args.get("patch_size", 16),
        tubelet_size=args.get("tubelet_size", 2),
        input_size=args["img_size"],
        frames=args.get("num_frames", 16),
        qkv_bias=args.get("qkv_bias", True),
        drop_path=args.get("drop_path_rate", 0.0),
        norm_eps=args.get("ln_eps", 1e-6),
        **options,
    )


def build_tamt(case: Case) -> TamtModel:
    args = case.args
    head = {"groups": args.get("groups", 4), "iterations": args.get("iterations", 3), "eps": args.get("eps", 1e-5)}
    mix = {"temporal_mix": args.get("temporal_mix", "reference"), "norm_eps": args.get("ln_eps", 1e-6)}
    model = create_tamt(build_vit(args), adapt=args["adapter_blocks"], mix=mix, head=head)
    return model.to(case.dtype).train(case.mode == "train")


def own_names(model: TamtModel) -> dict[str, str]:
    """Return {our name: released name}."""
    return {slot.own: slot.key for slot in reference_slots(model) if slot.own}


def backbone(case: Case) -> Result:
    model = build_tamt(case)
    # the item's file holds the backbone alone, without its prefix: the head keeps its start weights
    state = {f"feature.{key}": value for key, value in case.weights().items()}
    start = {key: value for key, value in to_reference(model).items() if not key.startswith("feature.")}
    load_reference(model, {**state, **start}, case.vector.name)
    moments = model.backbone(case.inputs["x"])
    values = {"pooled": moments.pooled, "tokens": as_tokens(moments.map)}
    leaves = gradient_leaves(model, {k: v.removeprefix("feature.") for k, v in own_names(model).items()})
    return Result(values, leaves)


def episode_model(case: Case) -> Result:
    args, model = case.args, build_tamt(case)
    load_reference(model, case.weights(), case.vector.name)
    names = own_names(model)
    z = model(case.inputs["x"].flatten(0, 1)).unflatten(0, case.inputs["x"].shape[:2])
    values = episode_scores(z, args["n_shot"])
    after = {f"after/{names[key]}": value.clone() for key, value in model.state_dict().items()}
    return Result({**values, **after}, gradient_leaves(model, names))


def episode_scores(z: Tensor, n_shot: int) -> dict[str, Tensor]:
    """Score an episode (way, shot + query, C) as released: inner products at one shot, else distances."""
    support, labels, query, query_labels = split_episode(z, n_shot)
    scores = MetaDeepBDC(n_shot)(support, labels, query)[0]
    loss = nn.functional.cross_entropy(scores, query_labels[0])
    correct = (scores.argmax(-1) == query_labels[0]).sum()
    return {"scores": scores, "loss": loss, "correct": correct, "count": query_labels.numel()}


def head_score(case: Case) -> Result:
    z = case.inputs["z"].requires_grad_()
    return Result(episode_scores(z, case.args["n_shot"]), {"grad_z": z})


def head_training(case: Case) -> Result:
    args, (head, names) = case.args, head_of(case)
    head.train()
    optimizer = {"adam": torch.optim.Adam}[args["optimizer"]](
        head.parameters(), lr=args["lr"], weight_decay=args["weight_decay"]
    )
    schedule = tuning_schedule(optimizer, args["T_max"], args["eta_min"])
    losses, rates = [], []

    def represent() -> Tensor:
        z = run_head(head, case)["z"]
        return z.unflatten(0, (args["n_way"], args["n_shot"] + args["n_query"]))

    for _ in range(args["steps"]):
        rates.append(optimizer.param_groups[0]["lr"])
        loss = episode_scores(represent(), args["n_shot"])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    head.eval()
    scores = episode_scores(represent(), args["n_shot"])["scores"]
    final = {f"final/{names[key]}": value for key, value in head.state_dict().items()}
    return Result({"losses": losses, "lrs": rates, "scores_after": scores, **final})


def ssl_pretrain_model(case: Case) -> Result:
    args = case.args
    encoder = build_vit(args, "encoder_depth", "encoder_dim", "encoder_heads", final_norm=True)
    model = MaskedAutoencoder(
        encoder,
        args["decoder_dim"],
        args["decoder_depth"],
        args["decoder_heads"],
        mlp_ratio=args["mlp_ratio"],
        qkv_bias=args["qkv_bias"],
        norm_eps=args["ln_eps"],
        mean=args["mean"],
        std=args["std"],
    ).to(case.dtype)
    model.load_state_dict(case.weights())
    predicted, target = model.predict(case.inputs["video"], case.inputs["mask"].bool())
    assert predicted.shape[-1] == args["target_dim"]
    assert predicted.shape[1] == int(args["mask_ratio"] * case.inputs["mask"].shape[1])
    loss = nn.functional.mse_loss(predicted, target)
    torch.testing.assert_close(model(case.inputs["video"], case.inputs["mask"]), loss, rtol=0, atol=0)
    return Result({"loss": loss, "pred": predicted, "target": target}, gradient_leaves(model))


def build_classifier(case: Case, num_classes: int) -> VideoClassifier:
    vit = build_vit(case.args)
    return VideoClassifier(vit, num_classes, norm_eps=case.args["ln_eps"]).to(case.dtype)


def load_parts(model: VideoClassifier, state: dict[str, Tensor]) -> None:
    source = split_state(state)
    assert not source.rest, f"keys that fit nowhere: {sorted(source.rest)}"
    parts = {"backbone": source.vit, "fc_norm": source.fc_norm, "head": source.classifier}
    model.load_state_dict({f"{part}.{key}": value for part, keys in parts.items() for key, value in keys.items()})


def source_classifier(case: Case) -> Result:
    model = build_classifier(case, case.args["num_classes"])
    load_parts(model, case.weights())
    logits = model(case.inputs["x"])
    loss = nn.functional.cross_entropy(logits, torch.as_tensor(case.inputs["labels"]))
    names = {key: key.removeprefix("backbone.") for key, _ in model.named_parameters()}
    return Result({"logits": logits, "loss": loss}, gradient_leaves(model, names))


def hf_layout(case: Case) -> Result:
    model = build_classifier(case, case.args["num_labels"])
    load_parts(model, case.weights())
    with torch.no_grad():
        tokens = model.backbone.tokens(case.inputs["x"])
        return Result({"tokens": tokens, "logits": model(case.inputs["x"])})


def named_model(args) -> TamtModel:
    sizes = VIDEO_VITS[MODELS[args["model"]]]
    return create_tamt(VideoViT(**{**sizes, "input_size": args["img_size"], "drop_path": 0.1}), adapt="reference")


def checkpoint_keymap(case: Case) -> Result:
    return Result({"keymap": keymap(named_model(case.args))})


def trainable_parameters(case: Case) -> Result:
    model = named_model(case.args)
    slots = reference_slots(model)
    parameters = [slot for slot in slots if slot.parameter]
    trained = [slot for slot in parameters if slot.trained]
    unused = [slot for slot in trained if slot.own is None]
    # the lists above are words; these are what the model says itself
    assert {slot.own for slot in trained if slot.own} == {
        name for name, value in model.named_parameters() if value.requires_grad
    }
    values = {
        "parameters_total": count(parameters),
        "parameters_trainable": count(trained),
        "of_which_without_gradient": count(unused),
        "trainable": [slot.key for slot in trained],
        "trainable_but_never_used": [slot.key for slot in unused],
        "frozen": [slot.key for slot in parameters if not slot.trained],
        "state_dict_entries": len(to_reference(model)),
    }
    return Result(values)


def count(slots) -> int:
    return sum(torch.Size(slot.shape).numel() for slot in slots)


def tube(case: Case) -> Result:
    args = case.args
    grid = (args["frames"], args["height"], args["width"])
    return Result({"mask": clean(tube_mask(grid, args["ratio"], np.random.RandomState(args["seed"])))})


MODEL_KINDS = {
    "backbone": backbone,
    "episode_model": episode_model,
    "head_score": head_score,
    "head_training": head_training,
    "ssl_pretrain_model": ssl_pretrain_model,
    "source_classifier": source_classifier,
    "hf_layout": hf_layout,
    "checkpoint_keymap": checkpoint_keymap,
    "trainable_parameters": trainable_parameters,
    "tube_mask": tube,
}
