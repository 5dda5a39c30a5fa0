"""What is printed is what is checked: the LaTeX of Luo Eqs. 59–151 is read and computed here.

A check compares code with code; a slip in the LaTeX that people see would pass it. So this file
reads the subset of LaTeX that these lines are written in, puts numbers in, and compares the value
with the package's.
"""

import re
from importlib import import_module

import pytest
import torch

from marginals import chain
from marginals.gaussian import Normal
from marginals.paper.equation import CATALOGUE
from marginals.paper.fixtures import randn, steps

for name in (
    "forward", "reverse", "matching", "clean_view", "noise_levels", "noise_view", "score_view",
    "score_loss",
):  # fmt: skip
    import_module(f"marginals.paper.equations.{name}")

TOKEN = re.compile(r"\\frac|\\sqrt|norm|@\d+|\d|[-+^(){}]")


def sides(latex, names):
    """The values of all sides of a line, split at its equals signs; ``names`` gives the symbols."""
    for mark in (r"\exp", r"\therefore", r"\arg\min_\theta", r"\,", r"\;"):
        latex = latex.replace(mark, " ")
    latex = re.sub(r",\s*\\quad.*", "", latex)
    latex = latex.replace(r"\left\Vert", "norm{").replace(r"\right\Vert_2^2", "}")
    latex = re.sub(r"\\left\s*(\(|\[|\\\{)", "(", latex)
    latex = re.sub(r"\\right\s*(\)|\]|\\\})", ")", latex)
    values = sorted(names, key=len, reverse=True)
    for i, symbol in enumerate(values):
        latex = latex.replace(symbol, f" @{i} ")
    parts = [part for part in re.split(r"=|\\propto", latex) if part.strip()]
    return [Reader(part, [names[v] for v in values]).value() for part in parts]


class Reader:
    """A calculator for fractions, roots, brackets, squares, norms and products without a dot."""

    def __init__(self, text, values):
        self.tokens, self.values = TOKEN.findall(text), values
        rest = re.sub(r"\s", "", TOKEN.sub("", text))
        assert not rest, f"cannot read {rest!r} in {text!r}"

    def value(self):
        out = self.total()
        assert not self.tokens
        return out

    def peek(self):
        return self.tokens[0] if self.tokens else ""

    def take(self, wanted=None):
        token = self.tokens.pop(0)
        assert wanted in (None, token)
        return token

    def total(self):
        out, sign = 0.0, 1.0
        if self.peek() in ("-", "+"):
            sign = -1.0 if self.take() == "-" else 1.0
        while True:
            out = out + sign * self.product()
            if self.peek() not in ("-", "+"):
                return out
            sign = -1.0 if self.take() == "-" else 1.0

    def product(self):
        out = self.power()
        while self.peek() and self.peek() not in "-+)}":
            out = out * self.power()
        return out

    def power(self):
        out = self.atom()
        if self.peek() == "^":
            self.take()
            out = out ** float(self.take())
        return out

    def group(self, close="}"):
        out = self.total()
        self.take(close)
        return out

    def atom(self):
        token = self.take()
        if token == r"\frac":
            self.take("{")
            top = self.group()
            self.take("{")
            return top / self.group()
        if token in (r"\sqrt", "norm"):
            self.take("{")
            inside = self.group()
            return inside**0.5 if token == r"\sqrt" else (inside**2).sum(1, keepdim=True)
        if token in "({":
            return self.group(")" if token == "(" else "}")
        return self.values[int(token[1:])] if token[0] == "@" else float(token)


def letters(f):
    """Luo's letters for the fixture; slopes are those of log q(x_t | x_0)."""
    slope = -f.eps / (1 - f.bar).sqrt()
    return {
        r"\alpha_t": f.a, r"\alpha_{t-1}": f.a1, r"\bar\alpha_t": f.bar,
        r"\bar\alpha_{t-1}": f.prev, r"\sigma_q^2(t)": f.var_q, "x_0": f.x0, "x_t": f.x_t,
        r"\epsilon_0": f.eps, r"\nabla\log p(x_t)": slope,
        r"\hat x_\theta": f.x_hat, r"\hat x_\theta(x_t,t)": f.x_hat,
        r"\hat\epsilon_\theta": f.eps_hat, r"\hat\epsilon_\theta(x_t,t)": f.eps_hat,
        r"s_\theta": f.s_hat, r"s_\theta(x_t,t)": f.s_hat,
        r"\mathrm{SNR}(t)": f.bar / (1 - f.bar), r"\mathrm{SNR}(t-1)": f.prev / (1 - f.prev),
    }  # fmt: skip


def same(printed, truth, id):
    for value in printed:
        gap = ((value - truth).abs() / truth.abs().clamp(min=1.0)).max().item()
        assert gap < 1e-9, f"the printed Eq. {id} differs by {gap:.1e}"


@pytest.mark.parametrize("number", range(59, 67))
def test_forward_lines(number):
    f = steps()
    x2, old, new = f.x0, f.eps, f.guess
    x1 = chain.forward_step(x2, f.s, f.r).sample(old)
    x_t = chain.forward_step(x1, f.t, f.s).sample(new)
    merged = ((f.a - f.a * f.a1).sqrt() * old + (1 - f.a).sqrt() * new) / (1 - f.a * f.a1).sqrt()
    names = letters(f) | {
        "x_t": x_t, "x_{t-1}": x1, "x_{t-2}": x2, r"\epsilon^*_{t-1}": new,
        r"\epsilon^*_{t-2}": old, r"\epsilon_{t-2}": merged,
        r"\epsilon": old if number == 60 else new,
    }  # fmt: skip
    found = sides(CATALOGUE.entries[str(number)].latex, names)
    assert len(found) == 2
    same(found, x1 if number == 60 else x_t, number)


@pytest.mark.parametrize("number", range(73, 84))
def test_completing_the_square(number):
    f = steps(noise=0.02)
    places = [f.mean_q(f.x0) + f.var_q.sqrt() * z for z in randn(2, *f.x0.shape, seed=4)]
    q = chain.posterior(f.x_t, f.x0, f.t, f.s)
    latex = CATALOGUE.entries[str(number)].latex.split(r"\propto")[1]
    rest = {"C(x_t,x_0)": torch.zeros(1).double()}
    one, two = (sides(latex, letters(f) | rest | {"x_{t-1}": x})[0].sum(1) for x in places)
    same([one - two], q.log_prob(places[0]) - q.log_prob(places[1]), number)


def kl(f, mean):
    q = chain.posterior(f.x_t, f.x0, f.t, f.s)
    return q.kl(Normal(mean, q.log_std)).unsqueeze(1)


@pytest.mark.parametrize("number", [*range(96, 100), *range(101, 109), 110, *range(127, 131)])
def test_losses_of_picture_and_noise(number):
    f = steps()
    mean = chain.mean_from_x0(f.x_t, f.x_hat, f.t, f.s)
    if number > 120:
        mean = chain.mean_from_eps(f.x_t, f.eps_hat, f.t, f.s)
    found = sides(CATALOGUE.entries[str(number)].latex, letters(f))
    assert len(found) == 1 + (number in (101, 110))
    same(found, kl(f, mean), number)


@pytest.mark.parametrize("number", range(145, 149))
def test_losses_of_the_score(number):
    f = steps()
    mean = chain.mean_from_score(f.x_t, f.s_hat, f.t, f.s)
    same(sides(CATALOGUE.entries[str(number)].latex, letters(f)), kl(f, mean), number)


@pytest.mark.parametrize("number", [93, *range(116, 125), *range(134, 143)])
def test_true_means(number):
    f = steps()
    mean = chain.mean_from_x0(f.x_t, f.x0, f.t, f.s)
    found = sides(CATALOGUE.entries[str(number)].latex, letters(f) | {r"\mu_q(x_t,x_0)": mean})
    assert len(found) == 2
    same(found, mean, number)


def test_models_means():
    f = steps()
    means = {
        94: chain.mean_from_x0(f.x_t, f.x_hat, f.t, f.s),
        125: chain.mean_from_eps(f.x_t, f.eps_hat, f.t, f.s),
        143: chain.mean_from_score(f.x_t, f.s_hat, f.t, f.s),
    }
    for number, mean in means.items():
        names = letters(f) | {r"\mu_\theta(x_t,t)": mean}
        same(sides(CATALOGUE.entries[str(number)].latex, names), mean, number)


@pytest.mark.parametrize("number", [69, 85, 115, 132, 133, 149, 150, 151])
def test_two_sides(number):
    f = steps()
    latex = CATALOGUE.entries[str(number)].latex
    if number == 85:
        latex = latex.split(r"\quad")[1]
    first, *others = sides(latex, letters(f))
    assert others
    same(others, first, number)


def test_a_slip_of_the_pen_is_noticed():
    f = steps()
    mean = chain.mean_from_x0(f.x_t, f.x0, f.t, f.s)
    names = letters(f) | {r"\mu_q(x_t,x_0)": mean}
    latex = CATALOGUE.entries["124"].latex
    slips = [("1-\\alpha_t", "1-\\bar\\alpha_t"), (" - ", " + "), (r"\frac{1}", r"\frac{2}")]
    for right, wrong in slips:
        assert right in latex
        with pytest.raises(AssertionError, match="differs"):
            same(sides(latex.replace(right, wrong, 1), names), mean, 124)
