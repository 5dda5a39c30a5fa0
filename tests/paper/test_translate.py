"""Every spelling of the table against the formula of the paper that uses it."""

import math

import pytest

from marginals.errors import MarginalsError
from marginals.paper.translate import DIALECTS, QUANTITIES, find, key, words

LEVELS = (-3.1, 0.4, 2.7)


def luo(lam: float) -> tuple[float, float, float]:
    """ᾱ_t, ᾱ_{t−1} and α_t from the definition SNR = ᾱ/(1 − ᾱ)."""
    bar, earlier = (math.exp(v) / (1 + math.exp(v)) for v in (lam, lam + 1.0))
    return bar, earlier, bar / earlier


def edm(lam: float) -> tuple[float, float]:
    """σ at λ, and at the cleaner level."""
    return math.exp(-lam / 2), math.exp(-(lam + 1) / 2)


def flow(lam: float) -> float:
    """t with t/(1 − t) = e^(λ/2)."""
    return 1 / (1 + math.exp(-lam / 2))


def chain_step(lam: float) -> float:
    """DDPM's t by walking its thousand steps, with log SNR linear between two of them."""
    bar, before = 1.0, math.inf
    for t in range(1, 1001):
        bar *= 1 - (1e-4 + (0.02 - 1e-4) * (t - 1) / 999)
        now = math.log(bar / (1 - bar))
        if now <= lam:
            return t - 1 + (before - lam) / (before - now)
        before = now
    raise AssertionError


def linear_beta_time(lam: float) -> float:
    """t with ∫β = −log ᾱ, by halving."""
    low, high, target = 0.0, 1.0, -math.log(luo(lam)[0])
    for _ in range(80):
        t = (low + high) / 2
        low, high = (t, high) if 0.1 * t + 9.95 * t * t < target else (low, t)
    return low


def edm_place(lam: float) -> float:
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return (edm(lam)[0] ** (1 / 7) - low) / (high - low)


def beta_tilde(lam: float) -> float:
    bar, earlier, alpha = luo(lam)
    return (1 - alpha) * (1 - earlier) / (1 - bar)


def weight(lam: float) -> float:
    bar, _, alpha = luo(lam)
    return (1 - alpha) ** 2 / (2 * beta_tilde(lam) * alpha * (1 - bar))


def f_theta(lam: float) -> tuple[float, float]:
    """EDM's target (x0 − c_skip·x)/c_out with x = x0 + σ·ε, data of std ½."""
    sigma, s = edm(lam)[0], 0.5
    skip, out = s * s / (sigma**2 + s * s), sigma * s / math.hypot(sigma, s)
    return (1 - skip) / out, -skip * sigma / out


def sigma_vp(lam: float) -> float:
    return math.sqrt(1 - luo(lam)[0])


TRUTH = {
    "signal": {
        "√ᾱ_t": lambda v: math.sqrt(luo(v)[0]),
        "α_t": lambda v: math.sqrt(luo(v)[0]),
        "1": lambda v: 1.0,
        "t": flow,
    },
    "noise level": {
        "√(1 − ᾱ_t)": sigma_vp,
        "σ_t": sigma_vp,
        "σ": lambda v: edm(v)[0],
        "1 − t": lambda v: 1 - flow(v),
    },
    "signal-to-noise ratio": {
        "SNR(t) = ᾱ_t/(1 − ᾱ_t)": lambda v: luo(v)[0] / (1 - luo(v)[0]),
        "ᾱ_t/(1 − ᾱ_t)": lambda v: luo(v)[0] / (1 - luo(v)[0]),
        "SNR(t) = α_t²/σ_t²": math.exp,
        "1/σ²": lambda v: edm(v)[0] ** -2,
        "e^(2λ)": lambda v: math.exp(2 * (v / 2)),
        "t²/(1 − t)²": lambda v: (flow(v) / (1 - flow(v))) ** 2,
    },
    "log signal-to-noise ratio": {
        "ω_η(t) = −log SNR": lambda v: -math.log(luo(v)[0] / (1 - luo(v)[0])),
        "γ_η(t) = −log SNR": lambda v: -v,
        "ln σ": lambda v: math.log(edm(v)[0]),
        "c_noise = ¼ ln σ": lambda v: math.log(edm(v)[0]) / 4,
        "λ_t = log(α_t/σ_t)": lambda v: math.log(math.sqrt(luo(v)[0]) / sigma_vp(v)),
        "log t/(1 − t)": lambda v: math.log(flow(v) / (1 - flow(v))),
    },
    "time": {
        "t of T = 1000": chain_step,
        "t, programs: t − 1": chain_step,
        "t, γ on a line": lambda v: (13.3 - v) / 18.3,
        "place on the grid, ρ = 7": edm_place,
        "t, linear β": linear_beta_time,
        "t, data at 1": flow,
    },
    "signal kept by one step": {
        "√α_t": lambda v: math.sqrt(luo(v)[2]),
        "√(1 − β_t)": lambda v: math.sqrt(luo(v)[2]),
        "α_(t|s) = α_t/α_s": lambda v: math.sqrt(luo(v)[2]),
        "1": lambda v: 1.0,
    },
    "noise added by one step": {
        "1 − α_t": lambda v: 1 - luo(v)[2],
        "β_t": lambda v: 1 - luo(v)[2],
        "σ²_(t|s) = σ_t² − α²_(t|s) σ_s²": lambda v: (
            sigma_vp(v) ** 2 - luo(v)[2] * sigma_vp(v + 1) ** 2
        ),
        "σ_t² − σ_s²": lambda v: edm(v)[0] ** 2 - edm(v)[1] ** 2,
    },
    "posterior variance": {
        "σ_q²(t)": beta_tilde,
        "β̃_t": beta_tilde,
        "σ²_Q(s, t)": lambda v: sigma_vp(v + 1) ** 2 * -math.expm1(-1.0),
        "σ_s²(σ_t² − σ_s²)/σ_t²": lambda v: (
            edm(v)[1] ** 2 * (edm(v)[0] ** 2 - edm(v)[1] ** 2) / edm(v)[0] ** 2
        ),
    },
    "weight of the noise error": {
        "Eq. 130": weight,
        "β_t²/(2 β̃_t α_t (1 − ᾱ_t))": weight,
        "½ expm1(γ_t − γ_s)": lambda v: math.expm1(1.0) / 2,
    },
    "network output": {
        "x̂_θ": lambda v: (1, 0),
        "ε̂_θ": lambda v: (0, 1),
        "s_θ": lambda v: (0, -1 / sigma_vp(v)),
        "ε_θ": lambda v: (0, 1),
        "F_θ": f_theta,
        "ε_θ, or x_θ in ++": lambda v: (0, 1),
        "u_θ = picture − noise": lambda v: (1, -1),
    },
    "guidance strength": {
        "γ (1: none)": lambda v: 3,
        "guidance scale s = γ": lambda v: 3,
        "w = γ − 1 (Ho & Salimans; 0: none)": lambda v: 2,
    },
}


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.name)
@pytest.mark.parametrize("lam", LEVELS)
def test_every_spelling_is_its_paper_s_formula(quantity, lam: float):
    truth = TRUTH[quantity.name]
    assert {spelling.symbol for spelling in quantity.spellings} == set(truth)
    for spelling in quantity.spellings:
        expected = truth[spelling.symbol](lam)
        expected = expected if isinstance(expected, tuple) else (expected,)
        assert spelling.value(lam) == pytest.approx(expected, rel=1e-7), spelling
        assert spelling.dialect in DIALECTS


def test_all_six_dialects_have_a_word_for_the_main_things():
    for name in ("signal", "noise level", "signal-to-noise ratio", "time", "network output"):
        spoken = {s.dialect for q in QUANTITIES if q.name == name for s in q.spellings}
        assert spoken == set(DIALECTS), name


def test_find_by_name_and_by_symbol():
    assert [q.name for q in find("posterior")] == ["posterior variance"]
    assert "log signal-to-noise ratio" in [q.name for q in find("ω")]
    assert find(None) == list(QUANTITIES)
    with pytest.raises(MarginalsError, match="there are signal, noise level"):
        find("flux")


def test_words_show_value_and_code():
    text = words(find("noise level")[0], 0.0)
    assert "0.7071" in text and "VP(lam).sigma" in text and "flow matching" in text
    assert "λ = log(α²/σ²) = 2" in key(2.0)
