"""Rows of a formula: brackets that grow, spaces that belong there, lines that are not too long."""

from collections.abc import Sequence
from dataclasses import dataclass

from .boxes import Box, beside, box, fence, width

RELATIONS = set("=≠≤≥<>≈≡∝→←∼⟺⇒⇔≔⟶⟹↔") | {":="}
SIGNS = set("+−±")
BINARY = RELATIONS | SIGNS | set("×·⊙∘∣∥∈")
OPEN, CLOSE = set("([{"), set(")]}")
BIG = set("∑∏∫⋃")


@dataclass(frozen=True)
class Atom:
    """A piece of a row: its box, whether it is an operator or a word, and what it encloses."""

    box: Box
    sign: str = ""
    word: bool = False
    parts: "tuple[Atom, ...]" = ()


def grouped(atoms: Sequence[Atom]) -> list[Atom]:
    """Brackets, and pairs of ‖, become one atom with what is between them."""
    result: list[list[Atom]] = [[]]
    opened: list[Atom] = []
    for atom in atoms:
        if atom.sign.rstrip("^") in CLOSE and opened:
            inside = _norms(result.pop())
            result[-1].append(enclosed(opened.pop(), inside, atom))
        elif atom.sign in OPEN:
            opened.append(atom)
            result.append([])
        else:
            result[-1].append(atom)
    while opened:  # a bracket without its partner stays as it is
        inside = result.pop()
        result[-1] += [opened.pop(), *inside]
    return _norms(result[0])


def _norms(atoms: list[Atom]) -> list[Atom]:
    """‖ a ‖ becomes one atom; the single ‖ of a divergence stays a sign."""
    bars = [i for i, atom in enumerate(atoms) if atom.sign.startswith("‖")]
    if len(bars) < 2 or (len(bars) % 2 and not any(atoms[i].sign == "‖^" for i in bars)):
        return atoms
    first = next((i for i in bars if atoms[i].sign == "‖"), bars[0])
    last = next((i for i in bars if i > first), first)
    if last == first:
        return atoms
    whole = enclosed(atoms[first], atoms[first + 1 : last], atoms[last])
    return [*atoms[:first], whole, *_norms(atoms[last + 1 :])]


def enclosed(start: Atom, inside: list[Atom], end: Atom) -> Atom:
    content = joined(inside)
    left, right = fence(start.sign, content), fence(end.sign.rstrip("^"), content)
    if end.sign.endswith("^"):
        right = _regrown(right, end.box)
    whole = beside([left, content, right])
    closing = Atom(end.box, sign=end.sign.rstrip("^"))
    return Atom(whole, parts=(Atom(start.box, sign=start.sign), *inside, closing))


def _regrown(tall: Box, scripted: Box) -> Box:
    """The closing bracket with its script, at the height of the bracket."""
    text = scripted.lines[scripted.base][1:]
    if scripted.height > 1 or tall.height == 1:
        return scripted if tall.height == 1 else tall
    return Box(
        (tall.lines[0] + text, *[line + " " * width(text) for line in tall.lines[1:]]), tall.base
    )


def _spaced(atoms: Sequence[Atom]) -> list[Box]:
    """The boxes of a row with the spaces that belong between them."""
    boxes: list[Box] = []
    signs = [atom.sign in BINARY | {"‖"} for atom in atoms]
    for i, atom in enumerate(atoms):
        if not atom.box.lines[0].strip() and any(signs[max(i - 1, 0) : i + 2]):
            continue  # an operator brings its own spaces
        before = atoms[i - 1] if i else None
        unary = atom.sign in SIGNS and (before is None or before.sign in BINARY | {",", ";"})
        if atom.sign in BINARY | {"‖"} and not unary:
            boxes.append(beside([box(" " if i else ""), atom.box, box(" ")]))
        elif atom.sign in {",", ";", ":"}:
            boxes.append(beside([atom.box, box(" ")]))
        elif _apart(before, atom):
            boxes.append(beside([box(" "), atom.box]))
        else:
            boxes.append(atom.box)
    return boxes


def _apart(before: Atom | None, atom: Atom) -> bool:
    """Whether a word or a fraction stands on either side of the gap."""
    if before is None or not atom.box.lines[0].strip() or not before.box.lines[-1].strip():
        return False
    return (before.word and not atom.parts) or (atom.word and not before.sign)


def joined(atoms: Sequence[Atom], *, tight: bool = False) -> Box:
    return beside([atom.box for atom in atoms] if tight else _spaced(atoms))


def broken(atoms: Sequence[Atom], columns: int) -> Box:
    """A row on as many lines as it needs: broken at relations and signs, or inside brackets."""
    whole = joined(atoms)
    if whole.width <= columns or len(atoms) < 2:
        return whole
    boxes, lines, indent = _spaced(_opened(atoms, columns)), [[]], box("    ")
    atoms = _opened(atoms, columns)
    pieces: list[list[Box]] = [[]]
    for i, (atom, part) in enumerate(zip(atoms, boxes)):
        if i and atom.sign in RELATIONS | SIGNS:
            pieces.append([])
        pieces[-1].append(part)
    for piece in pieces:
        here = beside([*lines[-1], *piece])
        if lines[-1] and here.width > columns:
            lines.append([indent])
        lines[-1] += piece
    rows = [beside(line) for line in lines]
    wide = max(row.width for row in rows)
    text = [line + " " * (wide - width(line)) for row in rows for line in row.lines]
    return Box(tuple(text), rows[0].base)


def _opened(atoms: Sequence[Atom], columns: int) -> list[Atom]:
    """Brackets too wide for a line give up being one piece."""
    result: list[Atom] = []
    for atom in atoms:
        fits = atom.box.width <= columns - 8 or not atom.parts
        result += [atom] if fits else _opened(atom.parts, columns)
    return result
