"""Extensions: backbones and latents."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from ...nn.embed import Conditioning, fourier_features, picture_features
from ...nn.unet import Attention, ResBlock
from ...oracle import Mixture
from ...scaling import VP, UnitVariance
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_backbones import (
    adaln_zero,
    level_of_scaled,
    modulate,
    moving_average,
    patches,
    standardise,
)
from ..extra_worlds import normal, numbers

PART = "Backbones and latents"
DIT = "Peebles & Xie 2023 (DiT), arXiv 2212.09748"


def _shaken(module: torch.nn.Module) -> torch.nn.Module:
    """The module in float64 with every weight random, zeros included."""
    module = module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.3 * normal(*weight.shape))
    return module


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Group normalisation by hand."""
    parts = x.reshape(len(x), groups, -1)
    spread = parts.var(-1, keepdim=True, unbiased=False) + 1e-5
    return ((parts - parts.mean(-1, keepdim=True)) / spread.sqrt()).view_as(x)


def _silu(x: Tensor) -> Tensor:
    return x / (1.0 + (-x).exp())


@equation(
    "X76",
    part=PART,
    source="Vaswani et al. 2017, arXiv 1706.03762, section 3.5",
    latex=r"\left[\cos(f_k t), \sin(f_k t)\right]_{k}, \qquad f_k = f_0 \left(\frac{f_{n-1}}{f_0}"
    r"\right)^{k/(n-1)}",
    says="A network is told the time by hands that turn at many speeds, like those of a clock.",
    home=fourier_features,
    status="definition",
)
def _() -> Finding:
    t, found = numbers(0.0, 0.13, 0.77, 1.0), []
    for k in range(5):
        angle = 200.0 ** (k / 4.0) * t
        found.append((angle.cos(), angle.sin()))
    wanted = torch.cat([torch.stack([pair[i] for pair in found], 1) for i in (0, 1)], 1)
    coarse = fourier_features(t.bfloat16(), 10)
    require(coarse.dtype == torch.float32, "half precision is left before an angle is taken")
    return equal(fourier_features(t, 10), wanted, "speeds from 1 to 200 in equal ratios")


@equation(
    "X77",
    part=PART,
    source="Kingma et al. 2021 (VDM), arXiv 2107.00630, appendix C",
    latex=r"\left[\sin(2^n \pi x), \cos(2^n \pi x)\right]_{n}",
    says="Fast waves of the pixel values let a network see differences of single grey levels.",
    home=picture_features,
    status="definition",
)
def _() -> Finding:
    x, exponents = 2.0 * torch.rand(2, 3, 4, 4, dtype=torch.float64) - 1.0, (3, 6)
    found = picture_features(x, exponents)
    waves = torch.exp(1j * math.pi * torch.cat([2.0**n * x for n in exponents], 1))
    pairs = [
        (found[:, :3], waves[:, :3].imag),
        (found[:, 3:6], waves[:, :3].real),
        (found[:, 6:9], waves[:, 3:].imag),
        (found[:, 9:], waves[:, 3:].real),
    ]
    return all_equal(pairs, "against the complex exponential")


@equation(
    "X78",
    part=PART,
    source="Perez et al. 2018 (FiLM); Dhariwal & Nichol 2021, arXiv 2105.05233",
    latex=r"h = \operatorname{conv}_1(\operatorname{silu}(\operatorname{norm}(x))), \quad x + "
    r"\operatorname{conv}_2\left(\operatorname{silu}\left(s \cdot \operatorname{norm}(h) + b"
    r"\right)\right), \quad (s, b) = \text{linear}(\text{time}, \text{class})",
    says="Time and class turn the knobs of every block: they scale and shift its features.",
    home=ResBlock.forward,
    status="definition",
    note="A fresh block is the identity, because its last convolution starts at zero.",
)
def _() -> Finding:
    block = ResBlock(6, 5).double()
    x, emb = normal(2, 6, 4, 4), normal(2, 5)
    fresh = block(x, emb)
    _shaken(block)
    groups = block.norm1.num_groups
    first = _grouped(x, groups) * block.norm1.weight.view(-1, 1, 1)
    h = block.conv1(_silu(first + block.norm1.bias.view(-1, 1, 1)))
    knobs = emb @ block.film.weight.T + block.film.bias
    scale, shift = knobs[:, :6].view(2, 6, 1, 1), knobs[:, 6:].view(2, 6, 1, 1)
    wanted = x + block.conv2(_silu(scale * _grouped(h, groups) + shift))
    return all_equal([(block(x, emb), wanted), (fresh, x)], "the block by hand, and when fresh")


@equation(
    "X79",
    part=PART,
    source="Vaswani et al. 2017, arXiv 1706.03762, Eq. 1",
    latex=r"x + W\, \operatorname{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V",
    says="Every place of the picture asks all others, and listens most to those that match its "
    "question.",
    home=Attention.forward,
    status="definition",
)
def _() -> Finding:
    layer = Attention(8, head=4).double()
    x = normal(2, 8, 3, 2)
    fresh = layer(x)
    _shaken(layer)
    normed = _grouped(x, layer.norm.num_groups) * layer.norm.weight.view(-1, 1, 1)
    normed = (normed + layer.norm.bias.view(-1, 1, 1)).flatten(2)
    assert layer.qkv.bias is not None and layer.proj.bias is not None
    weight, bias = layer.qkv.weight.flatten(1), layer.qkv.bias
    q, k, v = (weight @ normed + bias.unsqueeze(1)).view(2, 3, 2, 4, 6).unbind(1)
    share = torch.softmax(torch.einsum("bhcq,bhck->bhqk", q, k) / 2.0, -1)
    heard = torch.einsum("bhqk,bhck->bhcq", share, v).reshape(2, 8, 6)
    out = layer.proj.weight.flatten(1) @ heard + layer.proj.bias.unsqueeze(1)
    pairs = [(layer(x), x + out.view_as(x)), (fresh, x)]
    return all_equal(pairs, "two heads by hand, and a fresh layer that says nothing")


@equation(
    "X80",
    part=PART,
    source=DIT + ", section 3.2",
    latex=r"x + g \cdot f\left(\operatorname{norm}(x)(1 + s) + b\right), \qquad (b, s, g) = "
    r"\text{linear}(\text{time} + \text{class}), \; \text{zero at first}",
    says="A transformer block whose gate starts closed does nothing until training opens it.",
    home=(adaln_zero, modulate),
    status="definition",
)
def _() -> Finding:
    x, emb, weight = normal(2, 5, 6), normal(2, 4), normal(6, 6)
    linear = torch.nn.Linear(4, 18).double()

    def block(knobs: Tensor) -> Tensor:
        shift, scale, gate = knobs.unsqueeze(1).chunk(3, -1)
        return adaln_zero(x, (modulate(x, shift, scale) @ weight).tanh(), gate)

    knobs = linear(emb).unsqueeze(1)
    normed = torch.nn.functional.layer_norm(x, (6,), eps=1e-6)
    inner = normed * (1.0 + knobs[..., 6:12]) + knobs[..., :6]
    wanted = x + knobs[..., 12:] * (inner @ weight).tanh()
    pairs = [(block(linear(emb)), wanted), (block(torch.zeros(2, 18).double()), x)]
    return all_equal(pairs, "a block by hand, and the identity when all knobs are zero")


@equation(
    "X81",
    part=PART,
    source=DIT + ", section 3.2",
    latex=r"(C, H, W) \to \left(\frac{H W}{p^2}, C p^2\right)",
    says="Cutting a picture into little squares loses nothing and makes its map p² times smaller.",
    home=patches,
)
def _() -> Finding:
    x = normal(2, 3, 6, 4)
    wanted = pixel_unshuffle(x, 2).flatten(2).mT
    found = patches(x, 2)
    pairs = [(found, wanted), (found.square().sum(), x.square().sum())]
    require(found.shape == (2, 6, 12), "six places of twelve numbers")
    return all_equal(pairs, "torch's own space-to-depth, and the sum of squares")


@equation(
    "X82",
    part=PART,
    source="Rombach et al. 2022, arXiv 2112.10752, appendix G",
    latex=r"\text{data of standard deviation } s \text{ at } \lambda \equiv \text{data of standard "
    r"deviation } 1 \text{ at } \lambda + 2 \log s",
    says="Scaling the latents of a codec to size one is the same as moving every noise level by a "
    "fixed amount.",
    home=(level_of_scaled, standardise, UnitVariance._alpha_sigma),
)
def _() -> Finding:
    lam, std, mean = numbers(-2.0, 0.3, 1.9), 0.18, 0.04
    codes, spread = mean + std * normal(3, 1), numbers(0.05, 0.11, 0.07)
    raw = Mixture(codes - mean, spread)
    unit = Mixture(standardise(codes, mean, std), spread / std)
    there = level_of_scaled(lam, std)
    x = normal(3, 1)
    level, other = VP(lam), VP(there)
    # the same picture and the same noise, in either size
    moved = x * (other.sigma / level.sigma).unsqueeze(1)
    own = UnitVariance(std)(lam)
    pairs = [
        (unit(moved, there).x0 * std, raw(x, lam).x0),
        (unit(moved, there).eps, raw(x, lam).eps),
        (own.sigma, other.sigma),
        (own.alpha * std, other.alpha),
    ]
    return all_equal(pairs, "exact denoisers of the same codes, scaled and unscaled")


@equation(
    "X83",
    part=PART,
    source="Ho & Salimans 2022, arXiv 2207.12598, section 3.2",
    latex=r"e(y) = \operatorname{silu}\left(W_2 \operatorname{silu}(W_1 \tau(t)) + E_y\right), "
    r"\qquad y = \varnothing \text{ is one more class}",
    says="A network that is to be guided must also know the answer “no class in particular”.",
    home=Conditioning.forward,
    status="definition",
)
def _() -> Finding:
    told, t = Conditioning(6, num_classes=3), numbers(0.2, 0.5, 0.9)
    _shaken(told)
    require(told.label is not None, "there is a table of classes")
    assert told.label is not None
    cond = torch.tensor([2, -1, 0])
    hidden = _silu(fourier_features(t, 6) @ told.time1.weight.T + told.time1.bias)
    base = hidden @ told.time2.weight.T + told.time2.bias
    table = told.label.weight
    pairs = [
        (told(t, cond), _silu(base + table[[2, 3, 0]])),
        (told(t), _silu(base + table[[3, 3, 3]])),
    ]
    plain = Conditioning(6).double()
    hidden = _silu(fourier_features(t, 6) @ plain.time1.weight.T + plain.time1.bias)
    pairs += [(plain(t), _silu(hidden @ plain.time2.weight.T + plain.time2.bias))]
    return all_equal(pairs, "by hand, with a class, without one, and for a network of none")


@equation(
    "X84",
    part=PART,
    source="Polyak & Juditsky 1992; Karras et al. 2022, arXiv 2206.00364",
    latex=r"\bar\theta_{k} = \bar\theta_{k-1} + \left(1 - 2^{-1/h}\right)\left(\theta_k - "
    r"\bar\theta_{k-1}\right)",
    says="The weights used for pictures are a running average of those in training, with a memory "
    "of so many steps.",
    home=moving_average,
    status="definition",
)
def _() -> Finding:
    start, target, half = normal(4), normal(4), 7.0
    average, halves = start, []
    for _ in range(14):
        average = moving_average(average, target, half)
        halves.append(average)
    pairs = [(halves[i] - target, share * (start - target)) for i, share in ((6, 0.5), (13, 0.25))]
    return all_equal(pairs, "one half-life leaves half, two leave a quarter")
