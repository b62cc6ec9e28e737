"""Evaluation of the demo models on images and audio that training never used."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.classification import balanced_accuracy, confusion_matrix
from clip2clap.report import charts
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, AudioBank
from clip2clap.training.recipes.demo.classifiers import AudioClassifier
from clip2clap.training.recipes.demo.data import (
    SAMPLING_RATE,
    DemoData,
    DemoImage,
    Split,
    read_audio,
)
from clip2clap.training.recipes.demo.features import random_window
from clip2clap.training.recipes.demo.mel import HOP, WINDOW, log_mel
from clip2clap.training.recipes.demo.phrases import UNSEEN
from clip2clap.training.recipes.demo.spaces import audio_class_index, audio_classes

if TYPE_CHECKING:
    from clip2clap.training.recipes.demo.recipe import Recipe

IMAGES_PER_CLASS, AUDIO_PER_CLASS, SEEDS = 9, 8, 8
WINDOWS = 4
IMAGE_PROMPT, AUDIO_PROMPT = "a photo of a {}", "the sound of a {}"


def evaluate_demo(recipe: "Recipe", models: Path, *, split: Split = "test") -> dict[str, float]:
    """Evaluate the demo models and write the results beside the checkpoints.

    Args:
        recipe: The recipe, for its data and its classifiers.
        models: Folder of the demo models.
        split: Split to evaluate on.

    Returns:
        Metrics by name. They are also written to `results.json`; `confusion.png` and grids of
        generated images are written beside it.
    """
    clip = ClipEncoder.from_pretrained(str(models / "image_to_audio" / "clip"))
    clap = ClapEncoder.from_pretrained(str(models / "clap"))
    # Without a ranker, the pipeline would load the installed demo CLAP.
    pipeline = ImageToAudioPipeline.from_pretrained(str(models / "image_to_audio"), ranker=clap)
    pipeline.set_progress_bar_config(disable=True)
    small_images = _small_images(recipe.data, split)
    small_embeds = clip.encode_image([image.load() for image in small_images])
    results: dict[str, float] = {}
    for part in (
        lambda: _evaluate_clip(recipe, clip, small_embeds, split),
        lambda: _evaluate_text(recipe, clip, clap),
        lambda: _evaluate_clap(recipe, small_embeds, clap, pipeline, split),
        lambda: _evaluate_vocoder(recipe, pipeline.vocoder, split),
        lambda: _evaluate_audio_to_image(recipe, clip, clap, models / "audio_to_image", split),
        lambda: _evaluate_image_to_audio(recipe, clap, pipeline, split),
    ):
        # Written part by part: the later ones are slow.
        results |= part()
        (recipe.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = Table("metric", "value")
    for name, value in results.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)
    return results


def _evaluate_clip(
    recipe: "Recipe", clip: ClipEncoder, small_embeds: Tensor, split: Split
) -> dict[str, float]:
    data, names = recipe.data, recipe.data.class_names
    texts = clip.encode_text([IMAGE_PROMPT.format(name) for name in names])

    def accuracy(images: list[DemoImage], embeds: Tensor) -> float:
        return balanced_accuracy((embeds @ texts.T).argmax(1), _labels(data, images))

    small = _small_images(data, split)
    large = [image for image in data.images if image.full_size and image.split == split]
    labeled = [image for image in large if image.label]
    rng = np.random.default_rng(0)
    windows = [image for image in labeled for _ in range(WINDOWS)]
    classes = clip.encode_text([IMAGE_PROMPT.format(name) for name in data.imagenet_names])
    large_embeds = clip.encode_image([image.load() for image in large])
    labeled_embeds = large_embeds[[bool(image.label) for image in large]]
    predicted = (large_embeds @ classes.T).argmax(1).tolist()
    right = [
        data.imagenet_names[n] == image.category for n, image in zip(predicted, large, strict=True)
    ]
    window_embeds = clip.encode_image([random_window(image.load(), rng) for image in windows])
    return {
        "small images": len(small),
        "CLIP accuracy, small images": accuracy(small, small_embeds),
        "full-size images of the demo classes": len(labeled),
        "CLIP accuracy, full-size images": accuracy(labeled, labeled_embeds),
        "CLIP accuracy, windows of full-size images": accuracy(windows, window_embeds),
        "full-size images": len(large),
        "CLIP accuracy among ImageNet's 1,000 classes, full-size images": sum(right) / len(right),
    }


def _evaluate_text(recipe: "Recipe", clip: ClipEncoder, clap: ClapEncoder) -> dict[str, float]:
    names = recipe.data.class_names
    texts = [text for name in names for text in UNSEEN[name]]
    labels = torch.tensor([number for number, name in enumerate(names) for _ in UNSEEN[name]])
    results: dict[str, float] = {"unseen texts": len(texts)}
    for encoder, model, prompt in (("CLIP", clip, IMAGE_PROMPT), ("CLAP", clap, AUDIO_PROMPT)):
        classes = model.encode_text([prompt.format(name) for name in names])
        predicted = (model.encode_text(texts) @ classes.T).argmax(1)
        results[f"{encoder} accuracy, unseen texts"] = balanced_accuracy(predicted, labels)
    return results


def _evaluate_clap(
    recipe: "Recipe",
    small_embeds: Tensor,
    clap: ClapEncoder,
    pipeline: ImageToAudioPipeline,
    split: Split,
) -> dict[str, float]:
    data, names = recipe.data, recipe.data.class_names
    audio = [audio for audio in data.audio if audio.split == split]
    embeds = clap.encode_audio([(read_audio(one), SAMPLING_RATE) for one in audio])
    all_names = audio_classes(data)
    labels = torch.tensor([audio_class_index(one, all_names) for one in audio])
    labeled = labels < len(names)
    logits = embeds @ clap.encode_text([AUDIO_PROMPT.format(name) for name in names]).T
    esc50 = torch.tensor([one.path.parent.name == "esc50" for one in audio])
    esc50_names = [audio[n].category for n in torch.where(esc50)[0].tolist()]
    categories = sorted(set(esc50_names))
    texts = [AUDIO_PROMPT.format(name.replace("_", " ")) for name in categories]
    esc50_logits = embeds[esc50] @ clap.encode_text(texts).T
    esc50_labels = torch.tensor([categories.index(name) for name in esc50_names])
    assert pipeline.translator is not None
    translated = pipeline.translator(small_embeds)
    nearest = labels[(translated @ embeds.T).argmax(1)]
    image_labels = _labels(data, _small_images(data, split))
    return {
        "audio of the demo classes": int(labeled.sum()),
        "CLAP accuracy": balanced_accuracy(logits[labeled].argmax(1), labels[labeled]),
        "CLAP accuracy among ESC-50's 50 categories": balanced_accuracy(
            esc50_logits.argmax(1), esc50_labels
        ),
        "image to audio retrieval accuracy": balanced_accuracy(nearest, image_labels),
    }


def _evaluate_image_to_audio(
    recipe: "Recipe", clap: ClapEncoder, pipeline: ImageToAudioPipeline, split: Split
) -> dict[str, float]:
    data, names, classifier = recipe.data, recipe.data.class_names, recipe.audio_classifier
    bank, rows, embeds = _sample_audio(recipe, clap, split)
    real = bank.batch(rows, CLIP_SAMPLES)
    real_accuracy = balanced_accuracy(classifier.predict(real), bank.labels[rows])

    def generator_accuracy(**options: Any) -> float:
        waveforms = _generate(pipeline, prompt_embeds=embeds, seed=1, **options)
        return balanced_accuracy(classifier.predict(waveforms), bank.labels[rows])

    first, best = generator_accuracy(num_candidates=1), generator_accuracy()

    images = _sample_images(data.images, split, names)
    labels = _labels(data, images)
    waveforms = _generate(pipeline, images=[image.load() for image in images], seed=0)
    predicted = classifier.predict(waveforms)
    counts = confusion_matrix(predicted, labels, len(names)).tolist()
    (recipe.folder / "confusion.png").write_bytes(charts.confusion_matrix(names, counts))

    firsts = [images[int(torch.where(labels == n)[0][0])].load() for n in range(len(names))]
    many = _generate(pipeline, images=[one for one in firsts for _ in range(SEEDS)], seed=2)
    spread = [_spread(classifier, part) for part in many.split(SEEDS)]
    real_spread = [
        _spread(classifier, real[bank.labels[rows] == label]) for label in range(len(names))
    ]
    return {
        "audio classifier accuracy, real audio": real_accuracy,
        "generator accuracy, one candidate": first,
        "generator accuracy, one candidate, relative to real audio": first / real_accuracy,
        "generator accuracy": best,
        "generator accuracy, relative to real audio": best / real_accuracy,
        "images": len(images),
        "image to audio accuracy": balanced_accuracy(predicted, labels),
        "image to audio accuracy against the next class": balanced_accuracy(
            predicted, (labels + 1) % len(names)
        ),
        "diversity, relative to real audio": float(np.mean(spread) / np.mean(real_spread)),
        **_similarity_to_training(recipe, pipeline, waveforms),
        "silent": int((waveforms.abs().amax(1) < 0.01).sum()),
        "clipped": int(((waveforms.abs() >= 0.999).float().mean(1) > 1e-3).sum()),
        "pure tones": int((_tonality(waveforms) > 0.5).sum()),
    }


def _generate(pipeline: ImageToAudioPipeline, *, seed: int, **inputs: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    waveforms = pipeline(**inputs, generator=generator, output_type="pt").audios
    assert isinstance(waveforms, Tensor)
    return waveforms[:, :CLIP_SAMPLES]


def _spread(classifier: AudioClassifier, waveforms: Tensor) -> float:
    """Compute the mean distance of waveforms in the classifier's feature space."""
    return F.pdist(classifier.encode(waveforms)).mean().item()


def _tonality(waveforms: Tensor) -> Tensor:
    """Compute the share of each waveform's power in its strongest 2 Hz."""
    power = torch.fft.rfft(waveforms).abs().square()
    return F.avg_pool1d(power, 11, 1).amax(1) * 11 / power.sum(1).clamp(min=1e-9)


def _similarity_to_training(
    recipe: "Recipe", pipeline: ImageToAudioPipeline, generated: Tensor
) -> dict[str, float]:
    """Compare generated with training audio, and training audio with its reconstructions.

    Both as waveforms and as log-mel spectrograms: the vocoder predicts its own phases, so that the
    waveform of a reconstruction differs.
    """
    bank = recipe.bank("train")
    known = bank.batch(torch.arange(len(bank)), CLIP_SAMPLES)
    sample = torch.arange(0, len(bank), max(len(bank) // 100, 1))
    vae: Any = pipeline.vae
    copies = []
    with torch.inference_mode():
        for part in known[sample].split(8):
            mels = log_mel(part).unsqueeze(1).to(vae.dtype)
            decoded = vae.decode(vae.encode(mels).latent_dist.mode()).sample
            copies.append(pipeline.vocoder(decoded.float()[:, 0])[:, :CLIP_SAMPLES])
    waveforms = known, torch.cat(copies), generated[:: max(len(generated) // 50, 1)]
    views = {
        "waveforms": lambda waveforms: waveforms.unsqueeze(1),
        "spectrograms": lambda waveforms: log_mel(waveforms).transpose(1, 2),
    }
    results = {}
    for name, view in views.items():
        training, copied, tried = (view(part) for part in waveforms)
        pairs = zip(copied.split(1), training[sample].split(1), strict=True)
        own = torch.cat([max_cross_correlation(copy, clip)[0] for copy, clip in pairs])
        nearest = max_cross_correlation(tried, training).amax(1)
        results |= {
            f"{name}: similarity of a training clip and its reconstruction, min": own.min().item(),
            f"{name}: similarity of a training clip and its reconstruction, median": (
                own.median().item()
            ),
            f"{name}: similarity to the nearest training clip, median": nearest.median().item(),
            f"{name}: similarity to the nearest training clip, max": nearest.max().item(),
        }
    return results


def max_cross_correlation(queries: Tensor, known: Tensor) -> Tensor:
    """Compute the maximum over time of the normalized cross-correlation of all pairs.

    Args:
        queries: Shape (n, channels, times): waveforms of one channel, or the bins of spectrograms.
        known: Shape (m, channels, times).

    Returns:
        Shape (n, m), from 0 to 1.
    """
    parts = [_padded_spectra(part).conj() for part in known.split(64)]
    return torch.stack(
        [
            torch.cat([torch.fft.irfft((one * part).sum(1)).abs().amax(1) for part in parts])
            for one in _padded_spectra(queries)
        ]
    )


def _padded_spectra(signals: Tensor) -> Tensor:
    """Center signals (n, channels, times) to unit norm, and transform them, zero-padded."""
    centered = signals - signals.mean(dim=2, keepdim=True)
    unit = F.normalize(centered.flatten(1), dim=1).view_as(signals)
    return torch.fft.rfft(unit, 2 * signals.shape[2])


def _evaluate_vocoder(recipe: "Recipe", vocoder: Any, split: Split) -> dict[str, float]:
    """Compare mel -> waveform -> mel with librosa's Griffin-Lim of 64 iterations."""
    import librosa  # pyright: ignore[reportMissingImports]

    bank = recipe.bank(split)
    real = bank.batch(torch.arange(0, len(bank), 6), CLIP_SAMPLES)
    mels = log_mel(real)
    with torch.inference_mode():
        ours = torch.cat([vocoder(part) for part in mels.split(8)])
    theirs = []
    for mel in mels.exp().transpose(1, 2).numpy():
        padded = np.concatenate([mel, mel[:, -1:]], axis=1)
        magnitudes = librosa.feature.inverse.mel_to_stft(
            padded, sr=SAMPLING_RATE, n_fft=WINDOW, power=1.0
        )
        waveform = librosa.griffinlim(
            magnitudes, n_iter=64, hop_length=HOP, n_fft=WINDOW, random_state=0
        )
        # Our frames are centered half a hop later than librosa's.
        theirs.append(torch.from_numpy(np.pad(waveform, (HOP // 2, HOP))[:CLIP_SAMPLES]))
    target = vocoder.stft(real).abs()
    results = {}
    for name, waveforms in (("vocoder", ours), ("Griffin-Lim", torch.stack(theirs))):
        error = (vocoder.stft(waveforms).abs() - target).norm(dim=(1, 2)) / target.norm(dim=(1, 2))
        results[f"{name}: log-mel L1"] = F.l1_loss(log_mel(waveforms), mels).item()
        results[f"{name}: spectral convergence"] = error.mean().item()
    return results


def _evaluate_audio_to_image(
    recipe: "Recipe", clip: ClipEncoder, clap: ClapEncoder, folder: Path, split: Split
) -> dict[str, float]:
    data, classifier = recipe.data, recipe.image_classifier
    # Without encoders, the pipeline would load the installed demo models.
    pipeline = AudioToImagePipeline.from_pretrained(folder, clap=clap, clip=clip)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.translator is not None
    images = _sample_images(data.images, split, data.class_names)
    loaded, labels = [image.load() for image in images], _labels(data, images)
    bank, rows, audio_embeds = _sample_audio(recipe, clap, split)
    sources = (
        ("images", clip.encode_image(loaded), labels),
        ("audio", pipeline.translator(audio_embeds), bank.labels[rows]),
    )
    results = {
        "image classifier accuracy, real images": balanced_accuracy(
            classifier.predict(loaded), labels
        )
    }
    for name, embeds, targets in sources:
        generator = torch.Generator().manual_seed(0)
        generated = pipeline(image_embeds=embeds, generator=generator).images
        assert isinstance(generated, list)
        accuracy = balanced_accuracy(classifier.predict(generated), targets)
        results[f"accuracy of images generated from {name}"] = accuracy
        _grid(generated, targets).save(recipe.folder / f"images_from_{name}.png")
    return results


def _grid(images: list[Image.Image], labels: Tensor) -> Image.Image:
    """Arrange images in a grid with one row per class."""
    rows = [torch.where(labels == label)[0].tolist() for label in labels.unique()]
    columns = min(len(row) for row in rows)
    return make_image_grid([images[n] for row in rows for n in row[:columns]], len(rows), columns)


def _labels(data: DemoData, images: list[DemoImage]) -> Tensor:
    return torch.tensor([data.class_names.index(image.label) for image in images])


def _small_images(data: DemoData, split: Split) -> list[DemoImage]:
    return [x for x in data.images if x.label and x.split == split and not x.full_size]


def _sample_audio(
    recipe: "Recipe", clap: ClapEncoder, split: Split
) -> tuple[AudioBank, Tensor, Tensor]:
    """Return the audio of a split, its first rows of each class, and their CLAP embeddings."""
    bank, classes = recipe.bank(split), range(len(recipe.data.classes))
    rows = torch.cat([torch.where(bank.labels == n)[0][:AUDIO_PER_CLASS] for n in classes])
    chosen = [recipe.data.audio[bank.indices[row]] for row in rows.tolist()]
    return bank, rows, clap.encode_audio([(read_audio(one), SAMPLING_RATE) for one in chosen])


def _sample_images(images: list[DemoImage], split: Split, names: list[str]) -> list[DemoImage]:
    """Return the first images of each class in a split."""
    by_name = {name: [x for x in images if x.label == name and x.split == split] for name in names}
    return [image for name in names for image in by_name[name][:IMAGES_PER_CLASS]]
