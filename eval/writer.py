"""Check, encode and write one batch while the next one is drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
ENCODERS = min(4, os.cpu_count() or 1)  # PNG compression lets go of Python's lock


class Writer:
    """One thread that works on one batch at a time; use as a context manager.

    More than one would wait only where writing is slower than drawing, and then it would wait just
    as long, with more to lose when the process dies.
    An error in the work is raised by the next `put`, or at the end. When the drawing fails, what
    was put before is still written.
    """

    def __init__(self) -> None:
        self._line = ThreadPoolExecutor(1, "writer")
        self._encoders = ThreadPoolExecutor(ENCODERS, "encoder")
        self._pending: Future | None = None

    def put(self, work: Callable[[], None]) -> None:
        """Start work, once the work before it is done."""
        self._finish()
        self._pending = self._line.submit(work)

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Do `work` for every item, several at once; return when all are done, or with an error."""
        for future in [self._encoders.submit(work, item) for item in items]:
            future.result()

    def _finish(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._line.shutdown()
        self._encoders.shutdown()
        if error is None:
            self._finish()
