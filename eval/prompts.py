"""Read prompt files and seed lists; say which noise an image starts from."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

MAX_SEED = 2**63 - 1  # torch generators take signed 64-bit seeds


def read_prompts(path: Path, limit: int | None = None) -> list[str]:
    """Read one prompt per line; blank lines and lines that start with # do not count.

    limit   keep the first so many prompts only, at least 1
    Raises ValueError for a missing, empty or non-UTF-8 file, and for a prompt that occurs twice.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} keeps no prompt; give at least 1, or leave --limit out")
    if not path.is_file():
        raise ValueError(f"no prompt file {path}; give a text file with one prompt per line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8 text"
        ) from None
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        prompt = line.strip()
        if not prompt or prompt.startswith("#"):
            continue
        if prompt in first_line:
            raise ValueError(
                f"{path} has {prompt!r} on lines {first_line[prompt]} and {number}; "
                "prompts must differ, because scores are paired by prompt: delete one"
            )
        first_line[prompt] = number
    if not first_line:
        raise ValueError(f"{path} holds no prompt; write one per line (# starts a comment)")
    return list(first_line)[:limit]


def parse_seeds(text: str) -> list[int]:
    """Read seeds such as `0-4`, `0,3,7` or `0-4,10`, in the given order.

    Raises ValueError for anything else, for a range that runs backwards and for a repeated seed.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match:
            raise ValueError(f"seeds {text!r}: cannot read {part!r}; write 0-4 or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(
                f"seeds {text!r}: the range {part.strip()} runs backwards; write {last}-{first}"
            )
        if last > MAX_SEED:
            raise ValueError(f"seed {last} is too large; the largest is {MAX_SEED}")
        if last - first >= 1_000_000:
            raise ValueError(f"seeds {text!r}: more than a million seeds; give a shorter range")
        seeds += range(first, last + 1)
    repeated = next((seed for seed, times in Counter(seeds).items() if times > 1), None)
    if repeated is not None:
        raise ValueError(f"seeds {text!r}: {repeated} occurs twice; each seed may occur once")
    return seeds


def noise_seed(prompt: str, seed: int) -> int:
    """Return what seeds the noise of one image: the same for every arm, its own for every prompt.

    If the run's seed alone decided, all prompts of a seed would start from one latent, and an
    interval over prompts would not see how much that one draw matters (docs/evaluation.md).
    """
    from samplers.noise import seed_of  # here: it imports torch, which would slow every --help

    return seed_of(f"{seed}\n{prompt}".encode())
