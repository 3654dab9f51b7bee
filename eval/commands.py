"""The parser of the subcommands: one-line errors, `--help` that opens with examples."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn


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
