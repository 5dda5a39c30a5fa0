"""What a likelihood says of itself, and what it refuses to be compared with."""

import math

import pytest
import torch

from marginals.bound import Bound, fingerprint
from marginals.errors import MarginalsError

NATS = torch.tensor([-2.0, -4.0, -9.0], dtype=torch.float64)


def bound(nats=NATS, density=True, dims=3, **more) -> Bound:
    return Bound(nats, "exact", density, dims, 1, **more)


def test_differences_are_paired():
    shift = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    gap = bound(NATS - shift) - bound()
    bits = shift / (3 * math.log(2.0))
    assert torch.allclose(gap.bits, bits)
    assert gap.mean == pytest.approx(bits.mean().item())
    assert gap.stderr == pytest.approx(bits.std().item() / 3**0.5)
    assert gap.stderr < 0.05 * bound().stderr and gap.z == pytest.approx(gap.mean / gap.stderr)
    whole = bound(NATS - shift, density=False) - bound(density=False)
    assert torch.allclose(whole.bits, gap.bits)
    one = bound(NATS[:1]) - bound(NATS[:1])
    assert one.stderr == math.inf and one.z == 0.0


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (bound(density=False), "whole-number"),
        (bound(binary=True, density=False), "black-and-white"),
        (bound(dims=4), "different pictures"),
        (bound(NATS[:2]), "different pictures"),
        (bound(pictures=2), "different pictures"),
    ],
)
def test_what_is_not_comparable_is_refused(other, word):
    for pair in ((bound(pictures=1), other), (other, bound(pictures=1))):
        with pytest.raises(MarginalsError, match=word):
            _ = pair[0] - pair[1]


def test_unknown_pictures_are_taken_on_trust():
    assert (bound(pictures=7) - bound()).mean == 0.0
    assert (bound(pictures=7) - bound(pictures=7)).mean == 0.0


def test_fingerprints_tell_pictures_apart():
    x = torch.rand(3, 1, 4, 4)
    other = x.clone()
    other[2, 0, 3, 3] += 1e-6
    assert fingerprint(x) == fingerprint(x.clone()) != fingerprint(other)
    assert fingerprint(x.mT) == fingerprint(x.mT.contiguous())


def test_noise_in_bits():
    assert bound().noise_bits is None
    noise = torch.tensor([3.0, 4.0, 0.0])
    wanted = 5.0 / 3 / (3 * math.log(2.0))
    assert bound(noise=noise).noise_bits == pytest.approx(wanted)
