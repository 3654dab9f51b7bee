"""Files of a CFGpp checkout: find the class, replace it, keep what was there, bring it back.

What is replaced is kept by its hash, in git's own folder of a git checkout and otherwise in
`.samplers-dropin/` beside the file, so that patching leaves no new file in the work tree of git.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samplers.dropin.regions import CLASS, FILES, fingerprint


@dataclass(frozen=True)
class Target:
    """A file of the checkout and where its region lies: data[start:end], from line `line`."""

    path: Path
    data: bytes
    base: str
    start: int
    end: int
    line: int

    @property
    def region(self) -> str:
        return self.data[self.start : self.end].decode().replace("\r\n", "\n")

    def with_region(self, text: str) -> bytes:
        """Return the file with another region, in the line ends that it has."""
        if b"\r\n" in self.data:
            text = text.replace("\n", "\r\n")
        return self.with_bytes(text.encode())

    def with_bytes(self, region: bytes) -> bytes:
        return self.data[: self.start] + region + self.data[self.end :]


def find_files(path: Path) -> list[Path]:
    """Return CFGpp's files in a checkout, or the one file given; ValueError when there are none."""
    if path.is_dir():
        files = [path / name for name in FILES.values() if (path / name).is_file()]
        if not files:
            raise ValueError(
                f"{path}: neither {' nor '.join(FILES.values())} there; give a CFGpp checkout"
            )
        return [file.resolve() for file in files]
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a CFGpp checkout or one of its two files")
    return [path.resolve()]


def read_target(path: Path) -> Target:
    """Find class BaseDDIMCFGpp in a file by parsing it; ValueError, in one line, when it cannot."""
    return _locate(path, path.read_bytes())


def _locate(path: Path, data: bytes) -> Target:
    try:
        data.decode()
        body = ast.parse(data).body
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: syntax error ({error.msg})") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Python in UTF-8: {error}") from None
    classes = [n for n in body if isinstance(n, ast.ClassDef) and n.name == CLASS]
    if len(classes) != 1:
        lines = " and ".join(str(node.lineno) for node in classes)
        there = f"stands there {len(classes)} times, lines {lines}" if classes else "is not there"
        raise ValueError(f"{path}: class {CLASS} {there}; one is needed, at the top level")
    (node,) = classes
    names = [getattr(base, "id", "?") for base in node.bases]
    base = next((name for name in names if name in FILES), None)
    if base is None:
        raise ValueError(
            f"{path}, line {node.lineno}: class {CLASS}({', '.join(names)}) derives from neither "
            f"{' nor '.join(FILES)}"
        )
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = data.splitlines(keepends=True)
    start = sum(map(len, lines[: first - 1]))
    end = start + sum(map(len, lines[first - 1 : node.end_lineno]))
    return Target(path, data, base, start, end, first)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def require_writable(paths: Iterable[Path]) -> None:
    """Raise OSError for a file that is there and read-only, though a rename could replace it."""
    for path in paths:
        if path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
            raise OSError(f"{path} is read-only; nothing was changed (chmod u+w allows it)")


def replace(path: Path, data: bytes) -> None:
    """Write a file atomically, with the permissions that it has."""
    mode = path.stat().st_mode if path.exists() else None
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        if mode is not None:
            temporary.chmod(mode & 0o7777)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Copy a file to NAME.replaced, or to the first free NAME.replaced2, …; return the copy."""
    names = (f"{path.name}.replaced{n or ''}" for n in (0, *range(2, 1000)))
    copy = next(c for c in map(path.with_name, names) if not c.exists())
    replace(copy, path.read_bytes())
    return copy


def _git_folder(root: Path) -> Path | None:
    """Return where git keeps its own files for a work tree; a linked one has a `.git` file."""
    git = root / ".git"
    if git.is_file():
        git = root / git.read_text().removeprefix("gitdir:").strip()
    return git if git.is_dir() else None


def _read_index(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return folder → file → entry; ValueError for a record that is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        entries = [entry for files in found.values() for entry in files.values()]
        whole = all("installed" in entry for entry in entries)
    except (ValueError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is damaged; bring it back, or delete it: what was replaced lies beside it, "
            "each file under its hash"
        )
    return found


class Vault:
    """What was replaced in one folder of a checkout, and a record of what was put there."""

    def __init__(self, folder: Path):
        roots = ((p, _git_folder(p)) for p in (folder, *folder.parents))
        root, git = next(((p, found) for p, found in roots if found), (folder, None))
        self.folder = folder
        self.place = git / "samplers-dropin" if git else folder / ".samplers-dropin"
        self.prefix = folder.relative_to(root).as_posix()
        self._index = self.place / "index.json"
        self._all = _read_index(self._index)
        self.files: dict[str, dict[str, str]] = self._all.setdefault(self.prefix, {})

    def name(self, path: Path) -> str:
        """Return the name of a file in this record."""
        return path.relative_to(self.folder).as_posix()

    def keep(self, data: bytes) -> str:
        """Store bytes under their hash; return it."""
        name = digest(data)
        self.place.mkdir(parents=True, exist_ok=True)
        if not (self.place / name).exists():
            replace(self.place / name, data)
        return name

    def original(self, name: str) -> bytes:
        """Return what stood at `name` before; ValueError when the copy is gone or damaged."""
        entry = self.files[name]
        path = self.place / entry["original"]
        if not path.is_file() or digest(path.read_bytes()) != entry["original"]:
            raise ValueError(
                f"the copy of {name} in {path} is gone or damaged; nothing was changed"
            )
        return path.read_bytes()

    def before(self, path: Path) -> bytes | None:
        """Return what the file at `path` would be had nothing been written there.

        Where the rest of the file was edited since, that stays, and only the region goes back.
        A region that is back already stays, too. None when nothing stood there, or when the region
        itself was edited since.
        """
        entry = self.files[self.name(path)]
        if "original" not in entry:
            return None
        if not path.exists() or digest(path.read_bytes()) == entry["installed"]:
            return self.original(self.name(path))
        try:
            target = read_target(path)
        except ValueError:
            return None
        former = _locate(path, self.original(self.name(path)))
        if target.region == former.region:  # brought back by other means, such as git
            return target.data
        if fingerprint(target.region) != entry.get("region"):
            return None
        return target.with_bytes(former.data[former.start : former.end])

    def save(self) -> None:
        """Write the record; without any entry left, remove it with the copies it speaks of."""
        if not self.files:
            self._all.pop(self.prefix, None)
        if any(self._all.values()):
            replace(self._index, json.dumps(self._all, indent=1, sort_keys=True).encode())
        elif self.place.is_dir():
            for file in self.place.iterdir():
                file.unlink()
            self.place.rmdir()
