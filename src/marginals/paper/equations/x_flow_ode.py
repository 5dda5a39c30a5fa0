"""Extensions: the probability-flow ODE, Langevin moves at many levels, and Tweedie's formulas."""

import itertools
import math

import torch
from torch import Tensor

from ...denoiser import Rescaled
from ...errors import MarginalsError
from ...ode import exact_trace, hutchinson, solve
from ...oracle import Gaussian
from ...scaling import VE, VP
from ...solvers import euler_maruyama, langevin
from ..equation import Finding, all_equal, equal, equation, require
from ..extra_score import denoising_target, fisher_divergence
from ..extra_sde import corrector_step, langevin_step, tweedie, tweedie_covariance
from ..extra_worlds import flat_bumps, gradient, line, normal, numbers, three_bumps

PART = "Score SDE"
SONG = "Song et al. 2021, arXiv 2011.13456"
NCSN = "Song & Ermon 2019 (NCSN), arXiv 1907.05600"


def _tilted() -> Gaussian:
    cov = torch.tensor([[0.8, 0.3], [0.3, 0.4]], dtype=torch.float64)
    return Gaussian(numbers(0.6, -0.9), cov)


@equation(
    "X32",
    part=PART,
    source=SONG + ", Eq. 13, in the letters of this package",
    latex=r"\frac{dx}{d\lambda} = -\frac{1}{2} \alpha \sigma\, \hat v(x, \lambda) \quad "
    r"\text{(VP units)}",
    says="Told in the noise level instead of time, the flow from noise to data is smooth "
    "everywhere.",
    home=solve,
    tolerance=1e-7,
)
def _() -> Finding:
    oracle, x, ticks = _tilted(), normal(6, 2), []
    lams = torch.linspace(-3.0, 4.0, 101).tolist()
    end, change, calls = solve(oracle, x, lams, tick=lambda *now: ticks.append(now))
    back, _, _ = solve(Rescaled(oracle, VE), end, lams[::-1])
    require(calls == 400 and ticks == [(i + 1, 400) for i in range(400)], "four calls a step")
    try:
        solve(oracle, x, [0.3])
        require(False, "one level is no path")
    except MarginalsError:
        pass
    two = solve(oracle, x, [0.3, 0.31])[0]
    pairs = [(end, oracle.flow(x, -3.0, 4.0)), (back, x), (change, 0.0)]
    return all_equal([*pairs, (two, oracle.flow(x, 0.3, 0.31))], "Runge–Kutta, the exact flow")


@equation(
    "X33",
    part=PART,
    source="Chen et al. 2018; " + SONG + ", Eq. 39",
    latex=r"\log p_0(x_0) = \log p_T(x_T) + \int_0^T \nabla \cdot \tilde f(x_t, t)\, dt",
    says="Along the flow the probability of a picture changes by how much the flow spreads, so it "
    "can be counted exactly.",
    home=(solve, exact_trace),
    tolerance=1e-6,
)
def _() -> Finding:
    oracle, x = flat_bumps(), normal(5, 2)
    lams = torch.linspace(1.5, -2.0, 51).tolist()
    end, change, _ = solve(oracle, x, lams, divergence=exact_trace)
    gain = oracle.log_prob(end, lams[-1]) - oracle.log_prob(x, lams[0])
    matrix = normal(3, 3)
    leaf = normal(4, 3).requires_grad_(True)
    trace = exact_trace(leaf @ matrix.T + leaf**3, leaf)
    wanted = matrix.trace() + 3.0 * leaf.detach().square().sum(1)
    return all_equal([(change, gain), (trace, wanted)], "divergence against the log density's gain")


@equation(
    "X34",
    part=PART,
    source="Hutchinson 1989; Grathwohl et al. 2019, arXiv 1810.01367",
    latex=r"\nabla \cdot f = \mathbb{E}_{\epsilon}\left[\epsilon^\top \frac{\partial f}{\partial "
    r"x} \epsilon\right], \quad \mathbb{E}[\epsilon \epsilon^\top] = \mathbf{I}",
    says="How much a flow spreads can be measured in a random direction, right on average.",
    home=hutchinson,
    status="expectation",
    note="The check averages over all 32 vectors of random signs, so the average is exact; a "
    "single vector is off by the entries beside the diagonal.",
)
def _() -> Finding:
    matrix, x = normal(5, 5), normal(3, 5).requires_grad_(True)
    found, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for signs in itertools.product((-1.0, 1.0), repeat=5):
        value = hutchinson(numbers(*signs).expand(3, 5))((x @ matrix.T).sin(), x)
        found, squares = found + value / 32.0, squares + value**2 / 32.0
    jacobian = (x.detach() @ matrix.T).cos().unsqueeze(-1) * matrix
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    beside = jacobian - torch.diag_embed(jacobian.diagonal(dim1=1, dim2=2))
    both = beside + beside.mT
    probe = normal(3, 5)  # any probe, not only signs
    once = hutchinson(probe)((x @ matrix.T).sin(), x)
    pairs = [(once, torch.einsum("bi,bij,bj->b", probe, jacobian, probe))]
    pairs += [(found, trace), (squares - found**2, 0.5 * both.square().sum((1, 2)))]
    return all_equal(pairs, "mean and variance over all sign vectors against the Jacobian's")


@equation(
    "X35",
    part=PART,
    source=SONG + ", Algorithms 2-5",
    latex=r"c = 2 \left(r \frac{\lVert z \rVert}{\lVert s \rVert}\right)^2",
    says="A corrector's step is chosen so that the push of the score is a fixed share of the "
    "noise it adds.",
    home=corrector_step,
    status="definition",
    note="The authors' code averages the norms over the batch, so that pictures influence each "
    "other; here each picture has its own.",
)
def _() -> Finding:
    noise, score, ratio = normal(4, 2, 3), 3.0 * normal(4, 2, 3), 0.16
    c = corrector_step(noise, score, ratio)
    push = c * score.square().sum((1, 2)).sqrt()
    jiggle = (2.0 * c).sqrt() * noise.square().sum((1, 2)).sqrt()
    return equal(push / jiggle, ratio, "size of the push over size of the noise, per picture")


@equation(
    "X36",
    part=PART,
    source=NCSN + ", Eq. 5",
    latex=r"\sigma^2 \left\lVert s_\theta(x) - \nabla \log q(x \mid x_0) \right\rVert^2 = "
    r"\left\lVert \sigma s_\theta(x) + z \right\rVert^2",
    says="With this weight the network at every level guesses noise of size one.",
    home=(denoising_target, fisher_divergence),
)
def _() -> Finding:
    sigma, mean, z, model = 0.37, normal(6, 3), normal(6, 3), normal(6, 3)
    target = denoising_target(mean + sigma * z, mean, sigma)
    weights = torch.full((6,), 1.0 / 6.0, dtype=torch.float64)
    found = sigma**2 * fisher_divergence(model, target, weights)
    law = torch.distributions.Normal(mean, sigma)
    own = gradient(lambda x: law.log_prob(x).sum(-1), mean + sigma * z)
    wanted = (sigma * model + z).square().sum(1).mean()
    return all_equal([(found, wanted), (target, own)], "weighted score errors and noise errors")


@equation(
    "X37",
    part=PART,
    source=NCSN + ", Algorithm 1; Luo's text after Eq. 161",
    latex=r"x \leftarrow x + c_i\, s(x, \sigma_i) + \sqrt{2 c_i}\, z, \qquad c_i \propto "
    r"\sigma_i^2",
    says="Annealed Langevin takes big steps while the noise is high and small ones at the end.",
    home=(langevin_step, langevin),
    note="NCSN's paper writes steps α/2 with noise √α; its code, Luo and this package write c "
    "with √(2c), so c = α/2.",
    erratum="E11",
)
def _() -> Finding:
    mixture, rate, pairs = flat_bumps(VE), 0.21, []
    levels = [VE(lam) for lam in (-1.3, 0.2, 1.4)]
    rows = langevin(1, rate).table(levels)
    for row, level in ((rows[0], levels[0]), (rows[2], levels[1])):
        x, z = normal(5, 2), normal(5, 2)
        (i,) = row.x
        walked = row.x[i] * x + row.d[i] * mixture(x, level.lam).x0 + row.noise * z
        found = langevin_step(x, mixture.score(x, level.lam), z, rate, level.sigma)
        pairs.append((found, walked))
    # a Gaussian stays put if it is wider than the target by just enough
    x, sigma = normal(5), 0.6
    still = 1.0 / (1.0 - rate / 2.0)
    moved = langevin_step(x, -x / sigma**2, torch.zeros_like(x), rate, sigma)
    spread = langevin_step(torch.zeros_like(x), torch.zeros_like(x), x, rate, sigma)
    pairs += [((moved / x) ** 2 * still + (spread / x) ** 2 / sigma**2, still)]
    return all_equal(pairs, "the solver's rows, and the stationary variance, at two levels")


@equation(
    "X38",
    part=PART,
    source="Song & Ermon 2020 (NCSNv2), arXiv 2006.09011; Efron 2011",
    latex=r"\mathbb{E}[x_0 \mid x] = \frac{x + \sigma^2 \nabla \log p(x)}{\alpha}",
    says="One last step along the score, without noise, lands on the average of all pictures that "
    "could be underneath.",
    home=tweedie,
)
def _() -> Finding:
    mixture, x, clean = three_bumps(), numbers(-1.4, 0.1, 0.8, 2.3).unsqueeze(1), line(-5.0, 5.0)
    level = VP(0.6)
    noise = torch.distributions.Normal(level.alpha * clean, level.sigma).log_prob(x)
    posterior = torch.softmax(mixture.log_prob(clean.unsqueeze(1)) + noise, 1)
    found = tweedie(x, mixture.score(x, 0.6), level.alpha, level.sigma)[:, 0]
    return equal(found, posterior @ clean, "the step against the posterior mean by quadrature")


@equation(
    "X39",
    part=PART,
    source="Meng et al. 2021, arXiv 2111.04726",
    latex=r"\operatorname{Cov}[x_0 \mid x] = \frac{\sigma^2}{\alpha^2} \left(\mathbf{I} + "
    r"\sigma^2 \nabla^2 \log p(x)\right)",
    says="How the score itself changes tells how unsure one must be about the clean picture.",
    home=tweedie_covariance,
)
def _() -> Finding:
    mixture, x, lam = flat_bumps(), normal(4, 2), 0.3
    level = VP(lam)
    hessian = torch.autograd.functional.jacobian(
        lambda v: mixture.score(v, lam).sum(0), x
    ).transpose(0, 1)
    found = tweedie_covariance(hessian, level.alpha, level.sigma)
    var = level.alpha**2 * mixture.std**2 + level.sigma**2
    square = (x.unsqueeze(1) - level.alpha * mixture.means).square().sum(-1)
    share = torch.softmax(mixture.log_weights - 0.5 * square / var - var.log(), 1)
    gain = level.alpha * mixture.std**2 / var
    shift = x.unsqueeze(1) - level.alpha * mixture.means
    means = mixture.means + gain.unsqueeze(1) * shift
    off = means - (share.unsqueeze(-1) * means).sum(1, keepdim=True)
    between = torch.einsum("bk,bki,bkj->bij", share, off, off)
    within = (share * mixture.std**2 * level.sigma**2 / var).sum(1).view(-1, 1, 1)
    estimate = mixture(x, lam).var
    assert estimate is not None
    pairs = [(found, between + within * torch.eye(2).double())]
    pairs += [(found.diagonal(dim1=1, dim2=2), estimate)]
    return all_equal(pairs, "the score's Jacobian against the mixture's posterior covariance")


@equation(
    "X40",
    part=PART,
    source=SONG + ", Eq. 6 discretised; Algorithm 2",
    latex=r"x_s = x_t + \left(\sigma_t^2 - \sigma_s^2\right) \nabla \log p(x_t) + "
    r"\sqrt{\sigma_t^2 - \sigma_s^2}\, z \quad (\alpha = 1)",
    says="Euler and Maruyama's step goes backwards along the score and adds as much noise as the "
    "forward step did.",
    home=euler_maruyama,
)
def _() -> Finding:
    mixture, x, pairs = flat_bumps(VE), normal(5, 2), []
    levels = [VE(lam) for lam in (-1.2, 0.3, 1.7, math.inf)]
    rows = euler_maruyama().table(levels)
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        spread = t.sigma**2 - s.sigma**2
        moved = rows[i].x[i] * x + rows[i].d[i] * mixture(x, t.lam).x0
        pairs.append((moved, x + spread * mixture.score(x, t.lam)))
        pairs.append((rows[i].noise, math.sqrt(spread) if i < 2 else 0.0))
    pairs += _in_other_units()
    try:
        euler_maruyama().table([VP(-math.inf), VP(0.2)])
        require(False, "from infinite noise there is no such step")
    except MarginalsError:
        pass
    return all_equal(pairs, "the rows of the solver against the step, with and without noise")


def _in_other_units() -> list[tuple[Tensor | float, Tensor | float]]:
    """The same step in VP units: x/α moves as x does in VE units."""
    t, s = VP(-0.7), VP(1.1)
    row = euler_maruyama().table([t, s])[0]
    there = euler_maruyama().table([VE(-0.7), VE(1.1)])[0]
    return [
        (row.x[0] * t.alpha / s.alpha, there.x[0]),
        (row.d[0] / s.alpha, there.d[0]),
        (row.noise / s.alpha, there.noise),
    ]
