"""Fitted solvers beside a model file: found by steps and guidance, or refused in a sentence."""

import hashlib
import json
import math

import pytest

from marginals.errors import MarginalsError
from marginals.io import fitted
from marginals.io.fitted import check_place, fingerprint, fitted_path, load_fitted, save_fitted
from marginals.solvers import FittedTable

THREE = FittedTable((-6.0, 0.1, 3.0), (0.3, 0.2, 0.0), ((0.7,), (-0.1, 0.9), (0.1, 0.3, 0.6)))
TWO = FittedTable((-6.0, 1.0 / 3.0), (0.25, 0.0), ((0.75,), (-0.4, 1.4)))
OTHER = FittedTable((-6.0, 2.0), (0.5, 0.0), ((0.5,), (0.0, 1.0)))


@pytest.fixture
def model(tmp_path):
    """Any file: fits know a model by its bytes."""
    run = tmp_path / "run"
    run.mkdir()
    path = run / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def content(model):
    return json.loads(fitted_path(model).read_text())


def change(model, edit) -> None:
    words = content(model)
    edit(words)
    fitted_path(model).write_text(json.dumps(words))


def test_a_table_comes_back_by_steps_and_guidance(model):
    where = save_fitted(model, THREE, 1.0, {"paths": 16})
    assert where == fitted_path(model) == model.parent / "model.fitted.json"
    save_fitted(model, TWO, 1.0, {})
    save_fitted(model, OTHER, 2.5, {})
    assert load_fitted(model, 3) == THREE and load_fitted(model, 2) == TWO
    assert load_fitted(model, 2, 2.5) == load_fitted(model, None, 2.5) == OTHER
    words = content(model)
    assert [(e["steps"], e["guidance"]) for e in words["fits"]] == [(2, 1.0), (2, 2.5), (3, 1.0)]
    assert words["fits"][2]["about"] == {"paths": 16}
    assert words["model_hash"] == hashlib.sha256(b"weights").hexdigest()[:10] == fingerprint(model)


def test_a_new_fit_takes_the_place_of_the_old_one_of_its_kind(model):
    save_fitted(model, TWO, 1.0, {"seed": 0})
    save_fitted(model, THREE, 1.0, {})
    save_fitted(model, OTHER, 1.0, {"seed": 1})
    assert load_fitted(model, 2) == OTHER and load_fitted(model, 3) == THREE
    assert [e["about"] for e in content(model)["fits"]] == [{"seed": 1}, {}]


def test_other_model_files_in_the_folder_have_fits_of_their_own(model):
    twin = model.with_name("twin.safetensors")
    twin.write_bytes(b"other weights")
    save_fitted(model, TWO, 1.0, {})
    with pytest.raises(MarginalsError, match=r"marginals fit .*twin.safetensors --nfe 8"):
        load_fitted(twin, 2)
    save_fitted(twin, OTHER, 1.0, {})
    assert load_fitted(model, 2) == TWO and load_fitted(twin, 2) == OTHER


def test_nothing_fitted_names_the_remedy(model):
    with pytest.raises(MarginalsError) as caught:
        load_fitted(model, 5)
    assert f"`marginals fit {model.parent} --nfe" in str(caught.value)


def test_the_wrong_steps_or_guidance_say_what_there_is(model):
    save_fitted(model, THREE, 1.0, {})
    run = model.parent
    for steps, guidance, command in (
        (5, 1.0, f"`marginals fit {run} --nfe 5`"),
        (3, 2.0, f"`marginals fit {run} --nfe 3 --guidance 2`"),
        (None, 2.0, f"`marginals fit {run} --nfe 8 --guidance 2`"),
    ):
        with pytest.raises(MarginalsError) as caught:
            load_fitted(model, steps, guidance)
        assert "3 steps at guidance 1" in str(caught.value) and command in str(caught.value)
    save_fitted(model, TWO, 1.0, {})
    with pytest.raises(MarginalsError, match=r"several .*2 steps .*3 steps .*give --steps"):
        load_fitted(model, None)


def test_a_model_that_was_trained_further_has_no_fits(model):
    save_fitted(model, TWO, 1.0, {})
    model.write_bytes(b"better weights")
    with pytest.raises(MarginalsError, match=r"another state of this model.*--nfe 2`"):
        load_fitted(model, 2)
    save_fitted(model, THREE, 1.0, {})  # and the old ones are gone
    assert load_fitted(model, None) == THREE and len(content(model)["fits"]) == 1


def kind(words) -> None:
    words["fits"][0]["table"] = {"kind": "Cosine"}


def row(words) -> None:
    words["fits"][0]["table"]["shares"][0] = [0.7]


def infinite(words) -> None:
    words["fits"][0]["table"]["lams"][1] = {"float": "inf"}


DAMAGED = {
    "not JSON": "{",
    "no text": b"\xff\xfe\x00",
    "no fits": lambda words: words.pop("fits"),
    "fits of no kind": lambda words: words.update(fits=3),
    "fits by name": lambda words: words.update(fits={"2": {}}),
    "numbers for fits": lambda words: words.update(fits=[3]),
    "no table": lambda words: words["fits"][0].pop("table"),
    "no steps": lambda words: words["fits"][0].pop("steps"),
    "guidance in words": lambda words: words["fits"][0].update(guidance="much"),
    "a word for the table": lambda words: words["fits"][0].update(table="table"),
    "half a table": lambda words: words["fits"][0]["table"].pop("keep"),
    "another thing": kind,
    "a constant moves": row,
    "an infinite level": infinite,
    "other steps": lambda words: words["fits"][0].update(table=fitted.encode(THREE)),
}


def damage(model, case) -> None:
    how = DAMAGED[case]
    if callable(how):
        change(model, how)
    else:
        fitted_path(model).write_bytes(how if isinstance(how, bytes) else how.encode())


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_a_sentence_and_no_obstacle(model, case):
    save_fitted(model, TWO, 1.0, {})
    damage(model, case)
    with pytest.raises(MarginalsError, match=r"model\.fitted\.json is damaged.*marginals fit"):
        load_fitted(model, 2)
    save_fitted(model, TWO, 1.0, {})
    assert load_fitted(model, 2) == TWO


def test_files_of_others_are_refused(model):
    for edit in (
        lambda words: words.update(format="recipes"),
        lambda words: words.update(format_version=99),
        lambda words: (words.update(format_version=99), words.pop("fits")),
    ):
        save_fitted(model, TWO, 1.0, {})
        change(model, edit)
        with pytest.raises(MarginalsError, match="another program or a newer version"):
            load_fitted(model, 2)
        before = fitted_path(model).read_bytes()
        with pytest.raises(MarginalsError, match="another program or a newer version"):
            save_fitted(model, TWO, 1.0, {})
        with pytest.raises(MarginalsError, match="move it away"):
            check_place(model)
        assert fitted_path(model).read_bytes() == before
        fitted_path(model).unlink()
    check_place(model)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(model):
    save_fitted(model, TWO, 1.0, {})
    before = fitted_path(model).read_bytes()
    with pytest.raises(MarginalsError, match="as JSON"):
        save_fitted(model, THREE, 1.0, {"error": math.nan})
    assert fitted_path(model).read_bytes() == before
    save_fitted(model, THREE, 1.0, {})
    assert sorted(p.name for p in model.parent.iterdir()) == [
        "model.fitted.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    "words", ['{"foo": [1, 2, 3]}', "[1, 2]", "3", "{}", '{"format": "recipes"}']
)
def test_json_of_others_is_not_replaced(model, words):
    fitted_path(model).write_text(words)
    for act in (check_place, lambda path: save_fitted(path, TWO, 1.0, {})):
        with pytest.raises(MarginalsError, match="another program"):
            act(model)
    assert fitted_path(model).read_text() == words


def test_a_place_that_cannot_hold_it_is_refused_at_once(model):
    fitted_path(model).mkdir()
    with pytest.raises(MarginalsError, match="cannot be kept"):
        check_place(model)
