"""What tests in several folders use."""

from collections.abc import Callable

import pytest
import torch

from marginals.cli import main
from marginals.text.base import TextEncoder


class Letters(TextEncoder):
    """A state for every letter: 1 at its place in the alphabet."""

    name, width, identity, device = "letters", 27, "letters", torch.device("cpu")

    def tokens(self, texts):
        return [[ord(c) - 96 for c in text if c.isalpha()] for text in texts]

    def forward(self, ids, mask):
        return torch.nn.functional.one_hot(ids, 27).float()


@pytest.fixture
def letters() -> TextEncoder:
    """A text encoder whose states are known."""
    return Letters()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; (exit code, stdout, stderr), tyro's own exits included."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit:
            code = int(exit.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
