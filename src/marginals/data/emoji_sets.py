"""The drawing styles of the emoji data set: where each comes from, and the word for its look.

A style is a word that a person would type. It says what is seen, not who drew it; the words are
spread out in meaning so that a text encoder tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from .fetch import Package


@dataclass(frozen=True)
class EmojiSet(Package):
    """One designer's drawings of the emoji."""

    style: str
    licence: str
    """SPDX identifier, as the package states it."""
    by: str
    """Whom the licence asks to name."""
    share_alike: bool = False
    """Whether what is derived must carry the same licence; such a set is used only on request."""


NAMES = Package(
    "emoji names",
    "npm",
    "emojibase-data@17.0.0",
    6_711_091,
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
"""Names, keywords and groups of the emoji (MIT, Miles Johnson; from Unicode's CLDR)."""

SETS = (
    EmojiSet(  # plain areas of colour, no shading, up to the edge
        "Twemoji",
        "npm",
        "@iconify-json/twemoji@1.2.5",
        1_555_888,
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "flat",
        "CC-BY-4.0",
        "Twitter, Inc and other contributors",
    ),
    EmojiSet(  # soft light on round bodies, violet shadows
        "Fluent Emoji",
        "npm",
        "@iconify-json/fluent-emoji@1.2.7",
        14_323_330,
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "3d",
        "MIT",
        "Microsoft Corporation",
    ),
    EmojiSet(  # highlights and smooth gradients in strong colours
        "Noto Emoji",
        "npm",
        "@iconify-json/noto@1.2.9",
        3_102_958,
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "glossy",
        "Apache-2.0",
        "Google LLC",
    ),
    EmojiSet(  # the 3d set's shapes in a few saturated colours
        "Fluent Emoji Flat",
        "npm",
        "@iconify-json/fluent-emoji-flat@1.2.6",
        1_172_438,
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "vivid",
        "MIT",
        "Microsoft Corporation",
    ),
    EmojiSet(  # Android's former faces, which are blobs; muted oranges
        "Noto Emoji (before 2017)",
        "npm",
        "@iconify-json/noto-v1@1.2.5",
        1_587_591,
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "blob",
        "Apache-2.0",
        "Google LLC",
    ),
    EmojiSet(  # light, soft colours
        "EmojiOne",
        "npm",
        "@iconify-json/emojione@1.2.3",
        687_690,
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "pastel",
        "CC-BY-4.0",
        "EmojiOne (EmojiTwo) contributors",
    ),
    EmojiSet(  # simple clip art
        "FxEmojis",
        "npm",
        "@iconify-json/fxemoji@1.2.2",
        1_034_876,
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "clipart",
        "Apache-2.0",
        "Mozilla Foundation",
    ),
    EmojiSet(  # black outlines, filled with plain colours
        "OpenMoji",
        "npm",
        "@iconify-json/openmoji@1.2.29",
        1_264_633,
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "outline",
        "CC-BY-SA-4.0",
        "HfG Schwäbisch Gmünd",
        share_alike=True,
    ),
)
