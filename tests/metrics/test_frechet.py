"""Distances of feature sets against closed forms and against what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from marginals.errors import MarginalsError
from marginals.metrics.features import Extractor
from marginals.metrics.frechet import frechet_distance, frechet_report, kernel_distance


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def whitened(n: int, d: int, seed: int = 0) -> Tensor:
    """Points whose sample mean is exactly 0 and whose sample covariance is exactly the identity."""
    x = normal(n, d, seed=seed)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * (n - 1) ** 0.5


def with_moments(mean: Tensor, root: Tensor, n: int, seed: int) -> Tensor:
    return whitened(n, len(mean), seed) @ root.T + mean


def positive_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def closed_form(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2(Σa^½ Σb Σa^½)^½), the textbook form with two matrix roots."""
    root = positive_root(cov_a)
    cross = positive_root(root @ cov_b @ root)
    return float((mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * cross).trace())


@pytest.mark.parametrize("seed", range(3))
def test_two_gaussians_have_the_closed_form(seed: int) -> None:
    d = 5
    roots = [normal(d, d, seed=10 * seed + i) for i in (1, 2)]
    means = [normal(d, seed=10 * seed + i) for i in (3, 4)]
    a, b = (with_moments(m, r, 40 + i, i) for i, (m, r) in enumerate(zip(means, roots)))
    expected = closed_form(means[0], roots[0] @ roots[0].T, means[1], roots[1] @ roots[1].T)
    assert expected > 1
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_one_dimension_by_hand() -> None:
    """For N(μ, s²) and N(ν, t²) the distance is (μ − ν)² + (s − t)²."""
    a, b = whitened(30, 1) * 2 + 1, whitened(20, 1, seed=1) * 5 - 3
    assert frechet_distance(a, b) == pytest.approx(16 + 9, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 50, 4), (6, 9, 20), (3, 40, 10), (2, 2, 1)])
def test_fewer_pictures_than_features_are_right_too(n: int, m: int, d: int) -> None:
    a, b = normal(n, d, seed=1), 2 * normal(m, d, seed=2) + 0.5
    expected = closed_form(a.mean(0), _cov(a), b.mean(0), _cov(b))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def _cov(x: Tensor) -> Tensor:
    return torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def test_identical_sets_have_distance_zero_and_a_shift_its_square() -> None:
    a = normal(60, 7)
    shift = normal(7, seed=3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift.square().sum()), rel=1e-10)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_turning_both_sets_changes_nothing(seed: int) -> None:
    a, b = normal(12, 6, seed=seed), normal(15, 6, seed=seed + 1) * 1.5
    turn = torch.linalg.qr(normal(6, 6, seed=seed + 2)).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_the_bias_falls_like_one_over_n() -> None:
    """Two sets of the same law: the distance is all bias, and n times it stays about the same."""
    scaled = [n * frechet_distance(normal(n, 8, seed=1), normal(n, 8, seed=2)) for n in (200, 3200)]
    assert scaled[1] == pytest.approx(scaled[0], rel=0.4)


def test_bad_feature_sets_are_refused() -> None:
    with pytest.raises(MarginalsError, match="equally many features"):
        frechet_distance(normal(5, 3), normal(5, 4))
    with pytest.raises(MarginalsError, match="at least 2"):
        frechet_distance(normal(1, 3), normal(5, 3))
    with pytest.raises(MarginalsError, match="NaN"):
        frechet_distance(normal(5, 3) * float("nan"), normal(5, 3))
    with pytest.raises(MarginalsError, match="same size"):
        kernel_distance(normal(5, 3), normal(6, 3))


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    a, b = normal(9, 4, seed=1), normal(9, 4, seed=2) + 0.3

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 4 + 1) ** 3

    n = len(a)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    h = sum(k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for i, j in pairs)
    for block in (1, 4, 100):
        assert kernel_distance(a, b, block=block).value == pytest.approx(h / len(pairs), rel=1e-12)


def test_the_jackknife_leaves_out_one_pair_at_a_time() -> None:
    a, b = normal(11, 3, seed=1), normal(11, 3, seed=2) * 1.5
    keep = [[j for j in range(11) if j != i] for i in range(11)]
    without = torch.tensor([kernel_distance(a[k], b[k]).value for k in keep])
    expected = ((without - without.mean()).square().sum() * 10 / 11).sqrt()
    assert kernel_distance(a, b).stderr == pytest.approx(float(expected), rel=1e-5)


def test_kernel_distance_is_unbiased_and_its_error_is_honest() -> None:
    """On 300 repetitions: the mean is 0 for equal laws; the spread matches the stated error."""
    equal = [
        kernel_distance(normal(20, 3, seed=i), normal(20, 3, seed=10**6 + i)) for i in range(300)
    ]
    values = torch.tensor([r.value for r in equal])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert values.min() < 0 < values.max()
    shifted = [
        kernel_distance(normal(40, 3, seed=i), normal(40, 3, seed=10**6 + i) + 1)
        for i in range(300)
    ]
    spread = torch.tensor([r.value for r in shifted]).std()
    stated = torch.tensor([r.stderr for r in shifted]).square().mean().sqrt()
    assert 0.7 < float(stated / spread) < 1.4


PIXELS = Extractor("pixels", lambda x: F.avg_pool2d(x, 4))


def pictures(n: int, seed: int) -> Tensor:
    """Smooth random pictures, uint8."""
    x = F.interpolate(normal(n, 1, 4, 4, seed=seed), (16, 16), mode="bicubic").clamp(-2, 2) / 2
    return ((x + 1) * 127).round().to(torch.uint8)


def test_the_report_has_equal_numbers_its_floor_and_the_name_of_its_features() -> None:
    train, held_out, samples = pictures(300, 1), pictures(120, 2), pictures(200, 3)
    report = frechet_report(samples, train, held_out, PIXELS)
    assert report.name == "FD-pixels" and report.n == 120
    assert report.fd == pytest.approx(report.floor, rel=0.5)
    assert abs(report.mmd) < 4 * report.mmd_se and abs(report.floor_mmd) < 4 * report.floor_mmd_se
    brighter = frechet_report(samples.clamp_min(128), train, held_out, PIXELS)
    assert brighter.floor == report.floor and brighter.fd > 3 * report.floor
    assert brighter.mmd > 4 * brighter.mmd_se
    text = str(report)
    assert "FD-pixels" in text and f"{report.floor:.2f}" in text and "120 pictures each" in text


def test_the_report_of_the_training_set_itself_is_zero() -> None:
    train = pictures(80, 1)
    assert frechet_report(train, train, pictures(80, 2), PIXELS).fd == pytest.approx(0, abs=1e-9)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(MarginalsError, match="at least 3 pictures"):
        frechet_report(pictures(2, 1), pictures(5, 2), pictures(5, 3), PIXELS)


def test_agreement_with_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = normal(200, 12, seed=1), normal(200, 12, seed=2) @ normal(12, 12, seed=3)
    root = torch.from_numpy(linalg.sqrtm((_cov(a) @ _cov(b)).numpy()).real)
    mean = (a.mean(0) - b.mean(0)).square().sum()
    expected = float(mean + (_cov(a) + _cov(b) - 2 * root).trace())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
