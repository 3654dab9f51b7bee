"""Keep two independent runs out of one folder.

The lock is the operating system's (`flock`) on FOLDER/run.lock: a process that dies in whatever
way leaves no lock behind. All processes of one launch share it; the file says who they are.

On network file systems this holds where the server keeps locks for all clients: NFS of Linux does
(unless mounted with `nolock` or `local_lock`), Lustre with `-o flock`. Elsewhere two machines do
not see each other; where a file system refuses locks outright, the run says so and goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = "run.lock"
OPENING_SECONDS = 60.0  # that another process of the launch may take to open the folder
SURE_SECONDS = 0.5  # a process that only looks who holds the lock is gone by then
_NONE_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Lock:
    """The lock of a run folder, as a context manager.

    alone  no other process draws into the folder, and none can until `share`; False, too, where
           there are no locks
    notes  what a reader of the run's output should know

    Entering raises ValueError, in one line, while another launch draws into the folder.
    """

    def __init__(self, folder: Path, launch: str):
        self.path, self.alone = folder / FILE, False
        self.notes: list[str] = []
        self._launch = launch

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            self.alone = self._acquire()
        except OSError as error:
            if error.errno not in _NONE_HERE:
                self._file.close()
                raise
            self.alone = False
            self._unlocked(f"this file system has no locks ({error.strerror})")
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            if fcntl and self._try(fcntl.LOCK_EX):  # the last one of the launch
                self._file.truncate(0)
        self._file.close()

    def share(self) -> None:
        """Let the other processes of this launch in; call when the folder is open."""
        if not (self.alone and fcntl):
            return
        # Going from exclusive to shared lets go for a moment: look who holds it afterwards.
        fcntl.flock(self._file, fcntl.LOCK_SH)
        if self._holder().get("launch") != self._launch:
            raise ValueError(self._busy(self._holder()))

    def _acquire(self) -> bool:
        """Take the lock, alone or with this launch's other processes; tell whether alone."""
        if fcntl is None:
            self._unlocked("this system has no file locks")
            return False
        start = time.monotonic()
        while True:
            if self._try(fcntl.LOCK_EX):
                self._announce()
                return True
            seen = self._try(fcntl.LOCK_SH)  # fails while one process is opening the folder
            holder = self._holder()
            if seen and holder.get("launch") == self._launch:
                return False
            if seen:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            if time.monotonic() - start > (SURE_SECONDS if seen else OPENING_SECONDS):
                raise ValueError(self._busy(holder))
            time.sleep(0.05)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holder(self) -> dict:
        self._file.seek(0)
        try:
            holder = json.loads(self._file.read())
        except ValueError:  # empty, or cut off by a full disk
            return {}
        return holder if isinstance(holder, dict) else {}

    def _announce(self) -> None:
        before = self._holder()
        if before:
            self.notes.append(
                f"note: {_who(before)} stopped without finishing; this one goes on from there"
            )
        now = datetime.now().isoformat(" ", "seconds")
        holder = {"launch": self._launch, "host": socket.gethostname(), "pid": os.getpid()}
        self._file.seek(0)
        self._file.truncate(0)
        json.dump(holder | {"started": now}, self._file)
        self._file.flush()

    def _busy(self, holder: dict) -> str:
        return (
            f"{self.path.parent} is in use by {_who(holder)}; wait for it or stop it, "
            "or give another --out"
        )

    def _unlocked(self, why: str) -> None:
        self.notes.append(f"note: {why}: start no second run into {self.path.parent} meanwhile")


def _who(holder: dict) -> str:
    if not holder:
        return "another run"
    return "the run of process {pid} on {host}, started {started}".format_map(
        dict.fromkeys(("pid", "host", "started"), "unknown") | holder
    )
