"""Fetch one large file over HTTP: resumed where it stopped, checked before it gets its name."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from eval import hub
from eval.progress import Progress

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # per address, in a row that bring nothing new
PAUSE = 1.0  # seconds before an attempt that follows such a one
MB = 10**6


def fetch(urls: Sequence[str], path: Path, size: int, sha256: str) -> Path:
    """Return `path`, downloaded unless it is there.

    urls    addresses of the same file, tried in turn
    size    its bytes
    sha256  its checksum, 64 hex digits; a file that fails it is deleted
    What is not complete lies in `path`.part, and the next call goes on from there.
    Raises OSError, in one line with the remedy, when it cannot be had.
    """
    if path.is_file() and path.stat().st_size == size:
        return path
    if hub.offline():
        raise OSError(f"{path.name} is not here and HF_HUB_OFFLINE is set; put it at {path}")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    have = _length(part)
    if have > size:
        part.unlink()
        have = 0
    free = shutil.disk_usage(path.parent).free
    if free < size - have:
        raise OSError(
            f"{path.name} needs {(size - have) / MB:.0f} MB and {path.parent} has "
            f"{free / MB:.0f} MB free; make room there"
        )
    with Progress(size // MB, path.name, done=have // MB, unit="MB") as progress:
        _complete(urls, part, size, progress)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise OSError(
            f"{path.name} has the wrong checksum ({found[:12]}…, not {sha256[:12]}…) and was "
            "deleted; run the same command again"
        )
    os.replace(part, path)
    return path


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _complete(urls: Sequence[str], part: Path, size: int, progress: Progress) -> None:
    """Append to `part` until it has `size` bytes; give up after attempts that bring nothing."""
    idle = 0
    while (have := _length(part)) < size:
        time.sleep(PAUSE if idle else 0)
        url = urls[idle % len(urls)]
        try:
            _append(url, part, have, size, progress)
            reason = "the connection was cut"
        except HTTPError as error:  # before its parent, URLError
            reason = f"the server answers {error.code}"
        except URLError as error:
            reason = str(error.reason)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "filename", None):  # our own disk, not the network
                raise
            reason = str(error) or type(error).__name__
        idle = 0 if _length(part) > have else idle + 1
        if idle >= ATTEMPTS * len(urls):
            raise OSError(
                f"downloading {url} stopped at {have / MB:.0f} of {size / MB:.0f} MB ({reason}); "
                "the same command goes on from there"
            )


def _append(url: str, part: Path, have: int, size: int, progress: Progress) -> None:
    """Add to `part` what one answer brings; start over when the server cannot send a range."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=TIMEOUT) as answer:
        ranged = answer.status == 206
        if ranged and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise OSError("the server sent another range than asked for")
        with part.open("ab" if ranged else "wb") as file:
            written = have if ranged else 0
            while written < size and (data := answer.read(min(CHUNK, size - written))):
                file.write(data)
                before, written = written, written + len(data)
                if written > have:  # what comes again does not count again
                    progress.advance(written // MB - max(before, have) // MB)
