"""Demo models of the package, through the public API."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from skimage.data import chelsea

from clip2clap import ClapEncoder, ClipEncoder, ImageToAudioPipeline
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.inference.batch import BatchOptions, Job, generate_audio
from clip2clap.inference.batch.generation import LEAST_SIMILARITY

KINDS = json.loads((DEMO_FOLDER / "kinds.json").read_text())
CLASSES = KINDS["kinds"]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = ImageToAudioPipeline.from_pretrained("demo")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def clap():
    return ClapEncoder.from_pretrained("demo")


@pytest.fixture(scope="module")
def cat():
    return Image.fromarray(chelsea())


def nearest_class(embeds: torch.Tensor, texts: torch.Tensor) -> str:
    return CLASSES[int((embeds @ texts.T).argmax())]


def test_clip_classifies_the_cat(cat):
    clip = ClipEncoder.from_pretrained("demo")
    texts = clip.encode_text([f"a photo of a {name}" for name in CLASSES])
    assert nearest_class(clip.encode_image([cat]), texts) == "cat"


@pytest.mark.parametrize(
    ("text", "label"),
    [("a kitten", "cat"), ("waves on the seashore", "sea"), ("a locomotive", "train")],
)
def test_both_text_encoders_know_other_names_of_a_class(clap, text, label):
    for encoder in (clap, ClipEncoder.from_pretrained("demo", modalities=("text",))):
        assert nearest_class(encoder.encode_text([text]), encoder.encode_text(CLASSES)) == label


@pytest.mark.parametrize(
    ("text", "label"), [("a terrier", "dog"), ("a songbird", "bird"), ("a butterfly", "insect")]
)
def test_clip_knows_the_classes_below_names_between_imagenets_and_its_own(text, label):
    clip = ClipEncoder.from_pretrained("demo", modalities=("text",))
    classes = clip.encode_text([f"a photo of a {name}" for name in CLASSES])
    embeds = clip.encode_text([text, f"a photo of {text}"])
    assert [nearest_class(embed, classes) for embed in embeds] == [label] * 2


def test_the_translated_cat_is_nearest_to_the_text_of_a_cat(pipeline, clap, cat):
    embeds = pipeline.translator(pipeline.clip.encode_image([cat]))
    texts = clap.encode_text([f"the sound of a {name}" for name in CLASSES])
    assert nearest_class(embeds, texts) == "cat"


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("vacuum cleaner", "vacuum cleaner"),
        ("washing machine", "washing machine"),
        ("chainsaw", "chainsaw"),
        ("toilet", "toilet flush"),
        ("church", "church bells"),
        ("cock", "rooster"),
        ("hen", "hen"),
    ],
)
def test_things_without_training_images_are_translated_to_their_audio(pipeline, clap, thing, kind):
    clip = ClipEncoder.from_pretrained("demo", modalities=("text",))
    embeds = pipeline.translate(clip.encode_text([f"a photo of a {thing}"]))
    kinds = KINDS["audio_kinds"]
    texts = clap.encode_text([f"the sound of a {name}" for name in kinds])
    assert kinds[int((embeds @ texts.T).argmax())] == kind


def test_audio_of_a_further_class_is_heard_as_that_class(pipeline, clap):
    kinds = KINDS["audio_kinds"]
    texts = clap.encode_text([f"the sound of a {name}" for name in kinds])
    made = ["vacuum cleaner", "washing machine", "rooster"]
    prompts = [f"the sound of a {name}" for name in made]
    audios = pipeline(prompt=prompts, generator=0, num_candidates=1).audios
    heard = clap.encode_audio([(audio, pipeline.sampling_rate) for audio in audios]) @ texts.T
    assert [kinds[number] for number in heard.argmax(dim=1)] == made


def test_a_cat_fits_a_label_and_a_checkerboard_none(pipeline, cat, tmp_path):
    board = Image.fromarray(np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((16, 16))) > 0)
    for name, image in {"cat": cat, "board": board}.items():
        image.save(tmp_path / f"{name}.png")
    jobs = [Job(str(tmp_path / f"{name}.png")) for name in ("cat", "board")]
    options = BatchOptions(labels=("cat", "dog", "sea", "clock", "rain", "train"))
    call: dict[str, Any] = {"num_inference_steps": 1, "num_candidates": 1}
    generate_audio(pipeline, jobs, tmp_path / "out", options, **call)
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["fits"] for line in lines] == [True, False]
    assert pipeline.generator_space.fingerprint in LEAST_SIMILARITY


def test_audio_has_five_seconds_neither_silent_nor_clipped_nor_a_tone(pipeline, cat):
    waveform = pipeline(cat, generator=torch.Generator().manual_seed(0)).audios[0]
    assert len(waveform) == round(5.12 * 16_000)
    assert 0.02 < np.abs(waveform).max() <= 1
    assert (np.abs(waveform) > 0.999).mean() < 1e-3
    power = np.abs(np.fft.rfft(waveform)) ** 2
    assert power.max() / power.sum() < 0.3


def test_of_two_candidates_the_better_by_clap_is_kept(pipeline, clap, cat):
    result = pipeline(
        cat,
        num_inference_steps=4,
        num_candidates=2,
        draft_candidates=False,
        generator=torch.Generator().manual_seed(0),
    )
    # Candidates are ranked by their first 5 s.
    first = result.audios[0][: 5 * result.sampling_rate]
    similarity = clap.encode_audio([(first, result.sampling_rate)]) @ result.audio_embeds.T
    assert similarity.item() == pytest.approx(result.similarities.max().item(), abs=0.02)


def test_weights_have_16_or_8_bits_and_nothing_is_a_pickle():
    files = [path for path in DEMO_FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as weights:
                dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
            assert dtypes <= {"F16", "F8_E4M3", "I64"}, path


def test_the_spaces_name_the_demo_models_and_no_training_folder(pipeline, clap):
    translator = pipeline.translator
    spaces = [translator.source_space, translator.target_space, clap.space("audio")]
    spaces.append(ClipEncoder.from_pretrained("demo", modalities=("image",)).space("image"))
    assert [space.model_id for space in spaces] == ["demo"] * 4
    texts = [path.read_text() for path in DEMO_FOLDER.rglob("*config.json")]
    named = re.findall(r'"_name_or_path": "(.*)"', "\n".join(texts))
    assert set(named) <= {"", "demo"}
