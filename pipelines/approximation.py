"""Name approximations: what of the UNet a step may reuse, in a text that labels every result.

    propagate[keys=uniform:2]             encoder features reused between key steps
    propagate[keys=0+1+2+5+9,noise=0.003]
    propagate[keys=auto:8]                keys where measured features change most
    cache[keys=uniform:2,depth=2]         the deep branch reused, the outermost units run
    gate[after=0.6,delta=hold]            from 60 % of the steps on, the conditional row alone
    cache[keys=uniform:2]~gate[after=0.6] both

Sources: Faster Diffusion (Li et al. 2024, arXiv:2312.09608), DeepCache (Ma et al. 2024,
arXiv:2312.00858); the gate is as in T-GATE (arXiv:2404.02747) and Step AG (arXiv:2506.08351).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from samplers.errors import choose, finite, whole

_PART = re.compile(r"(?P<kind>[a-z]+)(?:\[(?P<options>[^\[\]]*)\])?")


@dataclass(frozen=True)
class Keys:
    """Which evaluations run the whole network. `kind` is "uniform", "auto" or "list"."""

    kind: str
    count: int = 0
    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        return (
            "+".join(map(str, self.steps)) if self.kind == "list" else f"{self.kind}:{self.count}"
        )

    def resolve(self, evaluations: int, choose_keys: Callable[[int], list[int]]) -> list[int]:
        """Return the key evaluations, increasing, the first of them 0.

        choose_keys  given how many, returns the best ones by measurement; for "auto"
        Raises ValueError for a key that the plan does not have.
        """
        if self.kind == "uniform":
            return list(range(0, evaluations, self.count))
        if self.kind == "auto":
            return choose_keys(whole("keys=auto:", self.count, 1, evaluations))
        if self.steps[-1] >= evaluations:
            raise ValueError(
                f"key step {self.steps[-1]} of keys={self}: the plan has {evaluations} "
                f"evaluations, 0 to {evaluations - 1}"
            )
        return list(self.steps)


_EVERY_SECOND = Keys("uniform", 2)


@dataclass(frozen=True)
class Propagate:
    """Encoder and middle block at key steps only; see `pipelines.propagation.Propagated`."""

    keys: Keys = _EVERY_SECOND
    noise: float = 0.0
    parallel: bool = True

    def __str__(self) -> str:
        more = f",noise={self.noise:g}" if self.noise else ""
        return f"propagate[keys={self.keys}{more}{'' if self.parallel else ',parallel=false'}]"


@dataclass(frozen=True)
class Cache:
    """The deep branch at key steps only; see `pipelines.propagation.Cached`."""

    keys: Keys = _EVERY_SECOND
    depth: int = 1

    def __str__(self) -> str:
        return f"cache[keys={self.keys},depth={self.depth}]"


@dataclass(frozen=True)
class Gate:
    """The conditional row alone after a share of the steps; see `pipelines.propagation.Gated`."""

    after: float = 0.6
    delta: str = "hold"

    def __str__(self) -> str:
        return f"gate[after={self.after:g},delta={self.delta}]"

    def first(self, evaluations: int) -> int:
        """Return the first gated evaluation, at least 1."""
        return max(1, round(self.after * evaluations))


@dataclass(frozen=True)
class Approximation:
    """What is approximated: reuse of features, a gate on the unconditional row, or both."""

    reuse: Propagate | Cache | None = None
    gate: Gate | None = None

    def __str__(self) -> str:
        return "~".join(str(part) for part in (self.reuse, self.gate) if part)


def parse(text: str) -> Approximation:
    """Read an approximation; `str` of the result is its canonical name.

    Raises ValueError, in one line, for what cannot be read or does not go together.
    """
    parts = [_part(part.strip(), text) for part in text.split("~")]
    reuse = [p for p in parts if not isinstance(p, Gate)]
    gates = [p for p in parts if isinstance(p, Gate)]
    if len(reuse) > 1 or len(gates) > 1:
        raise ValueError(
            f"approximation {text!r}: give one of propagate and cache, and one gate at most"
        )
    return Approximation(reuse[0] if reuse else None, gates[0] if gates else None)


def _part(part: str, text: str) -> Propagate | Cache | Gate:
    match = _PART.fullmatch(part)
    if not match:
        raise ValueError(
            f"cannot read approximation {text!r}; write for example propagate[keys=uniform:2] or "
            "cache[keys=uniform:2]~gate[after=0.6]"
        )
    kind = choose("approximation", match["kind"], _KINDS)
    readers = _READERS[kind]
    options = {}
    for item in (match["options"] or "").split(","):
        if not item.strip():
            continue
        name, _, value = (side.strip() for side in item.partition("="))
        reader = choose(f"option of {match['kind']}", name, readers)
        options[name] = reader(value)
    return kind(**options)


def _keys(text: str) -> Keys:
    remedy = "write uniform:2, auto:8 or a list such as 0+1+2+5"
    match = re.fullmatch(r"(uniform|auto):(\d+)", text)
    if match:
        if int(match[2]) < 1:
            raise ValueError(f"keys={text}: the number must be at least 1; {remedy}")
        return Keys(match[1], int(match[2]))
    if not re.fullmatch(r"\d+(\+\d+)*", text):
        raise ValueError(f"cannot read keys={text}; {remedy}")
    steps = tuple(int(n) for n in text.split("+"))
    if steps[0] != 0 or list(steps) != sorted(set(steps)):
        raise ValueError(f"keys={text}: the list must rise from 0, the first evaluation")
    return Keys("list", steps=steps)


def _flag(text: str) -> bool:
    return choose("value of parallel", text, {"true": True, "false": False})


def _delta(text: str) -> str:
    return choose("value of delta", text, {"hold": "hold", "drop": "drop"})


def _share(text: str) -> float:
    share = finite("after", text)
    if not 0 < share < 1:
        raise ValueError(f"after={text}: the gate needs a share of the steps between 0 and 1")
    return share


def _noise(text: str) -> float:
    noise = finite("noise", text)
    if not 0 <= noise <= 0.1:
        raise ValueError(f"noise={text}: it must be from 0 to 0.1; the paper takes 0.003")
    return noise


def _depth(text: str) -> int:
    return whole("depth", finite("depth", text), 1, 100)


_KINDS = {"propagate": Propagate, "cache": Cache, "gate": Gate}
_READERS: dict[type, dict[str, Callable]] = {
    Propagate: {"keys": _keys, "noise": _noise, "parallel": _flag},
    Cache: {"keys": _keys, "depth": _depth},
    Gate: {"after": _share, "delta": _delta},
}
