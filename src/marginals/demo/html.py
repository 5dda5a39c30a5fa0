"""Small pieces of HTML: everything escaped, every picture inline."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

from PIL.Image import Image

__all__ = ["Html", "cards", "figure", "fill", "number", "picture", "table", "text", "yes_no"]


class Html(str):
    """Text that is HTML already and is not escaped again."""


def text(value: object) -> Html:
    """Any value as HTML; Html stays what it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def fill(template: str, **parts: object) -> str:
    """The asset ``template`` with every {{name}} replaced. A name without a value is a mistake."""
    page = files("marginals.demo").joinpath("assets", template).read_text(encoding="utf-8")
    for name, value in parts.items():
        page = page.replace("{{" + name + "}}", text(value))
    if "{{" in page:
        raise KeyError(page[page.index("{{") :][:40])
    return page


def picture(image: Image | bytes, alt: str, kind: str = "pixels") -> Html:
    """An inline <img>: a Pillow picture or the bytes of a PNG."""
    if isinstance(image, bytes):
        data = image
    else:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        data = buffer.getvalue()
    uri = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return Html(f'<img class="{kind}" alt="{html.escape(alt)}" src="{uri}">')


def figure(image: Image | bytes, caption: object, kind: str = "pixels", alt: str = "") -> Html:
    """A picture with a caption below; the caption serves as the description too."""
    shown = picture(image, alt or str(caption), kind)
    return Html(f"<figure>{shown}<figcaption>{text(caption)}</figcaption></figure>")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    numbers: Sequence[int] = (),
    small: bool = False,
) -> Html:
    """A table; ``numbers`` are the columns that are set flush right."""

    def row(tag: str, cells: Sequence[object]) -> str:
        def cell(i: int, value: object) -> str:
            kind = ' class="n"' if i in numbers else ""
            return f"<{tag}{kind}>{text(value)}</{tag}>"

        return "<tr>" + "".join(cell(i, value) for i, value in enumerate(cells)) + "</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return Html(f'<div class="scroll"><table>{row("th", head)}{body}</table></div>')


def cards(values: Sequence[tuple[str, str]]) -> Html:
    """Large numbers with what they mean below."""
    parts = (f"<div><b>{text(value)}</b><span>{text(what)}</span></div>" for value, what in values)
    return Html(f'<div class="cards">{"".join(parts)}</div>')


def yes_no(good: bool, yes: str = "✓ agrees", no: str = "✗ differs") -> Html:
    """A coloured verdict that does not rely on its colour."""
    return Html(f'<span class="{"yes" if good else "no"}">{yes if good else no}</span>')


def formula(words: str) -> Html:
    """A formula in plain characters, with its single-letter indices lowered: x_s, σ_q²."""
    lowered = re.sub(r"_(\w)", r"<sub>\1</sub>", html.escape(words))
    return Html(f'<div class="formula">{lowered}</div>')


def number(value: float) -> str:
    """1.2e-07 as 1.2 · 10⁻⁷; ordinary numbers as they are; 0 as 0."""
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 1e5:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} · 10{raised}"
