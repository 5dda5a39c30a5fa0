"""Extensions: from real numbers to stored pixels, and counting bits."""

import math

import torch

from ...decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
from ...gaussian import Prior, gaussian_reconstruction
from ...pixels import bits_per_dim, dequantise, to_float
from ...scaling import VP
from ..equation import Finding, all_equal, equation, require
from ..extra_worlds import gauss, normal, numbers

PART = "Latent-variable models"
KINGMA = "Kingma & Welling 2014, arXiv 1312.6114"


@equation(
    "X107",
    part=PART,
    source="Theis et al. 2016, arXiv 1511.01844, section 3.1; Uria et al. 2013",
    latex=r"\log P(k) = \log \int_{\text{bin } k} p(x)\, dx \ge \mathbb{E}_{u}\left[\log p\left("
    r"\frac{2(k + u)}{256} - 1\right)\right] + D \log \frac{2}{256}",
    says="Spreading a whole-number pixel evenly over its bin turns a density into a safe "
    "underestimate of the pixel's probability.",
    home=dequantise,
    status="bound",
)
def _() -> Finding:
    u, nodes = gauss(0.0, 1.0, 30)
    law = torch.distributions.Normal(numbers(0.1), 0.02)
    pairs, slack = [], []
    for k in (0, 137, 141, 255):
        pixel = torch.tensor([k], dtype=torch.uint8)
        x = dequantise(pixel.expand(len(u)), u)
        low, high = 2.0 * k / 256.0 - 1.0, 2.0 * (k + 1) / 256.0 - 1.0
        pairs += [(x, low + (high - low) * u)]
        mass = torch.log(law.cdf(numbers(high)) - law.cdf(numbers(low)))
        average = (nodes * law.log_prob(x)).sum() + math.log(2.0 / 256.0)
        if 0 < k < 255:
            slack.append((mass - average).item())
        edge = dequantise(pixel, numbers(0.0)), dequantise(pixel, numbers(1.0 - 2.0**-40))
        inside = math.floor(128.0 * (edge[1].item() + 1.0)) == k
        require(edge[0].item() == low and inside, "a pixel never leaves its bin")
    every, last = torch.arange(256, dtype=torch.uint8), torch.full((256,), 1.0 - 2.0**-24)
    kept = ((dequantise(every, last).double() + 1.0) * 128.0).floor()
    grain = torch.tensor([2.0**-16])  # the last digit that k + u can keep in float32
    pairs += [(kept, every.double()), (dequantise(every[:1], grain).double() + 1.0, 2.0**-23)]
    require(min(slack) > 1e-4, "the bound holds, and strictly")
    return all_equal(pairs, "places inside the bins, and both sides by quadrature")


@equation(
    "X108",
    part=PART,
    source="Theis et al. 2016, arXiv 1511.01844; PixelCNN tables",
    latex=r"\text{bits/dim} = -\frac{\log p(x)}{D \ln 2} + \log_2 \frac{256}{2} = "
    r"-\frac{\log p(x)}{D \ln 2} + 7",
    says="Bits per pixel value compare models: seven are added when a density on [−1, 1] is read "
    "as a probability of whole numbers.",
    home=bits_per_dim,
    note="For pictures on [0, 1] it would be 8, for DDPM's 2/255 bins 6.994.",
)
def _() -> Finding:
    nats, dims = numbers(-3.0, 40.0, 812.5), 192
    flat = numbers(dims * math.log(0.5))  # the uniform density on [−1, 1]
    pairs = [
        (bits_per_dim(nats, dims, density=True), -nats / (dims * math.log(2.0)) + 7.0),
        (bits_per_dim(nats, dims, density=False), -nats / (dims * math.log(2.0))),
        (bits_per_dim(flat, dims, density=True), 8.0),
        (bits_per_dim(numbers(-dims * math.log(256.0)), dims, density=False), 8.0),
    ]
    return all_equal(pairs, "uniform guessing costs eight bits, as a density and as a chance")


@equation(
    "X109",
    part=PART,
    source="Kingma et al. 2016, arXiv 1606.04934; Salimans et al. 2017, arXiv 1701.05517, Eq. 2",
    latex=r"P(k) = \operatorname{sigmoid}\left(\frac{c_k + \frac{w}{2} - m}{s}\right) - "
    r"\operatorname{sigmoid}\left(\frac{c_k - \frac{w}{2} - m}{s}\right), \qquad w = "
    r"\frac{2}{256}",
    says="A bell curve cut into 256 bins gives every stored pixel value its chance.",
    home=DiscretisedLogistic.log_prob,
    status="definition",
    note="The first and the last bin are open, so that the chances add up to one.",
)
def _() -> Finding:
    x = torch.tensor([[0, 3, 140], [255, 90, 0]], dtype=torch.uint8)
    mean = to_float(x, torch.float64) + 0.1 * normal(2, 3)
    log_s = -2.5 + 0.3 * normal(2, 3)
    edges = torch.arange(257, dtype=torch.float64) / 128.0 - 1.0
    edges[0], edges[-1] = -math.inf, math.inf
    below = torch.sigmoid((edges - mean.unsqueeze(-1)) / log_s.exp().unsqueeze(-1))
    chance = below.diff(dim=-1).gather(-1, x.long().unsqueeze(-1))[..., 0]
    found = DiscretisedLogistic().log_prob(x, torch.cat([mean, log_s], 1))
    every = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    fixed = DiscretisedLogistic(0.07).log_prob(every, torch.full((256, 1), 0.42).double())
    pairs = [(found, chance.log().sum(1)), (fixed.exp().sum(), 1.0)]
    return all_equal(pairs, "differences of sigmoids, and all 256 chances together")


@equation(
    "X110",
    part=PART,
    source="van den Oord et al. 2016, arXiv 1601.06759; " + KINGMA,
    latex=r"\log p(x \mid z) = \sum_i \log \operatorname{softmax}(l_i)_{x_i} \;\text{ or }\; "
    r"\sum_i \log \operatorname{sigmoid}(\pm l_i)",
    says="The freest decoder gives each of the 256 values a chance of its own; the simplest knows "
    "black and white only.",
    home=(Categorical.log_prob, Bernoulli.log_prob, GaussianDecoder.log_prob),
    status="definition",
)
def _() -> Finding:
    x = torch.tensor([[0, 31, 255], [128, 127, 200]], dtype=torch.uint8)
    logits = normal(2, 256 * 3)
    share = logits.view(2, 256, 3).exp()
    picked = share.gather(1, x.long().unsqueeze(1))[:, 0] / share.sum(1)
    one = normal(2, 3)
    white = 1.0 / (1.0 + (-one).exp())
    binary = torch.where(x >= 128, white, 1.0 - white)
    real, mean, log_std = normal(2, 3), normal(2, 3), 0.4 * normal(2, 3)
    law = torch.distributions.Normal(mean, log_std.exp())
    bell = GaussianDecoder().log_prob(real, torch.cat([mean, log_std], 1))
    pairs = [
        (Categorical().log_prob(x, logits), picked.log().sum(1)),
        (Bernoulli().log_prob(x, one), binary.log().sum(1)),
        (bell, law.log_prob(real).sum(1)),
    ]
    return all_equal(pairs, "each decoder against its probabilities written out")


@equation(
    "X111",
    part=PART,
    source="Kingma et al. 2021 (VDM), arXiv 2107.00630, section 3; Luo Eq. 58",
    latex=r"\mathbb{E}_{q(x_\lambda \mid x_0)}\left[\log \mathcal{N}\left(x_0; \frac{x_\lambda}"
    r"{\alpha}, \frac{\sigma^2}{\alpha^2}\right)\right] = \frac{D}{2}\left(\lambda - \log 2\pi "
    r"e\right)",
    says="What the cleanest level still hides of a real-valued picture is the entropy of its "
    "noise, whatever the picture.",
    home=(gaussian_reconstruction, Prior.kl_from, Prior.moments),
)
def _() -> Finding:
    x0, lam, level = normal(2, 3), 5.3, VP(5.3)
    noise, nodes = gauss(-9.0, 9.0, 120)
    weights = nodes * (-0.5 * noise**2).exp() / math.sqrt(2.0 * math.pi)
    x = level.alpha * x0.unsqueeze(-1) + level.sigma * noise
    decoder = torch.distributions.Normal(x / level.alpha, level.sigma / level.alpha)
    average = (weights * decoder.log_prob(x0.unsqueeze(-1))).sum(-1).sum(1)
    prior, top = Prior(0.3, 0.8), VP(-1.7)
    mean, var = prior.moments(top)
    q = torch.distributions.Normal(top.alpha * x0, top.sigma)
    p = torch.distributions.Normal(
        numbers(top.alpha * 0.3), math.sqrt(0.64 * top.alpha**2 + top.sigma**2)
    )
    paid = torch.distributions.kl_divergence(q, p.expand(x0.shape)).sum(1)
    pairs = [
        (gaussian_reconstruction(x0, VP(lam)), average),
        (prior.kl_from(x0, top), paid),
        (mean, 0.3 * top.alpha),
        (var, 0.64 * top.alpha**2 + top.sigma**2),
    ]
    return all_equal(pairs, "the entropy by quadrature, and the KL at the noisy end")
