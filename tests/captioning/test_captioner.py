"""Captioners against transformers' own generation, saved, loaded and misused."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.core.math import recall, unit_norm
from clip2clap.embeddings.space import SpaceMismatchError

from .builders import SPACE, WIDTH


@pytest.fixture(scope="module")
def captioner(tiny_language_model) -> Callable[..., Captioner]:
    def build(**options: Any) -> Captioner:
        torch.manual_seed(1)
        mapper = PrefixMapper(8, WIDTH, 2, modalities=("text", "audio"), **options)
        return Captioner(mapper, *tiny_language_model(), space=SPACE).eval()

    return build


@pytest.fixture(scope="module")
def identity(tiny_language_model) -> Captioner:
    """A captioner whose mapper is the identity on unit vectors of two tokens' length."""
    mapper = PrefixMapper(2 * WIDTH, WIDTH, 2, "linear")
    layer: Any = mapper.layers
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2 * WIDTH) / math.sqrt(2 * WIDTH))
        layer.bias.zero_()
    return Captioner(mapper, *tiny_language_model()).eval()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"num_beams": 1}, {"num_beams": 1}),
        ({"num_beams": 3}, {"num_beams": 3, "early_stopping": True}),
        (
            {"num_beams": 3, "num_captions": 2},
            {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
        ),
    ],
)
def test_decoding_is_that_of_transformers_for_an_identity_mapper(identity, ours, theirs):
    units = torch.nn.functional.normalize(torch.randn(4, 2 * WIDTH), dim=-1)
    tokens = identity.language_model.generate(
        inputs_embeds=units.view(4, 2, WIDTH),
        attention_mask=torch.ones(4, 2, dtype=torch.long),
        max_new_tokens=6,
        eos_token_id=0,
        pad_token_id=0,
        **theirs,
    )
    expected = identity.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    found = identity.generate(units, max_new_tokens=6, batch_size=2, **ours)
    assert [each for row in found for each in row] == expected


def test_sampling_follows_the_generator_and_leaves_the_global_one_alone(identity):
    embeds = torch.randn(3, 2 * WIDTH)

    def sample(seed: int) -> list[list[str]]:
        generator = torch.Generator().manual_seed(seed)
        return identity.generate(embeds, top_p=0.95, num_captions=4, generator=generator)

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = sample(0)
    assert torch.equal(torch.rand(1), expected)
    assert first == sample(0)
    assert first != sample(1)


def test_the_nucleus_of_almost_nothing_is_greedy(identity):
    embeds = torch.randn(3, 2 * WIDTH)
    assert identity.generate(embeds, top_p=1e-6) == identity.generate(embeds, num_beams=1)


def test_the_loss_is_the_cross_entropy_of_the_captions_tokens(identity):
    embeds = torch.randn(2, 2 * WIDTH)
    tokens = identity.tokenize(["a dog barks", "rain"])
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    prefix = identity.mapper(embeds)
    total, count = torch.zeros(()), 0
    for row, own in enumerate((4, 2)):
        ids = tokens["input_ids"][row, :own]
        inputs = torch.cat([prefix[row], identity._inputs(ids)])[None]
        logits = identity.language_model(inputs_embeds=inputs).logits[0, 1:-1]
        total += torch.nn.functional.cross_entropy(logits, ids, reduction="sum")
        count += own
    loss = identity(embeds, **tokens).item()
    assert loss == pytest.approx((total / count).detach().item(), abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "linear"},
        {"architecture": "mlp"},
        {"architecture": "transformer"},
        {"common": {"modality": "text", "count": 2}},
    ],
)
def test_a_saved_captioner_says_the_same(captioner, tmp_path, options):
    made = captioner(**options)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.05 * torch.randn_like(value))
        made.mapper.mean_audio.copy_(torch.randn(8))
    made.facts["recipe"] = {"noise": 0.1}
    made.save_pretrained(tmp_path / "made")
    loaded = Captioner.from_pretrained(tmp_path / "made")
    embeds = torch.randn(4, 8)
    assert torch.equal(loaded.mapper(embeds, "audio"), made.mapper(embeds, "audio"))
    assert loaded.generate(embeds) == made.generate(embeds)
    assert (loaded.space, loaded.facts["recipe"]) == (SPACE, {"noise": 0.1})


def test_captioners_may_share_a_language_model(captioner, tmp_path):
    made = captioner()
    made.save_pretrained(tmp_path / "one")
    made.save_pretrained(tmp_path / "two", language_model="../one/language_model")
    assert not (tmp_path / "two/language_model").exists()
    embeds = torch.randn(2, 8)
    assert Captioner.from_pretrained(tmp_path / "two").generate(embeds) == made.generate(embeds)


def test_embeddings_are_shifted_by_the_mean_of_their_modality(captioner):
    made = captioner()
    made.mapper.mean_text.fill_(0.1)
    made.mapper.mean_audio.fill_(-0.2)
    embeds = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    assert (made.mapper.mean("audio"), made.mapper.mean("image")) == (
        pytest.approx(torch.full((8,), -0.2)),
        pytest.approx(torch.full((8,), 0.1)),
    )
    # The norm is that of the embedding before it is shifted.
    assert torch.allclose(made.mapper(5 * embeds, "audio"), made.mapper(embeds, "audio"), atol=1e-5)
    assert not torch.allclose(made.mapper(embeds, "text"), made.mapper(embeds, "audio"), atol=1e-3)


def test_one_modality_is_pulled_towards_its_memory(tmp_path, tiny_language_model):
    known = unit_norm(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)))
    memory = {"modality": "image", "count": 3, "beta": 5.0, "mix": 0.4}
    plain = PrefixMapper(8, WIDTH, 2, modalities=("text", "image"))
    pulled = PrefixMapper(8, WIDTH, 2, modalities=("text", "image"), memory=memory)
    pulled.load_state_dict({**plain.state_dict(), "memory": known})
    embeds = torch.randn(4, 8)
    expected = plain(recall(embeds, known, beta=5.0, mix=0.4), "image")
    assert torch.allclose(pulled(embeds, "image"), expected, atol=1e-6)
    assert torch.equal(pulled(embeds, "text"), plain(embeds, "text"))
    made = Captioner(pulled, *tiny_language_model())
    made.save_pretrained(tmp_path)
    read = Captioner.from_pretrained(tmp_path).mapper
    assert torch.equal(read.memory, known)
    assert torch.allclose(read(embeds, "image"), expected, atol=1e-6)


def test_candidates_are_compared_without_the_directions_that_texts_share(captioner):
    made = captioner(common={"modality": "text", "count": 1})
    made.mapper.mean_text.copy_(0.3 * torch.eye(8)[1])
    made.mapper.common.copy_(torch.eye(8)[:1])
    # Of the candidates, one shares the large first component of the source, one its fourth.
    source = unit_norm(torch.tensor([[0.9, 0.3, 0, 0.3, 0, 0, 0, 0]]))
    same = unit_norm(torch.tensor([[0.9, 0.3, 0.3, 0, 0, 0, 0, 0]]))
    other = unit_norm(torch.tensor([[-0.9, 0.3, 0, 0.3, 0, 0, 0, 0]]))
    embeds = torch.cat([same, other])

    class Encoder:
        def space(self, modality):
            return SPACE

        def encode_text(self, texts):
            return embeds

    def first(modality: str) -> str:
        options: Any = {"num_candidates": 2, "max_new_tokens": 4, "modality": modality}
        ((found,),) = made.generate_nearest(source, Encoder(), **options)
        return found

    ((one, two),) = made.generate(
        source, modality="text", num_captions=2, num_beams=2, max_new_tokens=4
    )
    assert one != two
    assert first("text") == two
    ((one, _),) = made.generate(
        source, modality="audio", num_captions=2, num_beams=2, max_new_tokens=4
    )
    assert first("audio") == one


def test_another_space_is_refused(captioner):
    made = captioner()
    made.check_source(SPACE.in_modality("audio"))
    with pytest.raises(SpaceMismatchError, match="captioner's source"):
        made.check_source(type(SPACE)("clap", "other/clap", "audio", 8, True, "0"))
    with pytest.raises(SpaceMismatchError, match="vectors of 8 values"):
        Captioner(
            made.mapper,
            made.language_model,
            made.tokenizer,
            space=type(SPACE)("clip", "some/clip", "image", 6, True, "0"),
        )


def test_a_language_model_of_another_width_is_refused(captioner, tiny_language_model):
    with pytest.raises(UserError, match=f"of {WIDTH} values, and the language model reads 24"):
        Captioner(captioner().mapper, *tiny_language_model(24))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeds": torch.randn(2, 7)}, r"of shape \(n, 8\)"),
        ({"embeds": torch.full((1, 8), float("nan"))}, "finite"),
        ({"num_captions": 0}, "num_captions"),
        ({"num_beams": 0}, "num_beams"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": 0.5, "temperature": 0}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_a_senseless_call_is_refused(captioner, options, message):
    with pytest.raises(UserError, match=message):
        captioner().generate(**{"embeds": torch.randn(1, 8), **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "MLPTranslator"}, "not of a Captioner"),
        ({"_format_version": 99}, "Install a newer one"),
        ({"mapper": 3}, "has no mapper"),
        ({"mapper": {"width": 3}}, "describes no captioner"),
        ({"language_model": "nowhere"}, "no language model 'nowhere'"),
        ({"space": {"family": "clap"}}, "describes no captioner"),
    ],
)
def test_a_broken_config_is_one_line(captioner, tmp_path, change, message):
    captioner().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        Captioner.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_refused(captioner, tmp_path):
    captioner().save_pretrained(tmp_path)
    captioner(hidden_size=24).save_pretrained(tmp_path / "wider")
    (tmp_path / "wider/model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="mismatched"):
        Captioner.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="can't be read"):
        Captioner.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="holds no weights"):
        Captioner.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "./no/where"])
def test_a_missing_captioner_is_named(name):
    with pytest.raises(ModelNotFoundError, match="no captioner folder"):
        Captioner.from_pretrained(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "tree"}, "linear, mlp, transformer"),
        ({"prefix_length": 0}, "prefix_length"),
        ({"target_dim": 12, "architecture": "transformer"}, "a multiple of 8"),
        ({"memory": {"modality": "image"}}, "beta, count, mix, modality"),
        ({"memory": {"modality": "image", "count": 1, "beta": 1.0, "mix": 2}}, "mix"),
        ({"common": {"modality": "text"}}, "common.*count, modality"),
        ({"common": {"modality": "text", "count": 0}}, "count"),
    ],
)
def test_a_senseless_mapper_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        PrefixMapper(**options)
