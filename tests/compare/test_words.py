"""What is said of a model follows from its numbers, and changes with them."""

import math

import pytest

from marginals.compare.table import markdown, text
from marginals.compare.words import best_route, gap, order, spent, weakness


def route(key: str, bits: list[float], of: str = "whole-number pixels", paid=None) -> dict:
    mean = sum(bits) / len(bits)
    return {
        "key": key, "route": key.upper(), "bits": bits, "bits_per_dim": mean, "stderr": 0.01,
        "of": of, "kind": "bound", "paid": paid or {}, "evaluations": 1,
        "terms": {"reconstruction": 0.25},
    }  # fmt: skip


def row(model: str, routes: list[dict], distance: float = 50.0, seconds: float = 0.001) -> dict:
    frechet = {"distance": distance, "floor": 10.0}
    return {
        "model": model, "routes": routes, "frechet": frechet, "seconds_per_sample": seconds,
        "evaluations": 20, "dims": 100, "parameters": 10**6, "images": 640, "seconds": 60.0,
    }  # fmt: skip


def vae(bits=(3.0, 3.2, 3.1), iwae=(2.99, 3.19, 3.09), rungs=None, **changes) -> dict:
    routes = [route("elbo", list(bits), paid=rungs or {"1": 9.0}), route("iwae", list(iwae))]
    return row("vae", routes, **changes)


def vdm(bits=(2.5, 2.8, 2.6), paid=None, name="vdm", **changes) -> dict:
    flow = route("ode", [9.0, 9.0, 9.0], "dequantised pixels")
    return row(name, [flow, route("decoder", list(bits), paid=paid)], **changes)


def test_the_number_to_compare_is_the_lowest_of_the_whole_numbers():
    assert best_route(vae())["key"] == "iwae" and best_route(vdm())["key"] == "decoder"
    cut = row("vae", [route("elbo", [0.1], "black-and-white pixels")])
    assert best_route(cut)["key"] == "elbo"
    both = row("vae", [*cut["routes"], route("ode", [4.0], "dequantised pixels")])
    assert best_route(both)["key"] == "ode"


def test_a_gap_is_taken_picture_by_picture():
    mean, error = gap(vdm((2.5, 2.8, 2.6)), vdm((2.0, 2.2, 2.1)))
    assert mean == pytest.approx(1.6 / 3)
    assert error == pytest.approx(math.sqrt((0.0333**2 + 0.0667**2 + 0.0333**2) / 2 / 3), rel=1e-2)


def test_each_weakness_is_the_column_in_which_it_is_farthest_behind():
    slow, plain = vdm(seconds=0.5, distance=20.0), vae(distance=20.0)
    assert "500 times as long as one of vae" in weakness(slow, [slow, plain])
    assert "0.46 ± 0.03 bits/dim more than vdm" in weakness(plain, [slow, plain])
    ugly = vae((2.5, 2.8, 2.6), (2.5, 2.8, 2.6), distance=400.0)
    assert "Fréchet distance 400, where vdm has 20" in weakness(ugly, [slow, ugly])


def test_the_best_at_everything_is_told_so():
    best, other = vdm(distance=5.0, seconds=0.0001), vae()
    assert weakness(best, [best, other]).startswith("nothing")
    assert not weakness(other, [best, other]).startswith("nothing")


def test_differences_within_the_error_are_no_weakness():
    a, b = vdm((2.5, 2.8, 2.6)), vdm((2.6, 2.7, 2.6), name="ddpm")
    assert "likelihood" not in weakness(b, [a, b])


def test_rungs_that_carry_nothing_and_loose_posteriors_are_told():
    dead = vae(rungs={"1": 9.0, "2": 0.01, "3": 0.0})
    assert "rungs 2, 3 of its latents carry nothing" in weakness(dead, [dead, vdm()])
    lively = vae(rungs={"1": -9.0, "2": 12.0})  # a bottom-up rung may be known better from above
    assert "nothing" not in weakness(lively, [lively, vdm()])
    loose = vae(iwae=(2.9, 3.1, 3.0))
    assert "its ELBO loses 0.10 bits/dim" in weakness(loose, [loose, vdm()])
    assert "loses" not in weakness(vae(), [vae(), vdm()])


def test_bits_paid_at_clean_levels_explain_a_surprise():
    ddpm = vdm((3.5, 3.7, 3.6), {"-2": 10.0, "8": 150.0}, "ddpm")
    best = vdm(paid={"-2": 40.0, "8": 50.0})
    rows = [ddpm, best, vae()]
    clean = "the pixels cost it 2.41 bits/dim and vdm 0.97, because its loss hardly looks there"
    assert clean in weakness(ddpm, rows) and "λ" not in weakness(best, rows)
    first, second = order(rows)
    assert first.startswith("ddpm needs 0.510 ± 0.0") and "a surprise" in first and clean in first
    assert second.startswith("vdm needs") and second.endswith("as expected")
    assert "cannot be told apart" in order([vdm(), vdm(name="ddpm")])[0]


def test_a_model_is_also_held_against_the_best_before_it():
    ddpm, best = (
        vdm((3.5, 3.7, 3.6), {"8": 90.0}, "ddpm"),
        vdm((3.2, 3.4, 3.3), {"-2": 40.0, "8": 50.0}),
    )
    _, below, above = order([vae(), ddpm, best])
    assert below == "vdm needs 0.300 ± 0.000 bits/dim less than ddpm, as expected"
    assert above.startswith("vdm needs 0.210 ± 0.000 bits/dim more than vae, a surprise")
    assert "0.97 of its 3.30 bits/dim are paid from λ = 5 on" in above


def test_unequal_training_is_told():
    assert spent([vae(), vdm()], 1.0) == spent([vae() | {"seconds": 62.9}], 1.0) == []
    [told] = spent([vae(), vdm() | {"seconds": 66.0}], 1.0)
    assert "60 s each" in told and "vae 60 s, vdm 66 s" in told


def test_the_tables_hold_every_number():
    rows = [vae(), vdm()]
    for each in rows:
        each |= {"gap": gap(each, rows[1]) if each is rows[0] else (0.0, 0.0)}
        each |= {"bad_at": weakness(each, rows)}
    report = {
        "data": "pets", "minutes": 5.0, "clock": "processor", "pictures": 3, "conditional": True,
        "means": ["whole-number pixels: P"], "order": order(rows), "models": rows,
    }  # fmt: skip
    for page in (text(report), markdown(report)):
        assert all(f"{r['bits_per_dim']:.3f}" in page for each in rows for r in each["routes"])
        assert "+0.457 ±" in page and "whole-number pixels: P" in page and "2.65" in page
        assert "pets" in page and "5 minutes of processor time per model" in page
    assert "**2.633 ±0.010**" in markdown(report) and "2.633*" in text(report)
