"""Exact weights of exponential integrators for dx/dλ = ρ·(D − x).

ρ = 1 is the probability-flow ODE in VE units with the data prediction D; the reverse SDE with
stochasticity η has ρ = 1 + η. Over [λ_0, λ_1] the exact solution is

    x(λ_1) = e^{−ρh} x(λ_0) + ∫ ρ e^{−ρ(λ_1 − s)} D(s) ds,      h = λ_1 − λ_0,

so a polynomial through past values of D gives weights that are integrals of Lagrange polynomials
(Hochbruck & Ostermann 2010, exponential Adams methods; two nodes are RES, arXiv:2308.02157).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, expm1, factorial, isinf


def phi(k: int, z: float) -> float:
    """Return φ_k(z): φ_0 = e^z, φ_{k+1}(z) = (φ_k(z) − 1/k!)/z, φ_k(0) = 1/k!."""
    if k == 0:
        return exp(z)
    if k == 1 and z != 0:
        return expm1(z) / z
    if abs(z) < 1:  # the recursion cancels here; the series needs 18 terms for float64
        term, total = 1 / factorial(k), 0.0
        for n in range(1, 20):
            total += term
            term *= z / (k + n)
        return total
    return (phi(k - 1, z) - 1 / factorial(k - 1)) / z


def moments(h: float, rate: float, count: int) -> list[float]:
    """Return ∫_0^h ρ e^{−ρ(h − s)} s^k ds for k = 0 … count − 1."""
    z = -rate * h
    return [-z * factorial(k) * h**k * phi(k + 1, z) for k in range(count)]


def weights(nodes: Sequence[float], start: float, end: float, rate: float = 1.0) -> list[float]:
    """Return the weight of D at each node in the exact step from λ = start to λ = end.

    The weights integrate every polynomial of degree below len(nodes) exactly and sum to
    1 − e^{−ρh}. `end` may be +inf (σ = 0): then only the first node counts, with weight 1.
    """
    if isinf(end):
        return [1.0] + [0.0] * (len(nodes) - 1)
    integrals = moments(end - start, rate, len(nodes))
    out = []
    for j, node in enumerate(nodes):
        polynomial = [1.0]  # coefficients of L_j in s − start, lowest first
        for k, other in enumerate(nodes):
            if k != j:
                gap, root = node - other, other - start
                shifted, same = [0.0, *polynomial], [*polynomial, 0.0]
                polynomial = [(a - root * b) / gap for a, b in zip(shifted, same, strict=True)]
        out.append(sum(c * m for c, m in zip(polynomial, integrals, strict=True)))
    return out
