"""What command lines share: one-line errors, `--help` that opens with examples, readers."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    text: str,
    examples: str,
    action: Callable[[argparse.Namespace], None],
    parents: Sequence[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    """Add a subcommand that runs `action` on its arguments; return its parser."""
    command = commands.add_parser(
        name,
        help=text,
        usage=examples,
        description=f"{text[0].upper()}{text[1:]}.",
        parents=list(parents),
    )
    command.set_defaults(action=action)
    return command


def add_place(command: argparse.ArgumentParser) -> None:
    """Add where and how precisely the networks run."""
    command.add_argument("--device", help="default: cuda, else mps, else cpu")
    command.add_argument("--dtype", help="float32, float16 or bfloat16 (default by device)")


def in_one_line(error: ValueError | OSError) -> str:
    """Return what an error says on one line; the system's own errors with what may help."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return (
            f"{error.filename}: {error.strerror.lower()}; give a place that can be read and written"
        )
    return " ".join(str(error).split())


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Say what was wrong in one line and exit with 2, as `python -m eval` does; decorates `main`.

    ValueError and OSError only: what the code itself does wrong keeps its traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
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
