"""Maths on a grid of characters: exact pictures of small formulas; wide ones lose nothing."""

import unicodedata
import xml.etree.ElementTree as ET

import pytest

from marginals.paper.boxes import beside, box, fraction, width
from marginals.paper.letters import marked, plain, scientific
from marginals.paper.mathml import mathml, parse
from marginals.paper.terminal import flat, render


def test_a_fraction_stands_on_the_line_of_its_neighbours():
    expected = ["        p(x, z)", "p(x) = ──────────", "        p(z ∣ x)"]
    assert render(r"p(x)=\frac{p(x,z)}{p(z\mid x)}").splitlines() == expected


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"x_{t-1}^2", "xₜ₋₁²"),
        (r"\bar\alpha_t", "α\u0304ₜ"),
        (r"\hat x_\theta(x_t, t)", "x\u0302_θ(xₜ, t)"),
        (r"\sqrt{\alpha_t}\,x_0", "√(αₜ) x₀"),
        (r"\sqrt{2}", "√2"),
        (r"\log p(x)", "log p(x)"),
        (r"D_{\mathrm{KL}}(q \Vert p)", "D_KL(q ‖ p)"),
        (r"\lVert s\rVert_2^2", "‖s‖₂²"),
        (r"K(p \Vert q) + K(r \Vert s)", "K(p ‖ q) + K(r ‖ s)"),
        (r"\lVert a\rVert + \lVert b\rVert^2", "‖a‖ + ‖b‖²"),
        (r"\mathcal{N}(x;\boldsymbol\mu,I)", "N(x; μ, I)"),
        (r"-\tfrac12 x", "−½x"),
        (r"a - b", "a − b"),
        (r"\arg\min_\theta f", "arg min_θ f"),
    ],
)
def test_one_line_formulas(latex: str, expected: str):
    assert render(latex) == unicodedata.normalize("NFC", expected) or render(latex) == expected


def test_what_has_no_small_form_goes_below_or_above_the_line():
    assert render(r"x_{0:T}").splitlines() == ["x", " 0:T"]
    assert render(r"e^{-f(x)}").splitlines() == [" −f(x)", "e"]
    top, middle, bottom = render(r"\sum_{t=2}^{T} x_t").splitlines()
    assert top.strip() == "T" and "∑" in middle and bottom.strip() == "t=2"


def test_brackets_grow_with_what_they_hold():
    lines = render(r"\left(\frac{a}{b}\right)^2").splitlines()
    assert [line[0] for line in lines] == ["⎛", "⎜", "⎝"] and lines[0].endswith("⎞²")


def test_an_underbrace_is_as_wide_as_its_term():
    first, brace, label = render(r"\underbrace{a + b + c}_{\text{all}}").splitlines()
    assert first == "a + b + c" and brace == "╰───┬───╯" and label.strip() == "all"


def test_wide_formulas_break_at_signs_and_lose_nothing():
    latex = " + ".join(rf"\lVert x_{i} - y_{i}\rVert^2" for i in range(9))
    drawn = render(latex, 40)
    assert max(map(len, drawn.splitlines())) <= 40
    joined = "".join(drawn.split())
    assert joined == "".join(render(latex, 1000).split())


def test_aligned_lines_stand_under_each_other():
    lines = render(r"\begin{aligned} ab &= c \\ &\ge d \end{aligned}").splitlines()
    assert lines[0].index("=") == lines[-1].index("≥")


def test_flat_is_one_line_and_is_cut_with_an_ellipsis():
    assert flat(r"\frac{a+b}{c}") == "(a + b)/c"
    assert flat(r"\frac{1}{2\sigma}") == "1/(2σ)"
    short = flat("+".join("abcdefgh" * 4), 20)
    assert short.endswith("…") and width(short) <= 20


def test_accents_take_no_column():
    assert width("x\u0302_θ") == 3
    both = beside([fraction(box("α\u0304"), box("1")), box("x")])
    assert {width(line) for line in both.lines} == {both.width}


@pytest.mark.parametrize("latex", [r"\frac{a", r"\notacommand x", r"a } b"])
def test_latex_that_cannot_be_read_is_an_error_that_shows_it(latex: str):
    with pytest.raises(ValueError, match="LaTeX"):
        parse(latex)


def test_mathml_is_well_formed_and_words_are_words():
    tree = ET.fromstring(mathml(r"\mathrm{SNR}(t) = \log x & \mathrm{KL}".replace("&", "")))
    assert "SNR" in [element.text for element in tree.iter("mi")]
    brace = mathml(r"\underbrace{x}_{\text{all}}")
    assert 'class="brace"' in brace and "\u23df" not in brace


def test_indices_in_sentences():
    assert plain("x_t and x_{t−1}, not posterior_variance or p_theta") == (
        "xₜ and xₜ₋₁, not posterior_variance or p_theta"
    )
    assert marked("q(x_{t+1} | x_t) < 1") == "q(x<sub>t+1</sub> | x<sub>t</sub>) &lt; 1"
    assert scientific("-1.5 and 2.4e-09, a-1") == "−1.5 and 2.4·10⁻⁹, a-1"
