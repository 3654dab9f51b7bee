"""Render captioned 64×64 scenes: the domain that the stand-in models are trained on.

A scene is one to three flat shapes on a muted background. It is drawn from signed distances with
anti-aliasing, described by a small grammar with synonyms and varying word order, and `parse` reads
a caption back into what it promises, so that a picture can be checked against plain prompt text.

Everything is a function of (split, index): scene 17 of split "train" is the same on every machine,
no data set exists, and the splits never share a random stream.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

SIZE = 64  # pixels, square
SHAPES = ("circle", "square", "triangle", "cross", "ring", "crescent", "star", "diamond")
COLOURS = {
    "red": (215, 40, 40),
    "orange": (245, 135, 25),
    "yellow": (245, 225, 50),
    "green": (35, 155, 60),
    "cyan": (70, 215, 225),
    "blue": (40, 65, 210),
    "purple": (125, 45, 165),
    "pink": (250, 145, 195),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
}
RADII = {"small": 10.0, "medium": 14.0, "large": 19.0}  # pixels
BACKGROUNDS = {
    "grey": (128, 128, 128),
    "tan": (188, 163, 124),
    "slate": (88, 108, 135),
    "olive": (114, 120, 72),
    "mauve": (150, 108, 130),
}
KINDS = ("plain", "gradient", "horizon", "checks")
SPLITS = {"train": 0, "val": 1, "test": 2, "reference": 3, "prompts": 4}

# Never drawn for training; every shape and every colour is still seen in other pairs.
HELD_OUT = frozenset(
    {
        ("circle", "purple"),
        ("square", "cyan"),
        ("triangle", "orange"),
        ("cross", "pink"),
        ("ring", "green"),
        ("crescent", "red"),
        ("star", "blue"),
        ("diamond", "yellow"),
    }
)


@dataclass(frozen=True)
class Thing:
    """One object: `x`, `y` are its centre in pixels from the top left."""

    shape: str
    colour: str
    size: str
    striped: bool
    x: float
    y: float

    @property
    def pair(self) -> tuple[str, str]:
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    kind: str  # of background, one of KINDS
    ground: str  # its colour, one of BACKGROUNDS
    things: tuple[Thing, ...]


# --- drawing -------------------------------------------------------------------------------------

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
Corner = tuple[int, int]  # (top, left) pixels cut off, as in SDXL's crop coordinates


def _star(u, v, r):
    """Five points up, inner radius 0.42 of the outer, by folding the plane onto half a point."""
    radius, angle = np.hypot(u, v), np.arctan2(u, -v)
    angle = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    px, py = radius * np.sin(angle), radius * np.cos(angle)
    inner = 0.42 * r
    ix, iy = inner * np.sin(np.pi / 5), inner * np.cos(np.pi / 5)
    ex, ey = ix, iy - r  # edge from the tip (0, r) to the notch (ix, iy)
    return (ex * (py - r) - ey * px) / np.hypot(ex, ey)


DISTANCE = {  # signed distance in pixels, negative inside; u right, v down, r the nominal radius
    "circle": lambda u, v, r: np.hypot(u, v) - r,
    "square": lambda u, v, r: np.maximum(abs(u), abs(v)) - 0.88 * r,
    "triangle": lambda u, v, r: np.maximum(
        v - 0.85 * r, 0.866 * abs(u) - 0.5 * (v - 0.23 * r) - 0.62 * r
    ),
    "cross": lambda u, v, r: np.minimum(
        np.maximum(abs(u) - 1.05 * r, abs(v) - 0.36 * r),
        np.maximum(abs(u) - 0.36 * r, abs(v) - 1.05 * r),
    ),
    "ring": lambda u, v, r: abs(np.hypot(u, v) - 0.78 * r) - 0.24 * r,
    "crescent": lambda u, v, r: np.maximum(
        np.hypot(u, v) - 1.08 * r, 0.85 * r - np.hypot(u - 0.72 * r, v)
    ),
    "star": lambda u, v, r: _star(u, v, 1.25 * r),
    "diamond": lambda u, v, r: (abs(u) * 1.15 + abs(v) * 0.62 - 0.62 * 1.15 * r) / 1.306,
}


def _backdrop(scene: Scene, rng: np.random.Generator, crop: Corner) -> np.ndarray:
    y, x = _Y + crop[0], _X + crop[1]
    colour = np.array(BACKGROUNDS[scene.ground], np.float32) + rng.uniform(-6, 6, 3).astype("f")
    if scene.kind == "gradient":
        shade = 1.22 - 0.5 * y / (SIZE - 1)
    elif scene.kind == "horizon":
        below = np.clip(y - rng.uniform(30, 46) + 0.5, 0, 1)[..., None]
        return (1 - below) * (0.55 * colour + 0.45 * 235) + below * 0.8 * colour
    elif scene.kind == "checks":
        shade = np.where((x // 16 + y // 16) % 2 == 0, 0.86, 1.1)
    else:
        shade = np.ones_like(y)
    return shade[..., None] * colour


def render(scene: Scene, rng: np.random.Generator, crop: Corner = (0, 0)) -> np.ndarray:
    """Draw a scene as uint8 (64, 64, 3); `rng` jitters colours by a few levels.

    With `crop` the frame lies that far down and right of the scene's own, on the same ground.
    """
    image = _backdrop(scene, rng, crop)
    for thing in scene.things:
        u, v = _X + crop[1] - thing.x, _Y + crop[0] - thing.y
        r = RADII[thing.size]
        cover = np.clip(0.5 - DISTANCE[thing.shape](u, v, r), 0, 1)[..., None]
        paint = np.array(COLOURS[thing.colour], np.float32) + rng.uniform(-7, 7, 3).astype("f")
        if thing.striped:  # period 0.72 r, 7 to 14 pixels: coarse enough for the 8×8 latent
            band = np.clip(0.5 + 3 * np.sin(2 * np.pi * v / (0.72 * r)), 0, 1)[..., None]
            paint = paint + band * 0.55 * (128 - paint)
        image = (1 - cover) * image + cover * paint
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


# --- drawing lots --------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, options):
    return options[rng.integers(len(options))]


def _thing(rng: np.random.Generator, sizes, held_out: bool | None) -> Thing:
    """Draw one object; `held_out` None allows any pair, False avoids and True demands HELD_OUT."""
    while True:
        shape, colour = _pick(rng, SHAPES), _pick(rng, tuple(COLOURS))
        if held_out is None or ((shape, colour) in HELD_OUT) == held_out:
            break
    size = _pick(rng, sizes)
    striped = bool(rng.random() < 0.2) and size != "small"  # finer stripes do not survive the VAE
    return Thing(shape, colour, size, striped, 0.0, 0.0)


def _place(rng: np.random.Generator, things: list[Thing]) -> tuple[Thing, ...] | None:
    """Put objects inside the frame, apart from each other; None when the draw does not fit."""
    placed: list[Thing] = []
    for thing in things:
        r = 1.1 * RADII[thing.size]
        for _ in range(30):
            x, y = rng.uniform(r + 1, SIZE - r - 2, 2)
            if all(np.hypot(x - p.x, y - p.y) > r + 1.1 * RADII[p.size] + 2 for p in placed):
                placed.append(replace(thing, x=float(x), y=float(y)))
                break
        else:
            return None
    return tuple(placed)


def random_scene(
    rng: np.random.Generator, count: int | None = None, held_out: bool | None = False
) -> Scene:
    """Draw a scene of `count` objects (by default 1, 2 or 3 with odds 50 : 42 : 8)."""
    count = count or int(rng.choice([1, 2, 3], p=[0.50, 0.42, 0.08]))
    sizes = {1: ("small", "medium", "medium", "large"), 2: ("small", "medium"), 3: ("small",)}
    kind, ground = _pick(rng, KINDS), _pick(rng, tuple(BACKGROUNDS))
    while True:
        things = [_thing(rng, sizes[count], held_out) for _ in range(count)]
        if count > 1 and rng.random() < 0.25:
            things = [things[0]] * count
        if placed := _place(rng, things):
            return Scene(kind, ground, placed)


def sample(
    split: str, index: int, crop: Corner = (0, 0), **options
) -> tuple[Scene, np.ndarray, str]:
    """Return (scene, image, caption) number `index` of a split; see `random_scene` for options.

    `crop` moves the frame (see `render`); scene and caption stay those of the whole picture.
    """
    rng = np.random.default_rng((SPLITS[split], index))
    scene = random_scene(rng, **options)
    return scene, render(scene, rng, crop), caption(scene, rng)


# --- words ---------------------------------------------------------------------------------------

WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "moon"),
    "diamond": ("diamond", "rhombus"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "grey": ("grey", "gray"),
}
_PLURALS = {"cross": "crosses", "plus": "pluses", "box": "boxes", "rhombus": "rhombuses"}
_NUMBERS = {2: "two", 3: "three"}
_RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_GROUNDS = {
    "plain": ("on a {} background", "on plain {}", "against a {} background"),
    "gradient": ("on a {} gradient", "on a shaded {} background"),
    "horizon": ("in front of a {} horizon", "with a {} horizon"),
    "checks": ("on a checkered {} background", "on {} checks"),
}


def _word(rng: np.random.Generator, concept: str) -> str:
    """Name a concept: mostly by its first word, else by a synonym."""
    words = WORDS.get(concept, (concept,))
    return words[0] if rng.random() < 0.6 else _pick(rng, words)


def _noun(rng: np.random.Generator, thing: Thing, count: int = 1) -> str:
    say_size = rng.random() < 0.6
    size, colour, shape = (_word(rng, w) for w in (thing.size, thing.colour, thing.shape))
    order, after = rng.random(), rng.random() < 0.3
    if count > 1:
        shape = _PLURALS.get(shape, shape + "s")
    size_word = size if say_size and thing.size != "medium" else ""
    stripes = "striped" if thing.striped and not after else ""
    tail = "with stripes" if thing.striped and after else ""
    if order < 0.75:
        words = [size_word, stripes, colour, shape, tail]
    elif order < 0.9:
        words = [colour, size_word, stripes, shape, tail]
    else:
        words = [size_word, stripes, shape, "in", colour, tail]
    phrase = " ".join(w for w in words if w)
    if count > 1:
        return f"{_NUMBERS[count]} {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def relation(first: Thing, second: Thing) -> str:
    """Say where `first` is, seen from `second`, along the axis on which they differ more."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _where(thing: Thing) -> str:
    column = "left" if thing.x < 26 else "right" if thing.x > 37 else ""
    row = "top" if thing.y < 26 else "bottom" if thing.y > 37 else ""
    if column and row:
        return f"in the {row} {column} corner"
    return f"on the {column}" if column else f"at the {row}" if row else "in the middle"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in one English sentence of at most 24 words; everything said is true."""
    things = scene.things
    identical = len(things) > 1 and len({replace(t, x=0.0, y=0.0) for t in things}) == 1
    if identical:
        text = _noun(rng, things[0], len(things))
    elif len(things) == 2:
        first, second = _noun(rng, things[0]), _noun(rng, things[1])
        if rng.random() < 0.7:
            text = f"{first} {_pick(rng, _RELATIONS[relation(*things)])} {second}"
        else:
            text = f"{first} and {second}"
    elif len(things) == 3:
        text = "{}, {} and {}".format(*(_noun(rng, t) for t in things))
    else:
        text = _noun(rng, things[0])
        if rng.random() < 0.45:
            text += " " + _where(things[0])
    if rng.random() < 0.75:
        ground = _pick(rng, _GROUNDS[scene.kind]).format(_word(rng, scene.ground))
        ground = ground.replace("a olive", "an olive")
        if ground[:2] == "on" or rng.random() < 0.8 or identical:
            text += " " + ground
        else:
            text = f"{ground}, {text}"
    if rng.random() < 0.15:
        text = _pick(rng, ("a picture of ", "a drawing of ", "there is ")) + text
    return text


@dataclass(frozen=True)
class Promise:
    """What a caption says: (shape, colour) pairs, repeated as counted, and one relation at most."""

    pairs: tuple[tuple[str, str], ...]
    relation: str | None = None  # of the first named object to the second


_CONCEPT = {w: c for c, words in WORDS.items() for w in words}
_SINGULAR = {_PLURALS.get(w, w + "s"): w for s in SHAPES for w in WORDS.get(s, (s,))}
_COUNT = {word: n for n, word in _NUMBERS.items()}
_RELATION_PATTERN = re.compile(
    r"\b(?:(?P<left>left of)|(?P<right>right of)|(?P<above>above|over)|(?P<below>below|under))\b"
)


def parse(text: str) -> Promise:
    """Read a caption back into what it promises about objects.

    Raises ValueError for text that names no shape with a colour (not the stand-in's language).
    """
    pairs: list[tuple[str, str]] = []
    shape = colour = None
    count = 1
    for word in re.findall(r"[a-z]+", text.lower()):
        singular = _SINGULAR.get(word, word)
        concept = _CONCEPT.get(singular, singular)
        if word in ("a", "an", "and") or word in _COUNT:  # a new noun phrase begins
            shape = colour = None
            count = _COUNT.get(word, 1)
        elif concept in COLOURS:
            colour = concept
        elif concept in SHAPES:
            shape = concept
        if shape and colour:
            pairs += [(shape, colour)] * count
            shape = colour = None
    if not pairs:
        raise ValueError(
            f"no coloured shape in {text!r}; the stand-in knows shapes {', '.join(SHAPES)} "
            f"and colours {', '.join(COLOURS)}"
        )
    found = _RELATION_PATTERN.search(text.lower()) if len(pairs) == 2 else None
    return Promise(tuple(pairs), found.lastgroup if found else None)


def keeps(promise: Promise, seen: list[tuple[str, str, float, float]]) -> dict[str, bool]:
    """Compare a promise with objects seen as (shape, colour, x, y).

    Returns which of `colours`, `shapes`, `pairs` (each as a multiset of exactly the promised
    objects) and `relation` (True when none is promised) hold; `all` is pairs and relation.
    """
    verdict = {
        "shapes": Counter(s for s, _ in promise.pairs) == Counter(s for s, *_ in seen),
        "colours": Counter(c for _, c in promise.pairs) == Counter(c for _, c, *_ in seen),
        "pairs": Counter(promise.pairs) == Counter((s, c) for s, c, *_ in seen),
    }
    verdict["relation"] = promise.relation is None
    if promise.relation and verdict["pairs"]:
        spots = [[o for o in seen if o[:2] == pair] for pair in promise.pairs]
        a, b = spots[0][0], spots[1][-1]
        dx, dy = a[2] - b[2], a[3] - b[3]
        verdict["relation"] = {"left": dx < 0, "right": dx > 0, "above": dy < 0, "below": dy > 0}[
            promise.relation
        ]
    verdict["all"] = verdict["pairs"] and verdict["relation"]
    return verdict
