"""Planted errors that are none: changes that leave the meaning of a function as it was.

``paper mutate`` does not count these. Every line gives the function, the expression before and
after, and why nothing changes; a line without a good reason does not belong here.
"""

_SHAPE = "expand() looks at the shape of its second argument only, and both have the same"
_EITHER = "the question is whether either level is infinite; the order of the two does not matter"
_ONE = "LOWEST is 1, so multiplying with it and dividing by it are the same"

EQUIVALENT: tuple[tuple[str, str, str, str], ...] = (
    ("chain.mean_from_eps", "expand(share, x_t)", "expand(share, eps)", _SHAPE),
    (
        "chain.mean_from_eps",
        "expand(step_signal(t, s), x_t)",
        "expand(step_signal(t, s), eps)",
        _SHAPE,
    ),
    (
        "chain.mean_from_score",
        "expand(step_variance(t, s), x_t)",
        "expand(step_variance(t, s), score)",
        _SHAPE,
    ),
    (
        "chain.mean_from_score",
        "expand(step_signal(t, s), x_t)",
        "expand(step_signal(t, s), score)",
        _SHAPE,
    ),
    ("chain.mean_from_x0", "expand(from_x, x_t)", "expand(from_x, x0)", _SHAPE),
    ("chain.mean_from_x0", "expand(from_x0, x_t)", "expand(from_x0, x0)", _SHAPE),
    (
        "gaussian.gaussian_reconstruction",
        "x0[0]",
        "x0[1]",
        "x0[0] only counts the entries of one picture, and all pictures have as many",
    ),
    (
        "solvers.rules.dpmpp_2m",
        "infinite(levels[i - 1], s)",
        "infinite(s, levels[i - 1])",
        _EITHER,
    ),
    ("solvers.rules.heun", "infinite(t, s)", "infinite(s, t)", _EITHER),
    (
        "paper.extra_score.score_matching",
        "fisher_divergence(model, data, weights)",
        "fisher_divergence(data, model, weights)",
        "the divergence squares the difference of its first two arguments",
    ),
    ("nn.embed.fourier_features", "HIGHEST / LOWEST", "HIGHEST * LOWEST", _ONE),
    (
        "nn.embed.fourier_features",
        "t[:, None] * torch.exp(ramp * math.log(HIGHEST / LOWEST)) * LOWEST",
        "t[:, None] * torch.exp(ramp * math.log(HIGHEST / LOWEST)) / LOWEST",
        _ONE,
    ),
    (
        "nn.unet.ResBlock.forward",
        "torch.addcmul(shift, h, scale)",
        "torch.addcmul(shift, scale, h)",
        "addcmul multiplies its second and third argument",
    ),
    (
        "gaussian.discretised_reconstruction",
        "x[:1]",
        "pixels[:1]",
        "only the number of entries is asked, and a picture has as many as its pixels",
    ),
    (
        "gaussian.discretised_reconstruction",
        ":1",
        ":2",
        "x[:1] sets how many pictures are worked on at a time, not what comes out",
    ),
)
