"""LaTeX as MathML, the maths that browsers typeset themselves, and as a tree to draw from."""

import re
import xml.etree.ElementTree as ET
from functools import lru_cache
from itertools import accumulate

_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_SPELLINGS = (
    (r"\\begin\{(aligned|split|gathered)\}", r"\\begin{align*}"),
    (r"\\end\{(aligned|split|gathered)\}", r"\\end{align*}"),
    (r"\\operatorname\*?\{arg(\\,|\s)*(min|max)\}", r"\\arg\\\2"),
    (r"\\arg(?![a-zA-Z])", r"\\mathrm{arg}"),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\(Vert|\|)(?![a-zA-Z])", r"\\lVert "),
    (r"\\[bB]igg?[lr]?(?![a-zA-Z])", r""),
    (r"\\boldsymbol|\\bm(?![a-zA-Z])", r"\\mathbf"),
    (r"\\operatorname\{([A-Za-z]+)\}", r"\\mathrm{\1}"),
    (r"\\(!|nolimits|limits|displaystyle|textstyle)(?![a-zA-Z])", r""),
)


@lru_cache(maxsize=1024)
def mathml(latex: str) -> str:
    """A ``<math display="block">`` element for a page."""
    tree = parse(latex)
    for element in tree.iter("munder"):
        if len(element) == 2 and element[0].tag == "munder" and element[0][1].text == "\u23df":
            brace = ET.Element("mrow", {"class": "brace"})  # fonts have no braces this wide
            brace.append(element[0][0])
            element[0] = brace
    return ET.tostring(tree, encoding="unicode", short_empty_elements=False)


def parse(latex: str) -> ET.Element:
    """The same as a tree of elements without namespaces: mrow, mfrac, msub, mi, ...

    Raises ValueError for LaTeX that cannot be read: an unknown command, an unmatched brace.
    """
    from latex2mathml.converter import convert

    depths = list(accumulate({"{": 1, "}": -1}[b] for b in re.findall(r"(?<!\\)[{}]", latex)))
    if depths and (min(depths) < 0 or depths[-1]):
        raise ValueError(f"unmatched braces in this LaTeX: {latex}")
    for pattern, replacement in _SPELLINGS:
        latex = re.sub(pattern, replacement, latex)
    try:
        text = convert(latex, display="block").replace(f' xmlns="{_NAMESPACE}"', "")
        root = ET.fromstring(text)
    except Exception as error:
        raise ValueError(f"this LaTeX cannot be read ({error}): {latex}") from error
    for element in root.iter():
        _mend(element)
    if unknown := [e.text for e in root.iter() if "\\" in (e.text or "")]:
        raise ValueError(f"unknown LaTeX command {unknown[0]} in: {latex}")
    return root


def _mend(element: ET.Element) -> None:
    """Join the letters of a word (KL, SNR), and say bold in a way every browser knows."""
    children: list[ET.Element] = []
    for child in list(element):
        before = children[-1] if children else None
        if child.tag == "mo" and not (child.text or "").strip() and not len(child):
            continue
        if before is not None and _upright(before) and _upright(child):
            before.text = (before.text or "") + (child.text or "")
            continue
        row = element.tag in ("math", "mrow", "mtd", "mstyle")  # elsewhere a child has its place
        opens = (child.text or "") in ("(", "[", "{", "=")
        if before is not None and row and _word(before) and not opens:
            children.append(ET.Element("mspace", {"width": "0.17em"}))
        children.append(child)
        if (child.get("mathvariant") or "").startswith("bold"):
            child.set("style", "font-weight: bold")
            del child.attrib["mathvariant"]
    needs = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3}
    if len(children) >= needs.get(element.tag, 0):
        element[:] = children


def _word(element: ET.Element) -> bool:
    """log, exp, min: browsers put no space after them."""
    return element.tag in ("mi", "mo") and len(element.text or "") > 1 and element.text != "KL"


def _upright(element: ET.Element) -> bool:
    return element.tag == "mi" and element.get("mathvariant") == "normal"
