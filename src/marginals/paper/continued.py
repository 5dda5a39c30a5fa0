"""Lines of a derivation that begin with a relation: which equation they continue, and of what.

The paper writes long derivations as "log p(x) = ... (34)", "= ... (35)", "≥ ... (37)". Taken alone,
a line that begins with = says nothing about its left side; it stands further up.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .equation import Equation
from .terminal import flat

_RELATION = re.compile(r"=|\\(?:geq?|leq?|approx|propto|equiv)(?![A-Za-z])")
_OPEN, _CLOSE = re.compile(r"\{|\\left(?![A-Za-z])"), re.compile(r"\}|\\right(?![A-Za-z])")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)


@dataclass(frozen=True)
class Continued:
    """``head``: the equation with the left side. ``left``: that side in LaTeX. ``relation``: what
    stands between it and the line, over all lines: = while every step is one, else the first other
    relation. ``since``: the line that brought this other relation (None: the head has it)."""

    head: Equation
    left: str
    relation: str
    since: Equation | None

    @property
    def sign(self) -> str:
        """The relation as a character: =, ≥."""
        return flat(self.relation).strip()

    def words(self, columns: int = 80) -> str:
        """ "log p(x) ≥ …", one line of at most ``columns`` characters."""
        return f"{flat(self.left, columns - len(self.sign) - 3)} {self.sign} …"


def sides(latex: str) -> tuple[str, str]:
    """The left side and the first relation outside all brackets: (r"\\log p(x)", "=").

    A line that begins with a relation has the left side ""; one without any has the relation "".
    """
    depth, left = 0, ""
    for token in _TOKEN.findall(latex):
        if not depth and _RELATION.fullmatch(token):
            return left.strip(), token
        depth += bool(_OPEN.fullmatch(token)) - bool(_CLOSE.fullmatch(token))
        left += token
    return left.strip(), ""


def continued(entry: Equation, entries: Sequence[Equation]) -> Continued | None:
    """What a line that begins with a relation continues; None for one with its own left side."""
    left, relation = sides(entry.latex)
    if left:
        return None
    steps = [(entry, relation)]
    for earlier in reversed(entries[: entries.index(entry)]):
        left, relation = sides(earlier.latex)
        steps.append((earlier, relation))
        if left:
            break
    else:
        return None
    changed = next(((e, r) for e, r in reversed(steps) if r != "="), None)
    head = steps[-1][0]
    if changed is None:
        return Continued(head, left, "=", None)
    return Continued(head, left, changed[1], None if changed[0] is head else changed[0])
