"""Make captions that are wrong about a picture in exactly one attribute.

Each hard negative changes one word of a true caption (and the article before it): a colour, a
shape, a size, a place or relation, a number, or the background's colour. All else stays, so only a
reader who looks at that attribute can tell the two apart.
"""

from __future__ import annotations

import re

import numpy as np

from standins import scenes
from standins.scenes import BACKGROUNDS, COLOURS, SHAPES, WORDS

KINDS = ("colour", "shape", "size", "place", "count", "background")
_OPPOSITES = [  # (kind, word, the word that contradicts it)
    ("place", "left", "right"),
    ("place", "right", "left"),
    ("place", "top", "bottom"),
    ("place", "bottom", "top"),
    ("place", "above", "below"),
    ("place", "over", "under"),
    ("place", "below", "above"),
    ("place", "under", "over"),
    ("count", "two", "three"),
    ("count", "three", "two"),
]


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "x")) else "s")


def _alternatives() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Map each word of the grammar to its kind and the words that contradict it."""
    table: dict[str, tuple[str, tuple[str, ...]]] = {}
    groups = {
        "colour": tuple(COLOURS),
        "background": tuple(BACKGROUNDS),
        "size": ("small", "large"),  # medium is never said, so a missing word contradicts nothing
    }
    for kind, concepts in groups.items():
        for concept in concepts:
            others = tuple(w for c in concepts if c != concept for w in WORDS.get(c, (c,)))
            table |= {word: (kind, others) for word in WORDS.get(concept, (concept,))}
    for shape in SHAPES:
        words = [(c, w) for c in SHAPES for w in WORDS.get(c, (c,))]
        for inflect in (str, _plural):
            others = tuple(inflect(w) for c, w in words if c != shape)
            table |= {inflect(w): ("shape", others) for c, w in words if c == shape}
    return table | {word: (kind, (other,)) for kind, word, other in _OPPOSITES}


_TABLE = _alternatives()


def _articles(text: str) -> str:
    return re.sub(r"\ban? (?=([a-z]))", lambda m: "an " if m[1] in "aeiou" else "a ", text)


def hard_negatives(text: str, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Return `count` (kind, caption) pairs, each wrong in one attribute of the true caption `text`.

    First one of every kind that the caption mentions, in random order, then further colours and
    shapes. All are different. Relations between two things of the same look are left alone: turned
    around, they stay true.
    """
    words = re.findall(r"[a-z]+|,", text)
    pairs = scenes.parse(text).pairs
    alike = len(pairs) == 2 and pairs[0] == pairs[1]
    spots: dict[str, list[int]] = {}
    for position, word in enumerate(words):
        if word in _TABLE and not (alike and _TABLE[word][0] == "place"):
            spots.setdefault(_TABLE[word][0], []).append(position)
    kinds = [str(kind) for kind in rng.permutation(list(spots))]
    found: dict[str, str] = {}
    while len(found) < count:
        kind = kinds.pop() if kinds else ("colour", "shape")[rng.integers(2)]
        position = spots[kind][rng.integers(len(spots[kind]))]
        others = _TABLE[words[position]][1]
        changed = [*words]
        changed[position] = others[rng.integers(len(others))]
        wrong = _articles(" ".join(changed).replace(" ,", ","))
        found.setdefault(wrong, kind)
    return [(kind, wrong) for wrong, kind in found.items()]
