"""Pictures of texts: seeds, silence, and the command that draws them."""

import numpy as np
import pytest
import torch
from PIL import Image

import marginals
import marginals.text
import marginals.text.draw
from marginals.cli import main
from marginals.distill import student
from marginals.errors import MarginalsError
from marginals.generative import DataStats
from marginals.io.checkpoint import save_model
from marginals.io.finish import cut_out, enlarge, on_white
from marginals.io.pictures import read_parameters
from marginals.io.shipped import find
from marginals.nn import DiT
from marginals.text.draw import TextToImage, spelled


def model() -> marginals.Model:
    torch.manual_seed(0)
    net = DiT(3, 8, patch=4, width=16, depth=1, heads=2, text_width=27)
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.3)
    return marginals.rectified_flow(net, data=DataStats((3, 8, 8), text="letters"))


def test_pictures_of_a_text_do_not_depend_on_what_else_is_drawn(letters):
    draw = TextToImage(model(), letters)
    two = draw(["crab", "a"], 3, seed=5, steps=4)
    assert two.shape == (6, 3, 8, 8) and two.abs().max() <= 1
    assert torch.allclose(draw("a", 2, seed=6, steps=4), two[4:], atol=1e-5)
    assert torch.allclose(draw("crab", 1, seed=7, steps=4, batch=1), two[2:3], atol=1e-5)
    assert not torch.allclose(two[:3], two[3:], atol=1e-3)  # the text is heard


def test_guidance_is_that_of_the_model_and_silence_has_none(letters):
    made = model()
    draw = TextToImage(made, letters)
    expected = made.sample(2, cond=letters(["crab"])[0], guidance=2.0, steps=4, seed=1).x
    assert torch.equal(draw("crab", 2, guidance=2.0, steps=4, seed=1), expected.clamp(-1, 1))
    plain = made.sample(2, steps=4, seed=1).x.clamp(-1, 1)
    assert torch.allclose(draw("", 2, guidance=5.0, steps=4, seed=1), plain, atol=1e-6)


STYLES = ("flat", "3d")


def test_a_text_without_a_style_is_given_one_by_the_seed(letters):
    draw = TextToImage(model(), letters, STYLES)
    assert draw.captions("a crab", [4, 5, 6]) == [
        "a crab, flat style", "a crab, 3d style", "a crab, flat style",
    ]  # fmt: skip
    for said in ("a FLAT crab", "crab, 3d style", ""):
        assert draw.captions(said, [0, 1]) == [said] * 2
    assert draw.captions("a flatfish", [1]) == ["a flatfish, 3d style"]  # not the word
    assert draw.captions("a crab on a flat stone", [1]) == ["a crab on a flat stone, 3d style"]
    assert draw.captions("a crab", [0, 1], "3d") == ["a crab, 3d style"] * 2
    assert draw.captions("a crab", [0, 1], "any") == ["a crab"] * 2
    assert draw.captions("a flat tire", [0], "3d") == ["a flat tire, 3d style"]  # asked for
    assert draw.captions("a crab, Flat style", [0], "3d") == ["a crab, Flat style"]  # said
    with pytest.raises(MarginalsError, match=r"no style 'oil' \(this model knows flat, 3d\)"):
        draw.captions("a crab", [0], "oil")
    assert TextToImage(model(), letters).captions("a crab", [0]) == ["a crab"]


def test_styles_are_drawn_as_if_they_had_been_said(letters):
    draw = TextToImage(model(), letters, STYLES)
    drawn = draw(["crab", "a"], 3, seed=1, steps=4)
    for j, (text, seed) in enumerate((t, s) for t in ("crab", "a") for s in (1, 2, 3)):
        said = f"{text}, {STYLES[seed % 2]} style"
        assert torch.allclose(drawn[j : j + 1], draw(said, 1, seed=seed, steps=4), atol=1e-5)
    picture = torch.rand(3, 8, 8) * 2 - 1
    edited = draw.edit("crab", picture, 2, seed=1, steps=4)
    expected = draw.edit("crab, flat style", picture, 1, seed=2, steps=4)
    assert torch.allclose(edited[1:], expected, atol=1e-5)
    plain = draw("crab", 2, seed=1, steps=4, style="any")
    assert torch.allclose(plain, TextToImage(model(), letters)("crab", 2, seed=1, steps=4))


def test_emoji_in_a_text_are_spelled_out(letters):
    assert spelled("a 🦀 and a 🚒") == "a crab and a fire engine"
    assert spelled("👍🏽 ❤️") == "thumbs up sign heavy black heart"
    assert spelled("a plain text, 3d style") == "a plain text, 3d style"
    assert TextToImage(model(), letters).captions("a 🦀", [0]) == ["a crab"]


def test_a_model_that_knows_no_silence_is_not_guided(letters):
    """Its picture without text would be made of weights that never learned."""
    draw = TextToImage(model(), letters, silent=False)
    expected = model().sample(1, cond=letters(["crab"])[0], steps=12).x.clamp(-1, 1)
    assert torch.allclose(draw("crab", 1), expected, atol=1e-6)
    for ask in (draw, lambda text, **o: draw.edit(text, torch.zeros(3, 8, 8), **o)):
        with pytest.raises(MarginalsError, match="label_dropout 0"):
            ask("crab", guidance=2.0)


def test_a_distilled_model_walks_its_own_way(file, tmp_path, letters, capsys):
    teacher = model()
    pupil = student(teacher, 2, guidance=3.0)
    draw = TextToImage(pupil, letters, silent=False)
    assert draw.settings() == {"steps": None, "guidance": 1.0}
    expected = pupil.sample(2, cond=letters(["crab"])[0]).x.clamp(-1, 1)
    assert torch.allclose(draw("crab", 2), expected, atol=1e-6)
    save_model(tmp_path / "s.safetensors", pupil, {"label_dropout": 0.0})
    words = ["generate", "crab", "--model", str(tmp_path / "s.safetensors"), "-n", "1"]
    assert main([*words, "--out", str(tmp_path / "own")]) == 0
    about = read_parameters(tmp_path / "own" / "crab-0.png")
    assert (about["solver"], about["steps"], about["guidance"]) == ("own", 2, 1.0)
    assert main([*words, "--guidance", "3"]) != 0
    assert "label_dropout 0" in capsys.readouterr().err


def test_what_cannot_be_edited_is_refused(letters):
    draw, picture = TextToImage(model(), letters), torch.zeros(3, 8, 8)
    for mask in (torch.ones(8, 4).bool(), torch.ones(16, 16).bool()):
        with pytest.raises(MarginalsError, match="The mask has shape"):
            draw.edit("crab", picture, mask=mask)
    with pytest.raises(MarginalsError, match="at least 1 picture"):
        draw.edit("crab", picture, 0)
    with pytest.raises(MarginalsError, match="at least 1 picture"):
        draw("crab", 0)
    whole = draw.edit("crab", picture, mask=torch.ones(8, 8), steps=3)  # numbers do as well
    assert torch.equal(whole, draw.edit("crab", picture, mask=torch.ones(8, 8).bool(), steps=3))
    heard = []
    draw.edit("crab", picture, steps=3, callback=heard.append)
    assert heard and heard[-1].total == len(heard)


def test_models_without_texts_and_nothing_to_draw_are_refused(letters):
    with pytest.raises(MarginalsError, match="not told texts"):
        TextToImage(marginals.rectified_flow(DiT(3, 8, patch=4, width=16, depth=1, heads=2)))
    with pytest.raises(MarginalsError, match="nothing to draw"):
        TextToImage(model(), letters)([])


@pytest.fixture
def file(tmp_path, monkeypatch, letters):
    monkeypatch.setattr(marginals.text.draw, "encoder", lambda name, device: letters)
    save_model(tmp_path / "m.safetensors", model())
    return tmp_path / "m.safetensors"


def test_the_command_writes_pictures_that_say_how_they_were_made(file, tmp_path, letters):
    out = tmp_path / "drawn"
    words = ["generate", "a crab, flat style", "b", "--model", str(file), "-n", "2", "--steps", "3"]
    words += ["--seed", "4", "--out", str(out)]
    assert main(words) == 0
    names = {"a-crab-flat-style-4", "a-crab-flat-style-5", "b-4", "b-5", "grid"}
    assert {p.stem for p in out.glob("*.png")} == names
    about = read_parameters(out / "b-5.png")
    assert about["prompt"] == "b" and about["seed"] == 5 and about["steps"] == 3
    expected = TextToImage(model(), letters)("b", 2, seed=4, steps=3)[1]
    stored = np.asarray(Image.open(out / "b-5.png")).transpose(2, 0, 1)
    assert np.abs(stored / 127.5 - 1 - expected.numpy()).max() < 0.02
    assert main(words) == 0 and len(list(out.glob("*.png"))) == 5  # the same again: nothing new
    assert main([*words[:-4], "--guidance", "1", *words[-4:]]) == 0
    assert len(list(out.glob("*.png"))) == 10  # made otherwise: beside the old ones


def test_the_command_says_which_styles_it_gave(tmp_path, monkeypatch, letters, capsys):
    monkeypatch.setattr(marginals.text.draw, "encoder", lambda name, device: letters)
    save_model(tmp_path / "m.safetensors", model(), {"styles": STYLES})
    words = ["generate", "crab", "--model", str(tmp_path / "m.safetensors"), "--steps", "3"]
    words += ["-n", "2", "--out", str(tmp_path / "drawn")]
    assert main(words) == 0
    assert "--style takes flat, 3d, or any" in capsys.readouterr().out
    about = [read_parameters(tmp_path / "drawn" / f"crab-{seed}.png") for seed in (0, 1)]
    assert [a["prompt"] for a in about] == ["crab, flat style", "crab, 3d style"]
    assert main(["generate", "🦀", *words[2:], "--style", "3d"]) == 0  # a file that is there
    assert len(list((tmp_path / "drawn").glob("crab-*.png"))) == 3
    assert main([*words, "--style", "3d"]) == 0
    assert len(list((tmp_path / "drawn").glob("crab-*.png"))) == 3
    assert "--style takes" not in capsys.readouterr().out
    assert main([*words, "--style", "oil"]) != 0
    assert "There is no style 'oil'" in capsys.readouterr().err


def test_sizes_and_cut_outs_of_the_command(file, tmp_path):
    out = tmp_path / "drawn"
    words = ["generate", "b", "--model", str(file), "-n", "1", "--steps", "2", "--out", str(out)]
    assert main([*words, "--size", "20", "--transparent"]) == 0
    image = Image.open(out / "b-0.png")
    assert image.size == (20, 20) and image.mode == "RGBA"
    sheet = Image.open(out / "grid.png")  # of what was written, on white
    scale = sheet.width // 20
    one = image.resize((20 * scale, 20 * scale), Image.Resampling.NEAREST)
    white = Image.new("RGB", one.size, "white")
    white.paste(one, mask=one)
    part = sheet.convert("RGB").crop((4, 4, 4 + one.width, 4 + one.height))
    assert np.array_equal(np.asarray(part), np.asarray(white))


def test_mistakes_are_sentences(file, tmp_path, capsys):
    cases = [
        (["generate"], "say what to draw"),
        (["generate", "a", "  "], "empty text"),
        (["generate", "a", "--model", "nothere"], "nothere"),
        (["generate", "a", "--model", str(file), "--out", str(file)], "is a file"),
        (["generate", "a", "--model", str(file), "--solver", "oiler"], "euler"),
    ]
    for words, says in cases:
        assert main(words) == 2 and says in capsys.readouterr().err
    with pytest.raises(MarginalsError, match=r"no model\.safetensors"):
        find(tmp_path)


def test_editing_goes_on_from_a_picture_and_a_mask_keeps_the_rest(file, tmp_path, letters, capsys):
    draw = TextToImage(model(), letters)
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    near = draw.edit("a", picture, 2, strength=0.01, steps=4, guidance=1.0)
    assert (near - picture).abs().max() < 0.2 and near.shape == (2, 3, 8, 8)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    part = draw.edit("a", picture, 1, mask=mask, steps=4)[0]
    assert torch.equal(part[:, 4:], picture[:, 4:].clamp(-1, 1))
    assert (part[:, :4] - picture[:, :4]).abs().max() > 0.05
    image = tmp_path / "init.png"
    Image.new("RGBA", (30, 20), (250, 10, 10, 255)).save(image)
    Image.fromarray(np.uint8(mask.numpy() * 255)).save(tmp_path / "mask.png")
    words = ["generate", "b", "--model", str(file), "-n", "1", "--steps", "2"]
    init = [*words, "--init", str(image), "--out", str(tmp_path / "out")]
    assert main(init) == 0 and main([*init, "--mask", str(tmp_path / "mask.png")]) == 0
    about = [read_parameters(tmp_path / "out" / name) for name in ("b-0.png", "b-0_2.png")]
    assert about[0]["strength"] == 0.7 and about[1]["mask"] == "mask.png"
    for wrong, says in (
        ([*words, "--strength", "0.5"], "--init"),
        ([*init, "--mask", str(image), "--strength", "0.5"], "leave --strength out"),
        ([*words, "--init", str(tmp_path / "none.png")], "no picture"),
        ([*words, "--init", str(file)], "cannot be read"),
    ):
        assert main(wrong) == 2 and says in capsys.readouterr().err


def test_a_latent_is_drawn_where_the_mask_touches_it():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3, 7] = True
    squares = marginals.text.draw._squares(mask, 4)
    assert squares.nonzero().tolist() == [[0, 1]]


def disc(inside: tuple[int, int, int], hole: bool = False) -> Image.Image:
    """A disc drawn on white at 8 times the size and made small: its edge is mixed with white."""
    y, x = np.mgrid[:256, :256] - 127.5
    r = np.hypot(x, y)
    mask = (r < 90) & ~((r < 30) & hole)
    pixels = np.where(mask[..., None], inside, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.BOX)


def test_a_cut_out_laid_on_white_is_the_picture_and_its_ground_is_clear():
    picture = disc((200, 30, 40), hole=True)
    cut = cut_out(picture)
    alpha = np.asarray(cut)[..., 3]
    assert alpha[0].max() == 0 and alpha[16, 7] == 255
    assert alpha[16, 16] == 255  # white inside the drawing stays
    back = np.asarray(on_white(cut)).astype(int)
    assert np.abs(back - np.asarray(picture).astype(int)).max() <= 2
    black = Image.new("RGBA", cut.size, "black")
    edge = np.asarray(Image.alpha_composite(black, cut).convert("RGB")).astype(int)
    assert edge[..., 1].max() <= 255 and edge[0].max() == 0
    ring = np.abs(np.hypot(*(np.mgrid[:32, :32] - 15.5)) - 11.2) < 1.5
    assert edge[ring][:, 1].max() < 60  # no white seam around a red disc on black


def test_enlarging_keeps_the_shape_and_transparency_goes_to_white():
    assert enlarge(Image.new("RGB", (8, 4)), 16).size == (16, 8)
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert np.asarray(on_white(clear)).min() == 255
    with pytest.raises(MarginalsError, match="cannot be"):
        enlarge(Image.new("RGB", (8, 4)), 0)
