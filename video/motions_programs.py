"""How a figure moves: position, turn, size and strength as functions of time, one program a class.

Many come in pairs that are each other played backwards, so a method must know the order of frames to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Path:
    """Course of a figure over time t (T,), from 0 to 1; every field is (T,) or one number.

    x, y: centre, -1..1 to the right and downwards, before the room for the figure is taken off. angle: radians,
    clockwise. wide, high: size along the axes, 1 is the usual one. ink: strength 0..1.
    """

    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    angle: np.ndarray | float = 0.0
    wide: np.ndarray | float = 1.0
    high: np.ndarray | float = 1.0
    ink: np.ndarray | float = 1.0

    def table(self, count: int) -> np.ndarray:
        """Return (T, 6): x, y, angle, wide, high, ink."""
        return np.stack([np.broadcast_to(v, count) for v in vars(self).values()], 1).astype(np.float64)


Program = Callable[[np.ndarray], Path]


@dataclass(frozen=True)
class Motion:
    """A program and the part of a class split to which it belongs, which is that of its counterpart too."""

    program: Program
    part: str
    backwards: bool = field(default=False)

    def course(self, t: np.ndarray) -> Path:
        """Return the course at times t (T,)."""
        return self.program(1 - t if self.backwards else t)


def _wave(t: np.ndarray, turns: float) -> np.ndarray:
    return np.sin(2 * np.pi * turns * t)


def _to_and_fro(t: np.ndarray, hops: int) -> np.ndarray:
    """Arcs like those of a ball: 0 at the ground, 1 at the top."""
    phase = (t * hops) % 1
    return 4 * phase * (1 - phase)


def _edges(t: np.ndarray, teeth: int) -> np.ndarray:
    """The teeth of a saw that is as steep on both sides, from 0.8 down to -0.8 and up again."""
    return 0.8 * (4 * np.abs((t * teeth) % 1 - 0.5) - 1)


def _circle(t: np.ndarray, radius: np.ndarray | float = 0.8) -> Path:
    return Path(x=radius * np.cos(2 * np.pi * t), y=radius * np.sin(2 * np.pi * t))


def _pair(name: str, other: str, part: str, program: Program) -> dict[str, Motion]:
    return {name: Motion(program, part), other: Motion(program, part, backwards=True)}


MOTIONS: dict[str, Motion] = {
    **_pair("move_right", "move_left", "test", lambda t: Path(x=2 * t - 1)),
    **_pair("move_down", "move_up", "train", lambda t: Path(y=2 * t - 1)),
    **_pair("slide_down_right", "slide_up_left", "train", lambda t: Path(x=2 * t - 1, y=2 * t - 1)),
    **_pair("turn_clockwise", "turn_anticlockwise", "train", lambda t: Path(angle=1.5 * np.pi * t)),
    **_pair("grow", "shrink", "train", lambda t: Path(wide=0.5 + 1.3 * t, high=0.5 + 1.3 * t)),
    **_pair("appear", "vanish", "train", lambda t: Path(ink=t)),
    **_pair("widen", "narrow", "train", lambda t: Path(wide=0.3 + 1.4 * t)),
    **_pair("zigzag_right", "zigzag_left", "train", lambda t: Path(x=2 * t - 1, y=_edges(t, 2))),
    "jump": Motion(lambda t: Path(y=0.8 - 1.6 * _to_and_fro(t, 1)), "train"),
    "dip": Motion(lambda t: Path(y=1.6 * _to_and_fro(t, 1) - 0.8), "train"),
    "swing": Motion(lambda t: Path(angle=0.9 * _wave(t, 2), x=0.3 * _wave(t, 2)), "train"),
    "shake": Motion(lambda t: Path(x=0.45 * _wave(t, 5)), "train"),
    **_pair("spiral_out", "spiral_in", "val", lambda t: _circle(1.5 * t, t)),
    **_pair("stretch", "squash", "val", lambda t: Path(high=0.3 + 1.4 * t)),
    **_pair(
        "come_turning", "leave_turning", "val", lambda t: Path(wide=0.4 + 1.4 * t, high=0.4 + 1.4 * t, angle=np.pi * t)
    ),
    "pulse": Motion(lambda t: Path(wide=1 + 0.6 * _wave(t, 2), high=1 + 0.6 * _wave(t, 2)), "val"),
    "blink": Motion(lambda t: Path(ink=(np.floor(6 * t) % 2 == 0).astype(float)), "val"),
    **_pair("orbit_clockwise", "orbit_anticlockwise", "test", _circle),
    "speed_up": Motion(lambda t: Path(y=2 * t**3 - 1), "test"),
    "slow_down": Motion(lambda t: Path(y=1 - 2 * (1 - t) ** 3), "test"),
    **_pair("hop_right", "hop_left", "test", lambda t: Path(x=2 * t - 1, y=0.8 - 1.4 * _to_and_fro(t, 3))),
    "bounce": Motion(lambda t: Path(y=0.8 - 1.6 * _to_and_fro(t, 2) * (1 - 0.5 * t)), "test"),
    "figure_eight": Motion(lambda t: Path(x=0.9 * _wave(t, 1), y=0.7 * _wave(t, 2)), "test"),
}
