"""Calls of translators of every class: norms, dtypes, spaces and refused input."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

from .builders import CLAP, CLIP, embeds, seeded


def test_output_has_unit_norm_and_ignores_the_length_of_the_input(translator: Translator):
    x = embeds()
    y = translator(x)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(translator(x * torch.logspace(-20, 15, 5)[:, None]), y)


def test_initialize_draws_as_linear_layers_do_and_from_the_generator_alone():
    first, second = MLPTranslator(), MLPTranslator()
    first.initialize(seeded(7))
    torch.manual_seed(3)
    second.initialize(seeded(7))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
        torch.testing.assert_close(weight.abs().max().item(), 512**-0.5, rtol=0.02, atol=0)
    second.initialize(seeded(8))
    assert not torch.equal(first(torch.ones(1, 512)), second(torch.ones(1, 512)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_full_precision(
    translator: Translator, dtype: torch.dtype, tmp_path: Path
):
    exact = translator(embeds()).detach()
    translator.save_pretrained(tmp_path)
    half = AutoTranslator.from_pretrained(tmp_path, torch_dtype=dtype)
    y = half(embeds())
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.02)
    # A vector whose squared norm overflows float16 goes through all the same.
    torch.testing.assert_close(half((300 * embeds()).to(dtype)), y, rtol=0, atol=0.02)


def test_casting_prints_no_warning(translator: Translator, caplog: pytest.LogCaptureFixture):
    translator.to(torch.float16)
    assert not caplog.records


def test_an_empty_batch_gives_an_empty_batch(translator: Translator):
    assert translator(torch.empty(0, 8)).shape == (0, 6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (embeds(dim=5), r"shape \(n, 8\) .*some/clip.* got \(5, 5\)"),
        (embeds()[0], r"got \(8,\).*embeds\[None\]"),
        (torch.ones(2, 8, dtype=torch.int64), r"floating dtype, got torch\.int64"),
        (embeds().numpy(), r"torch\.from_numpy"),
        (torch.tensor([[1.0] * 8, [float("nan")] * 8]), r"1 of 2 embeds hold NaN.*row 1"),
        (torch.tensor([[float("inf")] * 8]), r"1 of 1 embeds hold NaN or infinity"),
        (torch.zeros(3, 8), r"3 of 3 embeds are all zeros.*row 0"),
        (torch.full((1, 8), 1e38), r"too large"),
    ],
)
def test_bad_input_is_refused_in_one_line(translator: Translator, bad: Tensor, message: str):
    with pytest.raises(UserError, match=message) as caught:
        translator(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_sizes_must_be_positive_whole_numbers(size: int):
    with pytest.raises(UserError, match="hidden"):
        MLPTranslator(hidden_size=size)


def test_another_clap_of_the_same_size_is_refused_and_both_are_named(translator: Translator):
    other = EmbeddingSpace("clap", "other/clap", "text", 6, True, "0the")
    with pytest.raises(SpaceMismatchError, match=r"some/clap.*c1a9.*other/clap.*0the"):
        translator.check_target(other)
    with pytest.raises(SpaceMismatchError, match="other/clap"):
        translator.check_source(other)


def test_the_other_tower_of_the_same_model_is_welcome(translator: Translator):
    translator.check_source(CLIP.in_modality("image"))
    translator.check_target(CLAP.in_modality("audio"))


def test_without_a_known_space_the_sizes_still_count():
    translator = MLPTranslator(8, 6, hidden_size=4)
    translator.check_target(CLAP)
    with pytest.raises(SpaceMismatchError, match="8 values"):
        translator.check_source(CLAP)


def test_a_space_of_another_size_is_refused_at_construction():
    with pytest.raises(SpaceMismatchError, match="8 values"):
        MLPTranslator(8, 6, provenance=Provenance(CLAP))


def test_record_takes_known_facts_only(translator: Translator):
    with pytest.raises(TypeError, match="'loss'"):
        translator.record(loss="cosine")
