"""learn2learn itself: imported where it is used, and kept from the global random numbers."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Iterator
from types import ModuleType

import torch

from episodes.errors import UserError
from episodes.seeds import derive

RECIPE = (
    "pip install 'cython<3' 'setuptools<80' wheel && CYTHON_FORCE_REGEN=1 pip install --use-pep517 "
    "--no-build-isolation --no-deps --config-settings=--global-option=build_ext learn2learn==0.2.0 && "
    "pip install requests gym tqdm scipy"
)
TASKS = 5  # what the random stream is for, beside the purposes in `episodes.seeds`


def import_learn2learn() -> ModuleType:
    """Import learn2learn without the noise of what it imports.

    Raises UserError with the recipe to install it, which needs a C compiler, where it or a part of it is missing.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import learn2learn
    except ImportError as error:
        raise UserError(
            f"this needs learn2learn, which cannot be imported here ({error}); install it by: {RECIPE}"
        ) from error
    return learn2learn


@contextlib.contextmanager
def own_random(*seed: int) -> Iterator[None]:
    """Seed the global random numbers of Python and torch for a while: other libraries draw from nothing else."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(derive(TASKS, *seed))
            torch.manual_seed(derive(TASKS, *seed))
            yield
    finally:
        random.setstate(state)
