"""Bootstrap over prompts: coverage, pairing, Holm, verdict words."""

import numpy as np
import pytest

from eval.statistics import (
    difference,
    holm,
    interval,
    judge,
    linear_draws,
    p_value,
    resample_weights,
    resampled_mean,
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


def gap(point, sd, resamples=999):
    """A difference whose draws are the quantiles of a normal distribution."""
    from scipy.stats import norm

    draws = point + sd * norm.ppf((np.arange(resamples) + 0.5) / resamples)
    return difference(point, draws, 100)


def test_a_difference():
    found = gap(2.0, 1.0)
    assert found["interval"] == pytest.approx([2 - 1.96, 2 + 1.96], abs=0.02)
    assert found["p"] == pytest.approx(0.0455, abs=0.005)
    assert p_value(np.ones(99)) == pytest.approx(0.02)
    assert p_value(np.zeros(99)) == 1


@pytest.mark.parametrize(("prompts", "least"), [(1, 1.0), (2, 0.5), (5, 1 / 16), (11, 2**-10)])
def test_few_prompts_cannot_tell_more_than_their_signs_could(prompts, least):
    """All resamples of one prompt agree, and say nothing of other prompts."""
    assert difference(2.0, np.full(9999, 2.0), prompts)["p"] == pytest.approx(least)
    assert (least < 0.05) == (
        judge({"a": difference(2.0, np.full(9999, 2.0), prompts)}, False)["a"]["verdict"]
        == "better"
    )


def test_words():
    for lower, words in ((True, ("better", "worse")), (False, ("worse", "better"))):
        found = judge({"low": gap(-5, 1), "high": gap(5, 1), "tie": gap(1, 1)}, lower)
        assert (found["low"]["verdict"], found["high"]["verdict"]) == words
        assert found["tie"]["verdict"] == "not distinguishable"


def test_the_verdict_is_holms_and_the_interval_is_not():
    weak = gap(2.2, 1.0)  # p = 0.028: alone significant, not among three
    assert judge({"a": weak}, False)["a"]["verdict"] == "better"
    family = judge({"a": weak, "b": gap(0.1, 1), "c": gap(0.2, 1)}, False)
    assert family["a"]["verdict"] == "not distinguishable"
    assert family["a"]["interval"] == weak["interval"] and weak["interval"][0] > 0
    assert family["a"]["p_holm"] == pytest.approx(3 * weak["p"])


def test_an_arm_without_a_difference_keeps_its_word_and_costs_no_power():
    weak = gap(2.2, 1.0)
    family = judge(
        {"a": weak, "b": {"verdict": "invalid"}, "c": {"verdict": "out of range"}}, False
    )
    assert family["b"] == {"verdict": "invalid"}
    assert family["a"]["p_holm"] == weak["p"]


def test_linear_draws_of_a_linear_measure_are_its_resamples():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(20, 3)), resample_weights(20, 50)
    slope = (values - values.mean()).sum(1) / values.size  # of the mean, by the prompt's weight
    found = linear_draws(values.mean(), slope, weights)
    assert found == pytest.approx(resampled_mean(values.sum(1), np.full(20, 3), weights))


def test_errors():
    with pytest.raises(ValueError, match="--bootstrap"):
        resample_weights(10, 0)
    with pytest.raises(ValueError, match="prompt"):
        resample_weights(0, 10)
