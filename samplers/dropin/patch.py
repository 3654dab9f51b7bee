"""Install regions in a checkout, and restore what stood there; nothing is lost on the way."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from samplers.dropin.checkout import (
    Target,
    Vault,
    digest,
    find_files,
    read_target,
    replace,
    require_writable,
    set_aside,
)
from samplers.dropin.copies import package_copies, place_copy, remove_copies
from samplers.dropin.regions import DEFAULT, OURS, fingerprint, name_of, region_text

# The class in all published versions of CFGpp's two files, as `regions.fingerprint` sees it.
PUBLISHED = {
    "e9e147af7e6759dc",
    "1f6cb28c81050bd8",
    "b7385b991ac4f985",
    "7a2434bc9d2b63db",
    "9df88531e3c1905f",
}


def diff(target: Target, text: str) -> str:
    """Return the change as a unified diff that `git apply` and `patch -p1` take."""
    name = target.path.name
    lines = [data.decode().splitlines(keepends=True) for data in (target.data,)]
    lines.append(target.with_region(text).decode().splitlines(keepends=True))
    out = difflib.unified_diff(*lines, f"a/{name}", f"b/{name}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in out
    )


def status(target: Target, vault: Vault) -> str | None:
    """Say what a region is, "CFGpp's" or which of ours; None for anything else."""
    own = fingerprint(target.region)
    if own[:16] in PUBLISHED:
        return "CFGpp's"
    entry = vault.files.get(target.path.name, {})
    if entry.get("region") == own:
        return entry["what"]
    return name_of(target.base, target.region)


def write(
    path: Path, arm: str = DEFAULT, inline: bool = False, copy: bool = True, force: bool = False
) -> list[str]:
    """Install a sampler in a checkout; return what was done, one line per file.

    copy  put `samplers/` beside the files, for shared regions; else it must be installed
    Everything is checked before anything is written. Raises ValueError or OSError in one line.
    """
    targets = [read_target(file) for file in find_files(path)]
    folder = targets[0].path.parent
    vault = Vault(folder)
    texts = {t: region_text(t.base, arm, inline) for t in targets}
    for target in targets:
        if target.path.parent == OURS:
            raise ValueError(f"{target.path} is this project's own file; give a CFGpp checkout")
        if not force and status(target, vault) is None:
            raise ValueError(
                f"{target.path}, line {target.line}: this class is neither that of a published "
                "CFGpp nor one that this tool wrote (edited by hand?); --force replaces it and "
                "keeps a copy"
            )
    copies = package_copies(folder) if copy and not inline else {}
    if copies and (folder / "samplers").exists() and not (folder / "samplers").is_dir():
        raise ValueError(f"{folder / 'samplers'} is a file; rename it, or pass --inline")
    for file, data in copies.items():
        ours = vault.files.get(vault.name(file), {}).get("installed")
        present = file.read_bytes() if file.exists() else data
        if present != data and digest(present) != ours and not force:
            raise ValueError(
                f"{file} exists and is not ours; rename it, pass --inline, or --force to replace "
                "it and keep a copy"
            )
    require_writable([*(target.path for target in targets), *copies])
    what = f"{arm}, {'inline' if inline else 'shared'}"
    done = [_install(target, texts[target], what, vault) for target in targets]
    changed = [file for file, data in copies.items() if place_copy(file, data, vault)]
    if changed:
        done.append(f"{folder / 'samplers'}: {len(changed)} files")
    return done + _remove_unused(folder, vault)


def _remove_unused(folder: Path, vault: Vault) -> list[str]:
    """Take `samplers/` away where no file of the folder imports it any more."""
    shared = any(entry.get("what", "").endswith("shared") for entry in vault.files.values())
    return [] if shared else remove_copies(folder, vault)


def _install(target: Target, text: str, what: str, vault: Vault) -> str:
    data, name = target.with_region(text), target.path.name
    if data == target.data:
        return f"{target.path}: {what} is installed already"
    former = target.data
    if name in vault.files:
        former = vault.before(target.path)
        if former is None:  # the class was edited since, and --force given
            set_aside(target.path)
            former = vault.original(name)
    vault.files[name] = {
        "original": vault.keep(former),
        "installed": digest(data),
        "region": fingerprint(text),
        "what": what,
    }
    vault.save()  # before the file: a kill in between leaves a record that says so
    replace(target.path, data)
    return f"{target.path}: {what} written at line {target.line}"


def revert(path: Path, force: bool = False) -> list[str]:
    """Restore what stood before the first `write`, byte for byte; return what was done.

    Edits outside the region since then stay. A region that was edited since needs `force`, and the
    file is then kept beside as NAME.replaced.
    """
    files = find_files(path)
    folder = files[0].parent
    vault = Vault(folder)
    files = [file for file in files if file.name in vault.files]
    for file in files:
        if vault.before(file) is None and not force:
            raise ValueError(
                f"{file}: the class was edited after it was written; --force restores what stood "
                f"before and keeps the present file as {file.name}.replaced"
            )
    require_writable(files)
    done = [_restore(file, vault) for file in files]
    done += _remove_unused(folder, vault)
    return done or [f"{path}: nothing was written there, so there is nothing to revert"]


def _restore(file: Path, vault: Vault) -> str:
    before = vault.before(file)
    if before is None:
        set_aside(file)
        before = vault.original(file.name)
    if file.read_bytes() != before:
        replace(file, before)
    del vault.files[file.name]
    vault.save()
    return f"{file}: as before"


def check(path: Path, arm: str = DEFAULT, inline: bool = False) -> Iterator[tuple[bool, str]]:
    """Yield, for every file, whether the region asked for is installed, and what there is."""
    for target in map(read_target, find_files(path)):
        due = region_text(target.base, arm, inline)
        if target.region == due:
            yield True, f"{target.path}: {arm}, {'inline' if inline else 'shared'}"
        else:
            there = status(target, Vault(target.path.parent)) or "neither CFGpp's class nor ours"
            yield False, f"{target.path}, line {target.line}: {there}"
