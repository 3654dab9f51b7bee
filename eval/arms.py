"""Name arms: a sampler, its options and a guidance strength.

    dpm2m                                   every strength of --scales
    exp2m_cfg++@0.6                         this strength only, in the sampler's own units
    exp2m_cfg++@w7.5   exp2m_cfg++@l0.6     the same, stating the units (w: CFG's, l: lambda)
    exp2m_cfg++[eta=0.5,order=3]@0.6        with options of the sampler
    exp2m_cfg++[interval=0.3..10]           a pair of numbers
    exp2m_cfg++~propagate[keys=uniform:2]   an approximated UNet; see pipelines/approximation.py
    region:latent_diffusion.py              class BaseDDIMCFGpp of a file; see eval/region.py
    mine=region:work/CFGpp@l0.6             the same with a name, from a checkout
    region:a.py[units=omega]@5              a region whose cfg_guidance is CFG's omega

CFG's omega and CFG++'s lambda are different quantities: an equal number is not an equal strength.
`--scales` are therefore in CFG units for every arm, and CFG++ samplers convert.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

DEFAULT_ARMS = (
    "ddim,ddim_cfg++,dpm2m,dpm2m_cfg++,dpm2s,dpm2s_cfg++,dpm3m_sde,dpm3m_sde_cfg++,exp2m_cfg++"
)
DEFAULT_SCALES = "1.5,3,5,7.5"

Option = bool | int | float | str | tuple[float, float]

_ARM = re.compile(
    r"(?P<sampler>[^\[\]@,\s]+)(?:\[(?P<options>[^\[\]]*)\])?(?:@(?P<unit>[wl]?)(?P<scale>[^@]*))?"
)
_REGION = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_.+-]+)=)?region:(?P<sampler>[^\[\]@,]+)"
    r"(?:\[(?P<options>[^\[\]]*)\])?(?:@(?P<unit>[wl]?)(?P<scale>[^@]*))?"
)
_OPTION = re.compile(r"([a-z_][a-z0-9_]*)=([A-Za-z0-9_.+-]+)")
_RESERVED = {"nfe": "--nfe", "scale": "@NUMBER after the arm", "omega": "@wNUMBER after the arm"}


@dataclass(frozen=True)
class Arm:
    """One sampler at one strength; exactly one of `omega` and `scale` is given.

    omega   strength in CFG units, or None
    scale   lambda of a CFG++ sampler, or None
    region  the file or checkout of a region; `sampler` is then the name of the arm
    approximate  the canonical name of an approximation; the arm is then no result at its NFE
    """

    sampler: str
    guidance: str  # "cfg" or "cfg++"
    options: tuple[tuple[str, Option], ...] = ()  # sorted by name
    omega: float | None = None
    scale: float | None = None
    region: str | None = None
    approximate: str | None = None

    @property
    def label(self) -> str:
        """Return the arm without its strength, such as `exp2m_cfg++[eta=0.5]`."""
        inner = ",".join(f"{name}={_text(value)}" for name, value in self.options)
        near = f"~{self.approximate}" if self.approximate else ""
        return f"{self.sampler}[{inner}]{near}" if inner else f"{self.sampler}{near}"

    @property
    def key(self) -> str:
        """Return the name of the arm's image folder; `parse_arms` reads it back."""
        unit, value = ("w", self.omega) if self.omega is not None else ("l", self.scale)
        return f"{self.label}@{unit}{_text(value)}"


def parse_arms(text: str, scales: Sequence[float], samplers: Mapping[str, str]) -> list[Arm]:
    """Read comma-separated arms; those without @ are taken at every one of `scales`.

    scales    strengths in CFG units
    samplers  guidance ("cfg" or "cfg++") of every known sampler by name
    Raises ValueError for an unknown sampler, a malformed arm and an arm that occurs twice.
    """
    arms: list[Arm] = []
    for part in _split(text):
        arms += _parse_arm(part, scales, samplers)
    keys = [arm.key for arm in arms]
    repeated = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if repeated is not None:
        remedy = "; name regions apart, as in a=region:…" if "region:" in text else ""
        raise ValueError(f"arm {repeated!r} occurs twice; each may occur once{remedy}")
    return arms


def with_approximations(text: str, names: Sequence[str]) -> str:
    """Return the arms, each that runs a plan followed by itself under every approximation."""
    if not names:
        return text
    arms = []
    for arm in _split(text):
        sampler, at, strength = arm.partition("@")
        exact = "~" not in arm and "region:" not in arm
        arms += [arm, *(f"{sampler}~{name}{at}{strength}" for name in names if exact)]
    return ",".join(arms)


def parse_scales(text: str) -> list[float]:
    """Read guidance strengths in CFG units, such as `1.5,3,5,7.5`."""
    scales = [_number(part.strip(), f"scales {text!r}") for part in text.split(",")]
    repeated = next((s for i, s in enumerate(scales) if s in scales[:i]), None)
    if repeated is not None:
        raise ValueError(f"scales {text!r}: {_text(repeated)} occurs twice; each may occur once")
    return scales


def _split(text: str) -> Iterable[str]:
    """Yield the arms of a list; commas inside brackets separate options, not arms."""
    for part in re.split(r",(?![^\[\]]*\])", text):
        if not part.strip():
            raise ValueError(f"arms {text!r}: an arm is empty; write for example ddim,exp2m_cfg++")
        yield part.strip()


def _parse_arm(text: str, scales: Sequence[float], samplers: Mapping[str, str]) -> list[Arm]:
    sampler, tilde, rest = text.partition("~")
    if tilde and "region:" not in text:
        from pipelines.approximation import parse  # here, as below: it imports torch

        name, at, strength = rest.partition("@")
        found = _parse_arm(f"{sampler}{at}{strength}", scales, samplers)
        return [replace(arm, approximate=str(parse(name))) for arm in found]
    pattern, example = _ARM, "SAMPLER, SAMPLER@0.6 or SAMPLER[eta=0.5,order=3]@0.6"
    if "region:" in text:
        pattern, example = _REGION, "region:FILE, NAME=region:FILE or region:FILE@l0.6"
    match = pattern.fullmatch(text)
    if not match:
        raise ValueError(f"cannot read arm {text!r}; write {example}")
    options = _parse_options(text, match["options"])
    sampler, region = match["sampler"], None
    if pattern is _REGION:
        sampler, region = match["name"] or f"region-{PurePath(sampler).stem}", sampler
        guidance = "cfg" if ("units", "omega") in options else "cfg++"
        if sampler in samplers:
            raise ValueError(f"arm {text!r}: {sampler!r} is a sampler; name the region otherwise")
        if [name for name, _ in options] not in ([], ["units"]):
            raise ValueError(f"arm {text!r}: a region takes no option but units=lambda or omega")
    else:
        from samplers.errors import choose  # here: importing torch would slow every --help

        guidance = choose("sampler", sampler, samplers)
    if match["scale"] is None:
        return [Arm(sampler, guidance, options, omega=scale, region=region) for scale in scales]
    scale = _number(match["scale"], f"arm {text!r}")
    if match["unit"] == "l" and guidance == "cfg":
        raise ValueError(
            f"arm {text!r}: {sampler} is a CFG sampler and has no lambda; write @w{_text(scale)}"
        )
    if match["unit"] == "w" or guidance == "cfg":
        return [Arm(sampler, guidance, options, omega=scale, region=region)]
    return [Arm(sampler, guidance, options, scale=scale, region=region)]


def _parse_options(arm: str, text: str | None) -> tuple[tuple[str, Option], ...]:
    options: dict[str, Option] = {}
    for part in text.split(",") if text is not None else ():
        match = _OPTION.fullmatch(part.strip())
        if not match:
            raise ValueError(
                f"arm {arm!r}: cannot read option {part.strip()!r}; write name=value, "
                "the value of letters, digits and _ . + -"
            )
        name, value = match.groups()
        if name in _RESERVED:
            raise ValueError(f"arm {arm!r}: {name} is not an option; state it by {_RESERVED[name]}")
        if name in options:
            raise ValueError(f"arm {arm!r}: option {name!r} occurs twice; each may occur once")
        options[name] = _value(value)
    return tuple(sorted(options.items()))


def _value(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    low, dots, high = text.partition("..")
    with contextlib.suppress(ValueError):
        return (float(low), float(high)) if dots else text
    return text


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{where}: cannot use {text!r} as a strength; give a number above 0")
    return value


def _text(value: Option | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "..".join(f"{number:.12g}" for number in value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)
