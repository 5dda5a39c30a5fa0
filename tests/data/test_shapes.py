"""Captioned shapes: exact pictures, an honest held-out part, and a reader that tells the truth."""

from collections import Counter
from itertools import combinations

import pytest
import torch
from torch.nn import functional

from marginals.data import Captioned, load
from marginals.data.shapes import (
    COLOURS,
    TRAINED,
    VALUES,
    Attributes,
    combinations_of_values,
    draw,
    held_out_combinations,
    parsed,
)
from marginals.errors import MarginalsError
from marginals.metrics.shapes import read_shapes, right_shapes

BLACK = COLOURS["black"][0]


@pytest.fixture(scope="module")
def parts() -> tuple[Captioned, Captioned]:
    train, held = load("shapes")
    assert isinstance(train, Captioned) and isinstance(held, Captioned)
    return train, held


def sample(part: Captioned, count: int) -> tuple[torch.Tensor, list[str]]:
    indices = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:count]
    return part.images[indices], [part.captions[i][1] for i in indices.tolist()]


def test_held_out_combinations_are_never_trained_on(parts) -> None:
    train, held = parts
    assert train.shape == (3, 32, 32) and not set(train.concepts) & set(held.concepts)
    assert len(set(held.concepts)) == 30 and set(Counter(train.concepts).values()) == {TRAINED}
    assert len(set(train.concepts) | set(held.concepts)) == 300 == len(combinations_of_values())


def test_every_pair_of_values_is_mostly_trained_on() -> None:
    total = Counter(pair for a in combinations_of_values() for pair in combinations(a, 2))
    left = total - Counter(pair for a in held_out_combinations() for pair in combinations(a, 2))
    assert all(3 * left[pair] >= 2 * count for pair, count in total.items())


def test_it_is_the_same_each_time_and_varied(parts) -> None:
    again = load("shapes")
    assert [p.checksum() for p in parts] == [p.checksum() for p in again]
    assert len({x.numpy().tobytes() for x in parts[0].images}) > 0.99 * len(parts[0])


def test_captions_say_what_was_drawn(parts) -> None:
    for a in combinations_of_values():
        assert [parsed(text) for text in a.captions] == [a, a]
    assert parsed("a red crab") is None
    assert Attributes("small", "red", "triangle", "at the top left").captions == (
        "a small red triangle at the top left",
        "small red triangle, top left",
    )


def test_a_square_to_the_pixel() -> None:
    """Half a side is 0.85 * 7 = 5.95 pixels, so the outermost points, 5.875 off, are inside."""
    picture = draw(Attributes("large", "black", "square", "in the middle"))
    expected = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    expected[:, 10:22, 10:22] = BLACK
    assert torch.equal(picture, expected)
    moved = draw(Attributes("large", "black", "square", "in the middle"), 2, 0)  # a point further
    quarter = (255 - moved[0, 16].double()) / (255 - BLACK)
    assert quarter[9:24].tolist() == pytest.approx([0, 0.75, *[1] * 11, 0.25, 0], abs=0.005)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", 3.1416),
        ("square", 1.7**2),
        ("triangle", 1.7**2 * 5 / 9),
        ("ring", 3.1416 * 0.64),
        ("cross", 8 / 3 - 4 / 9),
    ],
)
def test_areas(shape, area) -> None:
    """The share of ink is the area of the shape, in units of the radius squared."""
    picture = draw(Attributes("large", "black", shape, "in the middle"), 3, -5)
    ink = (255 - picture.double()).sum((1, 2)) / (255 - BLACK)
    assert ink.tolist() == pytest.approx([area * 49] * 3, rel=0.05)


def test_places_are_where_they_say() -> None:
    for place, (x, y) in {"at the top right": (23, 9), "at the bottom left": (9, 23)}.items():
        ink = 255 - draw(Attributes("small", "black", "circle", place), 8, 0).double()[0]
        grid = torch.arange(32) + 0.5
        assert float((ink.sum(0) * grid).sum() / ink.sum()) == pytest.approx(x + 1, abs=1e-6)
        assert float((ink.sum(1) * grid).sum() / ink.sum()) == pytest.approx(y, abs=1e-6)


def test_the_reader_reads_real_pictures(parts) -> None:
    for part in parts:
        images, captions = sample(part, 100)
        assert right_shapes(images, captions).all()


def test_the_reader_reads_noisy_and_blurred_pictures(parts) -> None:
    images, captions = sample(parts[0], 100)
    noise = 8 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    noisy = (images + noise).clamp(0, 255).round().byte()
    assert right_shapes(noisy, captions).all(1).float().mean() >= 0.97
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    padded = functional.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    soft = functional.conv2d(padded, blur, groups=3).round().byte()
    assert right_shapes(soft, captions).all(1).float().mean() >= 0.95


def test_the_reader_sees_what_is_wrong() -> None:
    a = Attributes("small", "red", "triangle", "at the top left")
    other = {"size": "large", "colour": "blue", "shape": "ring", "place": "in the middle"}
    for k, name in enumerate(VALUES):
        wrong = a._replace(**{name: other[name]})
        right = right_shapes(draw(wrong)[None], [a.captions[0]])[0]
        assert right.tolist() == [i != k for i in range(4)]
    two = torch.minimum(draw(a), draw(a._replace(place="at the bottom right")))
    noise = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    nothing = torch.stack([two, noise, torch.full_like(two, 255), torch.full_like(two, 180)])
    assert not right_shapes(nothing, [a.captions[0]] * 4).any()


def test_what_cannot_be_read_is_said() -> None:
    picture = draw(combinations_of_values()[0])[None]
    with pytest.raises(MarginalsError, match="one caption of the data set called shapes"):
        right_shapes(picture, ["a red crab"])
    with pytest.raises(MarginalsError, match="one caption of the data set called shapes"):
        right_shapes(picture, [])
    with pytest.raises(MarginalsError, match=r"uint8 pictures \(N, 3, 32, 32\)"):
        read_shapes(picture.float())
    assert [len(x) for x in read_shapes(picture[:0])] == [0, 0]
