"""What is wrong, or easily got wrong, in the paper: E1 to E16, for a reader who is no specialist.

No published list of errata for arXiv 2208.11970v1 is known. Every number in these texts is computed
when it is asked for (:mod:`.errata_numbers`).
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from marginals.errors import MarginalsError

from .equation import Equation
from .errata_numbers import NUMBERS
from .letters import columns, plain, scientific


@dataclass(frozen=True)
class Erratum:
    """``printed``: what the paper says. ``really``: what is true, with {numbers} of
    ``errata_numbers``. ``advice``: what to do."""

    id: str
    title: str
    equations: tuple[str, ...]
    printed: str
    really: str
    advice: str
    size: str = ""
    """How far off a false equation is, in one line, with {numbers} of ``errata_numbers``."""

    def numbers(self) -> dict[str, float]:
        """The numbers of this erratum, computed now."""
        return NUMBERS[self.id]()

    def explained(self) -> str:
        """``really`` with its numbers filled in."""
        return scientific(self.really.format(**self.numbers()))

    def measured(self) -> str:
        """``size`` with its numbers filled in."""
        return scientific(self.size.format(**self.numbers())) if self.size else ""


def find(ids: Sequence[str]) -> list[Erratum]:
    """The errata asked for, all of them by default."""
    known = {erratum.id: erratum for erratum in ERRATA}
    names = [one.upper() if one.upper().startswith("E") else f"E{one}" for one in ids]
    for asked, name in zip(ids, names):
        if name not in known:
            raise MarginalsError(f"there is no erratum {asked!r}; they are {ERRATA[0].id} to E16")
    return [known[name] for name in dict.fromkeys(names)] if ids else list(ERRATA)


def concerning(entry: Equation) -> list[str]:
    """The errata of an equation, "E1", "E2": those that name it, and the one that it names."""
    return [e.id for e in ERRATA if entry.id in e.equations or e.id == entry.erratum]


def size(entry: Equation) -> str:
    """How far off an equation that is wrong as printed is, in one line; "" for any other."""
    if entry.status != "wrong" or not entry.erratum:
        return ""
    return find([entry.erratum])[0].measured()


def words(erratum: Erratum) -> str:
    """A block for the terminal."""
    width = columns()
    where = f"Eq. {', '.join(erratum.equations)}" if erratum.equations else "text"
    title = f"{erratum.id:<4} {erratum.title}  ({where})"
    lines = [textwrap.fill(title, width, subsequent_indent=" " * 5)]
    for name, text in (
        ("printed", erratum.printed),
        ("really", erratum.explained()),
        ("so", erratum.advice),
    ):
        lines.append(textwrap.fill(f"  {name:<8} {plain(text)}", width, subsequent_indent=" " * 11))
    return "\n".join(lines)


ERRATA: tuple[Erratum, ...] = (
    Erratum(
        "E1",
        "Equation 45 does not follow from Equation 44",
        ("45",),
        "The bound can be rewritten with a KL divergence between q(x_t | x_{t−1}) and "
        "p(x_t | x_{t+1}), averaged over x_{t−1} and x_{t+1}.",
        "The rewriting treats x_t and x_{{t+1}} as if they were drawn separately, but the second "
        "is made from the first. In a two-step chain of single numbers the third term of Eq. 44 "
        "is {eq44:.4f} nats and that of Eq. 45 is {eq45:.4f}: they differ by {gap:.4f}, exactly "
        "as the formula −c·√α·(1−α)/s² says ({formula:.4f}). It matters: training on Eq. 45 would "
        "make the decoder multiply by {best45:.3f} where the right answer is {best44:.3f}.",
        "Use Eq. 44 or, better, Eq. 58. (Eq. 45 is still below log p(x); it is a bound with the "
        "wrong optimum.) With a single step, T = 1, the term does not exist and all agree.",
        "in a two-step chain the third term is {eq45:.4f} nats, not {eq44:.4f}: {gap:.4f} off",
    ),
    Erratum(
        "E2",
        "The prior matching term of Equation 45 does not vanish",
        ("45",),
        "With enough steps this term becomes zero, because the last latent is pure noise.",
        "The term compares one small last step with pure noise, and one small step still shows "
        "nearly everything of the step before. On DDPM's thousand levels it is {eq45:.3f} nats "
        "({bits45:.2f} bits) for every pixel. The term of Eq. 58, which compares the whole walk "
        "with pure noise, is {eq58:.0e} nats.",
        "Speak of a vanishing prior term only for Eq. 58.",
    ),
    Erratum(
        "E3",
        "What the consistency term wants cannot be had",
        ("44", "45"),
        "The term is best when p(x_t | x_{t+1}) matches q(x_t | x_{t−1}).",
        "One of them looks at a cleaner picture, the other at a noisier one. With steps α = 0.9 "
        "and 0.5 the first knows x_t up to ±{std_before:.2f}, the second at best up to "
        "±{std_after:.2f}. They can never match; {floor:.2f} nats per pixel and step remain for "
        "the best possible model.",
        "The best p(x_t | x_{t+1}) is q(x_t | x_{t+1}), the true way back.",
    ),
    Erratum(
        "E4",
        "Equation 22 forgets to divide by L",
        ("22",),
        "The reconstruction term is approximated by a sum over L samples.",
        "An average is meant. Summed over {samples} samples, reconstruction counts "
        "{samples} times, and the best encoder claims to know the latent {ratio:.1f} times more "
        "sharply than it does: on a model with one number its true bound drops from {right:.3f} "
        "to {wrong:.3f} nats, a loss of {loss:.3f}.",
        "Divide by L. With L = 1, the usual choice, nothing changes.",
        "training with {samples} samples costs {loss:.3f} nats of the bound",
    ),
    Erratum(
        "E5",
        "Equations 132 and 133 hold on average only",
        ("132", "133"),
        "x_0 equals the noisy picture plus the score, rescaled.",
        "Many clean pictures lead to the same noisy one, so no formula can give back the one clean "
        "picture; this one gives the average of all that are possible. At step {step} of DDPM, for "
        "a pixel whose values lie in two heaps, the true value is off that average by "
        "{rms:.2f} (root mean square; mean square {mmse:.3f}).",
        "Read x_0 as E[x_0 | x_t]. A test that expects equality for every draw must fail.",
    ),
    Erratum(
        "E6",
        "The score is the noise only on average",
        ("149", "150", "151"),
        "The score is −ε_0/√(1 − ᾱ_t).",
        "True for the score of q(x_t | x_0), which nobody knows without x_0. For the score of all "
        "noisy pictures, ε_0 must be its average given x_t. At step {step} of DDPM, for a "
        "pixel in two heaps, the actual noise is off its average by {noise:.2f} (root mean "
        "square), where the noise itself has 1.",
        "Replace ε_0 by E[ε_0 | x_t].",
    ),
    Erratum(
        "E7",
        "Score matching loses a constant, and likelihoods read from it are too good",
        ("144", "145", "146", "147", "148"),
        "The KL divergence of each step is a weighted error of the score of p(x_t).",
        "The exact KL needs the score of q(x_t | x_0). Both errors have the same best network but "
        "differ by a constant: a perfect network has error zero against the score of p(x_t), while "
        "the true price is not zero. Over DDPM's thousand steps, for a pixel in two heaps, "
        "{nats:.2f} nats ({bits:.2f} bits) per pixel would go missing.",
        "Train on either; compute likelihoods only from ε_0 or x_0.",
    ),
    Erratum(
        "E8",
        "Equation 100 is an average, the bound is a sum",
        ("100",),
        "The sum over steps is replaced by an expectation over one random step.",
        "That divides by the number of steps, T − 1, and leaves the first step (reconstruction) "
        "out. The best network is the same, the value is not: a perfect network on DDPM's levels "
        "would report {mean:.4f} instead of {sum:.3f} nats, {factor:.0f} times too little.",
        "For bits per dimension multiply by T − 1 and add reconstruction and prior terms. Mind "
        "that many programs count steps from 0: their step 0 is the paper's step 1.",
    ),
    Erratum(
        "E9",
        "The first step is not like the others",
        ("85", "99", "110", "130", "148"),
        "The weights are given for every t.",
        "At t = 1 the posterior is a point: its variance is zero and the weights are infinite. "
        "Close to it they are large: Eq. 130 weighs step 2 with {w2:.4f} and step 100 with "
        "{w100:.5f}, {ratio:.0f} times less; and at step 2 the variance of Eq. 85 is only "
        "{ratio_var:.3f} of the step's own noise 1 − α_t.",
        "Step 1 is the reconstruction term. Begin the sum at t = 2.",
    ),
    Erratum(
        "E10",
        "Equation 161 writes s(x, t) and means s(x_t, t)",
        ("161",),
        "The network is shown x.",
        "It must be shown the noisy picture. Even a perfect network, shown the clean value "
        "instead, would have error {error:.2f} where zero is possible (ᾱ = 0.5, pixel in two "
        "heaps; the score's own mean square is {power:.2f}). Also: there is no ½ in Eqs. 157 and "
        "161, and the weights λ(t) are left open (NCSN: σ²; for likelihoods: g²).",
        "Read x_t.",
    ),
    Erratum(
        "E11",
        "Langevin sampling with a finite step is biased, and steps are counted in two ways",
        ("158",),
        "Repeated K times, the update gives samples of p(x).",
        "Only for steps that shrink to nothing. For a normal distribution of variance 1 and step "
        "c = {step:g} it settles at variance {variance:.4f}; the formula 1/(1 − c/2) says "
        "{formula:.4f}. Also i = 0 .. K makes K + 1 updates, and papers that write the step as "
        "α/2 with noise √α mean c = α/2.",
        "Use small steps, or the many noise levels of annealed Langevin.",
    ),
    Erratum(
        "E12",
        "Guided samples do not come from where the formula says",
        ("166", "168", "169", "170"),
        "The left side remains ∇ log p(x_t | y) for any strength γ.",
        "For γ other than 1 the right side is not that score. It is not the score of the "
        "noised, sharpened distribution p(x)·p(y | x)^γ either: with γ = {gamma:g} at "
        "ᾱ = 0.3 the two differ by {gap:.2f} in mean square, where the score itself has "
        "{power:.2f}. Guidance pushes samples towards the class, but no simple formula says "
        "which distribution they have at the end.",
        "Treat γ as a dial, not as a probability. Only γ = 0 and γ = 1 are exact.",
    ),
    Erratum(
        "E13",
        "The last latent is only nearly pure noise",
        ("33",),
        "The final latent is a standard Gaussian.",
        "What is left of the picture's variance, ᾱ_T, depends on the schedule: DDPM {linear:.1e}, "
        "cosine {cosine:.1e}, the one used by popular latent models {latent:.2e}. In the last case "
        "a sampler that starts from pure noise starts from the wrong place, and cannot make very "
        "dark or very bright pictures.",
        "Start from the right law at the last level, or end the schedule at zero signal.",
    ),
    Erratum(
        "E14",
        "Small slips in the wording",
        ("30", "59", "86"),
        "“A Gaussian centred around the previous output”; “2T noise variables”; “p(x | z) is a "
        "deterministic function”.",
        "Each step is centred at √α_t times the previous output (at DDPM's last step "
        "{shrink:.5f}). Two families of noise variables, t = 0 .. T, are {are} for T = 1000, not "
        "{said}, and they are not independent: the merged ones are made of the others. p(x | z) "
        "is a distribution. Eq. 86 calls the two densities' arguments x and y though they are "
        "densities of one variable.",
        "Nothing depends on it; a reader may stumble.",
    ),
    Erratum(
        "E15",
        "A learned schedule must fall strictly",
        ("111",),
        "The network ω_η is monotonically increasing.",
        "Strictly is meant. Where two steps have the same level the weight of the step is "
        "{stays:.0f} and nothing is learned there; where the level goes back it is negative "
        "({rises:.2f}, against {falls:.2f} for a step that falls), and the loss rewards errors.",
        "Build ω as a sum of positive pieces.",
    ),
    Erratum(
        "E16",
        "“Three equivalent objectives” are equivalent only with their weights",
        ("99", "130", "148"),
        "Predicting the picture, the noise or the score is the same task.",
        "The same error in the picture, 1, is an error of {clean:.0f} in the noise where the "
        "picture is nearly clean (ᾱ = 0.99) and of {noisy:.4f} where it is nearly noise "
        "(ᾱ = 0.01), squares in both cases. Without the weights of Eqs. 99, 130 and 148, these "
        "losses set priorities that differ by a factor of {ratio:.0f}.",
        "Say which loss, and with which weight over noise levels.",
    ),
)
