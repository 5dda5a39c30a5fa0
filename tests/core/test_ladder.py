"""What a ladder does with its parts: bounds, losses, pictures; the theorems are next door."""

import copy
import math

import pytest
import torch
from torch import nn

from marginals.decoders import Bernoulli, Categorical, DiscretisedLogistic, GaussianDecoder
from marginals.errors import MarginalsError
from marginals.gaussian import Normal
from marginals.generative import DataStats
from marginals.ladder import KlObjective, Ladder
from marginals.noise import item_noise
from marginals.pixels import to_float, to_uint8
from marginals.rung import importance_bound

SHAPE = (1, 2, 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Rung(nn.Module):
    """Linear laws of a vector z, with a dropout in the encoder."""

    def __init__(self, dims, above=0, evidence=4):
        super().__init__()
        self.dims = dims
        self.p = nn.Linear(above, 2 * dims) if above else None
        self.q = nn.Linear(evidence + above, 2 * dims)
        self.drop = nn.Dropout(0.5)

    def prior(self, above):
        if self.p is None:
            zero = self.q.weight.new_zeros(1, self.dims)
            return Normal(zero, zero)
        return Normal(*self.p(above).chunk(2, 1))

    def posterior(self, evidence, above):
        seen = evidence if above is None else torch.cat([evidence, above], 1)
        return Normal(*self.q(self.drop(seen)).chunk(2, 1))

    def carry(self, z, above):
        return z


class Decode(nn.Module):
    def __init__(self, latents, params, shape=SHAPE):
        super().__init__()
        self.shape = (params * shape[0], *shape[1:])
        self.layer = nn.Linear(latents, math.prod(self.shape))

    def forward(self, z):
        return self.layer(z).unflatten(1, self.shape)


def make(decoder=None, posterior="top_down", **options):
    """Three rungs of 2, 3 and 4 latents over a 2x2 picture."""
    torch.manual_seed(1)
    decoder = decoder or DiscretisedLogistic()
    down = posterior == "top_down"
    rungs = [Rung(2, 0, 4 if down else 3), Rung(3, 2 if down else 0, 4), Rung(4, 3 if down else 0)]
    if not down:  # a Markov ladder: priors see the z above, posteriors the z below
        rungs[1].p, rungs[2].p = nn.Linear(2, 6), nn.Linear(3, 8)
    options = {"evidence": lambda x, cond: x.flatten(1), "posterior": posterior} | options
    ladder = Ladder(rungs, Decode(4, decoder.params), decoder, **options)
    with torch.no_grad():  # stds that do not explode from rung to rung
        for weight in ladder.parameters():
            weight.mul_(0.5)
    return ladder


def pictures(n=5, seed=2):
    return torch.randint(0, 256, (n, *SHAPE), generator=generator(seed), dtype=torch.uint8)


both = pytest.mark.parametrize("posterior", ["top_down", "bottom_up"])


class TestElbo:
    @both
    def test_parts_add_up_and_are_named_from_the_top_down(self, posterior):
        terms = make(posterior=posterior).elbo(pictures(), generator=generator())
        assert terms.at.tolist() == [2, 1] and terms.matching.shape == (5, 2)
        wanted = terms.reconstruction - terms.prior - terms.matching.sum(1)
        assert torch.allclose(terms.nats, wanted, rtol=1e-12)
        about = (terms.kind, terms.density, terms.binary, terms.dims, terms.nfe)
        assert about == ("bound", False, False, 4, 1)
        assert terms.of == "whole-number pixels"

    def test_each_column_is_the_kl_of_its_rung(self):
        """A rung is given a KL of its own by shifting its posterior off its prior."""

        class Shifted:
            def __init__(self, shift):
                self.shift = shift

            def prior(self, above):
                return Normal(torch.zeros(1, 2), torch.zeros(1, 2))

            def posterior(self, evidence, above):
                mean = torch.full((len(evidence), 2), self.shift)
                return Normal(mean, torch.zeros_like(mean))

            def carry(self, z, above):
                return z

        ladder = Ladder([Shifted(s) for s in (3.0, 2.0, 1.0)], Decode(2, 2), DiscretisedLogistic())
        terms = ladder.elbo(pictures())
        assert torch.allclose(terms.prior, torch.full((5,), 9.0).double())
        assert torch.allclose(terms.matching[0], torch.tensor([4.0, 1.0]).double())

    def test_below_the_top_a_markov_ladder_pays_a_sampled_log_ratio(self):
        """Luo Eq. 44: exact at the top only; the samples average to less noise, not to the KL of
        one sample."""
        ladder, x = make(posterior="bottom_up"), pictures(1).expand(2000, *SHAPE)
        terms = ladder.elbo(x, generator=generator())
        assert bool((terms.prior >= 0).all())
        assert bool((terms.matching < 0).any()) and bool((terms.matching.mean(0) > 0).all())

    @both
    def test_samples_are_averaged(self, posterior):
        ladder, x = make(posterior=posterior), pictures()
        both = ladder.elbo(x, samples=2, generator=generator())
        stream = generator()
        one, two = (ladder.elbo(x, generator=stream) for _ in range(2))
        for part in ("nats", "reconstruction", "prior", "matching"):
            mean = 0.5 * (getattr(one, part) + getattr(two, part))
            assert torch.allclose(getattr(both, part), mean, rtol=1e-6)
        assert both.nfe == 2

    def test_dropout_is_off_and_afterwards_as_before(self):
        ladder = make()
        ladder.rungs[1].drop.eval()  # frozen by its owner, and still so afterwards
        assert torch.equal(*(ladder.elbo(pictures(), generator=generator()).nats for _ in "ab"))
        assert ladder.training and ladder.rungs[0].drop.training
        assert not ladder.rungs[1].drop.training
        different = [ladder.losses(pictures(), generator=generator())[0] for _ in "ab"]
        assert not torch.equal(*different)

    def test_training_tricks_have_no_part_in_it(self):
        plain, tricks = make(), make(objective=KlObjective(0.1, free_bits=50.0, warmup=100))
        tricks.at_progress(0)
        nats = [m.elbo(pictures(), generator=generator()).nats for m in (plain, tricks)]
        assert torch.equal(*nats)
        nats = [
            m.log_prob(pictures(), samples=2, generator=generator()).nats for m in (plain, tricks)
        ]
        assert torch.equal(*nats)

    def test_progress_is_told(self):
        ladder, seen = make(), []
        ladder.elbo(pictures(), samples=3, tick=lambda i, n: seen.append((i, n)))
        ladder.log_prob(pictures(), samples=2, tick=lambda i, n: seen.append((i, n)))
        assert seen == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)]

    @pytest.mark.parametrize("bound", ["elbo", "log_prob"])
    def test_no_samples_no_bound(self, bound):
        with pytest.raises(MarginalsError, match="at least 1 sample"):
            getattr(make(), bound)(pictures(), samples=0)


class TestImportanceWeighting:
    def test_mean_of_weights_not_of_logarithms(self):
        log_weights = torch.tensor([[0.0, -800.0], [math.log(3.0), -800.0]], dtype=torch.float64)
        got = importance_bound(log_weights)
        assert got.tolist() == pytest.approx([math.log(2.0), -800.0], rel=1e-12)

    @both
    def test_it_rises_from_the_elbo(self, posterior):
        ladder, x = make(posterior=posterior), pictures(1).expand(1000, *SHAPE)
        elbo = ladder.elbo(x, generator=generator(1)).nats.mean()
        one, many = (ladder.log_prob(x, samples=k, generator=generator(2)) for k in (1, 20))
        error = one.nats.std() / 1000**0.5
        assert abs(one.nats.mean() - elbo) < 5 * error
        assert many.nats.mean() > elbo + 5 * error
        assert (many.kind, many.nfe, many.dims, many.levels) == ("bound", 20, 4, None)


class TestObjective:
    paid = torch.tensor([[4.0, 0.5, 0.0], [2.0, 1.5, 0.2]], dtype=torch.float64)

    def test_beta_weighs_all_rungs(self):
        assert KlObjective(2.5)(self.paid).tolist() == pytest.approx([11.25, 9.25])

    def test_free_bits_are_a_floor_under_the_mean_of_each_rung(self):
        """Means 3, 1, 0.1: with 1.5 free nats the last two rungs cost 1.5, whatever they spend."""
        assert KlObjective(free_bits=1.5)(self.paid).tolist() == [7.0, 5.0]
        assert KlObjective(free_bits=0.5)(self.paid).tolist() == [5.0, 4.0]

    def test_the_mean_loss_is_the_sum_of_maxima(self):
        floor = self.paid.mean(0).clamp(min=1.2).sum()
        assert KlObjective(free_bits=1.2)(self.paid).mean() == pytest.approx(floor.item())

    def test_a_rung_below_its_floor_is_not_pushed_further_down(self):
        paid = self.paid.clone().requires_grad_()
        KlObjective(free_bits=0.4)(paid).sum().backward()
        assert paid.grad.tolist() == [[1.0, 1.0, 0.0]] * 2

    def test_warmup_is_a_straight_line_in_pictures_seen(self):
        objective = KlObjective(0.8, warmup=1000)
        weights = [objective.weight(n) for n in (0, 250, 1000, 5000)]
        assert weights == pytest.approx([0.0, 0.2, 0.8, 0.8])
        assert objective.weight(None) == 0.8 and KlObjective(0.8).weight(0) == 0.8

    @pytest.mark.parametrize("field", ["beta", "free_bits", "warmup"])
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf])
    def test_impossible_settings_are_refused(self, field, value):
        with pytest.raises(MarginalsError, match=field):
            KlObjective(**{field: value})


class TestLosses:
    @both
    def test_they_are_minus_the_elbo_per_dimension(self, posterior):
        ladder = make(posterior=posterior).eval()
        losses, levels = ladder.losses(pictures(), generator=generator())
        nats = ladder.elbo(pictures(), generator=generator()).nats
        assert levels is None and torch.allclose(losses, -nats / 4.0, rtol=1e-12)
        loss = ladder.loss(pictures(), generator=generator())
        assert torch.allclose(loss, losses.mean())

    def test_the_objective_charges_every_rung(self):
        terms = make().elbo(pictures(), generator=generator())
        paid = torch.cat([terms.prior[:, None], terms.matching], 1)
        for objective in (KlObjective(0.3), KlObjective(free_bits=4.0), KlObjective(warmup=100)):
            ladder = make(objective=objective).eval()
            ladder.at_progress(30)
            wanted = (objective(paid, 30) - terms.reconstruction) / 4.0
            losses = ladder.losses(pictures(), generator=generator())[0]
            assert torch.allclose(losses, wanted, rtol=1e-12)
            assert not torch.allclose(losses, -terms.nats / 4.0, rtol=1e-3)

    def test_a_ladder_that_was_told_nothing_charges_in_full(self):
        """A warm-up nobody drives must not train with β = 0 for ever."""
        plain, warming = make().eval(), make(objective=KlObjective(warmup=100)).eval()
        assert torch.equal(*(m.loss(pictures(), generator=generator()) for m in (plain, warming)))

    @both
    def test_every_weight_learns(self, posterior):
        ladder = make(posterior=posterior)
        ladder.loss(pictures()).backward()
        assert all(weight.grad is not None for weight in ladder.parameters())
        assert all(bool((weight.grad != 0).any()) for weight in ladder.parameters())

    def test_shape_is_taken_from_the_first_batch(self):
        ladder = make()
        ladder.loss(pictures())
        assert ladder.data == DataStats(SHAPE)

    def test_learning_a_linear_vae_closes_the_gap(self):
        """Probabilistic PCA by gradient descent: −ELBO falls to the entropy of the data."""
        torch.manual_seed(0)
        data = torch.randn(128, 1, dtype=torch.float64) @ torch.tensor([[1.5, -0.8]]).double()
        data = data + 0.3 * torch.randn(128, 2, dtype=torch.float64)
        layer = nn.Linear(1, 2)
        decoder, rung = GaussianDecoder(0.3), Rung(1, evidence=2).eval()
        ladder = Ladder([rung], layer, decoder).double()
        optimizer = torch.optim.Adam(ladder.parameters(), 0.1)
        start = self.gap(ladder, data)
        for i in range(200):
            optimizer.zero_grad()
            ladder.loss(data, generator=generator(i)).backward()
            optimizer.step()
        assert start > 1.0 and -0.01 < self.gap(ladder, data) < 0.1
        best = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov())
        elbo = ladder.elbo(data, samples=16, generator=generator()).nats.mean()
        assert 0.0 < best.log_prob(data).mean() - elbo < 0.2

    def gap(self, ladder, data):
        """log p(x), the latent integrated out, minus the ELBO; per point."""
        layer = ladder.decode
        fitted = layer.weight @ layer.weight.T + 0.09 * torch.eye(2, dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(layer.bias, fitted)
        terms = ladder.elbo(data, samples=16, generator=generator())
        return (law.log_prob(data).mean() - terms.nats.mean()).item()


class TestSampling:
    def ladder(self, **options):
        return make(data=DataStats(SHAPE, classes=("a", "b")), **options).double()

    def test_picture_i_belongs_to_its_seed(self):
        ladder = self.ladder()
        for noise in (False, True):
            whole = ladder.sample(7, seed=3, decoder_noise=noise).x
            parts = ladder.sample(7, seed=3, decoder_noise=noise, batch=3).x
            alone = ladder.sample(1, seed=8, decoder_noise=noise).x
            assert whole.shape == (7, *SHAPE) and torch.allclose(whole, parts, atol=1e-12)
            assert torch.allclose(whole[5:6], alone, atol=1e-12)
            assert not torch.allclose(whole[0], whole[1], atol=1e-3)

    def test_every_rung_and_the_decoder_draw_from_streams_of_their_own(self, monkeypatch):
        ladder, draws = self.ladder(), []

        def noise(seeds, shape, draw, **options):
            draws.append((draw, list(seeds), tuple(shape)))
            return item_noise(seeds, shape, draw, **options)

        monkeypatch.setattr("marginals.ladder.item_noise", noise)
        ladder.sample(2, seed=4, decoder_noise=True)
        shapes = [(2,), (3,), (4,), SHAPE]
        assert draws == [(i, [4, 5], shape) for i, shape in enumerate(shapes)]

    def test_latents_have_their_priors_covariance(self):
        """What the lowest rung carries, of 4000 walks, against the product of the linear laws."""
        ladder, seen = self.ladder(), []
        with torch.no_grad():
            for rung in (ladder.rungs[1], ladder.rungs[2]):
                rung.p.weight[rung.dims :] = 0.0  # stds that do not depend on what is above
        ladder.decode.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        ladder.sample(4000, batch=4000)
        cov = torch.eye(2, dtype=torch.float64)
        for rung in (ladder.rungs[1], ladder.rungs[2]):
            gain = rung.p.weight[: rung.dims].detach()
            cov = gain @ cov @ gain.T + torch.diag((2.0 * rung.p.bias[rung.dims :].detach()).exp())
        assert torch.allclose(seen[0].T.cov(), cov, atol=0.15)

    def test_temperature_zero_is_the_mean_at_every_rung(self):
        ladder = self.ladder()
        cold = ladder.sample(3, temperature=0.0).x
        z = torch.zeros(1, 2, dtype=torch.float64)
        for rung in (ladder.rungs[1], ladder.rungs[2]):
            z = rung.prior(z).mean
        assert torch.allclose(cold, ladder.decoder.mean(ladder.decode(z)).expand_as(cold))
        spread = [ladder.sample(200, temperature=t).x.std(0).mean() for t in (0.3, 1.0)]
        assert 0.0 < spread[0] < 0.6 * spread[1]

    def test_decoder_noise_is_the_decoders(self):
        """Drawn pictures are whole pixels; their mean is the mean picture."""
        ladder = self.ladder()
        drawn = ladder.sample(4000, temperature=0.0, decoder_noise=True).x
        mean = ladder.sample(1, temperature=0.0).x[0]
        assert torch.equal(drawn, to_float(to_uint8(drawn), drawn.dtype))
        assert torch.allclose(drawn.mean(0), mean, atol=0.06)
        assert float(drawn.std(0).min()) > 0.1

    def test_classes_enter_at_the_root_and_the_evidence(self):
        told = []

        def root(n, cond):
            told.append((n, None if cond is None else cond.tolist()))

        def evidence(x, cond):
            told.append(None if cond is None else cond.tolist())
            return x.flatten(1)

        ladder = self.ladder(root=root, evidence=evidence)
        ladder.sample(3, cond=[1, 0, -1], batch=2)
        assert told == [(2, [1, 0]), (1, [-1])]
        told.clear()
        ladder.elbo(pictures(2), 1)
        ladder.losses(pictures(2), torch.tensor([0, 1]))
        ladder.log_prob(pictures(2), samples=1)
        assert told == [[1, 1], (2, [1, 1]), [0, 1], (2, [0, 1]), None, (2, None)]
        with pytest.raises(MarginalsError, match="from 0 to 1"):
            ladder.elbo(pictures(2), [0, 2])
        with pytest.raises(MarginalsError, match="3 pictures need 3 labels"):
            ladder.sample(3, cond=[0, 1])

    def test_what_cannot_be_sampled_is_said(self):
        with pytest.raises(MarginalsError, match="shape of its data"):
            make().sample(1)
        with pytest.raises(MarginalsError, match="at least 1 picture"):
            self.ladder().sample(0)
        with pytest.raises(MarginalsError, match="temperature"):
            self.ladder().sample(1, temperature=-0.5)
        broken = self.ladder()
        nn.init.constant_(broken.decode.layer.bias, math.nan)
        with pytest.raises(MarginalsError, match="NaN or infinity"):
            broken.sample(1)


class TestLatents:
    @both
    def test_encoding_is_the_walk_of_the_elbo(self, posterior):
        ladder, x = make(posterior=posterior), pictures()
        visits = ladder.encode(x, generator=generator())
        terms = ladder.elbo(x, generator=generator())
        assert [v.z.shape for v in visits] == [(5, 2), (5, 3), (5, 4)]
        assert torch.allclose(visits[0].kl(), terms.prior)
        below = [v.kl() if posterior == "top_down" else v.log_ratio() for v in visits[1:]]
        assert torch.allclose(torch.stack(below, 1), terms.matching)
        assert ladder.training and not any(v.z.requires_grad for v in visits)

    def test_pictures_of_latents_are_what_sampling_makes_of_them(self):
        """All latents given: the decoder's mean. The upper ones alone: the rest at their means."""
        ladder = make(data=DataStats(SHAPE))
        z = [v.z for v in ladder.encode(pictures(), generator=generator())]
        with torch.no_grad():
            wanted = ladder.decoder.mean(ladder.decode(z[2]))
            assert torch.equal(ladder.pictures(z), wanted)
            lowest = ladder.rungs[2].prior(z[1]).mean
            assert torch.equal(ladder.pictures(z[:2]), ladder.pictures([*z[:2], lowest]))
        assert ladder.pictures(z[:1]).shape == (5, *SHAPE)
        cold = ladder.pictures([torch.zeros(3, 2)])
        assert torch.allclose(cold, ladder.sample(3, temperature=0.0).x, atol=1e-6)

    @pytest.mark.parametrize("count", [0, 4])
    def test_there_are_no_other_latents(self, count):
        with pytest.raises(MarginalsError, match="give 1 to 3 latents"):
            make().pictures([torch.zeros(1, 2)] * count)


class TestData:
    def test_a_density_spreads_whole_numbers_over_their_bins(self):
        """From the generator; the bound is then on whole numbers through 7 bits per pixel."""
        ladder, x, seen = make(GaussianDecoder()), pictures(), []
        ladder.evidence = lambda shown, _: seen.append(shown) or shown.flatten(1)
        terms = ladder.elbo(x, generator=generator())
        assert terms.density and torch.equal(to_uint8(seen[0]), x)
        assert not torch.equal(seen[0], to_float(x))
        again = ladder.elbo(x, generator=generator())
        assert torch.equal(again.nats, terms.nats)

    @pytest.mark.parametrize("decoder", [DiscretisedLogistic(), Categorical(), Bernoulli()])
    def test_real_pictures_go_into_their_bins(self, decoder):
        ladder, x = make(decoder), pictures()
        within = to_float(x) + 0.9 / 256.0 * (2.0 * torch.rand(x.shape) - 1.0)
        nats = [ladder.elbo(v, generator=generator()).nats for v in (x, to_float(x), within)]
        assert torch.equal(nats[0], nats[1]) and torch.equal(nats[0], nats[2])

    def test_encoders_of_black_and_white_see_black_and_white(self):
        ladder, seen = make(Bernoulli()), []
        ladder.evidence = lambda shown, _: seen.append(shown) or shown.flatten(1)
        terms = ladder.elbo(pictures())
        assert set(seen[0].unique().tolist()) == {-1.0, 1.0}
        assert terms.of == "black-and-white pixels"

    def test_what_cannot_be_pixels_is_refused(self):
        with pytest.raises(MarginalsError, match="GaussianDecoder"):
            make().elbo(1.5 * torch.ones(1, *SHAPE))
        with pytest.raises(MarginalsError, match="NaN"):
            make(GaussianDecoder()).elbo(torch.full((1, *SHAPE), math.nan))
        with pytest.raises(MarginalsError, match="shape"):
            make(data=DataStats((1, 3, 3))).elbo(pictures())

    def test_any_vectors_are_data_of_a_density(self):
        ladder = Ladder([Rung(2, evidence=3)], Decode(2, 2, (3,)), GaussianDecoder())
        x = 5.0 * torch.randn(7, 3)
        assert ladder.elbo(x).matching.shape == (7, 0)
        ladder.loss(x)
        assert ladder.sample(4).x.shape == (4, 3)


class TestBuilding:
    def test_weights_are_registered_once_and_copies_are_apart(self):
        ladder = make()
        names = [name for name, _ in ladder.named_parameters()]
        assert len(names) == len(set(names)) == 2 + 2 + 4 + 4
        twin = copy.deepcopy(ladder)
        nn.init.zeros_(twin.decode.layer.weight)
        assert bool((ladder.decode.layer.weight != 0).any())
        twin.load_state_dict(ladder.state_dict())
        nats = [m.elbo(pictures(), generator=generator()).nats for m in (ladder, twin)]
        assert torch.equal(*nats)

    def test_what_makes_no_ladder_is_refused(self):
        with pytest.raises(MarginalsError, match="at least one rung"):
            Ladder([], Decode(2, 2), DiscretisedLogistic())
        with pytest.raises(MarginalsError, match="top_down or bottom_up"):
            make(posterior="sideways")

    def test_a_network_of_the_wrong_width_is_named(self):
        ladder = make()
        ladder.decode = Decode(4, 3)
        with pytest.raises(MarginalsError, match="2 numbers"):
            ladder.elbo(pictures())
