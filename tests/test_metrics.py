"""Fréchet and kernel distances: exact cases, torch-fidelity's values, resampling."""

import numpy as np
import pytest

from eval.metrics import Statistics, clip_score, frechet, frechet_floor, frechet_resampled, kid


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


@pytest.mark.parametrize("d", [8, 60])  # moments when n ≥ d, Gram matrix when n < d
def test_grouped_and_resampled_equal_pooled(d):
    pool = features(40, d)
    groups = [pool[:3], pool[3:3], pool[3:20], pool[20:]]  # one prompt has no image
    reference = Statistics.of(features(500, d, seed=1))
    weights = np.array([[1, 1, 1, 1], [2, 5, 0, 1], [0, 3, 2, 0]])
    found = frechet_resampled(groups, weights, reference)
    for row, value in zip(weights, found, strict=True):
        union = np.concatenate([g for g, w in zip(groups, row, strict=True) for _ in range(w)])
        assert value == pytest.approx(frechet(Statistics.of(union), reference), rel=1e-6)


def test_a_resample_without_images_is_nan():
    groups = [features(4), features(0)]
    found = frechet_resampled(groups, np.array([[0, 2], [1, 1]]), Statistics.of(features(50)))
    assert np.isnan(found[0]) and found[1] >= 0


def test_far_from_the_origin_nothing_is_lost():
    a, b = features(60), features(70, seed=2)
    near = frechet_resampled([a], np.ones((1, 1)), Statistics.of(b))
    far = frechet_resampled([a + 1e5], np.ones((1, 1)), Statistics.of(b + 1e5))
    assert far == pytest.approx(near, rel=1e-6)


def test_floor_falls_with_the_number_of_images():
    reference = features(1200, 16)
    assert frechet_floor(reference, 50) > frechet_floor(reference, 400) > 0
    assert frechet_floor(reference, 50) == frechet_floor(reference, 50)
    assert frechet_floor(reference, 1200) is None


def test_kid_equals_torch_fidelity_on_one_full_subset():
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = features(120), features(120, seed=3, shift=0.5)
    expected = theirs.kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=120, verbose=False
    )["kernel_inception_distance_mean"]
    assert kid(a, b) == pytest.approx(expected, rel=1e-9)


def test_kid_is_unbiased_about_zero():
    rng = np.random.default_rng(0)
    values = [kid(rng.normal(size=(20, 4)), rng.normal(size=(30, 4))) for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_clip_score_is_a_hundred_times_the_cosine():
    assert clip_score(np.array([0.25, 0.35])) == pytest.approx(30)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="n ≥ 2"):
        Statistics.of(features(1))
    with pytest.raises(ValueError, match="8 and 6 dimensions"):
        frechet(Statistics.of(features(9)), Statistics.of(features(9, 6)))
    with pytest.raises(ValueError, match="at least 2"):
        kid(features(1), features(5))
