"""The one exception that bad input raises."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Bad input: the message is one sentence that says what is wrong, where, and how to mend it.

    Library callers can catch it as a `ValueError`; the scripts in `tools/` print it without a traceback, exit code 2.
    """


class Elsewhere(UserError):
    """What another process of the same run has met and tells the user: this process ends without a word."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known names closest to `name`, or the list of known names.

    Up to three are named: the ones that contain `name`, else the ones that are about as close as the closest.
    """
    known = sorted(known)
    word = name.casefold()
    alike = {other: difflib.SequenceMatcher(None, word, other.casefold()).ratio() for other in known}
    close = [other for other in known if len(word) > 2 and word in other.casefold()]
    if not close:
        least = max(0.6, max(alike.values(), default=0) - 0.05)
        close = [other for other in known if alike[other] >= least]
    if not close:
        return f"; known: {', '.join(known)}"
    *most, last = (f"'{other}'" for other in sorted(close, key=lambda other: -alike[other])[:3])
    return f"; did you mean {', '.join(most)}{' or ' if most else ''}{last}?"


def unknown_option(builder: Callable, options: Iterable[str]) -> str:
    """Say which of the options a builder does not know, and what was meant; empty if it knows them all.

    builder: a class, or a function that names the class it returns: what it hands on (**options), that class takes.
    """
    parameters = list(inspect.signature(builder).parameters.values())
    if not inspect.isclass(builder) and any(p.kind is p.VAR_KEYWORD for p in parameters):
        parameters += inspect.signature(typing.get_type_hints(builder)["return"]).parameters.values()
    known = {p.name for p in parameters if p.default is not p.empty}  # the others are the builder's own business
    unknown = [option for option in options if option not in known]
    return f"it has no option '{unknown[0]}'{nearest(unknown[0], known)}" if unknown else ""
