"""The examples do what they say, in a shorter run."""

import importlib.util
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_trained_network_comes_close_to_the_truth(capsys) -> None:
    example = load("against_the_truth")
    figures = example.main(steps=300)
    gap = {name: value - figures["truth"] for name, value in figures.items()}
    assert abs(gap["exact ODE"]) < 1.2
    assert -1.5 < gap["continuous ELBO"] < 0.1  # a bound, up to its Monte-Carlo error
    assert gap["64-step ELBO"] < gap["continuous ELBO"] - 0.5  # looser, by theory
    assert "noise level" in capsys.readouterr().out
