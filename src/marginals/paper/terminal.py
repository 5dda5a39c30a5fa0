"""Maths in a terminal."""


def render(latex: str, width: int) -> str:
    return latex


def flat(latex: str, width: int) -> str:
    return latex[:width]
