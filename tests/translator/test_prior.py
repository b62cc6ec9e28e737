"""The diffusion prior: what it draws, and what it is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.report import TrainingProgress
from clip2clap.training.train import train, train_translator
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.prior import PriorTranslator

DIM = 8
DEVIATION = 0.1
SHARE = 0.7
CENTRES = unit_norm(torch.randn(2, 2, DIM, generator=torch.Generator().manual_seed(1)))
SOURCES = torch.eye(2)
QUICK = TrainingConfig(
    architecture="prior",
    hidden_size=16,
    blocks=1,
    epochs=3,
    batch_size=64,
    learning_rate=3e-3,
    patience=None,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Which of two sources each row has, and a vector near one of that source's two centres."""
    generator = seeded(seed)
    source = torch.randint(2, (n,), generator=generator)
    centre = (torch.rand(n, generator=generator) < SHARE).long()
    noise = DEVIATION * torch.randn(n, DIM, generator=generator)
    return source, unit_norm(CENTRES[source, centre] + noise)


def pairs(n: int) -> Pairs:
    source, target = mixture(n)
    return Pairs(SOURCES[source], target)


def describe(drawn: Tensor, source: int) -> tuple[float, Tensor, Tensor]:
    """Share of the second centre; direction of either group's mean; spread of either group."""
    nearest = (drawn @ CENTRES[source].T).argmax(1)
    groups = [drawn[nearest == group] for group in (0, 1)]
    means = torch.stack([group.mean(0) for group in groups])
    spreads = [(g - m).square().sum(1).mean().sqrt() for g, m in zip(groups, means, strict=True)]
    return nearest.float().mean().item(), unit_norm(means), torch.stack(spreads)


@pytest.fixture(scope="module")
def trained() -> PriorTranslator:
    settings = {"learning_rate": 7e-3, "schedule": "cosine", "validation": 0.05}
    config = replace(QUICK, hidden_size=64, dropout=0.0, epochs=50, batch_size=256, **settings)
    translator = train_translator(pairs(4000), config)
    assert isinstance(translator, PriorTranslator)
    return translator


def test_it_recovers_a_known_conditional_mixture_in_shares_means_and_spread(trained):
    drawn = trained(SOURCES, num_samples=2000, generator=seeded())
    which, fresh = mixture(20_000, seed=5)
    for source in (0, 1):
        share, means, spreads = describe(drawn[source], source)
        true_share, true_means, true_spreads = describe(fresh[which == source], source)
        assert share == pytest.approx(true_share, abs=0.1)
        assert ((means * true_means).sum(1) > 0.99).all()
        torch.testing.assert_close(spreads, true_spreads, rtol=0.15, atol=0)


def test_without_regard_to_the_source_it_draws_from_all_and_with_guidance_from_a_part(trained):
    every_centre = CENTRES.flatten(0, 1)

    def shares(guidance_scale: float) -> Tensor:
        options = {"num_samples": 1000, "guidance_scale": guidance_scale}
        drawn = trained(SOURCES[:1], **options, generator=seeded())[0]
        return torch.bincount((drawn @ every_centre.T).argmax(1), minlength=4) / 1000

    assert (shares(1.0)[2:] < 0.02).all()
    # The other source's centres come as often as one's own where it isn't told which it is.
    assert shares(0.0)[2:].sum() == pytest.approx(0.5, abs=0.15)
    spread = [
        describe(trained(SOURCES[:1], num_samples=1000, guidance_scale=s, generator=seeded())[0], 0)
        for s in (1.0, 3.0)
    ]
    assert spread[1][2].mean() < spread[0][2].mean()


def test_a_few_steps_come_close_to_many(trained):
    few, many = (
        trained(SOURCES, num_samples=200, num_inference_steps=steps, generator=seeded())
        for steps in (15, 200)
    )
    assert (few * many).sum(-1).mean() > 0.99
    assert trained(SOURCES, num_inference_steps=1).isfinite().all()


def test_without_options_it_is_a_function_of_each_row_alone(trained):
    embeds = torch.rand(5, 2, generator=seeded())
    together = trained(embeds)
    assert torch.equal(together, trained(embeds))
    torch.testing.assert_close(trained(embeds[3:4])[0], together[3])
    with torch.random.fork_rng():
        torch.manual_seed(9)
        assert torch.equal(together, trained(embeds))


def test_before_it_learns_it_draws_from_the_gaussian_it_expects():
    mean, ways = 0.3 * CENTRES[0, 0], torch.randn(DIM, 3, generator=seeded()) / 5
    prior = PriorTranslator(2, DIM, hidden_size=16, blocks=1).eval()
    with torch.no_grad():
        for parameter in prior.leave[1].parameters():
            parameter.zero_()
    prior.fit_whitening(mean, ways @ ways.T)
    drawn = prior(SOURCES[:1], num_samples=4000, num_inference_steps=100, generator=seeded())[0]
    # Of the Gaussian's vectors, too, only the directions are given.
    known = unit_norm(mean + torch.randn(4000, 3, generator=seeded(1)) @ ways.T)
    torch.testing.assert_close(drawn.mean(0), known.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T.cov(), known.T.cov(), rtol=0, atol=0.02)
    with pytest.raises(UserError, match="mean and a covariance of 8 values"):
        prior.fit_whitening(mean, ways)


def test_a_single_vector_without_a_generator_is_more_typical_than_a_drawn_one(trained):
    # What is nearest to all that could be drawn, on average, is the mean's direction.
    drawn = trained(SOURCES, num_samples=500, generator=seeded())
    typical = (trained(SOURCES)[:, None] * drawn).sum(-1).mean()
    single = (drawn[:, :1] * drawn[:, 1:]).sum(-1).mean()
    assert typical > single


def test_samples_come_from_the_generator_and_differ(trained):
    one, again, other = (
        trained(SOURCES, num_samples=3, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert one.shape == (2, 3, DIM)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(2, 3))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-2)
    assert not torch.allclose(one[:, 0], one[:, 1], atol=1e-2)
    # With a generator of its own a row draws the same in any company.
    listed = trained(SOURCES, num_samples=3, generator=[seeded(4), seeded(5)])
    alone = trained(SOURCES[1:], num_samples=3, generator=[seeded(5)])
    torch.testing.assert_close(listed[1:], alone)


def test_every_translator_can_be_asked_for_samples(trained):
    drawn = trained.sample(SOURCES, num_samples=3, generator=seeded())
    assert torch.equal(drawn, trained(SOURCES, num_samples=3, generator=seeded()))
    assert trained.sample(SOURCES).shape == (2, 1, DIM)
    linear = LinearTranslator(2, DIM)
    repeated = linear.sample(SOURCES, num_samples=3, generator=seeded())
    assert torch.equal(repeated, linear(SOURCES)[:, None].expand(-1, 3, -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples to be a positive whole number up to"),
        ({"num_inference_steps": 1001}, "up to 1,000, got 1001"),
        ({"guidance_scale": -1.0}, "guidance_scale to be 0 or more"),
        ({"generator": [seeded()]}, "one for each of 2 embeds, got 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(trained, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        trained(SOURCES, **options)


def test_a_prior_is_trained_into_a_folder_and_draws_the_same_from_there(tmp_path: Path):
    config = replace(QUICK, prior_guidance_scale=1.5)
    report = train(pairs(200), tmp_path, config)
    assert report.history[-1].validation_loss < report.history[0].validation_loss
    loaded = AutoTranslator.from_pretrained(tmp_path)
    assert isinstance(loaded, PriorTranslator)
    assert loaded.config["default_guidance_scale"] == 1.5
    again = train_translator(pairs(200), config)
    assert torch.equal(loaded(SOURCES), again(SOURCES))
    weaker = again(SOURCES, guidance_scale=1.0)  # pyright: ignore[reportCallIssue]
    assert not torch.equal(loaded(SOURCES), weaker)


def test_a_stopped_run_ends_with_the_weights_it_would_have_had(tmp_path: Path):
    def stop(progress: TrainingProgress) -> None:
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pairs(200), tmp_path, QUICK, checkpoint_seconds=0, on_progress=stop)
    assert train(pairs(200), tmp_path, QUICK).resumed_after == 1
    whole = train_translator(pairs(200), QUICK)
    assert torch.equal(AutoTranslator.from_pretrained(tmp_path)(SOURCES), whole(SOURCES))
