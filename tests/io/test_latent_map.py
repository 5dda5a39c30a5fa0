"""The map of a two-number latent: both panels show the same plane."""

import io

import pytest
import torch

import marginals
from marginals.errors import MarginalsError
from marginals.io.latent_map import encode, grid, latent_map
from marginals.mixture import LogisticMixture
from marginals.nn import VectorLatents


def ladder(latents: int = 2, classes: int = 0):
    torch.manual_seed(0)
    net = VectorLatents(1, 8, 3, [latents], "mlp", [16], 1, num_classes=classes)
    return marginals.vae(net, decoder=LogisticMixture(1))


def test_a_picture_appears_with_both_panels(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8)
    path = tmp_path / "map.png"
    latent_map(ladder(classes=3), path, x, torch.arange(30) % 3, cond=1, side=6)
    assert image.open(io.BytesIO(path.read_bytes())).size == (1452, 726)


def test_the_grid_is_the_decoder_over_the_quantiles_of_the_prior():
    model, side = ladder(), 5
    tiles = grid(model, side)
    normal = torch.distributions.Normal(0.0, 1.0)
    z = normal.icdf(torch.tensor([[0.9, 0.9], [0.1, 0.1], [0.5, 0.9]]))
    expected = model.decoder.mean(model.decode(z))
    for (row, column), picture in zip([(0, 4), (4, 0), (0, 2)], expected, strict=True):
        assert torch.allclose(tiles[row, column], picture, atol=1e-5)


def test_encoding_is_the_mean_of_the_posterior():
    model, x = ladder(), torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    z = encode(model, x)
    assert z.shape == (3, 2) and torch.equal(z, encode(model, marginals.pixels.to_float(x)))
    evidence = model.evidence(marginals.pixels.to_float(x), None)
    assert torch.equal(z, model.rungs[0].posterior(evidence, None).mean)


def test_only_two_numbers_have_a_map(tmp_path):
    with pytest.raises(MarginalsError, match=r"latents=\[2\]"):
        latent_map(ladder(3), tmp_path / "map.png", torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())
