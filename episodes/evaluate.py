"""Score a head on numbered episodes: from features that were computed once, or from images episode by episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from episodes.batch import EpisodeBatch, stack
from episodes.errors import UserError
from episodes.evaluation import Evaluation, Tally
from episodes.loaders import Pictures
from episodes.numbered import NumberedEpisodes
from episodes.open_set import known_scores
from episodes.progress import Progress

# Features of the episodes that a head gets at a time, in bytes. A CPU is up to twice as fast on what stays near it, but
# every call has its cost, which a few episodes should share even where they are long.
NEAR_BYTES, FAR_BYTES = 14 << 20, 32 << 20
FEW_EPISODES = 8
# A head that makes many times as many numbers as its features have (covariances of maps) has an attribute `near_bytes`
# of its own: what it makes should stay near the processor as well.
QUERY_BYTES = 640 << 10  # of queries that are only multiplied: gathered and used while they are in the nearest cache
STEP_BYTES = 256 << 20  # of other devices
MOST_EPISODES = 512


class StoredFeatures(Protocol):
    """Features (N, ...) that are not all in memory, such as `episodes.features.FeatureStore`."""

    row_bytes: int

    def gather(self, indices: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Return the rows at `indices` (E, S): (E, S, ...), in `out` where it is given."""


@torch.no_grad()
def extract_features(
    encode: Callable[[Tensor], Tensor],
    pictures: Pictures,
    indices: np.ndarray | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    label: str = "features",
    show: bool = True,
) -> Tensor:
    """Run a frozen encoder over a data set once.

    encode: images (B, 3, S, S) -> (B, ...); the caller puts it in eval mode.
    indices: items to represent, default all.
    Returns (N, ...) in float32 or better, on `device`.
    Raises UserError when a representation is not finite.
    """
    indices = np.arange(len(pictures.dataset)) if indices is None else np.asarray(indices)
    result: Tensor | None = None
    with Progress(len(indices), label, on=show) as bar:
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            features = encode_batch(encode, pictures, part, device)
            if result is None:
                result = features.new_empty(len(indices), *features.shape[1:])
            result[start : start + len(part)] = features
            bar.advance(len(part))
    if result is None:
        raise UserError("there are no images to represent: the data set is empty")
    return result


@torch.no_grad()
def encode_batch(
    encode: Callable[[Tensor], Tensor], pictures: Pictures, indices: np.ndarray, device: torch.device | str = "cpu"
) -> Tensor:
    """Represent the items at `indices` as one batch: (B, ...) in float32 or better.

    Raises UserError when a representation is not finite.
    """
    features = encode(pictures.load(indices).to(device))
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if not torch.isfinite(features).all():
        bad = int((~torch.isfinite(features.flatten(1)).all(1)).nonzero()[0])
        raise UserError(f"the representation of item {indices[bad]} is not finite: the checkpoint holds broken weights")
    return features


def take(features: Tensor | StoredFeatures, indices: np.ndarray, out: Tensor | None = None) -> Tensor:
    """Return the rows at `indices` (E, S) of features (N, ...) in memory or in a store: (E, S, ...).

    out: an earlier result to write over, where it has the right shape: fresh memory can cost more than the copy.
    """
    out = out if out is not None and out.shape[: indices.ndim] == indices.shape else None
    if not isinstance(features, Tensor):
        return features.gather(indices, out)
    flat = torch.from_numpy(np.array(indices)).reshape(-1).to(features.device)
    if out is None:
        out = features.new_empty(*indices.shape, *features.shape[1:])
    torch.index_select(features, 0, flat, out=out.view(-1, *features.shape[1:]))
    return out


def _row_bytes(features: Tensor | StoredFeatures) -> int:
    return features[0].numel() * features.element_size() if isinstance(features, Tensor) else features.row_bytes


def _parts(
    batch: EpisodeBatch, items: int, row_bytes: int, on_cpu: bool, near_bytes: int | None = None
) -> Iterator[EpisodeBatch]:
    """Split a batch of episodes of `items` rows into parts of a good size, padded no more than they need.

    near_bytes: of the head, see `NEAR_BYTES`.
    """
    episode_bytes = items * row_bytes
    count = max(1, STEP_BYTES // episode_bytes)
    if on_cpu and near_bytes:
        count = max(1, near_bytes // episode_bytes)
    elif on_cpu:
        count = max(1, NEAR_BYTES // episode_bytes, min(FEW_EPISODES, FAR_BYTES // episode_bytes))
    for start in range(0, len(batch), count):
        part = batch.rows(slice(start, start + count))
        yield stack([part]) if batch.padded else part


def sides_of(head: nn.Module, batch: EpisodeBatch) -> list[np.ndarray]:
    """Return the items whose features the head gets: support (E, S), queries with the unknown ones (E, Q + U), and
    unlabelled ones (E, M) where there are any and it is `semi_supervised`."""
    asked = np.concatenate([batch.query, batch.unknown], axis=1) if batch.unknown.shape[1] else batch.query
    sides = [batch.support, asked]
    if batch.unlabelled.shape[1] and getattr(head, "semi_supervised", False):
        sides.append(batch.unlabelled)
    return sides


def _linear_predictions(
    head: nn.Module, features: Tensor | StoredFeatures, batch: EpisodeBatch, buffers: list[Tensor | None]
) -> np.ndarray:
    """Return the predicted labels (E, Q) of a head with the method `linear`, on a CPU and without padding.

    All supports first, then a few queries at a time: these are most of the bytes, and one product is all they meet.
    """
    predictions = np.empty_like(batch.query_labels)
    n_query, n_way = batch.query.shape[1], batch.classes.shape[1]
    row_bytes, first = _row_bytes(features), 0
    few = max(1, QUERY_BYTES // (n_query * row_bytes))
    for part in _parts(batch, batch.support.shape[1] + n_way, row_bytes, on_cpu=True):
        buffers[0] = take(features, part.support, buffers[0])
        weight, bias = head.linear(buffers[0], torch.from_numpy(np.array(part.support_labels)), n_way)
        scores = weight.new_empty(len(part), n_way, n_query)
        parts = [side.split(few) for side in (weight, bias.unsqueeze(2), scores)]
        for number, (w, b, out) in enumerate(zip(*parts, strict=True)):
            buffers[1] = take(features, part.query[number * few : (number + 1) * few], buffers[1])
            torch.baddbmm(b, w, buffers[1].to(w.dtype).transpose(1, 2), out=out)
        predictions[first : first + len(part)] = scores.max(1).indices.numpy()
        first += len(part)
    return predictions


def ask(head: nn.Module, batch: EpisodeBatch, sides: list[Tensor], ranking: bool = False) -> Tensor:
    """Return the logits (E, Q + U, K) of a head for the features of `sides_of` its batch.

    A transductive head is told which queries are padding (the unknown ones are queries like the others, to it), a
    semi-supervised one which unlabelled items are.
    ranking: scores in the order of the logits will do. A head may have a method `linear`, (support, support_labels,
        n_way) -> weights w (E, K, D) and biases b (E, K), by which u.w + b are such scores, for less work.
    """
    support, query, *unlabelled = sides
    device, extra = query.device, {}
    labels = torch.from_numpy(np.array(batch.support_labels)).to(device)
    if getattr(head, "transductive", False):
        mask = torch.ones(query.shape[:2], dtype=torch.bool)
        mask[:, : batch.query.shape[1]] = torch.from_numpy(batch.query_labels >= 0)
        extra["query_mask"] = mask.to(device)
    if unlabelled:
        mask = torch.from_numpy(batch.unlabelled_labels != -1)
        extra |= {"unlabelled": unlabelled[0], "unlabelled_mask": mask.to(device)}
    if ranking and hasattr(head, "linear"):
        weight, bias = head.linear(support, labels, batch.classes.shape[1])
        return torch.baddbmm(bias.unsqueeze(2), weight, query.to(weight.dtype).transpose(1, 2)).transpose(1, 2)
    return head(support, labels, query, n_way=batch.classes.shape[1], **extra)


def _answers(
    head: nn.Module, batch: EpisodeBatch, sides: list[Tensor], open_score: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the predicted labels (E, Q) and, where there are unknown queries, the scores of all (E, Q + U)."""
    open_set = batch.unknown.shape[1] > 0
    logits = ask(head, batch, sides, ranking=not open_set)
    # the index of `max`: on logits that lie class by class, as products leave them, argmax takes eight times as long
    predictions = logits[:, : batch.query.shape[1]].max(-1).indices.cpu().numpy()
    return predictions, known_scores(logits, open_score).cpu().numpy() if open_set else None


@torch.no_grad()
def evaluate_features(
    head: nn.Module,
    features: Tensor | StoredFeatures,
    sampler: NumberedEpisodes,
    n_classes: int,
    label: str = "episodes",
    show: bool = True,
    device: torch.device | str | None = None,
    open_score: str = "probability",
) -> Evaluation:
    """Score episodes whose items are already represented, many at a time.

    head: (support, support_labels, query, n_way) -> logits; used in eval mode. One with the attribute
        `transductive` also gets query_mask (E, Q), True for the queries that are not padding. One with the attribute
        `semi_supervised` also gets unlabelled (E, M, ...) and unlabelled_mask (E, M); the others do without.
    features: (N, ...) representation of every item of the data set that `sampler` was built on, or their store.
    n_classes: K of the data set.
    device: where the head computes; default where the features are.
    open_score: what tells known from unknown queries, see `episodes.open_set.known_scores`.
    """
    head.eval()
    device = torch.device(device or getattr(features, "device", "cpu"))
    tally, started = Tally(n_classes, open_score), time.perf_counter()
    on_cpu = device.type == str(getattr(features, "device", "cpu")) == "cpu"
    buffers: list[Tensor | None] = [None] * 3
    with Progress(len(sampler), label, on=show) as bar:
        for batch in sampler.steps(MOST_EPISODES):
            n_query, n_unknown = batch.query.shape[1], batch.unknown.shape[1]
            if hasattr(head, "linear") and on_cpu and not n_unknown and not batch.padded:
                tally.add(batch, _linear_predictions(head, features, batch, buffers))
                bar.advance(len(batch))
                continue
            predictions = np.zeros_like(batch.query_labels)
            scores = np.zeros((len(batch), n_query + n_unknown)) if n_unknown else None
            items = sum(side.shape[1] for side in sides_of(head, batch))
            first = 0
            near = getattr(head, "near_bytes", None)
            for part in _parts(batch, items, _row_bytes(features), device.type == "cpu", near):
                sides = sides_of(head, part)
                for place, side in enumerate(sides):
                    buffers[place] = take(features, side, buffers[place])
                rows, width = slice(first, first + len(part)), part.query.shape[1]
                given = [buffer.to(device) for buffer in buffers[: len(sides)]]
                predictions[rows, :width], found = _answers(head, part, given, open_score)
                if found is not None:
                    scores[rows, :width], scores[rows, n_query:] = found[:, :width], found[:, width:]
                first += len(part)
                bar.advance(len(part))
            tally.add(batch, predictions, scores)
    return tally.result(time.perf_counter() - started)


@torch.no_grad()
def evaluate_images(
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    pictures: Pictures,
    sampler: NumberedEpisodes,
    device: torch.device | str = "cpu",
    label: str = "episodes",
    show: bool = True,
    open_score: str = "probability",
    seed: Sequence[int] = (),
) -> Evaluation:
    """Score episodes one at a time, encoding every image again: the plain way, for features too large to keep.

    seed: of a view that is random (clips); an item's look then follows from it, the episode's number and its place.
    Gives the results of `evaluate_features`, unless the view is random.
    """
    head.eval()
    tally, started = Tally(len(pictures.dataset.class_names), open_score), time.perf_counter()
    with Progress(len(sampler), label, on=show) as bar:
        for batch in sampler.steps(1):
            sides = [side[0] for side in sides_of(head, batch)]
            look = (*seed, int(batch.numbers[0]))
            features = encode(pictures.load(np.concatenate(sides), *look).to(device))[None]
            parts = list(features.split([len(side) for side in sides], dim=1))
            tally.add(batch, *_answers(head, batch, parts, open_score))
            bar.advance()
    return tally.result(time.perf_counter() - started)


def evaluate(
    encode: Callable[[Tensor], Tensor],
    head: nn.Module,
    pictures: Pictures,
    sampler: NumberedEpisodes,
    device: torch.device | str = "cpu",
    memory_bytes: int = 4 << 30,
    show: bool = True,
    open_score: str = "probability",
) -> Evaluation:
    """Score episodes from features of the whole set where they fit into `memory_bytes`, else from images.

    The two ways differ in time alone.
    """
    probe = encode(pictures.load([0]).to(device))
    if probe.numel() * 4 * len(pictures.dataset) > memory_bytes:
        return evaluate_images(encode, head, pictures, sampler, device, show=show, open_score=open_score)
    started = time.perf_counter()
    features = extract_features(encode, pictures, device=device, show=show)
    seconds = time.perf_counter() - started
    classes = len(pictures.dataset.class_names)
    result = evaluate_features(head, features, sampler, classes, show=show, open_score=open_score)
    result.feature_seconds = seconds
    return result
