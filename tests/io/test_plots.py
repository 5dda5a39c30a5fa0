"""The plots are PNG pictures, drawn without touching anybody else's matplotlib."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from marginals.errors import MarginalsError
from marginals.io import plots


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def share(png: bytes, colour: str) -> float:
    """How much of the plot has this colour, more or less."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((abs(pixels(png).astype(int) - rgb).max(-1) < 40).mean())


def test_a_higher_loss_draws_a_higher_curve() -> None:
    seen = np.arange(1, 100)
    falling = pixels(plots.loss_curve(seen, 100.0 / seen))
    blue = (falling[..., 2].astype(int) - falling[..., 0]) > 100
    rows, columns = np.nonzero(blue)
    left = rows[columns < np.quantile(columns, 0.05)].mean()
    assert left < rows[columns > np.quantile(columns, 0.95)].mean()


def test_bars_are_coloured_by_kind_and_all_drawn() -> None:
    one = plots.likelihood_bars([("ELBO", 3.0, 0.1, "bound")])
    two = plots.likelihood_bars([("ELBO", 3.0, 0.1, "bound"), ("ODE", 3.0, 0.1, "exact")])
    assert share(one, plots.GREEN) == 0 < share(two, plots.GREEN)


def test_elbo_terms_fill_more_where_they_cost_more() -> None:
    lam = np.linspace(-8, 8, 40)
    flat, peaked = np.ones(40), np.exp(-(lam**2))
    blue = [share(plots.elbo_terms(lam, y), plots.BLUE) for y in (flat, peaked)]
    assert blue[0] > 2 * blue[1] > 0


@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_any_number_of_values_can_be_drawn(count: int) -> None:
    x = np.linspace(-5, 5, count)
    for png in (plots.loss_curve(x, x), plots.loss_by_level(x, x**2), plots.elbo_terms(x, x**2)):
        assert pixels(png).std() > 1


def test_values_that_are_not_finite_are_left_out() -> None:
    x, y = np.array([1.0, 2.0, np.inf, 4.0]), np.array([1.0, np.nan, 1.0, 3.0])
    for draw in (plots.loss_curve, plots.elbo_terms):
        assert draw(x, y) == draw(x[[0, 3]], y[[0, 3]])
        with pytest.raises(MarginalsError, match="nothing to plot"):
            draw([np.nan], [1.0])
    rows = [("a", 1.0, 0.1, "exact"), ("b", float("nan"), 0.1, "exact")]
    assert plots.likelihood_bars(rows) == plots.likelihood_bars(rows[:1])
    with pytest.raises(MarginalsError, match="nothing to plot"):
        plots.likelihood_bars(rows[1:])


def test_lengths_must_agree() -> None:
    with pytest.raises(MarginalsError, match="not 2 and 3"):
        plots.loss_curve([1, 2], [1, 2, 3])


def test_the_running_mean_of_a_line_is_the_line() -> None:
    line = np.arange(50.0)
    smooth = plots._running_mean(line, 7)
    assert np.allclose(smooth[3:-3], line[3:-3]) and np.isclose(smooth[0], line[:4].mean())


def test_a_data_uri_holds_the_same_bytes() -> None:
    text = plots.data_uri(b"\x89PNG\x00\xff")
    head, body = text.split(",")
    assert head == "data:image/png;base64" and base64.b64decode(body) == b"\x89PNG\x00\xff"


def test_matplotlib_is_loaded_late_and_pyplot_never() -> None:
    code = (
        "import sys; from marginals.io import plots; assert 'matplotlib' not in sys.modules;"
        "plots.loss_curve([1, 2], [3, 4]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
