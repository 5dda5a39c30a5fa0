"""A teacher's paths as pairs: exact lines, reflow, and students of few steps."""

import copy
import math

import pytest
import torch
from torch import nn

import marginals
from marginals import DataStats
from marginals.coupling import Independent, MinibatchOT, straightness
from marginals.denoiser import Estimate
from marginals.distill import TeacherPaths, line, reflow, student
from marginals.errors import MarginalsError
from marginals.io.checkpoint import load_model, save_model
from marginals.nn import MLP
from marginals.objective import WalkLevels
from marginals.oracle import Gaussian, Mixture
from marginals.predict import X0
from marginals.sampling import sample
from marginals.scaling import FLOW, SUB_VP, VE, VP
from marginals.solvers import auto, ddim, grid, straight

LOW, HIGH = -12.0, 12.0


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Exact(nn.Module):
    """A backbone that is an oracle: its v at the level the label says."""

    def __init__(self, oracle):
        super().__init__()
        self.oracle = oracle
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, cond=None):
        out = self.oracle(x, HIGH + (LOW - HIGH) * t.double(), *([] if cond is None else [cond])).v
        return out + 0.0 * self.anchor


def teacher_of(oracle, dims=2, classes=()):
    data = DataStats((dims,), 0.0, 1.0, classes)
    return marginals.v_diffusion(Exact(oracle), data=data, lam_max=HIGH, lam_min=LOW)


def gaussian():
    basis = torch.tensor([[1.0, 0.4], [-0.4, 1.0]], dtype=torch.float64)
    return Gaussian(
        torch.tensor([0.5, -1.0]), basis @ torch.diag(torch.tensor([0.2, 1.0]).double())
    )


@pytest.mark.parametrize("scaling", [VP, VE, FLOW, SUB_VP], ids=repr)
@pytest.mark.parametrize("b", [-1.0, 4.0, math.inf])
def test_a_line_leads_from_where_the_path_begins_to_where_it_ends(scaling, b):
    start, end = scaling(-7.0), scaling(b)
    x, y = randn(5, 3), randn(5, 3, seed=1)
    picture, noise = line(x, start, y, end)
    assert (start.alpha * picture + start.sigma * noise - x).abs().max() < 1e-12
    assert (end.alpha * picture + end.sigma * noise - y).abs().max() < 1e-12

    # and a denoiser that says so is there after one DDIM step
    class Says:
        def __call__(self, x, lam, cond=None):
            return Estimate(x, lam, scaling, picture, X0)

    Says.scaling = scaling
    assert (sample(Says(), x, [-7.0, b], ddim()).x - y).abs().max() < 1e-10


SEGMENTS = [(LOW, math.inf), (LOW, -1.0, math.inf), (LOW, -3.0, 0.5, 4.0, math.inf)]


@pytest.mark.parametrize("lams", SEGMENTS)
def test_the_pairs_are_the_teachers_paths(lams):
    """With the exact flow of a Gaussian: X and E from x_a and the closed form of where it goes."""
    oracle = gaussian()
    paths = TeacherPaths(lams, 60).of(teacher_of(oracle))
    x0, eps = oracle.sample(40), randn(40, 2, seed=1)
    lam = torch.linspace(LOW, 9.0, 40, dtype=torch.float64)
    lam[: len(lams) - 1] = torch.tensor(lams[:-1])  # a level belongs to the segment it begins
    picture, noise = paths(x0, eps, lam)
    for i in [*range(len(lams) - 1), *range(5, 40, 5)]:
        k = max(k for k in range(len(lams) - 1) if lams[k] <= lam[i])
        start, end = VP(lams[k]), VP(lams[k + 1])
        x = start.alpha * x0[i : i + 1] + start.sigma * eps[i : i + 1]
        wanted = line(x, start, oracle.flow(x, lams[k], lams[k + 1]), end)
        assert torch.allclose(picture[i], wanted[0][0], atol=2e-4)
        assert torch.allclose(noise[i], wanted[1][0], atol=2e-4)


def test_more_evaluations_of_the_teacher_are_nearer_to_its_flow():
    oracle, x = gaussian(), randn(40, 2)
    wanted = oracle.flow(x, LOW, math.inf)
    errors = []
    for evaluations in (2, 8, 32):
        paths = TeacherPaths((LOW, math.inf), evaluations).of(teacher_of(oracle))
        picture, _ = paths(torch.zeros_like(x), x / VP(LOW).sigma, torch.full((40,), LOW))
        errors.append((picture - wanted).square().mean().sqrt().item())
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]


def test_a_perfect_student_is_where_the_teacher_is_after_each_of_its_steps():
    """X is a function of x_a alone. A denoiser that is this function has loss zero, and walks 1, 2
    and 4 steps of DDIM to where the teacher's flow goes, to the last digit."""
    oracle = gaussian()
    teacher = teacher_of(oracle)
    for steps in (1, 2, 4):
        pupil = student(teacher, steps, evaluations=40)

        class Perfect:
            scaling = VP

            def __call__(self, x, lam, cond=None):
                lams = pupil.coupling.lams  # noqa: B023
                k = min(range(len(lams)), key=lambda k: abs(lams[k] - float(lam)))
                start, end = VP(lams[k]), VP(lams[k + 1])
                y = oracle.flow(x, lams[k], lams[k + 1])
                return Estimate(x, lam, VP, line(x, start, y, end)[0], X0)

        start = pupil.start(range(16))
        got = sample(Perfect(), start, pupil.walk.levels, ddim()).x
        assert (got - oracle.flow(start, LOW, math.inf)).abs().max() < 1e-9
        assert pupil.walk.levels[-1] == math.inf and len(pupil.walk.lams) == steps
        assert student(teacher, steps).coupling.evaluations == 16 // steps


class Free(nn.Module):
    """A backbone that answers with a parameter for every picture of the batch."""

    def __init__(self, count):
        super().__init__()
        self.out = nn.Parameter(torch.zeros(count, 2, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return self.out


def test_the_loss_of_a_student_is_plain_mse_of_the_teachers_line_at_its_own_levels():
    teacher, count = teacher_of(gaussian()), 12
    pupil = student(teacher, 3)
    pupil.net.backbone = Free(count)
    x = gaussian().sample(count)
    losses, lam = pupil.losses(x, generator=torch.Generator().manual_seed(3))
    assert sorted(set(lam.tolist())) == sorted(pupil.walk.lams)
    assert [lam.tolist().count(level) for level in pupil.walk.lams] == [4, 4, 4]
    generator = torch.Generator().manual_seed(3)
    torch.rand(1, generator=generator, dtype=torch.float64)
    eps = torch.randn(x.shape, generator=generator).double()
    picture, noise = pupil.coupling(x, eps, lam)
    alpha, sigma = (value[:, None] for value in VP(lam)[1:])
    target = alpha * noise - sigma * picture
    assert torch.allclose(losses, 0.5 * target.square().mean(1), rtol=1e-10)
    with torch.no_grad():
        pupil.net.backbone.out.copy_(target)
    assert pupil.loss(x, generator=torch.Generator().manual_seed(3)).item() < 1e-20


def test_levels_of_a_walk_are_drawn_alike():
    levels = WalkLevels((-3.0, 1.0, 2.0))
    u = torch.tensor([0.0, 0.3, 0.34, 0.66, 0.67, 1.0 - 2.0**-53], dtype=torch.float64)
    assert levels.sample(u).tolist() == [-3.0, -3.0, 1.0, 1.0, 2.0, 2.0]
    assert levels.density(levels.sample(u)).tolist() == [1 / 3] * 6


def test_a_student_can_learn_the_guidance_of_its_teacher():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    oracle = Mixture(means, 0.4, labels=torch.tensor([0, 1]))
    teacher = teacher_of(oracle, classes=("a", "b"))
    cond, x = torch.tensor([0, 1, 1, 0, 1, 0]), randn(6, 2)
    paths = TeacherPaths((LOW, math.inf), 12, guidance=2.0).of(teacher)
    picture, _ = paths(torch.zeros_like(x), x / VP(LOW).sigma, torch.full((6,), LOW), cond)
    lams = grid(straight(LOW, HIGH), 12)
    wanted = sample(teacher.guided(2.0), x, lams, auto(guided=True), cond=cond).x
    plain = sample(teacher.net, x, lams, auto(), cond=cond).x
    assert torch.allclose(picture, wanted, atol=1e-9)
    assert (wanted - plain).abs().max() > 0.05


def test_teachers_without_sight_at_pure_noise_are_refused():
    body, data = MLP(2, width=8, depth=1), DataStats((2,), 0.0, 1.0)
    for make in (marginals.ddpm, marginals.vdm, marginals.score_sde):
        with pytest.raises(MarginalsError, match="predicts v"):
            student(make(body, data=data), 4)
    for make in (marginals.v_diffusion, marginals.edm, marginals.rectified_flow):
        assert student(make(body, data=data), 4).sample(2).nfe == 4


def test_impossible_paths_are_refused():
    for lams in ((1.0,), (1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(MarginalsError, match="rise"):
            TeacherPaths(lams)
    with pytest.raises(MarginalsError, match="once"):
        TeacherPaths((0.0, math.inf), 0)


# ---- trained on points in the plane ------------------------------------------------------------

RING = torch.stack(
    [torch.tensor([math.cos(a), math.sin(a)]) for a in torch.arange(5) * 0.4 * math.pi]
)
CLOUD = Mixture(1.2 * RING, 0.12)


def trained(model, steps, seed=0, lr=4e-3, batch=128):
    """The average weights after some steps of AdamW, everything keyed by the seed."""
    points, _ = CLOUD.sample(4096, seed=1)
    points, generator = points.float(), torch.Generator().manual_seed(seed)
    weights = list(model.net.parameters())
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    average = copy.deepcopy(model)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1.0, 2.0 * (1.0 - step / steps))
        x = points[torch.randint(len(points), (batch,), generator=generator)]
        optimiser.zero_grad()
        model.loss(x, generator=generator).backward()
        optimiser.step()
        keep = min(0.98, (1 + step) / (10 + step))
        for a, b in zip(average.parameters(), weights, strict=True):
            a.data.lerp_(b.data, 1.0 - keep)
    return average


def fresh(coupling=None):
    torch.manual_seed(0)
    data = DataStats((2,), 0.0, 0.86)
    return marginals.rectified_flow(MLP(2, width=48, depth=2), data=data, coupling=coupling)


@pytest.fixture(scope="module")
def flow():
    return trained(fresh(), 900)


def bend(model):
    start = model.start(range(512))
    return straightness(model.net, start, model.lam_min, model.lam_max, steps=50).mean().item()


def ends(model, steps):
    return model.sample(512, steps=steps, solver=ddim()).x


def rms(a, b):
    return (a - b).square().mean().sqrt().item()


def test_ot_and_reflow_make_a_flow_straighter(flow):
    """Liu et al. 2022: S falls with reflow, and one Euler step is then nearly the whole way; OT of
    the batch helps too. All three are flows to the same law."""
    paired = trained(fresh(MinibatchOT()), 500, batch=64)
    again = trained(reflow(flow, evaluations=8), 200)
    curved = bend(flow)
    assert curved > 0.1
    assert bend(paired) < 0.2 * curved
    assert bend(again) < 0.1 * curved
    wanted, _ = CLOUD.sample(512, seed=3)
    for model in (flow, paired, again):
        x = model.sample(512, steps=20).x
        assert energy(x, wanted) < 0.05
    assert rms(ends(again, 1), ends(again, 50)) < 0.4 * rms(ends(flow, 1), ends(flow, 50))
    assert again.coupling.teacher is flow and again.walk is None
    assert again.objective == flow.objective


def energy(a, b):
    """Energy distance 2E‖a − b‖ − E‖a − a'‖ − E‖b − b'‖, zero for equal laws."""
    a, b = a.double(), b.double()
    return (
        2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()
    ).item()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_student_is_where_the_teacher_goes_with_many_steps(flow, steps):
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    pupil = trained(student(flow, steps), 200)
    truth = flow.sample(512, steps=60).x
    result = pupil.sample(512)
    assert result.nfe == steps
    assert rms(result.x, truth) < 0.5 * rms(ends(flow, steps), truth)
    for name, value in flow.state_dict().items():
        assert torch.equal(value, before[name])
    assert pupil.coupling.teacher is flow  # the average shares it
    assert sum(p.numel() for p in pupil.parameters()) == sum(p.numel() for p in flow.parameters())


def test_a_file_holds_a_student_without_its_teacher(flow, tmp_path):
    pupil = student(flow, 2, evaluations=3, guidance=1.5)
    save_model(tmp_path / "student.safetensors", pupil)
    again = load_model(tmp_path / "student.safetensors")
    assert again.coupling == pupil.coupling != Independent()
    assert torch.equal(again.sample(3).x, pupil.eval().sample(3).x)
    with pytest.raises(MarginalsError, match="teacher"):
        again.loss(torch.randn(4, 2))
    again.coupling = again.coupling.of(flow)
    x = torch.randn(4, 2)
    one, two = (m.loss(x, generator=torch.Generator().manual_seed(1)) for m in (again, pupil))
    assert torch.equal(one, two)
