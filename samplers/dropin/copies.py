"""The copy of `samplers/` that stands beside a checkout's files while shared regions import it."""

from __future__ import annotations

import shutil
from pathlib import Path

from samplers.dropin.checkout import Vault, digest, replace

PACKAGE = Path(__file__).resolve().parents[1]


def package_copies(folder: Path) -> dict[Path, bytes]:
    """Return what a shared region imports: the files of `samplers/`, without these tools."""
    files = [f for f in sorted(PACKAGE.glob("*.py")) if f.stem != "__main__"]
    return {folder / "samplers" / f.name: f.read_bytes() for f in files}


def place_copy(file: Path, data: bytes, vault: Vault) -> bool:
    """Write one of them; return whether it changed. What stood there is kept."""
    before = file.read_bytes() if file.exists() else None
    if before == data:
        return False
    entry = vault.files.setdefault(vault.name(file), {})
    if before is not None and digest(before) != entry.get("installed"):
        entry["original"] = vault.keep(before)
    entry["installed"] = digest(data)
    vault.save()
    file.parent.mkdir(exist_ok=True)
    replace(file, data)
    return True


def remove_copies(folder: Path, vault: Vault) -> list[str]:
    """Take the copies of `samplers/` away again; those that were edited since stay."""
    names = [name for name in vault.files if "/" in name]
    for name in names:
        file, entry = folder / name, vault.files.pop(name)
        if file.exists() and digest(file.read_bytes()) == entry["installed"]:
            if "original" in entry:
                replace(file, (vault.place / entry["original"]).read_bytes())
            else:
                file.unlink()
    vault.save()
    package = folder / "samplers"
    if names and not any(package.glob("*.py")):
        shutil.rmtree(package / "__pycache__", ignore_errors=True)
        if package.is_dir() and not any(package.iterdir()):
            package.rmdir()
    return [f"{package}: {len(names)} files taken away"] if names else []
