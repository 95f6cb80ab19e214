"""Which episodes a test has: from its options, or from an episode file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from backbones import UserError
from episodes.extras import Extras
from episodes.files import read_episodes, write_episodes
from episodes.loaders import Pictures
from episodes.numbered import NumberedEpisodes
from episodes.processes import ALONE, Team
from episodes.reader import read_rule
from episodes.sampler import EpisodeSampler
from episodes.sizes import FixedSizes, ImbalancedSizes, MetaDatasetSizes, describe_sizes
from tools.config import Evaluate
from tools.groups import Kind
from tools.limits import wrong_kind


def variable_sizes(kind: Kind, n_way: int, k_shot: int, n_query: int) -> MetaDatasetSizes | ImbalancedSizes | None:
    """Return the rule of a kind's sizes, None for fixed ones; raises UserError for options that don't fit together."""
    if wrong := wrong_kind(kind):
        raise UserError(wrong)
    if kind.sizes == "meta_dataset":
        return MetaDatasetSizes(max_way=kind.max_way)
    if kind.sizes == "imbalanced":
        return ImbalancedSizes(n_way, tuple(kind.shots or (k_shot, k_shot)), n_query, kind.query_alpha)
    return None


def extras_of(kind: Kind, n_query: int) -> Extras:
    """Return the extras of a kind; raises UserError for options that don't fit together."""
    if wrong := wrong_kind(kind):
        raise UserError(wrong)
    return Extras(
        kind.unknown_ways,
        (kind.unknown_queries or n_query) if kind.unknown_ways else 0,
        kind.unlabelled,
        kind.distractor_ways,
        (kind.distractors or kind.unlabelled) if kind.distractor_ways else 0,
    )


def episode_samplers(config: Evaluate, pictures: Pictures, k_shot: int, team: Team = ALONE) -> list[NumberedEpisodes]:
    """Build the samplers of all repeats; the seed, data set and sizes alone decide the episodes, or the episode file.

    team: the samplers go over this process's share.
    """
    if config.episode_file is not None:
        return [read_episodes(config.episode_file, pictures.dataset, team.rank, team.size)]
    sizes = variable_sizes(config.kind, config.n_way, k_shot, config.n_query)
    extras = extras_of(config.kind, config.n_query)
    return [
        EpisodeSampler(
            pictures.dataset.labels,
            config.n_way,
            k_shot,
            config.n_query,
            config.episodes,
            config.seed,
            repeat,
            variable=sizes,
            extras=extras,
            drop_small=config.drop_small,
            class_names=pictures.dataset.class_names,
            rank=team.rank,
            world_size=team.size,
        )
        for repeat in range(config.repeats)
    ]


def varies(kind: Kind) -> bool:
    """Whether the episodes have shots of their own, so that k_shot does not matter to them."""
    return kind.sizes == "meta_dataset" or (kind.sizes == "imbalanced" and kind.shots is not None)


def settled(config: Evaluate) -> Evaluate:
    """Return the options with the shots that are really tested: one where the episodes have shots of their own.

    A head that depends on the shot is then built for the largest k_shot, or for the shots that an episode file names.
    Raises UserError for options that cannot go with an episode file.
    """
    if config.episode_file is None:
        return replace(config, k_shot=[max(config.k_shot)]) if varies(config.kind) else config
    if len(config.test) > 1 or config.repeats > 1:
        what = "several data sets" if len(config.test) > 1 else "repeats"
        raise UserError(f"episode_file holds one set of episodes of one data set: leave out {what}")
    sizes, _ = read_rule(config.episode_file)
    most = max(config.k_shot)
    if isinstance(sizes, FixedSizes | ImbalancedSizes):
        most = max(sizes.shots)
    return replace(config, k_shot=[most])


def column_of(sampler: NumberedEpisodes) -> str:
    """Return the head of the column of a sampler's results: '5-shot', '1-to-5-shot', 'variable' or 'file'."""
    return sampler.sizes.shown_shots if sampler.sizes is not None else "file"


def describe(config: Evaluate, sampler: NumberedEpisodes) -> str:
    """Say in words what the episodes are like, without their shots."""
    sizes, extras = sampler.sizes, sampler.extras
    if isinstance(sizes, FixedSizes):
        parts = [f"{sizes.n_way}-way", f"{sizes.n_query} queries a class"]
    elif isinstance(sizes, ImbalancedSizes):
        law = sizes.query_alpha
        shared = f"{sizes.n_way * sizes.n_query} queries shared by Dirichlet({law:g})" if law else ""
        parts = [f"imbalanced {sizes.n_way}-way", shared or f"{sizes.n_query} queries a class"]
    elif isinstance(sizes, MetaDatasetSizes):
        parts = [f"way ({sizes.min_way} to {sizes.max_way}), shots and queries of Meta-Dataset"]
    else:
        parts = ["episodes of their own sizes"]
    if extras:
        parts.append(str(extras))
    if config.episode_file is not None:
        parts.append(f"from {Path(config.episode_file).name}")
    return ", ".join(parts)


def kind_notes(config: Evaluate, sampler: NumberedEpisodes, heads: Iterable[nn.Module]) -> dict[str, str]:
    """Return the notes that a table needs about its episodes, by keyword."""
    notes, extras, heads = {}, sampler.extras, list(heads)
    learns = any(getattr(head, "semi_supervised", False) for head in heads)
    if extras.open_set:
        by = "largest probability" if config.kind.open_score == "probability" else "largest logit"
        notes["AUROC"] = f"known against unknown queries by the {by}; accuracy is that of the known ones"
        if any(getattr(head, "transductive", False) for head in heads):
            notes["unknown queries"] = "are among the queries that the transductive method looks at"
    if extras.semi_supervised and not learns:
        notes["unlabelled pictures"] = "this method does not use them"
    if learns and not extras.semi_supervised:
        notes["unlabelled pictures"] = "there are none, so that this method has the supports alone"
    return notes


def said_of_file(config: Evaluate, sampler: NumberedEpisodes) -> str:
    """Say that an episode file wins over the options, and which episodes it holds."""
    what = sampler.sizes if sampler.sizes is not None else "episodes of their own sizes"
    extras = f" and {sampler.extras}" if sampler.extras else ""
    return (
        f"{sampler.n_episodes} episodes of {config.episode_file} ({what}{extras}): "
        "n_way, k_shot, n_query, episodes, seed and kind have no say"
        + (", but kind.open_score has" if sampler.extras.open_set else "")
    )


def write_all(folder: Path, name: str, config: Evaluate, pictures: Pictures, file_name: str) -> list[Path]:
    """Write the episodes of every shot and repeat of a data set into a folder."""
    written = []
    for k in config.k_shot:
        samplers = episode_samplers(config, pictures, k)
        for repeat, sampler in enumerate(samplers):
            number = f"_{repeat}" if len(samplers) > 1 else ""
            path = folder / f"{file_name}_{column_of(sampler)}{number}.jsonl.gz"
            written.append(write_episodes(path, sampler, pictures.dataset, name))
    return written


def kind_record(config: Evaluate, sampler: NumberedEpisodes) -> dict[str, object]:
    """Return what `metrics.json` says about the episodes: what they are like, null where they differ in it.

    An episode file wins over the options, so that its own header is told.
    """
    sizes = sampler.sizes
    same = isinstance(sizes, FixedSizes | ImbalancedSizes)
    record = {"n_way": sizes.n_way if same else None, "n_query": sizes.n_query if same else None}
    if config.episode_file is None:
        return {**record, "seed": config.seed, "kind": asdict(config.kind)}
    rule = {"sizes": describe_sizes(sizes) if sizes is not None else None, "extras": asdict(sampler.extras)}
    return {**record, "seed": sampler.header.get("seed"), "episode_file": config.episode_file, **rule}
