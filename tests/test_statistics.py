"""Bootstrap over prompts: coverage, pairing, Holm, verdict words; and reading curves off."""

import numpy as np
import pytest

from eval.front import Curve, levels, matched, read_off, summarise
from eval.statistics import (
    difference,
    holm,
    interval,
    p_value,
    resample_weights,
    resampled_mean,
    verdict,
)


def test_weights_are_deterministic_and_keep_the_number_of_prompts():
    weights = resample_weights(30, 200)
    assert (weights == resample_weights(30, 200)).all()
    assert weights.shape == (200, 30) and (weights.sum(1) == 30).all()


def test_coverage_of_a_paired_difference():
    """Prompts are hard or easy for both arms, seeds within a prompt hang together."""
    rng = np.random.default_rng(0)
    prompts, seeds, truth, hits, trials = 60, 3, 0.3, 0, 300
    weights = resample_weights(prompts, 400)
    for _ in range(trials):
        hard = 5 * rng.normal(size=(prompts, 1))
        effect = truth + rng.normal(size=(prompts, 1))  # differs between prompts
        a = hard + effect + rng.normal(size=(prompts, seeds))
        b = hard + rng.normal(size=(prompts, seeds))
        count = np.full(prompts, seeds)
        draws = resampled_mean(a.sum(1), count, weights) - resampled_mean(b.sum(1), count, weights)
        low, high = interval(draws)
        hits += low <= truth <= high
    assert 0.90 <= hits / trials <= 0.99


def test_mean_uses_the_images_that_are_there():
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    found = resampled_mean(np.array([6.0, 0.0]), np.array([3, 0]), weights)
    assert found[:2] == pytest.approx([2, 2]) and np.isnan(found[2])


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_words():
    assert verdict(-2, -1, lower_is_better=True) == "better"
    assert verdict(-2, -1, lower_is_better=False) == "worse"
    assert verdict(-1, 2, lower_is_better=True) == "not distinguishable"
    same = difference(0.0, np.zeros(100), lower_is_better=True)
    assert same["verdict"] == "not distinguishable" and same["p"] == 1
    assert p_value(np.ones(99)) == pytest.approx(0.02)


def test_errors():
    with pytest.raises(ValueError, match="--bootstrap"):
        resample_weights(10, 0)
    with pytest.raises(ValueError, match="prompt"):
        resample_weights(0, 10)


# --- curves ---------------------------------------------------------------------------------------


def curve(clip, fid, noise=0.0, common=0.0, resamples=400, seed=0):
    rng = np.random.default_rng(seed)
    clip, fid = np.array(clip, float), np.array(fid, float)
    shape = (resamples, len(clip))
    shared = common * np.random.default_rng(99).normal(size=(resamples, 1))
    draws = clip + shared + noise * rng.normal(size=shape)
    return Curve(np.arange(len(clip)), clip, fid, draws, fid + noise * rng.normal(size=shape))


def test_reading_a_polyline():
    x, y = np.array([[1.0, 2.0, 4.0]]), np.array([[10.0, 20.0, 0.0]])
    assert read_off(x, y, np.array([1.5]))[0] == 15
    assert read_off(x, y, np.array([3.0]))[0] == 10
    assert np.isnan(read_off(x, y, np.array([4.1]))[0])  # never beyond the ends
    u = np.array([[5.0, 1.0, 3.0]])  # a U: the rising branch counts
    assert read_off(u, np.array([[0.0, 1.0, 2.0]]), np.array([2.0]))[0] == 1.5


def test_only_the_rising_part_of_clip_counts():
    assert len(curve([1, 3, 2], [9, 5, 4]).rising().omega) == 2


def test_a_better_arm_is_found_and_a_tie_is_not():
    arms = {
        "base": curve([20, 25, 30], [40, 30, 50], 0.1, common=1.0),
        "tie": curve([20, 25, 30], [40, 30, 50], 0.1, common=1.0, seed=1),
        "ours": curve([21, 26, 31], [30, 20, 40], 0.1, common=1.0, seed=2),
    }
    table = matched(arms, "ours", "clip")
    assert summarise(table, "base") == "better"
    assert summarise(matched(arms, "tie", "clip"), "base") == "not distinguishable"
    assert summarise(matched(arms, "base", "clip"), "ours") == "worse"
    middle = table[2]
    gap = middle["comparisons"]["base"]
    assert gap["difference"] == pytest.approx(middle["values"]["ours"] - middle["values"]["base"])
    assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1]
    assert gap["p_holm"] >= gap["p"]


def test_clip_at_equal_fid():
    arms = {
        "base": curve([20, 25, 30], [40, 20, 50], 0.1),
        "ours": curve([20, 26, 33], [40, 20, 50], 0.1, seed=1),
    }
    assert summarise(matched(arms, "ours", "fid"), "base") == "better"


def test_an_arm_elsewhere_is_out_of_range_and_spoils_nothing():
    arms = {
        "far": curve([1, 2, 3], [40, 20, 50], 0.01),
        "one point": curve([25], [30], 0.01),
        "base": curve([20, 25, 30], [40, 30, 50], 0.01),
        "ours": curve([20, 25, 30], [30, 20, 40], 0.01, seed=2),
    }
    table = matched(arms, "ours", "clip")
    assert len(table) == 5
    assert summarise(table, "far") == summarise(table, "one point") == "out of range"
    assert summarise(table, "base") == "better"


def test_levels_lie_inside_the_common_range():
    arms = {"a": curve([18, 30], [1, 2]), "ours": curve([20, 33], [1, 2])}
    found = levels(arms, "ours", "clip")
    assert min(found) > 20 and max(found) < 30


def test_a_focus_with_one_scale_has_no_table():
    assert matched({"ours": curve([20], [30])}, "ours", "clip") == []
