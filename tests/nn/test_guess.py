"""The guess of a picture from its text: what it is told, where it goes, when it is silent."""

import torch

from marginals.nn import DiT
from marginals.nn.guess import NOISE, Guess
from marginals.nn.text import pool_states

PLAIN = {"channels": 2, "size": 4, "patch": 2, "width": 16, "depth": 1, "heads": 2}


def net(**options) -> DiT:
    torch.manual_seed(0)
    made = DiT(**PLAIN, text_width=3, guess=8, **options).eval()
    for name, p in made.named_parameters():
        if not p.any() and "guess." not in name:  # a fresh network answers 0
            torch.nn.init.normal_(p, std=0.3)
    return made


def test_the_mean_is_over_words_and_not_over_padding():
    states = torch.tensor([[[1.0, 2.0], [3.0, -2.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    mean, spoken = pool_states(states)
    assert mean.tolist() == [[2.0, 0.0], [0.0, 0.0]] and spoken.tolist() == [True, False]


def test_states_are_measured_by_shift_and_spread():
    guess = Guess(2, 4, 3, 5)
    guess.shift.copy_(torch.tensor([1.0, 0.0]))
    guess.spread.fill_(4.0)
    pooled, _ = guess.pooled(torch.tensor([[[9.0, -8.0]]]))
    assert pooled.tolist() == [[2.0, -2.0]]
    assert guess(pooled).shape == (1, 3, 5) and not guess(pooled).any()


def test_a_guess_reaches_the_tokens_of_its_patches():
    """A guess for the third patch alone moves what the transformer is given there, by the linear
    map of the entrance, and nothing else; without text there is none."""
    made = net()
    with torch.no_grad():
        made.text.guess.fc3.bias.copy_(
            torch.zeros(4, 8).index_fill(0, torch.tensor([2]), 1.0).flatten()
        )
    words, x = torch.randn(2, 4, 3), torch.randn(2, 2, 4, 4)
    words[1] = 0.0
    given = []
    made.blocks[0].register_forward_pre_hook(lambda _, args: given.append(args[0]))
    made(x, torch.rand(2), words)
    with torch.no_grad():
        made.text.guess.fc3.bias.zero_()
    made(x, torch.rand(2), words)
    moved = given[0] - given[1]
    wanted = made.text.enter.weight.detach().sum(1)
    assert torch.allclose(moved[0, 2], wanted, atol=1e-6) and float(wanted.abs().sum()) > 0
    assert not moved[0, [0, 1, 3]].any() and not moved[1].any()


def test_a_network_with_a_guess_hears_the_text_beside_it_too():
    made, words = net(), torch.randn(2, 4, 3)
    x, t = torch.randn(1, 2, 4, 4).expand(2, -1, -1, -1), torch.full((2,), 0.5)
    out = made(x, t, words)
    assert not made.text.guess.fc3.weight.any() and not torch.allclose(out[0], out[1])


def test_texts_are_noised_in_training_alone():
    made, words = net(), torch.randn(1, 4, 3)
    pooled = made.text.guess.pooled(words)[0]
    heard = []
    made.text.fc1.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    x, t = torch.randn(400, 2, 4, 4), torch.rand(400)
    made(x, t, words.expand(400, -1, -1))
    made.train()(x, t, words.expand(400, -1, -1))
    assert torch.allclose(heard[0], pooled.expand(400, -1))
    noise = (heard[1] - pooled).detach()
    assert abs(float(noise.std()) / NOISE - 1) < 0.15 and abs(float(noise.mean())) < 0.05


def test_the_guess_learns_with_the_rest_and_its_matrices_as_matrices():
    made = net()
    guess = made.text.guess
    inside = {id(p) for p in made.matrices()}
    assert {n for n, p in guess.named_parameters() if id(p) in inside} == {
        "fc1.weight", "fc2.weight", "fc3.weight",
    }  # fmt: skip
    torch.nn.init.normal_(guess.fc3.weight)
    torch.nn.init.normal_(made.leave.weight)
    made(torch.randn(1, 2, 4, 4), torch.rand(1), torch.randn(1, 2, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in guess.parameters())


def test_a_picture_without_text_teaches_the_guess_nothing():
    made = net()
    torch.nn.init.normal_(made.leave.weight)
    made(torch.randn(1, 2, 4, 4), torch.rand(1), torch.zeros(1, 2, 3)).sum().backward()
    assert not any(p.grad.any() for p in made.text.guess.parameters())
