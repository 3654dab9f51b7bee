"""Put our two classes into a CFGpp checkout, and take them out again.

    python -m samplers.dropin path/to/CFGpp                        # show the change
    python -m samplers.dropin path/to/CFGpp --write                # make it; copies samplers/ too
    python -m samplers.dropin path/to/CFGpp --write --inline       # no new file, no new import
    python -m samplers.dropin path/to/CFGpp --write --arm dpm2m    # a baseline in the same place
    python -m samplers.dropin path/to/CFGpp --revert               # byte for byte as before

The path is a checkout or one of its files. Exactly class BaseDDIMCFGpp is replaced, found by
parsing. A class that is neither CFGpp's nor one of ours is left alone without --force.
Exit codes: 0 done, 1 from --check when another text is installed, 2 for input that cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from samplers.dropin.checkout import find_files, read_target
from samplers.dropin.patch import check, diff, revert, write
from samplers.dropin.regions import DEFAULT, region_text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m samplers.dropin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="a CFGpp checkout, or one of its two files")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--diff", action="store_true", help="show the change (default)")
    action.add_argument("--write", action="store_true", help="make it, keeping what stood there")
    action.add_argument("--check", action="store_true", help="say what is installed")
    action.add_argument("--revert", action="store_true", help="restore what stood there before")
    parser.add_argument("--inline", action="store_true", help="one self-contained class per file")
    parser.add_argument("--arm", default=DEFAULT, help=f"any sampler's name (default {DEFAULT})")
    parser.add_argument(
        "--installed", action="store_true", help="import the installed samplers; copy nothing"
    )
    parser.add_argument("--force", action="store_true", help="replace edited text, keeping a copy")
    args = parser.parse_args(argv)
    try:
        if args.write:
            options = {"inline": args.inline, "copy": not args.installed, "force": args.force}
            print(*write(args.path, args.arm, **options), sep="\n")
        elif args.revert:
            print(*revert(args.path, args.force), sep="\n")
        elif args.check:
            found = list(check(args.path, args.arm, args.inline))
            print(*(line for _, line in found), sep="\n")
            return 0 if all(same for same, _ in found) else 1
        else:
            targets = [read_target(file) for file in find_files(args.path)]
            for target in targets:
                print(diff(target, region_text(target.base, args.arm, args.inline)), end="")
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
