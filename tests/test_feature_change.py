"""Measured feature change: of the network's own features, and keys that are the best by it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from approximate_runs import PROMPTS, SEEDS, plan_of, standin

from pipelines.approximate import approximated
from pipelines.approximation import parse
from pipelines.feature_change import choose_keys, feature_change
from samplers import compile_plan


def test_chosen_keys_are_the_best_of_all_sets():
    between = np.random.default_rng(0).random((7, 7))
    np.fill_diagonal(between, 0)

    def total(keys):
        return sum(between[max(k for k in keys if k <= j), j] for j in range(7))

    for count in (1, 3, 7):
        best = min(total((0, *rest)) for rest in combinations(range(1, 7), count - 1))
        found = choose_keys(between, count)
        assert len(found) == count and found[0] == 0
        assert total(found) == pytest.approx(best)


def test_feature_change_is_that_of_the_networks_features():
    model = standin()
    plan = plan_of(model)
    seen: list[torch.Tensor] = []
    handle = model.unet.conv_in.register_forward_hook(lambda m, a, out: seen.append(out))
    change = feature_change(model, plan, PROMPTS, SEEDS)
    handle.remove()
    assert change.mse.shape == (len(change.names), 5) and change.norm.shape[1] == 6
    row = change.names.index("E0")
    assert change.mse[row, 2] == pytest.approx(float((seen[3] - seen[2]).square().mean()), rel=1e-4)
    assert change.norm[row, 4] == pytest.approx(float(seen[4].norm() / 2), rel=1e-4)
    assert np.allclose(np.diag(change.between), 0, atol=1e-6)
    assert (np.diff(change.between[0]) > 0).all()  # the further from the key, the more change
    less = feature_change(model, plan, PROMPTS, SEEDS, decoder=False)
    assert np.array_equal(less.between, change.between)
    assert less.names == [name for name in change.names if name[0] in "EM"]


def test_automatic_keys_are_a_function_of_model_and_plan():
    model = standin()
    first, second = (
        approximated(model, plan_of(model), parse("propagate[keys=auto:3]")).keys for _ in range(2)
    )
    assert first == second and len(first) == 3 and first[0] == 0


def test_more_keys_than_evaluations_are_refused():
    with pytest.raises(ValueError, match="choose from 1 to 3"):
        choose_keys(np.zeros((3, 3)), 4)


@pytest.mark.parametrize("text", ["propagate[keys=auto:2]", "cache[keys=auto:2]"])
def test_automatic_keys_of_a_plan_that_leaves_rows_out_in_places(text):
    """Outside its interval a plan asks for one row alone; features must stay comparable."""
    model = standin()
    plan = compile_plan("dpm2m", model.schedule, nfe=5, omega=2, interval=(0, 3))
    assert len({stage.uncond for stage in plan.program.stages}) == 2
    ready = approximated(model, plan, parse(text))
    assert len(ready.keys) == 2 and ready.latents(PROMPTS, SEEDS).isfinite().all()
