"""What scripts share at the command line: input that cannot be used ends in one line, code 2."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Say what was wrong in one line and exit with 2, as `python -m eval` does; decorates `main`.

    ValueError and OSError only: what the code itself does wrong keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def read_by(reader: Callable[[str], T]) -> Callable[[str], T]:
    """Return a `type=` for argparse that keeps the reader's own words of refusal."""

    def read(text: str) -> T:
        try:
            return reader(text)
        except ValueError as error:  # argparse would say "invalid … value" in its place
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def natural(text: str) -> int:
    """Read a whole number of at least 1, for `type=`."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def naturals(text: str) -> list[int]:
    """Read whole numbers of at least 1 with commas between them, for `type=`."""
    try:
        return [natural(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be whole numbers of at least 1 with commas, such as 10,20"
        ) from None
