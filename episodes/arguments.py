"""The checks of the numbers that heads are built with: a sentence at once, instead of a traceback after long work.

Each returns the value and raises ValueError, which `create_head` turns into bad input that names the method.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeVar

T = TypeVar("T")


def whole(name: str, value: T, least: int = 0, optional: bool = False) -> T:
    """Return a whole number of at least `least`; optional: or None."""
    if optional and value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}{_none(optional)}, not {value!r}")
    return value


def at_least(name: str, value: T, least: float = 0, optional: bool = False) -> T:
    """Return a finite number of at least `least`; optional: or None."""
    if optional and value is None:
        return value
    if not _finite(value) or value < least:
        raise ValueError(f"{name} must be a number of at least {least:g}{_none(optional)}, not {value!r}")
    return value


def positive(name: str, value: T) -> T:
    """Return a finite number above 0."""
    if not _finite(value) or not value > 0:
        raise ValueError(f"{name} must be a number above 0, not {value!r}")
    return value


def flag(name: str, value: T) -> T:
    """Return True or False; text, of which even 'no' would count as yes, is refused."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    return value


def _finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _none(optional: bool) -> str:
    return " (or null)" if optional else ""
