"""The catalogue as a whole: complete, readable, and true to the code it points at."""

import inspect
import math
import re
import sys
from pathlib import Path

import pytest

import marginals
from marginals.errors import MarginalsError
from marginals.paper.catalogue import LUO, find, implementation, load, locate, neighbours, related
from marginals.paper.equation import Equation, run
from marginals.paper.errata import ERRATA
from marginals.paper.mathml import mathml
from marginals.paper.mutate import forget, functions_of
from marginals.paper.terminal import flat, render

ENTRIES = load()
BY_ID = {entry.id: entry for entry in ENTRIES}
SECTIONS = [
    "Evidence Lower Bound",
    "Variational Autoencoders",
    "Hierarchical Variational Autoencoders",
    "Variational Diffusion Models",
    "Learning Diffusion Noise Parameters",
    "Three Equivalent Interpretations",
    "Score-based Generative Models",
    "Guidance",
    "Classifier Guidance",
    "Classifier-Free Guidance",
]
each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)


def luo() -> list[Equation]:
    return [entry for entry in ENTRIES if not entry.id.startswith("X")]


def test_every_number_of_the_paper_is_there_and_sixty_extensions():
    assert [entry.id for entry in luo()] == [str(n) for n in range(1, LUO + 1)]
    extensions = [entry.id for entry in ENTRIES if entry.id.startswith("X")]
    assert extensions == [f"X{n}" for n in range(1, len(extensions) + 1)]
    assert len(extensions) >= 60


def test_at_least_165_of_170_are_computed_and_the_rest_say_why_not():
    assert sum(entry.check is not None for entry in luo()) >= 165
    assert all(len(entry.note) > 20 for entry in ENTRIES if entry.check is None)


def test_sections_and_pages_follow_the_paper():
    parts = list(dict.fromkeys(entry.part for entry in luo()))
    assert parts == SECTIONS
    pages = [entry.page for entry in luo()]
    assert all(page is not None and 2 <= page <= 22 for page in pages)
    assert pages == sorted(pages, key=lambda page: page or 0)


@each
def test_says_is_one_sentence_for_people(entry: Equation):
    says = entry.says
    assert says[0].isupper() or says[0] in "αβγλσωε√“"
    assert says.endswith(".") and 15 <= len(says) <= 320
    assert "\\" not in says and "$" not in says and "  " not in says


@each
def test_latex_is_typeset_for_pages_and_terminals(entry: Equation):
    page = mathml(entry.latex)
    assert page.startswith("<math") and "\\" not in page and "merror" not in page
    lines = render(entry.latex, 76).splitlines()
    assert lines and max(map(len, lines)) <= 110
    one = flat(entry.latex, 66)
    assert one and "\n" not in one and "\\" not in one


@each
def test_a_home_is_where_the_link_says(entry: Equation):
    root = Path(marginals.__file__).parent.parent
    assert entry.homes
    for home in entry.homes:
        place = locate(home)
        text = (root / place.file).read_text(encoding="utf-8").splitlines()
        name = implementation(home).__name__
        following = "\n".join(text[place.line - 1 : place.line + 8])
        assert re.search(rf"\b(def|class) {name}\b", following), place
        assert place.file.startswith("marginals/")
        assert _lesson(home), f"{place.name} teaches nothing"


def _lesson(home) -> str | None:
    """The docstring of a function, or of the class whose method it is."""
    found = implementation(home)
    owner = getattr(sys.modules[found.__module__], found.__qualname__.split(".")[0])
    return inspect.getdoc(found) or inspect.getdoc(owner)


@each
def test_the_check_passes_and_really_calls_every_home(entry: Equation):
    if entry.check is None:
        pytest.skip("nothing to compute")
    called = set()

    def watch(frame, event, argument):
        if event == "call":
            called.add(frame.f_code)

    forget()
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = run(entry)
    finally:
        sys.setprofile(before)
    assert result.ok, (result.failure, result.finding)
    assert result.finding is not None and math.isfinite(result.finding.error)
    assert len(result.finding.compared) > 5
    for home in entry.homes:
        parts = functions_of(home)
        assert parts, f"{home} is not a function of this package"
        assert any(part.__code__ in called for part in parts), f"{home} is never called"


def test_what_is_not_simply_true_is_marked_so():
    assert BY_ID["45"].status == "wrong" and BY_ID["45"].erratum == "E1"
    assert BY_ID["4"].status == "bound"
    for number in ("132", "133"):
        assert BY_ID[number].status in ("expectation", "condition"), number
    for number in ("22", "45", "100", "148", "161", "166", "170"):
        assert BY_ID[number].erratum, f"{number} has an erratum that its entry does not name"


def test_errata_and_entries_name_each_other_rightly():
    names = {erratum.id for erratum in ERRATA}
    assert names == {f"E{n}" for n in range(1, 17)}
    assert {entry.erratum for entry in ENTRIES if entry.erratum} <= names
    assert all(number in BY_ID for erratum in ERRATA for number in erratum.equations)


def test_extensions_say_where_they_come_from():
    sources = {e.source for e in ENTRIES if e.id.startswith("X")}
    assert all(re.search(r"\d{4}|this package", source) for source in sources)
    assert len(sources) > 10


def test_find_understands_numbers_ranges_and_extensions():
    assert [e.id for e in find(ENTRIES, ["58", "x2", "46-48", "58"])] == [
        "58",
        "X2",
        "46",
        "47",
        "48",
    ]
    assert [e.id for e in find(ENTRIES, ["Eq. 58", "(3)", "46–47"])] == ["58", "3", "46", "47"]
    for wrong in ("0", "171", "fifty", "48-46", "X999"):
        with pytest.raises(MarginalsError, match="there is no equation"):
            find(ENTRIES, [wrong])


def test_neighbours_and_relatives():
    near = neighbours(BY_ID["58"], ENTRIES)
    assert near["before"].id == "57" and near["after"].id == "59"
    assert "before" not in neighbours(ENTRIES[0], ENTRIES)
    assert BY_ID["125"] in related(BY_ID["124"], ENTRIES)
    assert BY_ID["124"] not in related(BY_ID["124"], ENTRIES)


def test_a_module_that_does_not_exist_is_named():
    with pytest.raises(MarginalsError, match="no module 'elbow'"):
        load(["elbow"])
