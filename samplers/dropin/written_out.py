"""Write `exponential.weights` out as formulas, by running its own source on symbols.

Every quantity in it is a sum of products of powers (of h, ρ, the moments m_k and the gaps between
nodes), and it only ever divides by single products: so plain arithmetic on such sums
turns the loops into short formulas, for any number of nodes, with nothing restated by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType

from samplers import exponential

Powers = tuple[tuple[str, int], ...]  # ((symbol, exponent), …), sorted


class Sum:
    """A sum of products of powers of symbols."""

    def __init__(self, terms: dict[Powers, float]):
        self.terms = {powers: c for powers, c in terms.items() if c}

    @classmethod
    def of(cls, value: Sum | float | str) -> Sum:
        if isinstance(value, Sum):
            return value
        return cls({((value, 1),): 1.0} if isinstance(value, str) else {(): float(value)})

    def __add__(self, other: Sum | float) -> Sum:
        terms = dict(self.terms)
        for powers, c in Sum.of(other).terms.items():
            terms[powers] = terms.get(powers, 0.0) + c
        return Sum(terms)

    def __mul__(self, other: Sum | float) -> Sum:
        total = Sum({})
        for a, c in self.terms.items():
            for b, d in Sum.of(other).terms.items():
                exponents = dict(a)
                for symbol, power in b:
                    exponents[symbol] = exponents.get(symbol, 0) + power
                powers = tuple(sorted((s, p) for s, p in exponents.items() if p))
                total = total + Sum({powers: c * d})
        return total

    def __truediv__(self, other: Sum | float) -> Sum:
        ((powers, c),) = Sum.of(other).terms.items()  # a single product
        return self * Sum({tuple((s, -p) for s, p in powers): 1 / c})

    def __pow__(self, power: int) -> Sum:
        out = Sum.of(1.0)
        for _ in range(power):
            out = out * self
        return out

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Sum:
        return self * -1.0

    def __sub__(self, other: Sum | float) -> Sum:
        return self + -Sum.of(other)

    def __rsub__(self, other: float) -> Sum:
        return -self + other

    def __str__(self) -> str:
        text = ""
        for powers, c in self.terms.items():
            up = [s for s, p in powers for _ in range(p)]
            down = [s for s, p in powers for _ in range(-p)]
            factor = [] if abs(c) == 1 and up else [f"{abs(c):g}"]
            below = f"({' * '.join(down)})" if len(down) > 1 else "".join(down)
            term = " * ".join(factor + up) + (f" / {below}" if below else "")
            text += (" - " if c < 0 else " + ") + term if text else "-" * (c < 0) + term
        return text or "0.0"


@dataclass(frozen=True)
class Node:
    """A λ whose differences are symbols: d01 = λ_0 − λ_1 and r0 = λ_0 − start."""

    index: int | None  # None is the start of the step

    def __sub__(self, other: Node) -> Sum:
        i, j = self.index, other.index
        if i == j:
            return Sum.of(0.0)
        if j is None:
            return Sum.of(f"r{i}")
        return Sum.of(f"d{i}{j}") if i < j else -Sum.of(f"d{j}{i}")


class _End:
    def __sub__(self, start: Node) -> Sum:
        return Sum.of("h")


def weights(count: int, anywhere: bool = False) -> list[str]:
    """Return the lines of a function equal to `exponential.weights` for up to `count` nodes.

    anywhere  whether a step may start elsewhere than at the first node

    Where `phi` takes a series for small arguments the formulas do not: they lose about 1e-16/h² to
    cancellation for two nodes, 1e-16/h³ for three, which no grid of a few hundred steps notices.
    """
    names = {"expm1": lambda z: -Sum.of("m0"), "abs": lambda z: 1.0}  # m0 = −expm1(−ρh)
    phi = FunctionType(exponential.phi.__code__, {**exponential.phi.__globals__, **names})
    phi.__globals__["phi"] = phi
    moments = _call(exponential.moments, {"phi": phi}, Sum.of("h"), Sum.of("rate"), count)
    symbols = [Sum.of(f"m{k}") for k in range(count)]
    names = {"moments": lambda h, rate, n: symbols[:n], "isinf": lambda end: False}
    lines = ["def weights(nodes, start, end, rate=1.0):"]
    lines += ["    h, m0 = end - start, -expm1(-rate * (end - start))"]
    for n in range(1, count + 1):
        last = n - 1
        nodes = [Node(i) for i in range(n)]
        start = Node(None) if anywhere else nodes[0]
        found = [str(w) for w in _call(exponential.weights, names, nodes, start, _End())]
        lines += [f"    m{last} = {moments[last]}"] * (n > 1)
        lines += [f"    d{i}{last} = nodes[{i}] - nodes[{last}]" for i in range(last)]
        if anywhere:
            lines.append(f"    r{last} = nodes[{last}] - start")
        if n < count:
            lines += [f"    if len(nodes) == {n}:", f"        return [{', '.join(found)}]"]
        elif n < 3:
            lines.append(f"    return [{', '.join(found)}]")
        else:
            lines += ["    return [", *(f"        {w}," for w in found), "    ]"]
    return lines


def _call(function: FunctionType, replaced: dict, *args: object):
    names = {**function.__globals__, **replaced}
    return FunctionType(function.__code__, names, None, function.__defaults__)(*args)
