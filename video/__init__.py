"""Video: clips, temporal adapters, and tuning from a source to any target."""

from video.classifier import VideoClassifier
from video.clips import Clips, ClipSet
from video.clips_open import open_clips
from video.clips_views import ClipView
from video.frames import FrameSampling
from video.gtmt import GTMT
from video.otam import OTAM
from video.pools import FrameMeans, TokenBDC, TokenMap, TokenMean
from video.readers import open_video
from video.tamt import TamtBackbone, TamtModel, create_tamt, load_trainable_state, trainable_state
from video.temporal_adapter import TemporalAdapter
from video.token_mix import Moments, TokenMix
from video.trx import TRX

__all__ = [
    "GTMT",
    "OTAM",
    "TRX",
    "ClipSet",
    "ClipView",
    "Clips",
    "FrameMeans",
    "FrameSampling",
    "Moments",
    "TamtBackbone",
    "TamtModel",
    "TemporalAdapter",
    "TokenBDC",
    "TokenMap",
    "TokenMean",
    "TokenMix",
    "VideoClassifier",
    "create_tamt",
    "open_clips",
    "open_video",
    "load_trainable_state",
    "trainable_state",
]
