"""What each named system chooses: five choices, one class.

| system         | units  | time         | output   | weighting        | levels in training |
|----------------|--------|--------------|----------|------------------|--------------------|
| ``ddpm``           | VP     | T-step table | ε        | MSE of ε         | uniform t          |
| ``iddpm``          | VP     | cosine table | ε, variance | MSE of ε, bound | uniform step    |
| ``vdm``            | VP     | learned λ    | ε        | 1 (the ELBO)     | uniform t          |
| ``v_diffusion``    | VP     | shifted flow | v        | MSE of v         | uniform t          |
| ``edm``            | VE     | Karras       | v        | EDM              | log-normal σ       |
| ``rectified_flow`` | FLOW   | logit        | velocity | MSE of velocity  | uniform t          |
| ``score_sde``      | all 3  | linear β, …  | ε        | MSE of ε         | uniform t          |

``backbone`` is any module called as ``backbone(x, t, cond)`` or ``backbone(x, t)`` that returns a
tensor of x's shape; t is in [0, 1], and cond holds class indices with −1 for "no class".
"""

import math

from torch import nn

from .ancestral import Hybrid, StepLevels
from .coupling import Coupling
from .denoiser import Net
from .errors import MarginalsError
from .learned import LearnedSchedule, LearnedTime, StepTime, Variational
from .models import DataStats, Model
from .objective import Edm, Elbo, Levels, Mse, NormalLevels, Objective, UniformTime
from .predict import EPS, VELOCITY, V, VPrediction
from .scaling import FLOW, SUB_VP, VE, VP, Scaling, UnitVariance
from .schedule import Karras, LinearBeta, Logit, LogLinear, NoiseSchedule, Tabulated, Truncated


def ddpm(backbone: nn.Module, *, data: DataStats | None = None, steps: int = 1000) -> Model:
    """DDPM (Ho et al. 2020; Luo Eqs. 58, 130): VP, ε-prediction with plain MSE, T tabulated
    steps."""
    chain = Tabulated.ddpm(steps)
    net = Net(backbone, prediction=EPS, scaling=VP, label=chain)
    objective = Objective(Mse(EPS, chain), UniformTime(chain))
    return Model(net, chain, objective, lam_min=chain.lams[-1], lam_max=chain.lams[0], data=data)


def iddpm(backbone: nn.Module, *, data: DataStats | None = None, steps: int = 1000) -> Model:
    """Improved DDPM (Nichol & Dhariwal 2021): DDPM with the cosine chain, and with the variance of
    every step learned from the bound (L_simple + 0.001·L_vlb).

    ``backbone`` answers with two numbers per entry, ε and where the variance lies between small and
    large: a :class:`.nn.UNet` with ``outputs=2``.
    """
    chain = Tabulated.cosine(steps)
    net = Net(backbone, prediction=EPS, scaling=VP, label=chain)
    objective = Hybrid(Mse(EPS, chain), StepLevels(chain))
    return Model(net, chain, objective, lam_min=chain.lams[-1], lam_max=chain.lams[0], data=data)


def vdm(
    backbone: nn.Module,
    *,
    data: DataStats | None = None,
    learned: bool = True,
    learn_ends: bool = False,
    steps: int | None = None,
    lam_max: float = 13.3,
    lam_min: float = -5.0,
) -> Model:
    """Variational diffusion model (Kingma et al. 2021): VP, ε-prediction, the ELBO itself.

    ``learned``: the schedule between the two ends is learned, else λ is linear in time;
    ``learn_ends``: so are the two ends, from the bound, whose other two terms the loss then holds
    too. ``steps``:
    the bound of a chain of so many steps (their Eq. 14) instead of continuous time. Give stored
    pixels as uint8: the model is one of whole numbers and learns them as such; a backbone with
    Fourier features tells them apart (:class:`.nn.UNet`, ``fourier``).
    """
    line = LogLinear(lam_max, lam_min)
    time = LearnedSchedule(lam_max, lam_min, learn_ends=learn_ends) if learned else line
    label = LogLinear(lam_max + 4.0, lam_min - 4.0) if learn_ends else line  # ends may move
    net = Net(backbone, prediction=EPS, scaling=VP, label=label)
    levels = LearnedTime(time) if isinstance(time, LearnedSchedule) else UniformTime(time)
    objective = Variational(Elbo(), levels if steps is None else StepTime(time, steps))
    return Model(net, time, objective, lam_min=lam_min, lam_max=lam_max, data=data)


def v_diffusion(
    backbone: nn.Module,
    *,
    data: DataStats | None = None,
    lam_max: float = 12.0,
    lam_min: float = -9.0,
) -> Model:
    """v-prediction with its plain MSE (Salimans & Ho 2022): VP, and levels for pictures *and* bits.

    Flow time shifted towards the data: levels are logistic in λ around 2, half of them in 2 ± 2.2,
    where the picture is decided; 3 % lie above 9, where most of its bits/dim are.
    """
    time = Truncated(Logit(shift=math.exp(-1.0)), lam_max, lam_min)
    net = Net(backbone, prediction=V, scaling=VP, label=LogLinear(lam_max, lam_min))
    objective = Objective(Mse(V, time), UniformTime(time))
    return Model(net, time, objective, lam_min=lam_min, lam_max=lam_max, data=data)


def edm(backbone: nn.Module, *, data: DataStats | None = None) -> Model:
    """EDM (Karras et al. 2022): VE, unit-variance input and target, log-normal levels, Karras time.

    σ_data is the data's standard deviation if known, else EDM's 0.5.
    """
    std = 0.5 if data is None else data.std
    time = Karras()
    lam_max, lam_min = time.lam(0.0), time.lam(1.0)
    net = Net(
        backbone,
        prediction=VPrediction(std),
        scaling=VE,
        input_scaling=UnitVariance(std),
        label=LogLinear(lam_max, lam_min),
    )
    objective = Objective(Edm(data_std=std), NormalLevels(2.4, 2.4))
    return Model(net, time, objective, lam_min=lam_min, lam_max=lam_max, data=data)


def rectified_flow(
    backbone: nn.Module,
    *,
    data: DataStats | None = None,
    lam_max: float = 13.3,
    lam_min: float = -12.0,
    levels: Levels | None = None,
    coupling: Coupling | None = None,
) -> Model:
    """Rectified flow / flow matching (Liu et al. 2022; Lipman et al. 2023): FLOW, velocity, plain
    MSE at uniform t.

    ``levels``: other times, with plain MSE there, as in Stable Diffusion 3
    (:func:`.objective.logit_normal`, :class:`.objective.ModeTime`): what is looked at more also
    counts more. (Equal counts from other levels: ``Objective(Mse(VELOCITY, Logit()), levels)``.)
    ``coupling``: which noise meets which picture (:class:`.coupling.MinibatchOT`).
    """
    time = Logit()
    net = Net(backbone, prediction=VELOCITY, scaling=FLOW, label=time)
    objective = Objective(Mse(VELOCITY, levels or time), levels or UniformTime(time))
    return Model(
        net, time, objective, lam_min=lam_min, lam_max=lam_max, data=data, coupling=coupling
    )


def score_sde(backbone: nn.Module, kind: str = "vp", *, data: DataStats | None = None) -> Model:
    """The score SDEs "vp", "ve" and "sub_vp" of Song et al. 2021, from t = 1 down to t = 10⁻³.

    The network predicts ε, which is the score times −σ (Luo Eq. 151), as in the authors' code; it
    is fed unit-variance pictures. The loss is their σ²-weighted score matching (Luo Eq. 161) = MSE
    of ε.
    """
    choices: dict[str, tuple[Scaling, NoiseSchedule]] = {
        "vp": (VP, LinearBeta()),
        "ve": (VE, LogLinear(9.21, -7.82)),  # σ from 0.01 to 50
        "sub_vp": (SUB_VP, LinearBeta(scaling=SUB_VP)),
    }
    if kind not in choices:
        raise MarginalsError(f"There is no score SDE {kind!r}: choose one of {', '.join(choices)}.")
    scaling, time = choices[kind]
    net = Net(backbone, prediction=EPS, scaling=scaling, input_scaling=VP, label=time)
    objective = Objective(Mse(EPS, time), UniformTime(time))
    lam_min, lam_max = time.lam(1.0), time.lam(1e-3)
    return Model(net, time, objective, lam_min=lam_min, lam_max=lam_max, data=data)
