"""The recipe of the demo models from its first stage to its last, on random data.

The pretrained networks are small and random, and every stage is trained for one step.
"""

import csv
import functools
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from clip2clap import ClapEncoder, ClipEncoder, ImageToAudioPipeline
from clip2clap.models.yamnet_clap import YamnetClapConfig, YamnetModel
from clip2clap.training.recipes.demo import __main__ as command
from clip2clap.training.recipes.demo import (
    aisfx,
    classifiers,
    features,
    generator,
    image_decoder,
    loop,
    package,
    pretrained,
    recipe,
    spaces,
    text,
    vision,
    vocoder,
)
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES
from clip2clap.training.recipes.demo.data import SAMPLING_RATE, DemoData
from clip2clap.training.recipes.demo.generated import recognize_further

from .networks import random_efficientnet
from .pretended_gpu import GPU, PretendedGpu

CLASSES = ("dog", "sea")
FURTHER_CLASS = "rooster"
IMAGES = 5


def jpeg(random: np.random.Generator, side: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Write a data folder with two classes, a few images and a few audio files."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    write_rows(
        folder / "kinds.csv",
        [
            {"kind": k, "photo_classes": f"n{n}", "cifar10": "", "esc50": k, "animals": k}
            for n, k in enumerate(CLASSES)
        ],
    )
    for name, kinds in (("kinds", CLASSES), ("other", ("", ""))):
        rows = [
            {"jpeg": jpeg(random, 64), "class_id": f"n{n}", "name": f"class {n}", "kind": kind}
            for n, kind in enumerate(kinds)
            for _ in range(IMAGES)
        ]
        (folder / "photos").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"photos/photos_{name}.parquet")
    for place in (*CLASSES, "other"):
        (folder / "photos/full" / place).mkdir(parents=True)
        for number in range(3):
            (folder / "photos/full" / place / f"n0_class_{number}.jpg").write_bytes(
                jpeg(random, 100)
            )
    write_rows(
        folder / "photos/imagenet_classes.csv",
        [{"index": n, "wnid": f"n{n}", "name": f"class_{n}"} for n in range(1000)],
    )
    clips = []
    for fold in "1234":
        for kind in (*CLASSES, FURTHER_CLASS):
            clips.append({"file": f"{kind}-{fold}.wav", "fold": fold, "category": kind})
    animals = [{"file": f"animal-{n}.wav", "kind": CLASSES[n % 2], "seconds": 1} for n in range(6)]
    write_rows(folder / "sounds/esc50.csv", clips)
    write_rows(folder / "sounds/animals.csv", animals)
    for row in (*clips, *animals):
        noise = random.uniform(-0.5, 0.5, SAMPLING_RATE).astype(np.float32)
        soundfile.write(folder / "sounds" / row["file"], noise, SAMPLING_RATE)
    write_rows(folder / "audiocaps/train.csv", [{"caption": f"a dog number {n}"} for n in range(9)])
    (folder / "conceptual_captions").mkdir()
    (folder / "conceptual_captions/few.tsv").write_text("the sea\thttp://host/a.jpg\n")
    return folder


def random_minilm():
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + ["dog", "sea", "class", "photo"]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    return BertModel(config).eval(), pretrained.build_tokenizer(vocabulary)


@pytest.fixture(scope="module")
def grown(data_folder, tmp_path_factory):
    """Run all stages; returns the folder of the checkpoints (`run`) and the demo models."""
    folder = tmp_path_factory.mktemp("grown")
    narrow = functools.partial(YamnetClapConfig, audio_width=0.25)

    def run(*stages):
        command.main(
            data_folder,
            out=folder / "run",
            stage=list(stages),
            steps=[f"{name}=1" for name in recipe.SCHEDULES],
            models=folder / "models",
            threads=torch.get_num_threads(),
        )

    with pytest.MonkeyPatch.context() as patch:
        for module in (features, recipe, package):
            if hasattr(module, "efficientnet_lite0"):
                patch.setattr(module, "efficientnet_lite0", random_efficientnet)
            if hasattr(module, "yamnet"):
                patch.setattr(module, "yamnet", lambda _: YamnetModel(narrow()).eval())
        patch.setattr(package, "YamnetClapConfig", narrow)
        patch.setattr(classifiers, "efficientnet_lite2", lambda: random_efficientnet()[0])
        patch.setattr(classifiers, "aisfx", lambda: aisfx.SfxNetwork((4, 4)).eval())
        patch.setattr(text, "minilm", random_minilm)
        patch.setattr(text, "IMAGE_TEMPLATES", ("a {}",))
        for module, names in {
            text: ("BATCH",),
            spaces: ("CLIP_BATCH", "TYPICAL_ROWS", "TYPICAL_COPIES"),
            vocoder: ("BATCH",),
            generator: ("AUTOENCODER_ROWS", "BATCH", "CROPS"),
            features: ("CROPS", "ALTERED_COPIES"),
            image_decoder: ("BATCH", "TUNING_BATCH"),
        }.items():
            for name in names:
                patch.setattr(module, name, 2)
        patch.setattr(vision, "BATCHES", (2, 2, 2, 2))
        with pytest.MonkeyPatch.context() as gpu_patch, PretendedGpu() as gpu:
            for module in (
                loop,
                features,
                pretrained,
                image_decoder,
                aisfx,
                classifiers,
            ):
                gpu_patch.setattr(module, "training_device", lambda: GPU)
            others = ("check_data", "package", "evaluate")
            run(*(name for name in command.STAGES if name not in others))
        assert gpu.computed > 1000
        # On another machine, without one.
        run("package")
        # Finished stages load the pretrained networks all the same.
        yield folder


def test_the_packaged_models_load_and_generate_audio(grown, data_folder):
    models = grown / "models"
    kinds = json.loads((models / "kinds.json").read_text())
    assert kinds == {"kinds": [*CLASSES], "audio_kinds": [*CLASSES, FURTHER_CLASS]}
    clap = ClapEncoder.from_pretrained(models / "clap")
    pipeline = ImageToAudioPipeline.from_pretrained(models / "image_to_audio", ranker=clap)
    memory = pipeline.retrieval_memory
    assert memory is not None
    assert memory.config["count"] == len(CLASSES) + 1
    image = DemoData(data_folder).images[0].load()
    output = pipeline(image, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert np.isfinite(output.audios).all()
    assert output.audios.shape[-1] > SAMPLING_RATE
    clip = ClipEncoder.from_pretrained(models / "image_to_audio" / "clip")
    assert (
        clip.encode_image([image]).shape
        == clap.encode_text(["a dog"]).shape
        == (1, spaces.EMBED_DIM)
    )


def test_audio_of_a_class_without_images_is_judged_beside_its_recordings(grown, data_folder):
    stage = recipe.Recipe(
        DemoData(data_folder), grown / "run", steps=dict.fromkeys(recipe.SCHEDULES, 1)
    )
    models, bank = grown / "models", stage.bank("test")
    clap = ClapEncoder.from_pretrained(models / "clap")
    pipeline = ImageToAudioPipeline.from_pretrained(models / "image_to_audio", ranker=clap)
    pipeline.set_progress_bar_config(disable=True)
    clip = ClipEncoder.from_pretrained(models / "image_to_audio" / "clip")
    images = [image for image in stage.data.images if image.full_size]
    shares = recognize_further(stage, pipeline, clip, clap, images, bank, 2)
    recordings = bank.batch(torch.where(bank.labels == len(CLASSES))[0], CLIP_SAMPLES)
    right = stage.audio_classifier.predict(recordings) == len(CLASSES)
    assert len(recordings) == 1
    assert shares[f"{FURTHER_CLASS}: audio classifier, real audio"] == right.float().mean()
    assert {name.partition(":")[0] for name in shares} == {FURTHER_CLASS}
    assert set(shares.values()) <= {n / 8 for n in range(9)}


def test_the_pretended_gpu_refuses_tensors_on_two_devices():
    """Otherwise the fixture above would show nothing of a machine with a GPU."""
    with PretendedGpu() as gpu:
        there, here = torch.ones(2, requires_grad=True).to(GPU), torch.ones(2)
        with pytest.raises(RuntimeError, match="same device"):
            torch.add(there, here)
        there.sum().backward()
        assert (there.cpu() + here).tolist() == (there + here.to(GPU)).tolist() == [2, 2]
    assert gpu.computed > 1


def test_the_packaged_clip_has_the_recipes_embeddings(grown, data_folder):
    """In half precision."""
    stage = recipe.Recipe(
        DemoData(data_folder), grown / "run", steps=dict.fromkeys(recipe.SCHEDULES, 1)
    )
    assert set(json.loads((grown / "run/stages.json").read_text())) == set(recipe.SCHEDULES)
    clip = ClipEncoder.from_pretrained(grown / "models/image_to_audio/clip")
    known = clip.encode_image(
        [DemoData(data_folder).images[n].load() for n in stage.image_features["index"][:3]]
    )
    cosines = (known * stage.image_embeds[:3]).sum(dim=1)
    assert cosines.min() > 0.99


def test_finished_stages_are_not_run_again(grown, data_folder):
    before = {path: path.stat().st_mtime_ns for path in (grown / "run").glob("*_run/*")}
    stage = recipe.Recipe(
        DemoData(data_folder), grown / "run", steps=dict.fromkeys(recipe.SCHEDULES, 1)
    )
    assert stage.audio_classifier is not None
    assert len(stage.latents)
    assert before == {path: path.stat().st_mtime_ns for path in before}
