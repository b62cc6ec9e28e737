"""Captions of files, in Python and by the command, with captioners of random weights."""

import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clip2clap import ClapEncoder, ClipEncoder
from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.search.caption import FileCaptioner
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

RATE = 16_000


@pytest.fixture(scope="module")
def encoders() -> dict:
    return {
        "clip": ClipEncoder.from_pretrained("demo", modalities=["image"]),
        "clap": ClapEncoder.from_pretrained("demo", modalities=["audio"]),
    }


@pytest.fixture(scope="module")
def captioners(encoders, tiny_language_model) -> dict[str, Captioner]:
    found = {}
    for name, modality in (("clip", "image"), ("clap", "audio")):
        torch.manual_seed(len(found))
        mapper = PrefixMapper(512, 16, 2, modalities=(modality,))
        space = encoders[name].space(modality)
        found[name] = Captioner(mapper, *tiny_language_model(), space=space).eval()
    return found


@pytest.fixture
def files(tmp_path) -> list[str]:
    """A red image, noise, and silence."""
    Image.new("RGB", (48, 48), (200, 30, 30)).save(tmp_path / "red.png")
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    soundfile.write(tmp_path / "noise.wav", waveform, RATE)
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    return [str(tmp_path / name) for name in ("noise.wav", "red.png", "silence.wav")]


def test_files_are_captioned_by_their_own_captioner_in_the_order_given(captioners, encoders, files):
    describe = FileCaptioner(list(captioners.values()), **encoders)
    noise, red, silence = describe(files, num_captions=2)
    assert [noise.source, red.source, silence.source] == files
    embeds = encoders["clap"].encode_audio([files[0]])
    expected = captioners["clap"].generate(embeds, modality="audio", num_captions=2)
    assert [noise.captions] == expected
    embeds = encoders["clip"].encode_image([files[1]])
    expected = captioners["clip"].generate(embeds, modality="image", num_captions=2)
    assert [red.captions] == expected
    assert silence.captions == []


def test_of_several_candidates_the_nearest_to_the_file_is_its_caption(captioners, files):
    clip = ClipEncoder.from_pretrained("demo")
    describe = FileCaptioner([captioners["clip"]], clip=clip)
    (found,) = describe([files[1]], num_candidates=5, num_captions=2, max_new_tokens=4)
    embeds = clip.encode_image([files[1]])
    options = {"num_captions": 5, "num_beams": 5, "max_new_tokens": 4}
    (texts,) = captioners["clip"].generate(embeds, modality="image", **options)
    similarities = (clip.encode_text(texts) @ embeds[0]).tolist()
    ranked = sorted(zip(similarities, texts, strict=True), key=lambda each: -each[0])
    assert found.captions == [text for _, text in ranked[:2]]
    with pytest.raises(UserError, match="at least num_captions=2"):
        list(describe([files[1]], num_candidates=1, num_captions=2))


def test_what_no_captioner_reads_is_translated(captioners, encoders, files):
    clip, clap = encoders["clip"].space("image"), encoders["clap"].space("audio")
    provenance = Provenance(source_space=clap, target_space=clip)
    translator = MLPTranslator(512, 512, 8, provenance=provenance)
    describe = FileCaptioner([captioners["clip"]], **encoders, translator=translator)
    found, *_ = describe(files)
    with torch.no_grad():
        embeds = translator(encoders["clap"].encode_audio([files[0]]))
    assert [found.captions] == captioners["clip"].generate(embeds, modality="image")


def test_without_a_translator_it_is_skipped_with_the_reason(captioners, encoders, files):
    noise, red, _ = FileCaptioner([captioners["clip"]], **encoders)([*files[:2], "nope.png"])
    assert "a translator is needed" in str(noise.reason)
    assert red.reason is None


def test_foreign_captioners_are_refused(captioners, encoders):
    with pytest.raises(UserError, match="Two captioners read CLIP"):
        FileCaptioner([captioners["clip"]] * 2, **encoders)
    with pytest.raises(UserError, match="got none"):
        FileCaptioner([], **encoders)
    foreign = Captioner(
        captioners["clip"].mapper,
        captioners["clip"].language_model,
        captioners["clip"].tokenizer,
        space=type(captioners["clip"].space)("clip", "other", "image", 512, True, "0"),
    )
    with pytest.raises(SpaceMismatchError):
        FileCaptioner([foreign], **encoders)


def test_the_command_prints_captions_and_json(run, captioners, files, tmp_path):
    names = []
    for name, captioner in captioners.items():
        captioner.save_pretrained(tmp_path / name)
        names += ["--captioner", tmp_path / name]
    code, out, _ = run("caption", *files, *names, "--num-captions", 2, "--json")
    results = json.loads(out)["results"]
    assert code == 0
    assert [len(each["captions"]) for each in results] == [2, 2, 0]
    quick = ["--num-candidates", 2, "--max-tokens", 3, "--json"]
    code, out, _ = run("caption", *files[:2], *names, *quick)
    assert code == 0
    assert [len(each["captions"]) for each in json.loads(out)["results"]] == [1, 1]
    code, out, _ = run("caption", files[2], *names)
    assert (code, out.strip()) == (0, f"{files[2]}: silent")
    sample = ["--top-p", 0.9, "--seed", 3, "--json"]
    first, second = (
        json.loads(run("caption", files[0], *names, *sample)[1])["results"] for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--captioner", "nowhere"], "no captioner preset or folder 'nowhere'"),
        (["--top-p", "1.5"], "--top-p: expected at most 1"),
        (["--temperature", "0.5"], "--temperature: it goes with --top-p"),
        (["--num-captions", "3", "--num-candidates", "2"], "--num-candidates: expected from --num"),
        (["--num-captions", "0"], "--num-captions: expected 1 to 100, got 0"),
    ],
)
def test_a_mistake_is_one_line(run, files, arguments, message):
    code, _, error = run("caption", files[0], *arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1
