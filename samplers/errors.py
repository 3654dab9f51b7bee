"""Error messages that name the value, what is allowed, and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from numbers import Real
from typing import TypeVar

T = TypeVar("T")


def choose(kind: str, name: str, options: Mapping[str, T]) -> T:
    """Return options[name]; a ValueError suggests the nearest name and lists the known ones."""
    if name in options:
        return options[name]
    near = get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(options)}")


def finite(name: str, value: float) -> float:
    """Return the value as a float; a ValueError names it when it is NaN, infinite or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a number") from None
    if not isfinite(number):
        raise ValueError(f"{name} is {number}; it must be finite")
    return number


def flag(name: str, value: object) -> bool:
    """Return the value as a bool; a ValueError names one that is neither true nor false."""
    if isinstance(value, str) or value not in (True, False):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def whole(name: str, value: int, low: int, high: int) -> int:
    """Return the value as an int in [low, high], or raise a ValueError that says so."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
    if not fits or value != int(value):
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return int(value)


def pair(name: str, value: Sequence[float]) -> tuple[float, float]:
    """Return two noise levels as floats; a ValueError names a value that is not low < high."""
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be two noise levels, (low, high)") from None
    if not 0 <= low < high:
        raise ValueError(f"{name} is ({low}, {high}); it needs 0 <= low < high")
    return low, high
