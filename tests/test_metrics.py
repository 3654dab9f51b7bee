"""Fréchet and kernel distances, precision and recall: exact cases, and torch-fidelity's values."""

import numpy as np
import pytest

from eval.kernels import cmmd, cubic, kid, within
from eval.metrics import (
    Statistics,
    frechet,
    frechet_floor,
    frechet_infinity,
    frechet_influence,
    frechet_of,
)
from eval.neighbours import precision_recall, radii


def features(n, d=8, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def test_equal_sets_have_distance_zero():
    a = Statistics.of(features(50))
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_two_known_gaussians():
    # commuting covariances: |Δμ|² + Σ (s − t)² over the standard deviations
    a = Statistics(9, np.array([0.0, 0.0]), np.diag([4.0, 9.0]))
    b = Statistics(9, np.array([3.0, 4.0]), np.diag([1.0, 25.0]))
    assert frechet(a, b) == pytest.approx(25 + 1 + 4, rel=1e-12)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-12)


@pytest.mark.parametrize("n", [300, 5])  # 5 < 8 dimensions: singular covariance
def test_equals_torch_fidelity(n):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = features(n), features(400, seed=1, shift=1.0)
    stats = [theirs.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    expected = theirs.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet(Statistics.of(a), Statistics.of(b)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("d", [8, 60])  # covariance when n ≥ d, Gram matrix when n < d
def test_all_ways_to_the_distance_agree(d):
    x, reference = features(40, d), Statistics.of(features(500, d, seed=1))
    expected = frechet(Statistics.of(x), reference)
    assert frechet_of(x, reference) == pytest.approx(expected, rel=1e-6)
    assert frechet_influence(x, reference)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("d", [8, 60])
def test_influence_is_the_derivative_by_an_images_weight(d):
    x, reference = features(40, d), Statistics.of(features(500, d, seed=1))

    def at(weights):
        mean = weights @ x / weights.sum()
        cov = (weights[:, None] * (x - mean)).T @ (x - mean) / (weights.sum() - 1)
        return frechet(Statistics(40, mean, cov), reference)

    slope = frechet_influence(x, reference)[1]
    for i in (0, 17):
        step = 1e-3 * (np.arange(40) == i)
        measured = (at(1 + step) - at(1 - step)) / 2e-3
        assert slope[i] == pytest.approx(measured, rel=1e-3, abs=1e-2)


def test_far_from_the_origin_nothing_is_lost():
    a, b = features(60), features(70, seed=2)
    near = frechet_of(a, Statistics.of(b))
    assert frechet_of(a + 1e5, Statistics.of(b + 1e5)) == pytest.approx(near, rel=1e-6)


def test_extrapolation_takes_the_bias_away():
    rng = np.random.default_rng(0)
    reference = Statistics(0, np.zeros(16), np.eye(16))
    sets = [1.2 * rng.normal(size=(300, 16)) for _ in range(30)]
    true = 16 * 0.2**2
    biased = np.mean([frechet_of(x, reference) for x in sets]) - true
    left = np.mean([frechet_infinity(x, reference) for x in sets]) - true
    assert biased > 0.3 and abs(left) < biased / 5
    assert frechet_infinity(sets[0], reference) == frechet_infinity(sets[0], reference)
    assert frechet_infinity(sets[0][:60], reference) is None  # 60 < 4 × 16


def test_floor_falls_with_the_number_of_images():
    reference = features(1200, 16)
    assert frechet_floor(reference, 50) > frechet_floor(reference, 400) > 0
    assert frechet_floor(reference, 50) == frechet_floor(reference, 50)
    assert frechet_floor(reference, 1200) is None


def test_the_floor_is_what_as_many_fresh_draws_score_against_the_whole_reference():
    rng = np.random.default_rng(3)
    reference = rng.normal(size=(1200, 16))
    fresh = [frechet_of(rng.normal(size=(600, 16)), Statistics.of(reference)) for _ in range(40)]
    assert frechet_floor(reference, 600, repeats=40) == pytest.approx(np.mean(fresh), rel=0.1)


def test_kid_equals_torch_fidelity_on_one_full_subset():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = features(120), features(120, seed=3, shift=0.5)
    expected = theirs.kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=120, verbose=False
    )["kernel_inception_distance_mean"]
    assert kid(a, b) == pytest.approx(expected, rel=1e-6)


def test_kid_is_unbiased_about_zero():
    rng = np.random.default_rng(0)
    values = [kid(rng.normal(size=(20, 4)), rng.normal(size=(30, 4))) for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_cmmd_equals_torch_fidelity():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features(90), features(90, 8, 3))
    )
    expected = theirs.kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=90, verbose=False,
        kid_kernel="rbf", kid_kernel_rbf_sigma=10.0,
    )["kernel_inception_distance_mean"]  # fmt: skip
    assert cmmd(a, b) == pytest.approx(1000 * expected, rel=1e-6)


def test_kid_of_blocks_equals_kid_at_once(monkeypatch):
    a, b = features(50), features(40, seed=3)
    whole = kid(a, b)
    monkeypatch.setattr("eval.kernels.ROWS", 7)
    assert kid(a, b) == pytest.approx(whole, rel=1e-12)
    assert kid(a, b, within(cubic, b)) == pytest.approx(whole, rel=1e-12)


def test_precision_and_recall_equal_torch_fidelity(monkeypatch):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch_fidelity.metric_prc")
    images, real = 0.6 * features(80), features(120, seed=3, shift=0.3)
    expected = theirs.calculate_precision_recall_full(
        torch.from_numpy(images), torch.from_numpy(real), neighborhood=3
    )
    monkeypatch.setattr("eval.neighbours.ROWS", 32)
    assert precision_recall(images, real) == pytest.approx(expected, abs=1e-6)
    assert precision_recall(images, real, radii(real)) == precision_recall(images, real)


def test_which_side_is_real():
    """Images in one of two clusters: all are plausible, half of the real ones are not covered."""
    cluster = features(60)
    real = np.concatenate([cluster, cluster + 1000])
    assert precision_recall(cluster, real) == (1.0, 0.5)
    assert precision_recall(real, cluster) == (0.5, 1.0)
    assert precision_recall(cluster[:3], real) is None


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="n ≥ 2"):
        Statistics.of(features(1))
    with pytest.raises(ValueError, match="8 and 6 dimensions"):
        frechet(Statistics.of(features(9)), Statistics.of(features(9, 6)))
    with pytest.raises(ValueError, match="at least 2"):
        kid(features(1), features(5))
