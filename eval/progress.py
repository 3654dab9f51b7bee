"""Show progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

QUIET_SECONDS = 15.0  # at most one plain line per so many seconds


class Progress:
    """Count `total` items; use as a context manager and call `advance`.

    total   items in all
    done    of them, those that were there before (they do not count towards the speed)
    unit    what is counted, in the plural
    """

    def __init__(self, total: int, label: str, done: int = 0, unit: str = "images"):
        self.total, self.label, self.unit = total, label, unit
        self.done = self._before = done
        self._start = self._spoke = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, unit=unit, file=sys.stderr)

    def advance(self, count: int, note: str = "") -> None:
        """Add `count` finished items; `note` says what is being worked on."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._spoke >= QUIET_SECONDS and self.done < self.total:
            self._spoke = now
            self._say(now, note)

    def say(self, line: str) -> None:
        """Print a line of its own, above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def _say(self, now: float, note: str) -> None:
        speed = (self.done - self._before) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / speed if speed else float("inf")
        time_left = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        tail = f", {time_left} left" if 0 < left < float("inf") else ""
        print(
            f"{self.label}: {self.done}/{self.total} {self.unit}, {speed:.1f}/s{tail}"
            + (f" ({note})" if note else ""),
            file=sys.stderr,
            flush=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.done > self._before:
            self._say(time.monotonic(), "")
