"""Plans as data: the algebraic check, JSON, the printed table, and NFE by construction."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import pytest

from samplers import Plan, Row, Update, available, compile_plan

NAMES = [r.name for r in available()]


def tampered(plan: Plan, index: int, **changes) -> Plan:
    rows = list(plan.rows)
    rows[index] = replace(rows[index], carry=replace(rows[index].carry, **changes))
    return replace(plan, rows=tuple(rows))


# --- NFE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nfe_is_the_number_of_rows(name, schedule):
    for n in range(1, 31):
        plan = compile_plan(name, schedule, n)
        assert plan.nfe == len(plan) == len(list(plan)) == n


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_nfe_does_not_depend_on_order_or_corrector(order, corrector, schedule):
    for n in range(1, 31):
        plan = compile_plan("exp2m_cfg++", schedule, n, order=order, corrector=corrector, eta=0.0)
        assert len(plan) == n and plan.order == min(3, order + corrector)


# --- the check -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["leading", "karras", "uniform", "ays_sd15", "karras_unfinished"])
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_passes_its_check_on_every_kind_of_grid(name, grid, schedule):
    for n in (1, 2, 3, 7, 50):
        plan = compile_plan(name, schedule, n, grid=grid)
        assert plan.check() is plan


def test_check_finds_inconsistency(schedule):
    plan = compile_plan("dpm2m", schedule, 8)
    wrong = tampered(plan, 3, state=plan.rows[3].carry.state + 1e-3)
    with pytest.raises(ValueError, match=r"plan 'dpm2m', row 3, carry: weights sum to 1\.001, so"):
        wrong.check()


def test_check_finds_an_inconsistent_probe(schedule):
    plan = compile_plan("dpm2s", schedule, 8)
    rows = list(plan.rows)
    rows[2] = replace(rows[2], probe=replace(rows[2].probe, state=0.9))
    with pytest.raises(ValueError, match=r"plan 'dpm2s', row 2, probe: weights sum to"):
        replace(plan, rows=tuple(rows)).check()


def test_check_finds_a_wrong_order(schedule):
    plan = compile_plan("res_2m", schedule, 20, omega=lambda sigma: 1.0)
    first, second = plan.rows[5].carry.uncond
    moved = (first + 0.05, second - 0.05)
    with pytest.raises(ValueError, match=r"row 5, carry: λ\^1 is integrated with error .* order 2"):
        tampered(plan, 5, uncond=moved, delta=moved).check()


def test_check_finds_wrong_weights_of_delta(schedule):
    plan = compile_plan("dpm2m", schedule, 8)
    delta = plan.rows[4].carry.delta
    with pytest.raises(ValueError, match=r"row 4, carry: the weights of Δ are not ω\(σ\) times"):
        tampered(plan, 4, delta=(delta[0] * 1.01, *delta[1:])).check()


def test_check_finds_wrong_noise(schedule):
    plan = compile_plan("dpm3m_sde", schedule, 8)
    noise = plan.rows[2].carry.noise
    with pytest.raises(ValueError, match=r"row 2, carry: noise level .* results where .* is due"):
        tampered(plan, 2, noise=noise * 1.01).check()


@pytest.mark.parametrize(("name", "order"), [("ddim", 2), ("dpm3m", 3), ("dpm2m", 3)])
def test_check_refutes_an_order_that_a_method_lacks(name, order, schedule):
    """The published third-order formula, too, is found to be of order 2."""
    levels = [10.0 * (0.05 / 10.0) ** (i / 64) for i in range(65)]
    plan = compile_plan(name, schedule, 64, grid=levels)
    with pytest.raises(ValueError, match=f"not of order {order}"):
        replace(plan, order=order).check()


def test_check_accepts_third_order_with_exact_weights(schedule):
    levels = [10.0 * (0.05 / 10.0) ** (i / 64) for i in range(65)]
    assert compile_plan("exp3m", schedule, 64, grid=levels).order == 3


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name, schedule):
    plan = compile_plan(name, schedule, 7)
    assert Plan.from_json(plan.to_json()) == plan


def test_json_round_trip_with_options(schedule):
    plan = compile_plan(
        "exp2m_cfg++", schedule, 7, grid="blend", eta=0.3, window=(0.1, 5.0), interval=(0.2, 8.0)
    )
    assert plan.options == {
        "grid": "blend",
        "eta": 0.3,
        "window": (0.1, 5.0),
        "interval": (0.2, 8.0),
    }
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"rows": [{}]}', '{"rows": 3}', "1"])
def test_json_that_is_no_plan(text):
    with pytest.raises(ValueError, match=r"this is no plan as Plan\.to_json writes it: ") as caught:
        Plan.from_json(text)
    assert "\n" not in str(caught.value)


def test_json_of_a_row_without_a_carry(schedule):
    data = json.loads(compile_plan("ddim", schedule, 2).to_json())
    data["rows"][1]["carry"] = None
    with pytest.raises(ValueError, match="a row of the plan has no carry"):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(rows=[]), "a plan has at least one row"),
        (lambda data: data.update(start="1"), None),
        (lambda data: data.update(start="x"), "start is 'x'; it must be a number"),
        (lambda data: data["rows"][1].update(sigma=0), "row 1: sigma is 0.0; it must be above 0"),
        (lambda data: data["rows"][0].update(timestep="late"), "row 0: timestep is 'late'"),
        (lambda data: data["rows"][0]["carry"]["delta"].append(1.0), "row 0 weighs more differ"),
    ],
)
def test_json_that_is_damaged_in_places(change, message, schedule):
    plan = compile_plan("ddim", schedule, 2)
    data = json.loads(plan.to_json()) | {"start": plan.start}
    change(data)
    if message is None:
        Plan.from_json(json.dumps(data))
        return
    with pytest.raises(ValueError, match=message):
        Plan.from_json(json.dumps(data))


def test_json_is_standard_where_an_option_is_infinite(schedule):
    plan = compile_plan("exp2m_cfg++", schedule, 3, cap=inf, window=(0.1, inf))

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    json.loads(plan.to_json(), parse_constant=refuse)
    assert Plan.from_json(plan.to_json()) == plan


def test_json_is_checked(schedule):
    data = json.loads(compile_plan("ddim", schedule, 2).to_json())
    data["rows"][0]["carry"]["state"] += 0.1
    with pytest.raises(ValueError, match="constant data is no fixed point"):
        Plan.from_json(json.dumps(data))


# --- print ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_printed_table_has_one_line_per_evaluation(name, schedule):
    plan = compile_plan(name, schedule, 9)
    lines = str(plan).splitlines()
    assert lines[0].startswith(f"{name}: 9 evaluations, order {plan.order}, {plan.guidance}, scale")
    assert [line.split()[0] for line in lines[2:] if "probe" not in line] == [*map(str, range(9))]
    assert sum("probe" in line for line in lines) == sum(row.probe is not None for row in plan)
    assert max(map(len, lines)) <= 140


def test_a_plan_by_hand():
    """A plan needs no recipe: here Euler's method in two steps, written out."""
    rows = (
        Row(2.0, 600.0, 3.0, Update(0.5, 0.25, (0.75,), (2.25,))),
        Row(0.5, 200.0, 3.0, Update(0.0, 0.0, (1.0,), (3.0,))),
    )
    plan = Plan("mine", rows, 5**0.5, 1, "cfg", True, 3.0).check()
    assert (plan.nfe, plan.end, plan.memory, plan.stochastic) == (2, 0.0, 1, False)
    assert plan.omega == pytest.approx(3.0)
