"""Build the inputs and weights of a vector from their recipes (`conventions.inputs` and `item_fields.weights`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.reference.fill import draw, fill


def build_input(recipe: Mapping, arrays: Mapping[str, np.ndarray]):
    """Return one input: an array, a list of arrays (`count`), or a literal (`value`)."""
    if "array" in recipe:
        stored = np.asarray(arrays[recipe["array"]])
        return stored.astype(recipe["dtype"]) if "dtype" in recipe else stored
    if "value" in recipe:
        if "shape" not in recipe:
            return recipe["value"]
        return np.full(recipe["shape"], recipe["value"], dtype=recipe.get("dtype", "float64"))
    if "count" in recipe:
        step = recipe.get("seed_step", 0)
        return [_array(_shifted(recipe, number * step)) for number in range(recipe["count"])]
    return _array(recipe)


def _shifted(recipe, offset: int):
    """Return the recipe with `offset` added to every seed in it."""
    if isinstance(recipe, Mapping):
        return {k: v + offset if k == "seed" else _shifted(v, offset) for k, v in recipe.items()}
    if isinstance(recipe, list):
        return [_shifted(v, offset) for v in recipe]
    return recipe


def _array(recipe: Mapping) -> np.ndarray:
    x = recipe.get("pre_scale", 1.0) * _source(recipe) if "pre_scale" in recipe else _source(recipe)
    for term in recipe.get("plus", ()):
        x = x + term["weight"] * draw(term["seed"], term["shape"])
    if recipe.get("matmul"):
        factor = recipe["matmul"]
        x = x @ draw(factor["seed"], factor["shape"]) / np.sqrt(factor["sqrt_of"])
    x = transform(x, recipe.get("transform") or "none")
    if recipe.get("scale", 1.0) != 1.0:
        x = x * recipe["scale"]
    if recipe.get("zeroed_channels") or recipe.get("zeroed_items"):
        x = x.copy()
        x[:, list(recipe.get("zeroed_channels") or [])] = 0
        x[list(recipe.get("zeroed_items") or [])] = 0
    if recipe.get("rearrange"):
        x = rearrange(x, recipe["rearrange"])
    return x.astype(recipe.get("dtype", "float64"))


def _source(recipe: Mapping) -> np.ndarray:
    shape = tuple(recipe["shape"])
    match recipe.get("generator", "draw"):
        case "draw":
            return draw(recipe["seed"], shape)
        case "integers":
            return np.random.default_rng(recipe["seed"]).integers(recipe["low"], recipe["high"], shape)
        case "arange":
            return np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)
        case unknown:
            raise ValueError(f"unknown generator '{unknown}' in an input recipe")


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _cosine_distance(x: np.ndarray) -> np.ndarray:
    rows = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return 1 - rows @ rows.T


def _image_sine(x: np.ndarray) -> np.ndarray:
    wave = 40 * np.sin(np.arange(x.shape[1]) / 11)[None, :, None]
    return np.clip(np.rint(127.5 + 45 * x + wave), 0, 255).astype(np.uint8)


def _image_ramp(x: np.ndarray) -> np.ndarray:
    height, width = x.shape[:2]
    ramp = np.linspace(-60, 60, width)[None, :, None] + np.linspace(-40, 40, height)[:, None, None]
    return np.clip(128 + 45 * x + ramp, 0, 255).astype(np.uint8)


TRANSFORMS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu_plus_3": lambda x: np.maximum(x, 0) + 3,
    "abs": np.abs,
    "abs_times_90_uint8": lambda x: np.clip(90 * np.abs(x), 0, 255).astype(np.uint8),
    "image_sine": _image_sine,
    "image_ramp": _image_ramp,
    "percent_of_75": lambda x: x / 75 * 100,
    "softmax": _softmax,
    "spd": lambda x: x @ x.swapaxes(-1, -2) / x.shape[-1],
    "cosine_distance": _cosine_distance,
    "add_transpose": lambda x: x + x.swapaxes(-1, -2),
}


def transform(x: np.ndarray, name: str) -> np.ndarray:
    if name not in TRANSFORMS:
        raise ValueError(f"unknown transform '{name}' in an input recipe; known: {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name](x)


def rearrange(x: np.ndarray, how: Mapping) -> np.ndarray:
    """{support_then_query: k}: [way, k+q, ...] -> the first k of every class, class by class, then the others."""
    if set(how) != {"support_then_query"}:
        raise ValueError(f"unknown rearrangement {dict(how)} in an input recipe")
    k = how["support_then_query"]
    rest = x.shape[2:]
    return np.concatenate([x[:, :k].reshape(-1, *rest), x[:, k:].reshape(-1, *rest)])


def build_weights(recipe: Mapping, keys: Mapping[str, list], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return {reference key: float64 array} of one model of the item."""
    prefix, override = recipe.get("prefix") or "", recipe.get("override")
    state = {}
    for key, shape in keys.items():
        if override is not None and override + key in arrays:
            state[key] = np.asarray(arrays[override + key], dtype=np.float64)
            continue
        state[key] = fill(prefix + key, shape)
        for rule in recipe.get("factors") or ():
            if key.startswith(rule["prefix"]) and key.endswith(rule["suffix"]):
                state[key] = state[key] * rule["factor"]
    return state
