"""Video: clips, temporal adapters, and tuning from a source to any target."""

from video.classifier import VideoClassifier
from video.gtmt import GTMT
from video.tamt import TamtBackbone, TamtModel, create_tamt, load_trainable_state, trainable_state
from video.temporal_adapter import TemporalAdapter
from video.token_mix import Moments, TokenMix

__all__ = [
    "GTMT",
    "Moments",
    "TamtBackbone",
    "TamtModel",
    "TemporalAdapter",
    "TokenMix",
    "VideoClassifier",
    "create_tamt",
    "load_trainable_state",
    "trainable_state",
]
