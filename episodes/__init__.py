"""Data sets, numbered episodes, loading, the training engine and evaluation: what every method shares."""

from episodes.dataset import ArraySet, FileSet, ImageSet
from episodes.episode import Episode
from episodes.errors import UserError
from episodes.evaluate import Evaluation, evaluate, evaluate_features, extract_features
from episodes.extras import Extras
from episodes.features import FeatureStore, open_features, read_features
from episodes.files import EpisodeFile, read_episodes, write_episodes
from episodes.fingerprint import weights_key
from episodes.loaders import BatchImages, EpisodeImages, Pictures
from episodes.metrics import mean_and_interval, paired_difference
from episodes.opening import open_dataset
from episodes.sampler import EpisodeSampler
from episodes.sizes import ImbalancedSizes, MetaDatasetSizes

__all__ = [
    "ArraySet",
    "BatchImages",
    "Episode",
    "EpisodeFile",
    "EpisodeImages",
    "EpisodeSampler",
    "Evaluation",
    "Extras",
    "FeatureStore",
    "FileSet",
    "ImageSet",
    "ImbalancedSizes",
    "MetaDatasetSizes",
    "Pictures",
    "UserError",
    "evaluate",
    "evaluate_features",
    "extract_features",
    "mean_and_interval",
    "open_dataset",
    "open_features",
    "paired_difference",
    "read_episodes",
    "read_features",
    "weights_key",
    "write_episodes",
]
