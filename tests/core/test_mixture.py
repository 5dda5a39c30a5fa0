"""The mixture of logistics is a probability of whole numbers, and what it draws follows it."""

import math

import pytest
import torch

from marginals.decoders import DiscretisedLogistic
from marginals.errors import MarginalsError
from marginals.mixture import LogisticMixture
from marginals.pixels import to_float, to_uint8


def numbers(n: int, components: int, seed: int = 0, spread: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 3 * components, 2, 2)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


def table(decoder: LogisticMixture, out: torch.Tensor) -> torch.Tensor:
    """All 256 probabilities of one pixel, (256,), from `out` of a picture of one pixel."""
    k = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    return decoder.log_prob(k, out.expand(256, -1, 1, 1)).exp()


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_the_256_probabilities_sum_to_one(components: int, spread: float):
    for out in numbers(5, components, spread=spread)[:, :, :1, :1]:
        assert table(LogisticMixture(components), out).sum() == pytest.approx(1.0, abs=1e-10)


def test_one_component_is_one_logistic():
    """Its width is written differently: log s = −7 + softplus(out + 4)."""
    out, k = numbers(4, 1), torch.randint(0, 256, (4, 1, 2, 2), dtype=torch.uint8)
    log_scale = -7.0 + torch.nn.functional.softplus(out[:, 2:] + 4.0)
    single = torch.cat([out[:, 1:2], log_scale], 1)
    mine = LogisticMixture(1).log_prob(k[:, :, :1, :1], out[:, :, :1, :1]).exp()
    known = DiscretisedLogistic().log_prob(k[:, :, :1, :1], single[:, :, :1, :1]).exp()
    assert torch.allclose(mine, (1.0 - 1e-5) * known + 1e-5 / 256, atol=1e-14, rtol=1e-9)


def test_a_mixture_is_the_weighted_sum_of_its_components():
    out = numbers(1, 3)[:, :, :1, :1]
    share = out[0, :3, 0, 0].softmax(0)
    parts = [table(LogisticMixture(1), out[:, i::3]) for i in range(3)]
    whole = table(LogisticMixture(3), out)
    assert torch.allclose(whole, sum(s * p for s, p in zip(share, parts, strict=True)), atol=1e-12)


def test_what_is_drawn_follows_the_law():
    """u on a fine grid inverts the law: shares of the values are their probabilities."""
    out = numbers(1, 2, seed=3)[:, :, :1, :1]
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    decoder = LogisticMixture(2)
    drawn = decoder.sample(out.expand(len(u), -1, 1, 1), u.view(-1, 1, 1, 1))
    counts = torch.bincount(to_uint8(drawn).flatten().long(), minlength=256)
    assert torch.allclose(counts.double() / len(u), table(decoder, out), atol=2e-5)


def test_the_mean_is_that_of_the_whole_numbers():
    decoder, centres = LogisticMixture(3), to_float(torch.arange(256, dtype=torch.uint8))
    for out in numbers(6, 3, seed=1)[:, :, :1, :1]:
        mean = (table(decoder, out) * centres).sum()
        assert decoder.mean(out[None])[0].item() == pytest.approx(mean.item(), abs=1.0 / 256)


def test_extreme_outputs_stay_finite_and_have_gradients():
    k = torch.tensor([0, 7, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    for size in (-400.0, -60.0, 60.0, 400.0):
        out = torch.full((1, 6, 2, 2), size, requires_grad=True)
        nats = LogisticMixture(2).log_prob(k, out)
        nats.sum().backward()
        assert nats.isfinite().all() and out.grad is not None and out.grad.isfinite().all()


def test_no_pixel_costs_more_than_17_nats():
    """A law that is certain of black, shown white, and its gradient."""
    out = torch.tensor([30.0, 0.0, -9.0, 0.0, -30.0, -30.0]).view(1, 6, 1, 1).requires_grad_()
    nats = LogisticMixture(2).log_prob(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), out)
    nats.sum().backward()
    assert nats.item() == pytest.approx(math.log(1e-5 / 256), abs=1e-3)
    assert out.grad is not None and out.grad.abs().max() < 1.0


def test_colours_have_their_own_numbers():
    """out's first C channels are every colour's first number, as in the other decoders."""
    decoder, k = LogisticMixture(2), torch.randint(0, 256, (2, 3, 2, 2), dtype=torch.uint8)
    out = torch.randn(2, 18, 2, 2, dtype=torch.float64)
    apart = sum(decoder.log_prob(k[:, c : c + 1], out[:, c::3]) for c in range(3))
    assert torch.allclose(decoder.log_prob(k, out), torch.as_tensor(apart), atol=1e-10)


def test_no_component_is_refused():
    with pytest.raises(MarginalsError, match="1 component or more"):
        LogisticMixture(0)
