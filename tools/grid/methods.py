"""Methods as a grid names them: those of the table, and for videos METHOD+PART, which says what of it is tuned."""

from __future__ import annotations

from backbones.errors import UserError, nearest
from fewshot.methods import METHODS, Method

# What of a video method is tuned on the target's base classes -> how its row in a table says so.
TUNED = {"frozen": "frozen", "head": "head tuned", "adapters": "adapters tuned", "all": "fine-tuned"}


def split_method(name: str) -> tuple[str, str | None]:
    """Return the method of the table and what of it is tuned, None where the name does not say: "tamt+all"."""
    method, plus, part = name.partition("+")
    if plus and part not in TUNED:
        raise UserError(f"'{name}': a method may be followed by +{', +'.join(TUNED)}, not by '+{part}'")
    return method, part or None


def tuned_part(name: str) -> str:
    """Return what of a video method is tuned, a key of `TUNED`.

    Where the name does not say: TAMT's adapters, the weights of heads and BDC pools that learn, else nothing.
    """
    method, part = split_method(name)
    entry = method_of(method)
    if part is None:
        learns = entry.sized or (entry.pool == "bdc" and entry.episodic)
        return "adapters" if entry.pool == "tamt" else "head" if learns else "frozen"
    if part == "adapters" and entry.pool != "tamt":
        raise UserError(f"'{name}': only TAMT has adapters; tune +head or +all of {entry.title}")
    if part != "frozen" and not entry.episodic:
        raise UserError(f"'{name}': {entry.title} does not learn on episodes, so it can't be tuned: leave +{part} out")
    if part == "frozen" and (entry.pool == "tamt" or entry.sized):
        raise UserError(f"'{name}': {entry.title} would score by random weights: leave +frozen out")
    return part


def method_of(name: str) -> Method:
    """Return the entry of the table; raises UserError with the nearest name."""
    method = split_method(name)[0]
    if method in METHODS:
        return METHODS[method]
    from tools.video.methods import find_video_method

    return find_video_method(method)


def title_of(name: str) -> str:
    """Return how tables name a method."""
    part = split_method(name)[1]
    return method_of(name).title + (f", {TUNED[part]}" if part else "")


def known(name: str, names: list[str]) -> None:
    """Raise UserError for a method that is not compared. names: of those that are."""
    if name not in names:
        raise UserError(f"'{name}' is not compared{nearest(name, names)}")
