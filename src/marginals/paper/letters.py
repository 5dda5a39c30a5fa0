"""Small characters: what Unicode offers for indices and powers, and what terminals lack."""

import html
import re
import shutil
import unicodedata

SUBSCRIPTS = dict(zip("0123456789+−=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ"))
SUPERSCRIPTS = dict(zip("0123456789+−=()inT", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱⁿᵀ"))
SUPERSCRIPTS |= {"⊤": "ᵀ", "′": "′", "*": "*"}
RAISED = dict(zip("abcdefghjklmoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"))  # fine alone
ACCENTS = {"^": "\u0302", "ˆ": "\u0302", "¯": "\u0304", "‾": "\u0304", "~": "\u0303"}
ACCENTS |= {"˜": "\u0303", "˙": "\u0307", "→": "\u20d7", "―": "\u0304", "_": "\u0304"}
WRITTEN = {"-": "−", "∗": "*", "|": "∣", "⩽": "≤", "⩾": "≥", "~": "∼", "ϵ": "ε", "ϕ": "φ"}

_SCRIPT = re.compile(
    r"(?<![A-Za-z])([A-Za-zα-ωΑ-Ωᾱ∇∫Σ][\u0300-\u036f]?(?:²)?)"
    r"_(\{[^}]*\}|\([^)]*\)|[A-Za-z0-9α-ω](?![A-Za-z0-9_]))"
)


def letter(char: str) -> str:
    """Letters of special alphabets (𝔼, 𝒩) as plain ones: few terminal fonts have them."""
    return unicodedata.normalize("NFKC", char) if ord(char) > 0xFFFF else WRITTEN.get(char, char)


def columns(most: int = 80) -> int:
    """How wide texts are: ``most`` characters, or fewer where the terminal is narrower."""
    return max(40, min(most, shutil.get_terminal_size((80, 24)).columns))


def small(text: str, table: dict[str, str]) -> str | None:
    """``text`` in small characters, None if one of them does not exist."""
    return "".join(table[char] for char in text) if all(char in table for char in text) else None


def plain(text: str) -> str:
    """A sentence with x_t, x_{t-1} for a terminal: xₜ, xₜ₋₁ (what has no small form stays)."""

    def replaced(found: re.Match[str]) -> str:
        index = found[2].strip("{}()").replace("-", "−").replace(" ", "")
        return found[1] + (small(index, SUBSCRIPTS) or "_" + found[2])

    return _SCRIPT.sub(replaced, text)


def marked(text: str) -> str:
    """The same for a page: escaped, with <sub> for indices."""

    def replaced(found: re.Match[str]) -> str:
        return f"{found[1]}<sub>{found[2].strip('{}()')}</sub>"

    return _SCRIPT.sub(replaced, html.escape(text, quote=False))


def scientific(text: str) -> str:
    """2.4e-09 as 2.4·10⁻⁹, and a proper minus before numbers."""

    def power(found: re.Match[str]) -> str:
        return f"{found[1]}·10⁻{small(found[2], SUPERSCRIPTS)}"

    return re.sub(r"(?<![\w)])-(?=\d)", "−", re.sub(r"(\d)e-0*(\d+)", power, text))
