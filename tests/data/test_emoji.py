"""The emoji data set: icons matched to names, captions, pictures, and a build without a network."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import pytest
import torch

from marginals.cli import main
from marginals.data import emoji, load
from marginals.data.archive import load_npz
from marginals.data.captioned import Captioned
from marginals.data.emoji_captions import Writer, spoken, with_article
from marginals.data.emoji_names import Concept, Names, squeezed
from marginals.data.emoji_sets import NAMES, SETS
from marginals.errors import MarginalsError


def entry(order: int, label: str, code: str, group: int | None = 3, tags: tuple[str, ...] = ()):
    return {"label": label, "hexcode": code, "group": group, "order": order, "tags": list(tags)}


ENTRIES = [
    entry(2, "crab", "1F980", tags=("Cancer", "zodiac", "3", "crab")),
    entry(1, "cat", "1F408", tags=("animal", "pet")),
    entry(3, "eight o’clock", "1F557", 5),
    entry(4, "flag: Côte d’Ivoire", "1F1E8-1F1EE", 9, ("CI",)),
    entry(5, "flag: France", "1F1EB-1F1F7", 9),
    entry(6, "thumbs up", "1F44D", 1, ("good",)),
    entry(7, "soccer ball", "26BD-FE0F", 6, ("ball",)),
    entry(0, "regional indicator A", "1F1E6", None),
]


def names_files() -> dict[str, bytes]:
    codes = {f"package/en/shortcodes/{n}.json": b"{}" for n in ("cldr", "emojibase", "iamcal")}
    codes |= {f"package/en/shortcodes/{n}.json": b"{}" for n in ("emojibase-legacy", "joypixels")}
    github = {"1F44D": ["+1", "like_it"], "1F980": "crustacean"}
    return codes | {
        "package/en/data.json": json.dumps(ENTRIES).encode(),
        "package/en/shortcodes/github.json": json.dumps(github).encode(),
        "package/meta/unicode-names.json": json.dumps({"1F408": "FELINE"}).encode(),
    }


def labels(icons: dict, chars: dict | None = None) -> dict[str, str]:
    return {c.label: name for c, name in Names(names_files()).match(icons, chars or {}).items()}


def test_an_icon_is_found_by_every_name_in_use() -> None:
    assert labels({"crab": {}, "cat": {}}) == {"cat": "cat", "crab": "crab"}  # official order
    assert labels({"crustacean": {}, "feline": {}}) == {"cat": "feline", "crab": "crustacean"}
    assert labels({"soccerball": {}}) == {"soccer ball": "soccerball"}
    assert labels({"flag-for-flag-france": {}}) == {"flag: France": "flag-for-flag-france"}
    assert labels({"flag-cote-divoire": {}}) == {"flag: Côte d’Ivoire": "flag-cote-divoire"}
    assert labels({"odd": {}}, {"1f980": "odd"}) == {"crab": "odd"}
    assert labels({"football": {}}, {"26bd": "football"}) == {"soccer ball": "football"}


def test_what_is_no_emoji_of_its_own_is_left_out() -> None:
    tones = {"thumbs-up-dark-skin-tone": {}, "x": {}, "regional-indicator-a": {}, "1": {}}
    assert labels(tones, {"1f44d-1f3ff": "x"}) == {}
    toned = {"1f44d-1f3ff": "like-it"}  # the set itself says that this is the toned one
    assert labels({"like-it": {}}, toned) == {}
    assert labels({"like-it": {}}) == {"thumbs up": "like-it"}


def test_the_best_of_several_icons_is_taken() -> None:
    assert labels({"crustacean": {}, "crab": {}}) == {"crab": "crab"}
    assert labels({"crustacean": {}, "crab": {"hidden": True}}) == {"crab": "crustacean"}


@pytest.mark.parametrize(
    ("label", "group", "name", "article"),
    [
        ("crab", "animals", "crab", "a crab"),
        ("owl", "animals", "owl", "an owl"),
        ("unicorn", "animals", "unicorn", "a unicorn"),
        ("octopus", "animals", "octopus", "an octopus"),
        ("grapes", "food", "grapes", "grapes"),
        ("bowl with spoon", "food", "bowl with spoon", "a bowl with spoon"),
        ("bus stop", "travel", "bus stop", "a bus stop"),
        ("flag: Trinidad & Tobago", "flags", "flag of Trinidad and Tobago", None),
        ("Japanese “free of charge” button", "symbols", "Japanese free of charge button", None),
        ("keycap: 1", "symbols", "keycap 1", None),
        ("man: red hair", "people", "man with red hair", "a man with red hair"),
        ("person: bald", "people", "bald person", "a bald person"),
        ("kiss: woman, man", "people", "kiss, woman, man", "a kiss, woman, man"),
        ("family: man, boy", "people", "family of man, boy", "a family of man, boy"),
        ("man running: facing right", "people", "man running facing right", None),
        ("women with bunny ears", "people", "women with bunny ears", "women with bunny ears"),
        ("woman’s hat", "objects", "woman's hat", "a woman's hat"),
    ],
)
def test_names_as_a_person_writes_them(label, group, name, article) -> None:
    assert spoken(label) == name
    if article or group in ("symbols", "flags"):
        assert with_article(name, group) == (article or name)


def test_captions_say_one_thing_in_several_ways() -> None:
    crab = Concept("crab", ("Cancer", "zodiac", "3", "crab"), "animals", "1F980")
    others = [Concept(f"sign {i}", ("zodiac",), "symbols", "") for i in range(12)]
    writer = Writer([crab, *others])
    texts = writer.captions(crab, "flat")
    assert texts[:4] == ("crab, flat style", "a crab, flat style", "a crab", "a flat crab")
    assert set(texts[4].split(", ")) == {"crab", "Cancer", "zodiac", "flat style"}
    assert texts[5:] == ("Cancer, flat style",)
    sign = Concept("cancer", (), "symbols", "")  # then the word is another's name
    assert Writer([crab, sign, *others]).captions(crab, "flat")[5:] == ()
    assert (
        writer.captions(others[0], "flat")[-1] == "sign 0, zodiac, flat style"
    )  # too common alone
    many = replace(crab, keywords=tuple(f"word{c}" for c in "abcdefgh"))
    assert len({Writer([many]).captions(many, style)[4] for style in "pqrstu"}) > 3


def test_a_picture_is_centred_on_white_in_its_proportions() -> None:
    pytest.importorskip("resvg_py")
    icon = {"body": '<path fill="#f00" d="M0 0h32v16h-32z"/>', "width": 32, "height": 16}
    picture = emoji.render(emoji.svg(icon, {"width": 16, "height": 16}))
    expected = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    expected[1:, 16:48] = 0
    assert torch.equal(picture, expected)
    half = emoji.render(emoji.svg({"body": '<path fill-opacity=".5" d="M0 0h16v16h-16z"/>'}, {}))
    assert half.float().sub(127.5).abs().max() <= 1  # black, half covering white


def test_of_pictures_that_look_alike_the_shortest_name_stays() -> None:
    base = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    near, far = base.clone(), base.clone()
    near[0, 0, 0] ^= 64
    far[:, 32:36, 32:36] ^= 255  # a digit's worth of difference
    images = torch.stack([base, near, far, base])
    assert emoji.different(images, [9, 4, 5, 6]).tolist() == [1, 2]
    assert emoji.different(images, [4, 4, 4, 4]).tolist() == [0, 2]


STYLES = SETS[:3]


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of three sets of four drawings, and nothing else."""
    pytest.importorskip("resvg_py")
    monkeypatch.setenv("MARGINALS_CACHE", str(tmp_path / "cache"))
    contents, asked = {NAMES.package: names_files()}, []
    for k, s in enumerate(STYLES):
        shapes = ["M1 1h9v9z", "M2 2h5v9h9z", "M7 0h9v9z", "M0 0h2v16h9z"]
        icons = {
            name: {"body": f'<path fill="#{k}{k}f" d="{path}"/>'}
            for name, path in zip(("crab", "cat", "thumbs-up", "flag-for-france"), shapes)
        }
        contents[s.package] = {"package/icons.json": json.dumps({"icons": icons}).encode()}

    def archive(package, cache_dir=None, progress=True) -> bytes:
        asked.append(package.title)
        return packed(contents[package.package])

    monkeypatch.setattr(emoji, "archive", archive)
    monkeypatch.setattr(emoji, "SETS", STYLES)
    return asked


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_build_and_load(registry, tmp_path, capsys) -> None:
    with pytest.raises(MarginalsError, match="`marginals data build emoji`"):
        load("emoji")
    assert main(["data", "list"]) == 0 and "30 MB to download" in capsys.readouterr().out
    assert main(["data", "build", "emoji"]) == 0
    said = capsys.readouterr().out
    train, held = load("emoji")
    assert isinstance(train, Captioned) and isinstance(held, Captioned)
    assert len(train) + len(held) == 12 and len(held) == round(0.05 * 12) == 1
    assert emoji.summary(train, held) in said and "emoji-64.npz" in said
    assert set(train.styles) == {s.style for s in STYLES} and train.shape == (3, 64, 64)
    assert dict(zip(train.styles, train.licences)) == {s.style: s.licence for s in STYLES}
    assert train.concepts.count(held.concepts[0]) == 2  # in both other styles
    assert all(s.by in train.note for s in STYLES)
    assert len(registry) == 4  # names and three sets, once
    assert main(["data", "list"]) == 0 and "emoji-64.npz" in capsys.readouterr().out


def test_every_size_holds_the_same_pictures(registry, tmp_path) -> None:
    large = emoji.build(emoji.emoji_path(64), progress=False)
    assert load("emoji", size=32)[0].checksum() == large[0].resized(32).checksum()
    small = emoji.build(emoji.emoji_path(32), size=32, progress=False)
    assert emoji.built(32) == emoji.emoji_path(32) and emoji.built(48) == emoji.emoji_path(64)
    for part, whole, read in zip(small, large, load("emoji", size=32), strict=True):
        assert part.checksum() == whole.resized(32).checksum() == read.checksum()
    again = emoji.build(tmp_path / "again.npz", progress=False)
    assert emoji.summary(*again) == emoji.summary(*large)
    assert len(registry) == 4  # what was fetched is kept


def test_a_part_of_the_groups(registry, tmp_path, capsys) -> None:
    out = tmp_path / "animals.npz"
    words = ["data", "build", "emoji", "--groups", "animals"]
    assert main(words) == 2 and "--out" in capsys.readouterr().err
    assert main([*words, "--out", str(out)]) == 0
    train, held = load_npz(out)
    assert isinstance(train, Captioned) and held is None  # a twentieth of six is none
    assert set(train.concepts) == {"crab", "cat"}
    assert set(train.groups) == {"animals"} and emoji.built(64) is None
    with pytest.raises(MarginalsError, match="no group of emoji called cars"):
        emoji.build(out, groups=["cars"])


def test_share_alike_only_on_request_and_apart(registry, monkeypatch) -> None:
    bound = replace(STYLES[2], share_alike=True)
    monkeypatch.setattr(emoji, "SETS", (*STYLES[:2], bound))
    train, held = emoji.build(emoji.emoji_path(64), progress=False)
    assert bound.style not in train.styles + held.styles and bound.title not in registry
    train, _ = emoji.build(emoji.emoji_path(64, share_alike=True), share_alike=True, progress=False)
    assert bound.style in train.styles
    apart = load("emoji")[0]
    assert isinstance(apart, Captioned) and bound.style not in apart.styles


def test_the_table_of_sets() -> None:
    assert len({s.style for s in SETS}) == len({s.package for s in SETS}) == len(SETS)
    for s in (*SETS, NAMES):
        assert s.sha256 is not None and len(s.sha256) == 64 and s.package.rsplit("@", 1)[1]
    assert [s.share_alike for s in SETS] == ["SA" in s.licence for s in SETS]
    assert squeezed("Côte d’Ivoire & co") == "cotedivoireandco"


def test_a_changed_package_is_refused(tmp_path, monkeypatch) -> None:
    from marginals.data import fetch

    def download(package, folder, progress):
        (folder / "a.tgz").write_bytes(b"something else")
        return folder / "a.tgz"

    monkeypatch.setattr(fetch, "_download", download)
    with pytest.raises(MarginalsError, match="is not Twemoji as published"):
        fetch.archive(SETS[0], tmp_path)
    right = replace(SETS[0], sha256=hashlib.sha256(b"something else").hexdigest())
    assert fetch.archive(right, tmp_path) == b"something else"
