"""TAMT: one function per kind of `tamt.json`, built from the arguments in the entry."""

from __future__ import annotations

from tests.reference.adapters.tamt_clips import CLIP_KINDS
from tests.reference.adapters.tamt_layers import LAYER_KINDS
from tests.reference.adapters.tamt_models import MODEL_KINDS

KINDS = {**CLIP_KINDS, **LAYER_KINDS, **MODEL_KINDS}
