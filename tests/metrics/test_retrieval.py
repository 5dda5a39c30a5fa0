"""Ranks of concepts, on features whose angles are known."""

import pytest
import torch

from marginals.errors import MarginalsError
from marginals.metrics.retrieval import nearest, ranks, retrieval, spread


def unit(*degrees: float) -> torch.Tensor:
    """Vectors in the plane at these angles, of various lengths: only the angle may count."""
    a = torch.tensor(degrees).double().deg2rad()
    return torch.stack([a.cos(), a.sin()], 1) * torch.arange(1, len(degrees) + 1)[:, None]


REFERENCE = unit(0, 20, 90, 100, 180)
CONCEPTS = ["crab", "apple", "crab", "pear", "sun"]


def test_a_concept_is_as_similar_as_its_most_similar_picture():
    drawn = unit(88, 10.5, 179)
    # 88: crab 2, pear 12, apple 68, sun 92; 10.5: apple 9.5, crab 10.5; 179: sun, pear, crab, apple
    assert ranks(drawn, ["crab", "crab", "crab"], REFERENCE, CONCEPTS).tolist() == [1, 2, 3]
    assert ranks(drawn, ["pear", "pear", "apple"], REFERENCE, CONCEPTS).tolist() == [2, 3, 4]


def test_shares_and_their_errors():
    drawn = unit(0, 0, 0, 0)
    found = retrieval(drawn, ["crab", "crab", "crab", "sun"], REFERENCE, CONCEPTS)
    assert found.n == 4 and found.top1 == 0.75 and found.top5 == 1.0
    assert found.top1_se == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_what_no_real_picture_shows_cannot_be_asked_for():
    with pytest.raises(MarginalsError, match="whale"):
        ranks(unit(0), ["whale"], REFERENCE, CONCEPTS)


def test_a_tie_counts_against_the_drawing():
    drawn, alike = unit(0, 0), unit(90, 0, 90)
    assert ranks(drawn, ["sun", "pear"], alike, ["pear", "sun", "crab"]).tolist() == [1, 3]
    nothing = torch.ones(4, 2)
    found = retrieval(nothing, ["crab"] * 4, torch.ones(5, 2), CONCEPTS)
    assert found.top1 == 0.0  # what cannot tell anything apart finds nothing


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(value):
    bad = REFERENCE.clone()
    bad[1, 0] = value
    for measure in (
        lambda: ranks(bad, CONCEPTS, REFERENCE, CONCEPTS),
        lambda: ranks(REFERENCE, CONCEPTS, bad, CONCEPTS),
        lambda: nearest(bad, REFERENCE),
        lambda: nearest(REFERENCE, bad),
        lambda: spread(bad[None]),
    ):
        with pytest.raises(MarginalsError, match="must be finite"):
            measure()


def test_nearest_is_the_smallest_angle():
    found = nearest(unit(95.5, 5), REFERENCE)
    assert found.index.tolist() == [3, 0]
    assert found.similarity[1] == pytest.approx(float(torch.tensor(5.0).deg2rad().cos()))


def test_spread_is_the_mean_over_pairs():
    texts = torch.stack([unit(0, 0, 0), unit(0, 90, 180)])
    assert spread(texts) == pytest.approx((0 + (1 + 1 + 2) / 3) / 2)
    with pytest.raises(MarginalsError, match="two or more"):
        spread(texts[:, :1])
