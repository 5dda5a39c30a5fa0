"""The page: complete, well-formed, and in need of nothing from outside."""

import re
from html.parser import HTMLParser

import pytest

from marginals.paper.catalogue import find, load
from marginals.paper.equation import Equation, Finding, Result, run
from marginals.paper.errata import ERRATA
from marginals.paper.site import build, write
from marginals.paper.translate import QUANTITIES

VOID = {"meta", "input", "hr", "br", "link", "img"}


class Tags(HTMLParser):
    """Collects ids and links, and fails on tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.addresses = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)
            if name in ("src", "href", "action"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()


def results() -> list[Result]:
    """Every entry, with a made-up finding: the page is what is tested here."""
    found = Finding(1e-12, "left < right & so on")
    return [Result(entry, found if entry.check else None, 0.01) for entry in load()]


@pytest.fixture(scope="module")
def page() -> str:
    return build(results())


@pytest.fixture(scope="module")
def tags(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    return parser


def test_tags_match_and_ids_are_unique(tags: Tags):
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))


def test_everything_is_there(page: str, tags: Tags):
    ids = set(tags.ids)
    assert {f"eq{entry.id}" for entry in load()} <= ids
    assert {erratum.id for erratum in ERRATA} <= ids
    assert page.count("<math") == len(load())
    assert all(quantity.name in page for quantity in QUANTITIES)
    assert "left &lt; right &amp; so on" in page


def test_every_link_leads_somewhere_on_the_page(tags: Tags):
    assert tags.links and all(link.startswith("#") for link in tags.links)
    assert {link[1:] for link in tags.links} <= set(tags.ids)


def test_it_needs_no_network(page: str, tags: Tags):
    assert all(address.startswith("#") for address in tags.addresses)
    assert not re.search(r"@import|url\(|https?://|<script src|<link", page)


def test_a_failed_check_and_an_explained_entry_look_different():
    entry = find(load(), ["58"])[0]
    failed = build([Result(entry, Finding(1.0, "wrong"), 0.1)])
    assert "check failed" in failed and "0 of 1" in failed
    fields = {**vars(entry), "check": None, "status": "explained", "note": "Why."}
    explained = build([run(Equation(**fields))])
    assert "nothing to compute" in explained and "Why." in explained


def test_text_is_escaped():
    entry = find(load(), ["58"])[0]
    sneaky = Equation(**{**vars(entry), "says": "<b>bold</b> & so."})
    page = build([Result(sneaky, Finding(0.0, "x"), 0.1)])
    assert "<b>bold" not in page and "&lt;b&gt;bold&lt;/b&gt; &amp; so." in page


def test_write_makes_one_file(tmp_path):
    path = write([results()[0]], tmp_path / "new" / "site")
    assert path.name == "index.html" and [path] == list(path.parent.iterdir())
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_authors_and_errata_can_be_searched(page: str):
    texts = dict(re.findall(r'data-id="(\w+)".*?data-text="([^"]*)"', page))
    assert "karras" in texts["X53"] and {"e1", "e2", "e3"} <= set(texts["45"].split())
