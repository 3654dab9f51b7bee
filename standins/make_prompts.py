"""Write the stand-in's prompt files: captions of held-out scenes, balanced over what they name.

    python -m standins.make_prompts   # rewrites prompts/scenes*.txt and standins/reference.txt

The files are functions of split "prompts" of the renderer; they use different scenes and share no
caption. Every block of 20 lines has the same mix, so `--limit 20` is a fair sample of a file.
`reference.txt` names scenes that the same rule chose: their pictures are what FID compares with.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from eval.images import write_atomic
from standins.scenes import HELD_OUT, Scene, parse, relation, sample

FOLDER = Path(__file__).resolve().parents[1] / "prompts"
# A block of 20: (objects, names a pair that training never showed) → lines; 9 + 9 + 2 by objects.
BLOCK = {(1, True): 3, (1, False): 6, (2, True): 2, (2, False): 7, (3, True): 1, (3, False): 1}
POOL = 24  # fitting candidates among which the best balanced one is taken
FILES = {  # lines and first scene index, far beyond the last one of the file before
    "scenes100.txt": (100, 0),
    "scenes_dev40.txt": (40, 1_000_000),
    "scenes1000.txt": (1000, 2_000_000),
    "scenes_dev1000.txt": (1000, 3_000_000),
    "scenes8000.txt": (8000, 4_000_000),
}
REFERENCE = Path(__file__).resolve().parent / "reference.txt"
REFERENCE_SCENES = (5000, 5_000_000)
HEAD = '# objects and index of the scenes in split "prompts" that FID\'s reference shows\n'
Drawn = tuple[int, int]  # objects and index: scenes.sample("prompts", index, count=objects, …)


@dataclass
class Chosen:
    """Captions so far, their scenes, and how often each shape, colour and held-out pair came."""

    captions: list[str] = field(default_factory=list)
    scenes: list[Drawn] = field(default_factory=list)
    named: Counter = field(default_factory=Counter)

    def cost(self, scene: Scene) -> int:
        """Sum of squares that the counts would have; it is least when they are even."""
        trial = self.named + words(scene)
        return sum(n * n for n in trial.values())

    def add(self, scene: Scene, caption: str, drawn: Drawn) -> None:
        self.captions.append(caption)
        self.scenes.append(drawn)
        self.named += words(scene)


def words(scene: Scene) -> Counter:
    """Count a scene's shapes, colours and held-out pairs."""
    pairs = [thing.pair for thing in scene.things]
    return Counter([word for pair in pairs for word in pair] + [p for p in pairs if p in HELD_OUT])


def is_faithful(scene: Scene, caption: str) -> bool:
    """Tell whether a caption reads back as exactly its scene's pairs and a true relation."""
    promise = parse(caption)
    true = relation(*scene.things) if len(scene.things) == 2 else None
    pairs = Counter(thing.pair for thing in scene.things)
    return Counter(promise.pairs) == pairs and promise.relation in (None, true)


def choose(lines: int, start: int, taken: frozenset[str] = frozenset()) -> Chosen:
    """Choose `lines` captions (a multiple of 20) from scenes `start`, `start` + 1, …

    Captions in `taken` are not used; none occurs twice.
    """
    chosen, rng, indices = Chosen(), np.random.default_rng(start), count(start)
    used = set(taken)
    slots = [slot for slot, n in BLOCK.items() for _ in range(n)]
    for _ in range(lines // len(slots)):
        for k in rng.permutation(len(slots)):
            number, held_out = slots[k]
            pool: list[tuple[Scene, str, Drawn]] = []
            while len(pool) < POOL:
                drawn = number, next(indices)
                scene, _, text = sample("prompts", drawn[1], count=number, held_out=None)
                has = any(thing.pair in HELD_OUT for thing in scene.things)
                if has == held_out and text not in used and is_faithful(scene, text):
                    pool.append((scene, text, drawn))
            best = min(pool, key=lambda candidate: chosen.cost(candidate[0]))
            chosen.add(*best)
            used.add(best[1])
    return chosen


def files(count: int = len(FILES)) -> dict[str, list[str]]:
    """Return the lines of the first `count` prompt files by name; none repeats another."""
    chosen: dict[str, list[str]] = {}
    for name, (lines, start) in list(FILES.items())[:count]:
        chosen[name] = choose(lines, start, captions_of(chosen)).captions
    return chosen


def captions_of(chosen: dict[str, list[str]]) -> frozenset[str]:
    return frozenset(caption for captions in chosen.values() for caption in captions)


def reference_text(scenes: list[Drawn]) -> str:
    return HEAD + "".join(f"{objects} {index}\n" for objects, index in scenes)


def reference_scenes(path: Path = REFERENCE) -> list[Drawn]:
    """Read the scenes of FID's reference, in order."""
    lines = path.read_text(encoding="utf-8").removeprefix(HEAD).splitlines()
    return [(int(objects), int(index)) for objects, index in map(str.split, lines)]


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m standins.make_prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    made = files()
    for name, lines in made.items():
        write_atomic(FOLDER / name, ("\n".join(lines) + "\n").encode())
        print(f"{name}: {len(lines)} captions")
    scenes = choose(*REFERENCE_SCENES, captions_of(made)).scenes
    write_atomic(REFERENCE, reference_text(scenes).encode())
    print(f"{REFERENCE.name}: {len(scenes)} scenes")


if __name__ == "__main__":
    main()
