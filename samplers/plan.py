"""The plan: a sampler as a table of float64 coefficients, one row per network evaluation.

    evaluate (D_u, D_c) at (probe, σ_i),  Δ = D_c − D_u
    carry' = state·carry + Σ_j uncond[j]·D_u[i−j] + Σ_j delta[j]·Δ[i−j] + noise·z
    probe' = the same form on carry', or carry' itself where a row has no probe

All in variance-exploding units. A plan is data: it can be checked, printed, saved and run anywhere,
and NFE = len(plan).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import inf, isclose, log, sqrt

from samplers.errors import choose, finite
from samplers.exponential import moments
from samplers.program import Program, compile_program

NOISES = ("steps", "path")  # where noise comes from: `compile_plan`


@dataclass(frozen=True)
class Update:
    """One linear combination; `sigma` is the noise level that it arrives at."""

    sigma: float
    state: float
    uncond: tuple[float, ...] = ()
    delta: tuple[float, ...] = ()
    noise: float = 0.0


@dataclass(frozen=True)
class Row:
    """One evaluation, told to the network as `timestep`, and the updates that follow it.

    `weight` is the guidance weight of this evaluation's preview, D_u + weight·Δ.
    """

    sigma: float
    timestep: float
    weight: float
    carry: Update
    probe: Update | None = None


@dataclass(frozen=True)
class Plan:
    """A compiled sampler. `start` turns standard normal noise into the first state.

    `rate` says that Δ enters as a rate (the guided ODE has a limit), not as a kick per step.
    """

    name: str
    rows: tuple[Row, ...]
    start: float
    order: int
    guidance: str  # "cfg" or "cfg++"
    rate: bool
    scale: float
    options: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def nfe(self) -> int:
        """The number of guided evaluations: each is one unconditional and one conditional row."""
        return len(self.rows)

    @cached_property
    def program(self) -> Program:
        """The coefficients as the loop applies them."""
        return compile_program(self)

    @property
    def unet_rows(self) -> int:
        """How many network rows the evaluations need per image: 2·NFE, or fewer.

        Where ω is exactly 1 (or 0), only the conditional (or unconditional) row has any weight; a
        model that can be asked for one row is then asked for that one.
        """
        return sum(stage.uncond + stage.cond for stage in self.program.stages)

    @property
    def end(self) -> float:
        """The noise level of the result, normally 0."""
        return self.rows[-1].carry.sigma

    @property
    def stochastic(self) -> bool:
        return any(row.carry.noise for row in self.rows)

    @property
    def noise(self) -> str:
        """Whether each step draws its own noise ("steps") or reads one Brownian path ("path")."""
        return self.options.get("noise", "steps")

    @property
    def memory(self) -> int:
        """How many evaluations back any update reaches, the present one included."""
        updates = [u for row in self.rows for u in (row.carry, row.probe) if u]
        return max(max(len(u.uncond), len(u.delta)) for u in updates)

    @property
    def omega(self) -> float:
        """The mean strength of guidance in CFG units: Δ's share of what each step takes from D."""
        steps = [row.carry for row in self.rows if row.carry.uncond]
        return sum(sum(u.delta) / sum(u.uncond) for u in steps) / len(steps)

    def check(self) -> Plan:
        """Verify by algebra that the plan is consistent and of its declared order; return it.

        Constant D must be a fixed point of every update, levels must fall (or, in an inversion,
        rise) all the way, decay and noise must lead to the level that is stated, and for k below
        the order the weights must integrate D(λ) = λ^k over the step, up to 0.15·h^(order + 1).
        Start-up rows owe the order that their history allows, and rows just before σ = 0 may step
        down to order 1. A rate must weigh Δ as it weighs D_u. Raises ValueError naming the row.
        """
        level = self.rows[0].sigma
        rising = self.end >= level  # an inversion: from a clean latent, at σ = 0
        level = 0.0 if rising else level
        for i, row in enumerate(self.rows):
            for kind, update in (("carry", row.carry), ("probe", row.probe)):
                if update is not None:
                    order = self._order_due(i) if kind == "carry" else 1
                    problem = self._problem(i, update, level, order, rising)
                    if problem:
                        raise ValueError(f"plan {self.name!r}, row {i}, {kind}: {problem}")
                    if kind == "carry":
                        level = update.sigma
        return self

    def _order_due(self, i: int) -> int:
        left = self.nfe - 1 - i
        if self.end > 0:  # one lower-order step at the very end does not lower the whole
            left += self.order - 1
        return min(self.order, i + 1, max(1, left))

    def _problem(
        self, i: int, update: Update, level: float, order: int, rising: bool
    ) -> str | None:
        if (update.sigma <= level if rising else update.sigma >= level) and update.uncond:
            return f"it moves from noise level {level:.6g} to {update.sigma:.6g}, the wrong way"
        total = sum(update.uncond)
        if not isclose(total + update.state, 1, abs_tol=1e-9):
            return f"weights sum to {total + update.state:.6g}, so constant data is no fixed point"
        if self.rate:
            expected = [c * self.rows[i - j].weight for j, c in enumerate(update.uncond)]
            pairs = zip(expected, update.delta, strict=True)
            if not all(isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in pairs):
                return "the weights of Δ are not ω(σ) times those of D_u"
        kept = update.state * level
        if rising and i < len(update.uncond):  # D_0 of the clean latent x_0 is x_0 − σ·ε, not x_0
            kept -= update.uncond[i] * self.rows[0].sigma
        variance = kept**2 + update.noise**2
        if not isclose(variance, update.sigma**2, rel_tol=1e-9, abs_tol=1e-18):
            return f"noise level {sqrt(variance):.6g} results where {update.sigma:.6g} is due"
        if order == 1 or update.sigma == 0 or update.sigma == level:
            return None
        h, down = log(level / update.sigma), -log(update.state)
        at = [log(level / self.rows[i - j].sigma) for j in range(len(update.uncond))]
        # noise belongs to the reverse SDE over the whole step, or it follows an ODE to σ_down
        spans = [h, down] if update.noise else [h]
        for k in range(1, order):
            found = sum(c * s**k for c, s in zip(update.uncond, at, strict=True))
            errors = [found - moments(span, down / span, order)[k] for span in spans]
            if all(
                abs(error) > 0.15 * span ** (order + 1) + 1e-9
                for error, span in zip(errors, spans, strict=True)
            ):
                return f"λ^{k} is integrated with error {errors[0]:.3g}: not of order {order}"
        return None

    def to_json(self) -> str:
        """Write it as standard JSON, which has no infinity: an option that is one is a string."""
        data = asdict(self)
        data["options"] = _portable(data["options"])
        return json.dumps(data, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote, and check it."""
        try:
            data = json.loads(text)
            rows = tuple(_row(i, row) for i, row in enumerate(data.pop("rows")))
            options = {k: _read(v) for k, v in data.pop("options").items()}
            if not rows:
                raise ValueError("a plan has at least one row")
            for name in ("start", "scale"):
                data[name] = finite(name, data[name])
            choose("noise", options.get("noise", "steps"), dict.fromkeys(NOISES))
            return cls(rows=rows, options=options, **data).check()
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no plan as Plan.to_json writes it: {error}") from None

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.nfe} evaluations, order {self.order}, {self.guidance}, "
            f"scale {self.scale:g} (mean ω {self.omega:.2f})",
            "  i       t      σ →     σ'       ω    state  uncond               delta"
            "                noise",
        ]
        for i, row in enumerate(self.rows):
            updates = [row.carry] + ([row.probe] if row.probe else [])
            for k, u in enumerate(updates):
                head = f"{i:3d} {row.timestep:7.2f}" if k == 0 else "       probe"
                uncond = " ".join(f"{c:6.3f}" for c in u.uncond)
                delta = " ".join(f"{c:6.3f}" for c in u.delta)
                lines.append(
                    f"{head} {row.sigma:7.3f} {u.sigma:7.3f} {row.weight:7.2f} {u.state:8.4f}  "
                    f"{uncond:20s} {delta:20s} {u.noise:6.3f}"
                )
        return "\n".join(lines)


def _portable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    return "inf" if value == inf else value


def _read(value: object) -> object:
    if isinstance(value, list):
        return tuple(map(_read, value))
    return inf if value == "inf" else value


def _row(i: int, data: dict) -> Row:
    def number(name: str, value: object) -> float:
        return finite(f"row {i}: {name}", value)

    def update(fields: dict | None) -> Update | None:
        if fields is None:
            return None
        numbers = {name: number(name, fields[name]) for name in ("sigma", "state", "noise")}
        lists = {
            name: tuple(number(name, weight) for weight in fields[name])
            for name in ("uncond", "delta")
        }
        if len(lists["delta"]) > len(lists["uncond"]):
            raise ValueError(f"row {i} weighs more differences than estimates")
        return Update(**{**fields, **numbers, **lists})

    carry, probe = update(data["carry"]), update(data["probe"])
    if carry is None:
        raise ValueError(f"a row of the plan has no carry: row {i}")
    numbers = {name: number(name, data[name]) for name in ("sigma", "timestep", "weight")}
    if numbers["sigma"] <= 0:
        raise ValueError(f"row {i}: sigma is {numbers['sigma']}; it must be above 0")
    return Row(**{**data, **numbers, "carry": carry, "probe": probe})
