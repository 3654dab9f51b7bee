"""Matched guidance: what a polyline attains, levels, and the mean difference of two fronts."""

from dataclasses import replace

import numpy as np
import pytest

from eval.front import PIECES, Curve, attained, between, compare_fronts, levels, matched, straight


def curve(clip, fid, noise=0.0, common=0.0, resamples=400, seed=0):
    rng = np.random.default_rng(seed)
    clip, fid = np.array(clip, float), np.array(fid, float)
    shape = (resamples, len(clip))
    shared = common * np.random.default_rng(99).normal(size=(resamples, 1))
    draws = clip + shared + noise * rng.normal(size=shape)
    costs = fid + noise * rng.normal(size=shape)
    return Curve(np.arange(1, len(clip) + 1), clip, fid, draws, costs, 100)


def read(clip, fid, *level):
    found = attained(np.array([clip], float), np.array([fid], float), np.array([level], float))
    return found[0].tolist()


def test_on_the_front_it_is_interpolation():
    assert read([1, 2, 4], [10, 20, 40], 1.5, 3) == [15, 30]


def test_a_lower_need_never_costs_more():
    """U-shaped FID: below the CLIP of its minimum, the minimum can be had."""
    assert read([1, 2, 4], [30, 10, 40], 1.5, 2, 3) == [10, 10, 25]


def test_over_guided_points_are_not_chosen():
    """CLIP falls back after its maximum: the same CLIP is there at less FID."""
    assert read([1, 4, 2], [10, 40, 90], 3) == [30]
    assert read([4], [7], 4, 3) == [7, 7]


def test_nothing_is_extrapolated():
    assert np.isnan(read([1, 2, 4], [10, 20, 40], 4.1)).all()


def test_it_is_the_minimum_over_a_finely_drawn_polyline():
    rng = np.random.default_rng(0)
    need, cost = rng.normal(size=(2, 6))
    t = np.linspace(0, 5, 50001)
    x, y = np.interp(t, np.arange(6), need), np.interp(t, np.arange(6), cost)
    level = np.linspace(need.min(), need.max(), 9)[:-1]
    expected = [y[x >= c].min() for c in level]
    assert read(need, cost, *level) == pytest.approx(expected, abs=1e-3)


def test_between_scales_values_are_smooth_in_the_logarithm():
    omega = np.array([1.25, 1.5, 2.0, 3.0, 4.0])
    fid = 0.3 + (np.log(omega) - 0.4) ** 2
    found = between(omega, fid[None])[0]
    np.testing.assert_allclose(found[::PIECES], fid)
    places = np.interp(np.arange(len(found)) / PIECES, np.arange(5), np.log(omega))
    assert np.abs(found - 0.3 - (places - 0.4) ** 2).max() < 0.01
    np.testing.assert_array_equal(between(omega[[0, 0]], fid[None, :2]), fid[None, :2])
    assert between(omega[:1], fid[None, :1]).shape == (1, 1)


@pytest.mark.parametrize("apart", [1.15, 1.25])
def test_smooth_curves_tell_one_bent_front_at_other_scales_from_a_difference(apart):
    def arm(omega):
        x = np.log(omega)
        made = curve(86 + 2.2 * x - 0.9 * x**2, 0.42 + 0.05 * x + 0.45 * x**2)
        return replace(made, omega=omega)

    omega = np.array([1.5, 2.0, 2.5])
    lines = {"theirs": arm(omega), "ours": arm(omega * apart)}
    found = compare_fronts(lines, "ours", "clip", {})["theirs"]
    assert abs(found["smooth"]) < found["difference"] / 1.5 < 0.01


ARMS = {
    "base": curve([20, 25, 30], [40, 30, 50], 0.1, common=1.0),
    "tie": curve([20, 25, 30], [40, 30, 50], 0.1, common=1.0, seed=1),
    "ours": curve([21, 26, 31], [30, 20, 40], 0.1, common=1.0, seed=2),
}


@pytest.mark.parametrize("at", ["clip", "fid"])
def test_a_better_arm_is_found_and_a_tie_is_not(at):
    def word(focus, arm):
        return compare_fronts(ARMS, focus, at, {})[arm]["verdict"]

    assert word("ours", "base") == "better"
    assert word("base", "ours") == "worse"
    assert word("tie", "base") == "not distinguishable"


def test_the_mean_over_the_common_range_is_the_area_over_the_width():
    lines = {"a": curve([20, 30], [10, 20]), "ours": curve([24, 34], [10, 18])}
    found = compare_fronts(lines, "ours", "clip", {})["a"]
    # from 24 to 30 a rises 14 … 20 and ours 10 … 14.8
    assert found["difference"] == pytest.approx(12.4 - 17)
    assert found["range"] == pytest.approx([24, 30])
    found = compare_fronts(lines, "ours", "fid", {})["a"]
    # from FID 10 to 18 a rises 20 … 28 and ours 24 … 34
    assert found["difference"] == pytest.approx(29 - 24)
    assert found["range"] == pytest.approx([10, 18])


def test_one_front_wholly_beyond_the_other_is_compared_at_the_nearer_end():
    lines = {"weak": curve([10, 12], [10, 20], 0.1), "ours": curve([20, 30], [15, 30], 0.1, seed=1)}
    found = compare_fronts(lines, "ours", "clip", {})["weak"]
    assert found["difference"] == pytest.approx(15 - 20) and found["verdict"] == "better"
    assert found["range"] == [12, 12]


def test_an_arm_with_one_scale_is_compared_at_its_own_score():
    lines = {
        "one": curve([25], [30], 0.01),
        "ours": curve([20, 25, 30], [30, 20, 40], 0.01, seed=2),
    }
    found = compare_fronts(lines, "ours", "clip", {})["one"]
    assert found["difference"] == pytest.approx(-10) and found["range"] == [25, 25]


def test_a_front_of_one_piece_is_told():
    assert straight(curve([1, 4, 2], [10, 40, 90])) == (1, 2)
    assert straight(curve([1, 2, 4], [30, 10, 40])) == (2, 3)
    assert straight(curve([1, 2, 4], [10, 20, 40])) is None
    assert straight(curve([4, 2, 1], [10, 20, 40])) is None
    assert straight(curve([1], [10])) is None


def test_levels_of_a_u_shaped_fid_lie_on_its_rising_part():
    lines = {"a": curve([20, 26, 30], [40, 30, 50]), "ours": curve([20, 25, 31], [40, 30, 50])}
    need = levels(lines, "ours", "clip")[0]
    assert need.min() > 25 and need.max() < 30
    fid = -levels(lines, "ours", "fid")[0]
    assert fid.min() > 30 and fid.max() < 50


@pytest.mark.parametrize("at", ["clip", "fid"])
def test_the_levels_agree_with_the_curves(at):
    table = matched(ARMS, "ours", at, {})
    assert [e["level"] for e in table] == sorted(e["level"] for e in table) and len(table) == 5
    for entry in table:
        gap = entry["comparisons"]["base"]
        values = entry["values"]
        assert gap["difference"] == pytest.approx(values["ours"] - values["base"])
        assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1]
        assert gap["verdict"] == "better"


def test_an_arm_elsewhere_is_out_of_range_and_spoils_nothing():
    lines = {**ARMS, "far": curve([1, 2, 3], [40, 20, 50], 0.01)}
    table = matched(lines, "ours", "clip", {"broken": {"verdict": "invalid"}})
    for entry in table:
        assert entry["comparisons"]["far"]["verdict"] == "out of range"
        assert entry["comparisons"]["broken"]["verdict"] == "invalid"
        assert entry["comparisons"]["base"]["verdict"] == "better"


def test_without_the_focus_arm_or_a_front_there_are_no_levels():
    assert matched({"a": ARMS["base"]}, "ours", "clip", {}) == []
    lines = {"a": ARMS["base"], "ours": curve([20], [30])}
    assert matched(lines, "ours", "clip", {}) == []
    assert compare_fronts({"a": ARMS["base"]}, "ours", "clip", {}) == {}
