"""Planted errors that are none: changes that leave the meaning of a function as it was.

``paper mutate`` does not count these. Every line gives the function, the expression before and
after, and why nothing changes; a line without a good reason does not belong here.
"""

_SHAPE = "expand() looks at the shape of its second argument only, and both have the same"
_EITHER = "the question is whether either level is infinite; the order of the two does not matter"
_TWO_WAYS = "both are formulas for the same number; the one chosen is the more precise one there"

EQUIVALENT: tuple[tuple[str, str, str, str], ...] = (
    ("chain.mean_from_eps", "x_t", "eps", _SHAPE),
    ("chain.mean_from_score", "x_t", "score", _SHAPE),
    ("chain.mean_from_x0", "x_t", "x0", _SHAPE),
    (
        "gaussian.gaussian_reconstruction",
        "0",
        "1",
        "x0[0] only counts the entries of one picture, and all pictures have as many",
    ),
    ("ode.hutchinson", "v * probe", "v / probe", "a probe's entries are +1 and −1"),
    ("ode.hutchinson", "grad * probe", "grad / probe", "a probe's entries are +1 and −1"),
    (
        "schedule.Cosine._dlam",
        "torch.where(t < 0.5, (math.pi * t).sin(), (math.pi * (1.0 - t)).sin())",
        "torch.where(t < 0.5, (math.pi * (1.0 - t)).sin(), (math.pi * t).sin())",
        _TWO_WAYS,
    ),
    (
        "schedule.LinearBeta._t",
        "torch.where(lam > 0, clean, -2.0 * alpha.log())",
        "torch.where(lam > 0, -2.0 * alpha.log(), clean)",
        _TWO_WAYS,
    ),
    (
        "solvers.rules.dpmpp_2m",
        "_infinite(levels[i - 1], s)",
        "_infinite(s, levels[i - 1])",
        _EITHER,
    ),
    ("solvers.rules.heun", "_infinite(t, s)", "_infinite(s, t)", _EITHER),
    (
        "paper.extra_score.score_matching",
        "fisher_divergence(model, data, weights)",
        "fisher_divergence(data, model, weights)",
        "the divergence squares the difference of its first two arguments",
    ),
)
