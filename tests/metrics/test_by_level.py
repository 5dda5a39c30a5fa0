"""Accuracy and cross-entropy by level: those of an exact classifier are known."""

import math

import pytest
import torch
from torch import nn

from marginals.classifier import NoisyClassifier
from marginals.errors import MarginalsError
from marginals.metrics.by_level import by_level
from marginals.scaling import VP

CENTRE = 1.5


class Sides(nn.Module):
    """p(side | x) of 0.5·N(−c, 0) + 0.5·N(c, 0) under noise: the logit is 2·α·c·x/σ²."""

    def __init__(self, label):
        super().__init__()
        self.label = label

    def forward(self, x, t):
        _, alpha, sigma = VP(self.label.lam(t))
        logit = 2.0 * alpha * CENTRE * x[:, 0] / sigma**2
        return torch.stack([-0.5 * logit, 0.5 * logit], 1)


def exact() -> NoisyClassifier:
    classifier = NoisyClassifier(nn.Identity())
    classifier.body = Sides(classifier.label)
    return classifier


LABELS = torch.arange(4000) % 2
X = (2.0 * LABELS - 1.0)[:, None].double() * CENTRE


def test_an_exact_classifier_errs_as_often_as_the_noise_crosses_the_middle():
    """Right with probability Φ(α·c/σ); the cross-entropy is E[softplus(−logit)], by quadrature."""
    for row in by_level(exact(), X, LABELS, (4.0, 0.0, -2.0, -6.0)):
        _, alpha, sigma = VP(row.lam)
        bayes = 0.5 * (1.0 + math.erf(alpha * CENTRE / sigma / math.sqrt(2.0)))
        assert abs(row.accuracy.value - bayes) < 4.0 * row.accuracy.stderr
        z = torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64)
        logit = 2.0 * alpha * CENTRE * (alpha * CENTRE + sigma * z) / sigma**2
        density = torch.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
        entropy = torch.trapezoid(density * nn.functional.softplus(-logit), z).item()
        assert abs(row.cross_entropy - entropy) < 4.0 * row.stderr + 1e-6
        assert row.pictures == 4000


def test_the_batch_does_not_matter_and_the_seed_does():
    some = X[:50], LABELS[:50]
    wanted = by_level(exact(), *some)
    for row, other in zip(wanted, by_level(exact(), *some, batch=7), strict=True):
        assert row.accuracy == other.accuracy
        assert row.cross_entropy == pytest.approx(other.cross_entropy, rel=1e-12)
    assert by_level(exact(), *some, seed=90) != wanted


def test_without_pictures_there_is_nothing_to_measure():
    with pytest.raises(MarginalsError, match="no held-out pictures with a class"):
        by_level(exact(), X[:0], LABELS[:0])
