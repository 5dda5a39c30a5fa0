"""What a reader sees of a line that begins with a relation, and of an equation that is wrong."""

import pytest

from marginals.paper.catalogue import find, load
from marginals.paper.continued import continued, sides
from marginals.paper.equation import Finding, Result, run
from marginals.paper.errata import size
from marginals.paper.show import page, verdict
from marginals.paper.site import build

ENTRIES = load()
# every line of the paper that begins with a relation: first line, last line, where it begins
LINES = [(6, 8, 5), (10, 16, 9), (18, 19, 17), (26, 28, 25), (35, 45, 34), (48, 58, 47)]
LINES += [(102, 108, 101), (169, 170, 168)]
HEADS = {str(n): str(head) for first, last, head in LINES for n in range(first, last + 1)}


def test_the_left_side_is_outside_all_brackets():
    assert sides(r"\log p(x) \geq y") == (r"\log p(x)", r"\geq")
    assert sides(r"\sum_{i=1}^n \left[a = b\right] \leq c") == (
        r"\sum_{i=1}^n \left[a = b\right]",
        r"\leq",
    )
    assert sides(r"\left(a\right) \leftarrow b = c") == (r"\left(a\right) \leftarrow b", "=")
    assert sides("= a") == ("", "=") and sides(r"\geqslant a") == (r"\geqslant a", "")


def test_every_line_without_a_left_side_names_where_it_begins():
    found = {e.id: line.head.id for e in ENTRIES if (line := continued(e, ENTRIES))}
    assert found == HEADS


def test_a_step_that_loses_something_counts_for_all_lines_after_it():
    signs = {e.id: line.sign for e in ENTRIES if (line := continued(e, ENTRIES))}
    less = {"8", "16", "28", *map(str, range(37, 46)), *map(str, range(48, 59))}
    assert {one for one, sign in signs.items() if sign == "≥"} == less
    assert {sign for one, sign in signs.items() if one not in less} == {"="}


def test_pages_say_it():
    shown = page(find(ENTRIES, ["58"])[0], ENTRIES, code=False)
    assert "continues Equation 47: log p(x) ≥ …\n" in shown
    shown = page(find(ENTRIES, ["44"])[0], ENTRIES, code=False)
    assert "continues Equation 34: log p(x) ≥ …  (≥ since 37)" in shown
    assert "continues" not in page(find(ENTRIES, ["47"])[0], ENTRIES, code=False)
    site = build([Result(e, Finding(0.0, "x"), 0.1) for e in ENTRIES])
    assert site.count('<p class="soft">continues ') == len(HEADS)


@pytest.mark.parametrize("number", ["22", "45"])
def test_a_wrong_equation_is_confirmed_to_be_wrong(number: str):
    entry = find(ENTRIES, [number])[0]
    result = run(entry)
    long = " ".join(verdict(result, long=True).split())
    assert "✓ confirmed: not true as printed; the formula of the gap holds to" in long
    assert f"by how much: {size(entry)}" in long and " nats" in size(entry)
    assert "✓ error" not in long + verdict(result)
    failed = Result(entry, Finding(1.0, "x"), 0.1)
    assert "confirmed" not in verdict(failed, long=True) and "error 1.0e+00 >" in verdict(failed)
    assert size(entry) in build([result]) and "confirmed: not true as printed" in build([result])


def test_a_true_equation_has_no_size_of_a_gap():
    assert size(find(ENTRIES, ["58"])[0]) == ""
