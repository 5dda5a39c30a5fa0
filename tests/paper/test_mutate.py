"""Planted errors: what they are, that they are in force, taken back, and caught."""

import math

import pytest
import torch

from marginals import chain, scaling
from marginals.paper.catalogue import load
from marginals.paper.equation import Equation, Finding, equal
from marginals.paper.equivalent import EQUIVALENT
from marginals.paper.mutants import mutants
from marginals.paper.mutate import forget, functions_of, mutate, planted_error
from marginals.scaling import VE, VP

T, S = VP(-0.7), VP(1.9)


def entry(check, home=chain.posterior_variance) -> Equation:
    return Equation("1", "part", "x", "A sentence.", (home,), check)


def strict() -> Finding:
    beta = 1.0 - (T.alpha / S.alpha) ** 2
    return equal(chain.posterior_variance(T, S), beta * S.sigma**2 / T.sigma**2, "by hand")


def lax() -> Finding:
    chain.posterior_variance(T, S)
    return equal(1.0, 1.0, "nothing at all")


def test_the_changes_of_a_small_function():
    found = {(m.kind, m.before, m.after) for m in mutants(chain.posterior_variance)}
    assert ("dropped square or root", "s.sigma ** 2", "s.sigma") in found
    assert ("α ↔ σ", "s.sigma", "s.alpha") in found
    assert ("swapped arguments", "step_variance(t, s)", "step_variance(s, t)") in found
    assert ("swapped variable", "step_variance(t, s)", "step_variance(s, s)") in found
    assert {"sign", "factor 2", "× ↔ ÷"} <= {kind for kind, _, _ in found}


def test_mutants_differ_from_the_function_and_from_each_other():
    found = mutants(chain.mean_from_eps)
    codes = [m.code.co_code + repr(m.code.co_consts + m.code.co_names).encode() for m in found]
    assert len(set(codes)) == len(found) > 5
    assert chain.mean_from_eps.__code__ not in [m.code for m in found]
    lines = range(1, 400)
    assert all(m.line in lines and m.code.co_qualname == "mean_from_eps" for m in found)


def test_a_planted_error_is_in_force_and_taken_back():
    right, original = chain.posterior_variance(T, S), chain.posterior_variance.__code__
    for mutant in mutants(chain.posterior_variance):
        with planted_error(mutant):
            assert chain.posterior_variance.__code__ is mutant.code
        assert chain.posterior_variance(T, S) == right
    with pytest.raises(ZeroDivisionError), planted_error(mutants(chain.posterior_variance)[0]):
        raise ZeroDivisionError
    assert chain.posterior_variance.__code__ is original


def test_what_was_remembered_is_forgotten():
    """Float levels are cached: a planted error must neither miss them nor stay in them."""
    right = VE(1.234).sigma
    sigma = [m for m in mutants(scaling.VarianceExploding._alpha_sigma) if m.kind == "sign"]
    forget()
    with planted_error(sigma[0]):
        wrong = VE(1.234).sigma
    assert wrong == pytest.approx(1.0 / right) and VE(1.234).sigma == right


def test_methods_closures_and_cached_functions_can_be_changed():
    from marginals.oracle import Mixture

    assert functions_of(Mixture(torch.zeros(1, 1), 1.0).score)[0] is Mixture.score
    assert Mixture.score in functions_of(Mixture)
    assert functions_of(scaling._float_level)[0].__name__ == "_float_level"
    assert functions_of(math.exp.__class__) == []
    assert mutants(Mixture.score)


def test_a_check_that_looks_catches_everything():
    report = mutate([entry(strict)])
    assert report.planted >= 8 and report.share == 1.0 and not report.failing
    assert sum(n for _, n in report.by_kind().values()) == report.planted


def test_a_check_that_cannot_fail_catches_nothing():
    report = mutate([entry(lax)])
    assert report.share == 0.0 and len(report.survivors) == report.planted >= 8


def test_one_good_check_of_several_is_enough():
    assert mutate([entry(lax), Equation(**{**vars(entry(strict)), "id": "2"})]).share == 1.0


def test_a_check_that_fails_anyway_catches_nothing_and_is_named():
    report = mutate([entry(lambda: Finding(1.0, "always wrong"))])
    assert report.planted == 0 and [r.equation.id for r in report.failing] == ["1"]


def test_count_and_seed_choose_the_errors():
    def drawn(seed: int) -> list[str]:
        return [str(o.mutant) for o in mutate([entry(strict)], count=4, seed=seed).outcomes]

    assert len(drawn(0)) == 4 and drawn(0) == drawn(0) != drawn(1)


def test_excluded_changes_exist_and_have_reasons():
    known = {
        (m.name, m.before, m.after)
        for e in load()
        for home in e.homes
        for function in functions_of(home)
        for m in mutants(function)
    }
    for name, before, after, reason in EQUIVALENT:
        assert (name, before, after) in known, f"{name}: {before} → {after} is not planted any more"
        assert len(reason) > 20


def test_the_checks_of_the_paper_catch_19_in_20():
    report = mutate(load(), count=300, seed=1)
    assert report.planted == 300 and not report.failing
    missed = [f"{o.mutant.name}:{o.mutant.line} {o.mutant}" for o in report.survivors]
    assert report.share >= 0.95, missed
