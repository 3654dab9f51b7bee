"""List the requirements of pyproject.toml that this interpreter lacks, one per line.

    python scripts/requirements.py eval dev               # core and the extras `eval` and `dev`
    python scripts/requirements.py eval --write folder    # and write folder/constraints.txt

Exits with 0 when nothing is missing, else 1. The constraints are the project's constraints.txt,
except for somebody's own environment with other versions: there they hold what is good enough as
it is, so that completing it never replaces a torch built for that machine, and pin nothing else.
It runs before anything is installed, so `packaging` may have to be pip's own copy.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing(requirements: list[str]) -> list[str]:
    """Return those requirements that no installed package satisfies."""

    def lacks(text: str) -> bool:
        requirement = Requirement(text)
        found = installed(requirement.name)
        return found is None or not requirement.specifier.contains(found, prereleases=True)

    return [text for text in requirements if lacks(text)]


def constraints(wanted: list[str], exact: list[str]) -> list[str]:
    """Return the lines that pip is to obey when it installs what is missing of `wanted`."""
    absent = missing(wanted)
    names = [Requirement(text).name for text in wanted if text not in absent]
    kept = {name: installed(name) for name in names}
    pins = {canonicalize_name(Requirement(text).name): text for text in exact}
    if all(Requirement(pins[canonicalize_name(n)]).specifier.contains(v) for n, v in kept.items()):
        return exact
    return [f"{name}=={found}" for name, found in kept.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", help="groups of [project.optional-dependencies]")
    parser.add_argument("--write", type=Path, help="folder for constraints.txt")
    args = parser.parse_args()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"]
    if unknown := [extra for extra in args.extras if extra not in groups]:
        parser.error(f"unknown extra {unknown[0]!r}; known: {', '.join(groups)}")
    wanted = project["dependencies"] + [text for extra in args.extras for text in groups[extra]]
    absent = missing(wanted)
    if args.write:
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        exact = [line for line in lines if line and not line.startswith("#")]
        (args.write / "constraints.txt").write_text("\n".join(constraints(wanted, exact)) + "\n")
    print(*absent, sep="\n", end="\n" if absent else "")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
