"""TAMT, the kinds about clips: frame indices, boxes, image operations, and the whole clip transform."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image

from tests.reference.case import Case, Result
from video.clips_crops import random_crop_box, random_erase_box
from video.clips_randaug import FILL, apply_to_image, draw_operations, level
from video.clips_views import Draws, normalise, reference_clip, resized_crop
from video.frames import dense_indices, segment_indices_reference, sparse_indices, ssl_indices


def segment_indices(case: Case) -> Result:
    args = case.args
    count, segments = args["num_frames"], args["num_segment"]
    if args["sampling"] == "test_dense":
        indices = dense_indices(count, args["clip_len"], args["frame_sample_rate"])
    elif args["sampling"] == "test_sparse":
        indices = sparse_indices(count, segments, args["test_num_segment"])
    else:
        rng = np.random.RandomState(args["seed"]) if args["sampling"] == "train" else None
        indices = segment_indices_reference(count, segments, args["clip_len"], args["frame_sample_rate"], rng)
    return Result({"indices": indices})


def ssl_frame_indices(case: Case) -> Result:
    args = case.args
    rng = np.random.RandomState(args["seed"])
    clips = args.get("num_segments", 1)
    return Result({"indices": ssl_indices(args["num_frames"], args["clip_frames"], args["step"], clips, rng=rng)})


def crop_boxes(case: Case) -> Result:
    args = case.args
    rng, spare = random.Random(args["seed"]), np.random.RandomState(args["seed"])
    ranges = {"scale": tuple(args["scale"]), "ratio": tuple(args["ratio"])}
    boxes = [random_crop_box(args["height"], args["width"], rng, **ranges, spare=spare) for _ in range(args["draws"])]
    return Result({"boxes": np.array(boxes)})


def resize(case: Case) -> Result:
    out = resized_crop(case.inputs["x"], tuple(case.args["box"]), case.args["out_size"])
    return Result({"out": out, "flipped": out.flip(-1)})


def clip_normalise(case: Case) -> Result:
    clip = normalise(case.inputs["clip"].numpy(), case.args["mean"], case.args["std"])
    return Result({"out": clip.permute(1, 2, 3, 0)})


def randaug_op(case: Case) -> Result:
    args = case.args
    if args["fill"] != list(FILL) or args["resample"] != "bicubic":
        raise ValueError("the operations are bicubic on grey")
    arguments = level(args["op"], args["magnitude"])
    argument = None if arguments is None else arguments[-1 if args["sign"] == "+" else 0]
    image = Image.fromarray(case.inputs["image"].numpy())
    return Result({"out": np.asarray(apply_to_image(image, args["op"], argument)).astype(np.float64)})


def randaug_level(case: Case) -> Result:
    return Result({"arguments": level(case.args["op"], case.args["magnitude"])})


def randaug_policy(case: Case) -> Result:
    args = case.args
    draws, names = Draws.replay(args["seed"]), tuple(args["ops"])
    options = {"layers": args["layers"], "probability": args["probability"], "operations": names}
    strength = (args["magnitude"], args["magnitude_std"])
    chosen, applied = draw_operations(draws.numpy, draws.python, *strength, **options)
    rows = [[names.index(name), float("nan") if argument is None else argument] for name, argument in applied]
    return Result({"chosen": np.array(chosen), "applied": np.array(rows).reshape(-1, 2)})


def erase_boxes(case: Case) -> Result:
    args, rng = case.args, random.Random(case.args["seed"])
    ranges = {"probability": args["probability"], "area": tuple(args["area"]), "aspect": tuple(args["aspect"])}
    boxes = [random_erase_box(args["height"], args["width"], rng, **ranges) for _ in range(args["clips"])]
    return Result({"boxes": np.array([(-1, -1, -1, -1) if box is None else box for box in boxes])})


def clip_transform(case: Case) -> Result:
    frames = case.inputs["clip"].to(torch.uint8).numpy()
    return Result({"out": reference_clip(frames, case.args["image_size"], Draws.replay(case.args["seed"]))})


CLIP_KINDS = {
    "segment_indices": segment_indices,
    "ssl_frame_indices": ssl_frame_indices,
    "crop_boxes": crop_boxes,
    "resized_crop": resize,
    "clip_normalise": clip_normalise,
    "randaug_op": randaug_op,
    "randaug_level": randaug_level,
    "randaug_policy": randaug_policy,
    "erase_boxes": erase_boxes,
    "clip_transform": clip_transform,
}
