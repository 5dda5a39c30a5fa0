"""The classifier learns, says honestly how well, and comes back from a file as it was."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from marginals.data.builtin import digits
from marginals.errors import MarginalsError
from marginals.io.tensors import write_tensors
from marginals.metrics.classifier import (
    Classifier,
    Share,
    agreement,
    class_table,
    train_classifier,
)
from marginals.metrics.features import Extractor, extract
from marginals.pixels import to_float

NAMES = ("left", "right", "none")


def bars(
    n: int, *, shape: tuple[int, int, int] = (1, 12, 9), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Noisy pictures, brighter on the left, on the right, or nowhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    x = torch.randint(0, 90, (n, *shape), generator=generator)
    middle = shape[2] // 2
    x[labels == 0, ..., :middle] += 150
    x[labels == 1, ..., middle:] += 150
    return x.to(torch.uint8), labels


def trained(seed: int = 0, **shape: tuple[int, int, int]) -> Classifier:
    return train_classifier(
        *bars(90, **shape), *bars(60, seed=1, **shape), NAMES, images=600, seed=seed, progress=False
    )


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return trained()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 40), (4, 70, 50)])
def test_any_channels_and_size_can_be_learnt(shape: tuple[int, int, int]) -> None:
    net = trained(shape=shape)
    assert net.accuracy.value > 0.9 and not net.training
    assert net(torch.zeros(2, *shape)).shape == (2, 3)


def test_digits_are_recognised() -> None:
    train, held_out = digits()
    assert train.labels is not None and held_out.labels is not None
    data = (train.images, train.labels, held_out.images, held_out.labels)
    net = train_classifier(*data, train.classes, images=12_000, progress=False)
    assert net.accuracy.value >= 0.95
    assert agreement(net, held_out.images, held_out.labels) == net.accuracy
    shuffled = held_out.labels.roll(1)
    assert agreement(net, held_out.images, shuffled).value < 0.3


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_one(
    classifier: Classifier,
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = trained()
    assert torch.equal(torch.rand(3), expected)
    for name, value in classifier.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    other = trained(seed=1).state_dict()["head.weight"]
    assert not torch.equal(other, classifier.state_dict()["head.weight"])


def test_accuracy_is_that_of_held_out_pictures(classifier: Classifier) -> None:
    x, y = bars(60, seed=1)
    with torch.no_grad():
        hits = (classifier(to_float(x)).argmax(1) == y).float().mean()
    assert classifier.accuracy.value == pytest.approx(hits.item())
    assert agreement(classifier, x, y) == classifier.accuracy


def test_stored_and_float_pictures_are_judged_alike(classifier: Classifier) -> None:
    x, _ = bars(60, seed=2)
    assert torch.equal(classifier.predict(x), classifier.predict(to_float(x)))
    assert torch.equal(classifier.predict(x, batch=7), classifier.predict(x))
    assert classifier.predict(x[:0]).shape == (0,)


def test_broken_samples_are_not_taken_for_a_class(classifier: Classifier) -> None:
    x, y = bars(6)
    broken = to_float(x)
    broken[3, 0, 0, 0] = float("nan")
    with pytest.raises(MarginalsError, match="NaN"):
        agreement(classifier, broken, y)


def test_pictures_without_a_label_are_left_out(classifier: Classifier) -> None:
    x, y = bars(60, seed=2)
    hidden = y.clone()
    hidden[::2] = -1
    assert agreement(classifier, x, hidden) == agreement(classifier, x[1::2], y[1::2])
    with pytest.raises(MarginalsError, match="at least one picture with a label"):
        agreement(classifier, x, torch.full_like(y, -1))


def test_the_table_counts_classes_and_mistakes(classifier: Classifier) -> None:
    x, _ = bars(9)  # left, right, none, left, ...
    asked = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    predicted = classifier.predict(x)
    assert predicted.tolist() == [0, 1, 2] * 3
    left, right, none = class_table(classifier, x, asked)
    assert (left.name, left.n, left.share) == ("left", 6, Share.of(2, 6))
    assert left.taken_for in ("right", "none") and right.share == Share.of(1, 3)
    assert (none.n, none.share, none.taken_for) == (0, None, "")
    assert class_table(classifier, x, predicted)[0].taken_for == ""


def test_a_share_has_the_error_of_the_beta_distribution() -> None:
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for hits, n in ((0, 5), (3, 7), (40, 40)):
        density = grid**hits * (1 - grid) ** (n - hits)
        density /= density.sum()
        mean = (grid * density).sum()
        deviation = ((grid - mean).square() * density).sum().sqrt()
        share = Share.of(hits, n)
        assert share.value == hits / n
        assert share.stderr == pytest.approx(float(deviation), rel=1e-6)
    assert str(Share.of(9, 10)).startswith("90.0 % ± ")


def test_a_classifier_comes_back_from_its_file(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "c.safetensors")
    again = Classifier.load(tmp_path / "c.safetensors")
    x, _ = bars(30, seed=3)
    assert again.classes == NAMES and again.accuracy == classifier.accuracy and not again.training
    with torch.no_grad():
        assert torch.equal(again(to_float(x)), classifier(to_float(x)))


def test_an_unmeasured_classifier_can_be_saved(tmp_path: Path) -> None:
    Classifier((1, 8, 8), NAMES).save(tmp_path / "c.safetensors")
    assert math.isnan(Classifier.load(tmp_path / "c.safetensors").accuracy.value)


def test_files_that_hold_something_else_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {"format": "marginals model"})
    with pytest.raises(MarginalsError, match="holds a marginals model, not a classifier"):
        Classifier.load(path)
    header = {
        "format": "marginals classifier",
        "shape": [1, 12, 9],
        "classes": NAMES,
        "accuracy": None,
    }
    write_tensors(path, {"a": torch.zeros(1)}, header)
    with pytest.raises(MarginalsError, match="damaged"):
        Classifier.load(path)


def test_its_features_serve_as_an_extractor(classifier: Classifier) -> None:
    x, y = bars(60, seed=4)
    features = extract(Extractor("classifier", classifier.features), x)
    assert features.shape == (60, 128)
    centres = torch.stack([features[y == i].mean(0) for i in range(3)])
    nearest = torch.cdist(features, centres).argmin(1)
    assert (nearest == y).double().mean() > 0.9


def test_impossible_requests_are_explained(classifier: Classifier) -> None:
    x, y = bars(30)
    with pytest.raises(MarginalsError, match="at least 2 classes"):
        train_classifier(x, torch.zeros_like(y), x, y, NAMES, progress=False)
    with pytest.raises(MarginalsError, match="at least 8x8"):
        Classifier((1, 7, 8), NAMES)
    with pytest.raises(MarginalsError, match="one label each"):
        agreement(classifier, x, y[:-1])
    with pytest.raises(MarginalsError, match="label 3 is beyond the 3 classes"):
        agreement(classifier, x, y + 1)
    with pytest.raises(MarginalsError, match="trained on pictures of shape"):
        classifier(torch.zeros(1, 1, 9, 12))
