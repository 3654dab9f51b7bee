"""Share a run between the processes of one launch: several GPUs, several machines, one folder.

    accelerate launch --num_processes 8 -m eval run …        # or torchrun, or RANK and WORLD_SIZE

Process `rank` of `world` draws every world-th batch of a list that follows from the configuration
alone. The processes never talk to each other (no process group, no barrier, no collective): what
is done is what lies in the folder, so any of them may die, and any later run completes its part.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from eval.progress import Progress

T = TypeVar("T")
# What accelerate, torchrun and Slurm give to all processes of one launch alike.
_SHARED = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "WORLD_SIZE")


@dataclass(frozen=True)
class Shard:
    """One process's part: `rank` of `world`, the `local`-th on its machine.

    launch  the same text in all processes of a launch, and in no other's
    """

    rank: int
    world: int
    local: int
    launch: str

    def slice(self, jobs: Sequence[T]) -> list[T]:
        """Return this process's jobs; over all ranks, every job occurs exactly once."""
        return list(jobs[self.rank :: self.world])

    def others(self, jobs: Sequence[T]) -> list[T]:
        """Return the jobs of all other processes."""
        return [job for i, job in enumerate(jobs) if i % self.world != self.rank]


def shard(environ: Mapping[str, str] = os.environ) -> Shard:
    """Read RANK, WORLD_SIZE and LOCAL_RANK; without them a process is alone.

    Raises ValueError when they do not fit together.
    """
    found = {name: environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    try:
        rank, world = int(found["RANK"] or 0), int(found["WORLD_SIZE"] or 1)
        local = int(found["LOCAL_RANK"] or rank)
    except ValueError:
        rank, world, local = 0, 0, 0
    if not (0 <= rank < world and local >= 0) or (world > 1 and found["RANK"] is None):
        given = ", ".join(f"{name}={value}" for name, value in found.items() if value is not None)
        raise ValueError(
            f"cannot read this process's place from {given}: RANK must be a whole number from 0 to "
            "WORLD_SIZE - 1; start with `accelerate launch`, or unset them to run one process"
        )
    if world == 1:
        return Shard(0, 1, 0, uuid.uuid4().hex)
    parts = [environ.get(name, "") for name in _SHARED]
    if environ.get("LOCAL_WORLD_SIZE") == environ["WORLD_SIZE"]:
        # One machine: its default address and port are those of every other one's launch.
        parts += [socket.gethostname(), str(os.getppid())]
    return Shard(rank, world, local, "/".join(parts))


def wait(
    jobs: Sequence[T], complete: Callable[[T], bool], patience: float, poll: float = 2.0
) -> list[T]:
    """Watch the folder until every job is complete; return those that are not.

    patience  seconds without any job becoming complete after which the others count as dead
    poll      seconds between two looks

    Only files are looked at: a dead process cannot hold this one up, and one on a machine of which
    nothing is known is waited for just the same.
    """
    missing = [job for job in jobs if not complete(job)]
    if not missing:
        return []
    last = time.monotonic()
    with Progress(len(missing), "waiting for the other processes", unit="batches") as progress:
        while missing and time.monotonic() - last < patience:
            time.sleep(min(poll, patience))
            left = [job for job in missing if not complete(job)]
            if len(left) < len(missing):
                progress.advance(len(missing) - len(left))
                missing, last = left, time.monotonic()
    return missing
