"""The data that ships inside the package: nothing to download, licences beside the files.

The files are `.npz` archives (see `archive`) compressed with xz; `tools/make_builtin_data.py`
rebuilds them from the published originals. Captioned shapes are drawn when they are asked for.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Callable
from importlib.resources import files

from .archive import read_npz
from .captioned import Captioned
from .pictures import Pictures
from .shapes import shapes

DIGITS_HELD_OUT = 297


def fashion() -> tuple[Pictures, Pictures]:
    """(train, held out): 14000 and 2000 pictures of Fashion-MNIST, 28x28 gray, 10 balanced classes.

    The first 1400 training and 200 test pictures of every class, in the official order. Xiao,
    Rasul and Vollgraf 2017; MIT licence.
    """
    train, test = _read("fashion")
    assert test is not None
    return train, test


def digits() -> tuple[Pictures, Pictures]:
    """(train, held out): 1500 and 297 handwritten digits, 8x8 gray, 10 classes.

    All 1797 pictures scikit-learn ships (the test part of the UCI set "Optical Recognition of
    Handwritten Digits", Alpaydin and Kaynak 1998; CC BY 4.0). Their 17 levels v = 0..16 are
    stored as v * 255 / 16 rounded half up. There is no official split; ours is fixed.
    """
    everything, _ = _read("digits")
    return everything.split(DIGITS_HELD_OUT)


Parts = tuple[Pictures, Pictures] | tuple[Captioned, Captioned]
BUILTIN: dict[str, Callable[[], Parts]] = {
    "fashion": fashion,
    "digits": digits,
    "shapes": shapes,
}


def _read(name: str) -> tuple[Pictures, Pictures | None]:
    packed = files("marginals.data").joinpath("files", f"{name}.npz.xz").read_bytes()
    train, test = read_npz(io.BytesIO(lzma.decompress(packed)), name)
    assert isinstance(train, Pictures) and not isinstance(test, Captioned)
    return train, test
