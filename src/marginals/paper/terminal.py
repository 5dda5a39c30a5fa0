"""Maths in a terminal: LaTeX → MathML → characters on a grid.

    render(r"\\frac{x_t - \\hat\\epsilon}{\\sqrt{\\bar\\alpha_t}}", 80)

Indices and powers use Unicode's small characters where they exist (x₀, σ²); anything else goes
below or above the line. Formulas that are too wide break at relations, then at + and −.
"""

import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from .boxes import Box, beside, box, braced, fence, fraction, scripts, stacked, width
from .letters import ACCENTS, RAISED, SUBSCRIPTS, SUPERSCRIPTS, WRITTEN, letter, small
from .mathml import parse
from .rows import BIG, BINARY, CLOSE, Atom, broken, enclosed, grouped, joined


def render(latex: str, columns: int = 80) -> str:
    """Several lines of at most ``columns`` characters wherever the formula can be broken."""
    lines = _lines(parse(latex))
    first = max((joined(line[0]).width for line in lines if len(line) > 1), default=0)
    blocks = []
    for line in lines:
        lead = joined(line[0])
        indent = beside([box(" " * max(first - lead.width, 0)), lead]) if len(line) > 1 else box("")
        rest = [atom for cell in line[len(line) > 1 :] for atom in cell]
        blocks.append(str(beside([indent, broken(rest, columns - indent.width)])))
    gap = "\n\n" if any("\n" in block for block in blocks) else "\n"
    return gap.join(blocks)


def flat(latex: str, columns: int = 80) -> str:
    """One line of at most ``columns`` characters, cut with an ellipsis."""
    rows = [[a for cell in line for a in cell] for line in _lines(parse(latex), flat=True)]
    text = "  ".join(joined(row).lines[0] for row in rows)
    while width(text) > columns:
        text = text[: -2 if text.endswith("…") else -1].rstrip() + "…"
    return text


def _lines(root: ET.Element, *, flat: bool = False) -> list[list[list[Atom]]]:
    """Lines of cells of atoms: several where the LaTeX has an aligned environment."""
    table = root.find(".//mtable")
    layout = Layout(flat)
    if table is None:
        return [[layout.row(list(root))]]
    return [[layout.row([cell]) for cell in line] for line in table.iter("mtr")]


# ---- elements → atoms --------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Turns elements into atoms; ``flat`` writes everything on one line, ``small`` leaves no
    spaces around operators."""

    flat: bool = False
    small: bool = False

    def row(self, elements: Sequence[ET.Element]) -> list[Atom]:
        atoms: list[Atom] = []
        for element in elements:
            if element.tag in ("math", "mrow", "mtd", "mtr", "mpadded", "mphantom", "mstyle"):
                atoms += self.row(list(element))
            else:
                atoms.append(self.atom(element))
        return grouped(atoms)

    def one(self, element: ET.Element, *, small: bool = False) -> Box:
        """A whole element as one box."""
        layout = Layout(self.flat, self.small or small)
        return joined(layout.row([element]), tight=layout.small)

    def atom(self, element: ET.Element) -> Atom:
        name = element.tag
        if name in ("mi", "mn", "mo", "mtext"):
            return _leaf(element)
        if name == "mspace":
            wide = float((element.get("width") or "0").rstrip("emx") or 0) >= 0.9
            return Atom(box("" if self.small else "   " if wide else " "))
        if name == "mfrac":
            drawn = self._fraction(*element)
            return Atom(drawn, word=drawn.height > 1)
        if name in ("msqrt", "mroot"):
            return Atom(self._root(list(element)))
        return self._scripted(name, list(element))

    def _fraction(self, top: ET.Element, bottom: ET.Element) -> Box:
        above, below = self.one(top, small=self.small), self.one(bottom, small=self.small)
        if above.lines == ("1",) and below.lines == ("2",):
            return box("½")
        if self.flat or self.small:
            return box(f"{_wrapped(above, '+−')}/{_wrapped(below)}")
        return fraction(above, below)

    def _root(self, elements: list[ET.Element]) -> Box:
        inside = joined(self.row(elements), tight=self.small)
        if inside.height == 1 and _plain(inside.lines[0]):
            return box("√" + inside.lines[0])
        return beside([_down(box("√"), inside), fence("(", inside), inside, fence(")", inside)])

    def _scripted(self, name: str, parts: list[ET.Element]) -> Atom:
        base, scripts_ = parts[0], parts[1:]
        below = scripts_[0] if name in ("msub", "munder", "msubsup", "munderover") else None
        above = scripts_[-1] if name in ("msup", "mover", "msubsup", "munderover") else None
        if name == "mover" and (mark := ACCENTS.get((parts[1].text or "").strip())):
            return Atom(_accented(self.one(base), mark))
        if name == "munder" and (parts[1].text or "").strip() in ("⏟", "\u23df"):
            return Atom(self.one(base))  # the brace itself; its label is the munder around it
        if name == "munder" and base.tag == "munder" and not self.flat:
            return Atom(braced(self.one(base), self.one(parts[1])))
        core = self.row([base])
        sign = core[0].sign if len(core) == 1 else ""
        word = (len(core) == 1 and core[0].word) or sign in BIG
        inner = joined(core, tight=True)
        if len(core) == 1 and core[0].parts and name in ("msub", "msup", "msubsup"):
            inner = core[0].parts[-1].box  # what closes a bracket carries its script
        sub = self.one(below, small=True) if below is not None else None
        sup = self.one(above, small=True) if above is not None else None
        if not self.flat and (sign in BIG - {"∫"} or (word and name.startswith("mund"))):
            rows = [part for part in (sup, inner, sub) if part]
            return Atom(stacked(rows, 1 if sup else 0), word=True)
        scripted = self._script(inner, sub, sup)
        if len(core) == 1 and core[0].parts:
            first, *inside, last = core[0].parts
            return enclosed(first, inside, Atom(scripted, sign=last.sign + "^"))
        closing = sign if sign in CLOSE or sign == "‖" else ""
        return Atom(scripted, sign=closing and closing + "^", word=word)

    def _script(self, base: Box, sub: Box | None, sup: Box | None) -> Box:
        """Small characters where they exist, else below and above the line."""
        for mark, part, table in (("_", sub, SUBSCRIPTS), ("^", sup, SUPERSCRIPTS)):
            text = _inline(part, mark, table, anything=self.flat) if part else None
            if text is None:
                continue
            base = beside([base, box(text)])
            sub, sup = (None, sup) if mark == "_" else (sub, None)
        return scripts(base, sub, sup) if sub or sup else base


def _leaf(element: ET.Element) -> Atom:
    text = unicodedata.normalize("NFC", element.text or "")
    text = "".join(letter(char) for char in text).replace("\u2061", "")
    if element.tag == "mtext":
        return Atom(box(text))
    text = WRITTEN.get(text.strip(), text.strip())
    if len(text) > 1 and text.isalpha():
        return Atom(box(text), word=True)
    if element.tag == "mo" or text in BINARY | BIG or text in ("‖", "∣", ";"):
        return Atom(box(text), sign=text, word=text in BIG)
    return Atom(box(text))


def _inline(part: Box, mark: str, table: dict[str, str], *, anything: bool) -> str | None:
    if part.height > 1:
        return None
    text = part.lines[0]
    if (tiny := small(text, table)) is not None:
        return tiny
    if mark == "^" and text in RAISED:
        return RAISED[text]
    if width(text) == 1 or text == "KL":
        return mark + text
    return f"{mark}{{{text}}}" if anything else None


def _accented(base: Box, mark: str) -> Box:
    if base.height == 1 and base.width:
        first, rest = base.lines[0][0], base.lines[0][1:]
        return box(first + mark + rest) if base.width == 1 else box(f"({first}{rest}){mark}")
    return base


def _plain(text: str) -> bool:
    return width(text) == 1 or text.isdigit()


def _wrapped(part: Box, signs: str = "") -> str:
    text = part.lines[0]
    closed = not set(text) & set(signs) if signs else _plain(text) or text.isalpha()
    return text if closed else f"({text})"


def _down(sign: Box, inside: Box) -> Box:
    """A sign on the line of what it stands before."""
    if inside.height < 3:
        return sign
    empty = " " * sign.width
    return Box((*[empty] * inside.base, *sign.lines, *[empty] * inside.below), inside.base)
