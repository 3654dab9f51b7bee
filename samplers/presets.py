"""Presets: the choices of one sampler at one number of evaluations, as data (presets/*.json).

A preset holds noise levels, how each step is taken and the shape of the guidance weight. It holds
no strength: the caller's scale or ω is the mean over the steps, as without a preset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import fsum, log
from pathlib import Path

from samplers.errors import choose, finite, whole
from samplers.guidance import Rate
from samplers.scheduled import Choice, scheduled
from samplers.solvers import Stage

FOLDER = Path(__file__).resolve().parents[1] / "presets"


@dataclass(frozen=True)
class Preset:
    """`steps` from the highest noise level down; the last one arrives at σ = 0.

    about  how it was made: for the reader, never used
    """

    sampler: str
    steps: tuple[Choice, ...]
    about: dict = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"of {len(self.steps)} steps"

    @property
    def levels(self) -> tuple[float, ...]:
        return (*(step.sigma for step in self.steps), 0.0)

    def stages(self, lam: Sequence[float]) -> Iterator[Stage]:
        """The solver: take the steps as chosen."""
        return scheduled(lam, self.steps)

    def rate(self, omega: float) -> Rate:
        """Return ω(σ): `omega` times the weight of the nearest level; its mean is `omega`."""
        mean = fsum(step.weight for step in self.steps) / len(self.steps)
        return lambda sigma: omega / mean * self._nearest(sigma).weight

    def _nearest(self, sigma: float) -> Choice:
        return min(self.steps, key=lambda step: abs(log(step.sigma / sigma)))

    def check_use(self, sampler: str, nfe: int, others: Mapping[str, object]) -> None:
        """Raise ValueError when it is asked for what it does not hold, or for what it holds."""
        if sampler != self.sampler:
            raise ValueError(f"the preset is for {self.sampler!r}, not {sampler!r}; name that one")
        if nfe != len(self.steps):
            raise ValueError(
                f"nfe is {nfe}; the preset is for {len(self.steps)} evaluations: pass "
                f"nfe={len(self.steps)}, or leave the preset out"
            )
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise ValueError(f"{given[0]} is set by the preset; leave {given[0]} or preset out")

    def to_json(self) -> str:
        """Write it for a reader: one line per step, what is at its default left out."""
        default = Choice(0.0)
        steps = [
            json.dumps({k: v for k, v in asdict(step).items() if v != getattr(default, k)})
            for step in self.steps
        ]
        head = json.dumps({"sampler": self.sampler, "nfe": len(self.steps), "about": self.about})
        return f'{head[:-1]}, "steps": [\n  ' + ",\n  ".join(steps) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """Read what `to_json` wrote; ValueError says what is wrong with it."""
        try:
            data = json.loads(text)
            steps = tuple(_choice(i, step) for i, step in enumerate(data["steps"]))
            preset = cls(data["sampler"], steps, data.get("about", {}))
            stated = data.get("nfe", len(steps))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not as Preset.to_json writes it ({error})") from None
        if not steps or stated != len(steps):
            raise ValueError(f"it states nfe {stated} and has {len(steps)} steps")
        if fsum(step.weight for step in steps) <= 0:
            raise ValueError("its guidance weights must have a positive sum")
        if steps[-1].eta or steps[-1].corrector:
            raise ValueError("the last step, to sigma 0, takes no eta and no corrector")
        return preset


def find_preset(name: str | Path | Preset) -> Preset:
    """Read the preset of a name in presets/, or of a file; a preset itself is returned."""
    if isinstance(name, Preset):
        return name
    if not isinstance(name, str | Path):
        raise ValueError(f"preset is {name!r}; give a name in presets/, or a file")
    path = Path(name)
    if not path.is_file():
        known = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
        path = choose("preset", str(name), known)
    try:
        return Preset.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"preset {str(name)!r}: {error}") from None


def _choice(i: int, data: dict) -> Choice:
    unknown = set(data) - {f.name for f in fields(Choice)}
    if unknown:
        raise ValueError(f"step {i} has an unknown {min(unknown)!r}")
    data = dict(data)
    for name in data.keys() - {"corrector", "gains", "order"}:
        data[name] = finite(f"step {i}: {name}", data[name])
    if "order" in data:
        data["order"] = whole(f"step {i}: order", data["order"], 1, 3)
    gains = data.get("gains")
    step = Choice(**{**data, "gains": None if gains is None else tuple(map(float, gains))})
    if step.sigma <= 0 or step.eta < 0 or not 0 <= step.history <= 1:
        raise ValueError(f"step {i}: sigma must be above 0, eta at least 0, history from 0 to 1")
    if step.corrector and (step.eta or gains):
        raise ValueError(f"step {i}: the corrector goes with neither eta nor gains")
    return step
