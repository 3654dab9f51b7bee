"""The variance that a plan gives to Gaussian data, exactly: no network, no samples.

Where the data is N(0, w²) in each direction, D = x·w²/(w² + σ²) is linear in the state, and the
state in the first noise and all later ones. Their coefficients are carried through the plan.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np

from samplers import Plan


def spread_error(plan: Plan, width: float) -> float:
    """Return ln(standard deviation / its exact value) at the end of a plan, for data of N(0, w²).

    The plan starts from the exact distribution of its first noise level. Guidance has no part in
    it: D_u = D_c.
    """
    state, estimates = np.zeros(len(plan) + 1), []
    state[0] = sqrt(width**2 + plan.rows[0].sigma ** 2)
    for i, row in enumerate(plan):
        if row.probe:
            raise ValueError(f"plan {plan.name!r} looks ahead in row {i}; take one without probes")
        estimates.insert(0, state * width**2 / (width**2 + row.sigma**2))
        pairs = zip(row.carry.uncond, estimates, strict=False)
        state = row.carry.state * state + sum(weight * estimate for weight, estimate in pairs)
        state[i + 1] += row.carry.noise
    return log(np.linalg.norm(state) / sqrt(width**2 + plan.end**2))
