"""The evaluation's intervals hold the truth about as often as they say."""

from benchmarks.coverage import Bed, coverage

COVERED, EXACT = 3, 4  # columns of a row


def test_intervals_cover_and_exact_resamples_of_fid_do_not():
    """100 data sets: the standard error of a share is 2.2 points, of the mean of ten about 1."""
    table = coverage(Bed(40, 3, 8, 0.0), trials=100, resamples=200)
    shares = [row[COVERED] for row in table.values()]
    assert len(shares) == 10 and min(shares) > 0.86
    assert 0.91 < sum(shares) / len(shares) < 0.985
    assert table["FID"][EXACT] < 0.7 < table["FID"][COVERED]


def test_intervals_over_prompts_do_not_see_a_start_noise_that_all_prompts_share():
    table = coverage(Bed(40, 3, 8, alike=True), trials=60, resamples=200)
    assert table["FID"][COVERED] < 0.7
