"""How good the demo models are, on photographs and recordings that training never saw."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils import make_image_grid
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.classification import balanced_accuracy
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, SoundBank
from clip2clap.training.recipes.demo.audio_classifier import Classifier, name_kinds, sound_features
from clip2clap.training.recipes.demo.data import DemoData, Photo, Split, read_recording
from clip2clap.training.recipes.demo.features import random_window
from clip2clap.training.recipes.demo.heads import label_of, sound_labels
from clip2clap.training.recipes.demo.mel import HOP, WINDOW, log_mel, mel_filters
from clip2clap.training.recipes.demo.phrases import UNSEEN

if TYPE_CHECKING:
    from clip2clap.training.recipes.demo.recipe import Recipe

PHOTOS_OF_A_KIND, RECORDINGS_OF_A_KIND, SEEDS = 9, 8, 8
WINDOWS = 4


def evaluate_demo(recipe: "Recipe", models: Path, *, split: Split = "test") -> dict[str, float]:
    """Measure the demo models and write the results beside the checkpoints.

    Args:
        recipe: The recipe, for its data and its judges.
        models: The folder of the demo models.
        split: Which photographs and recordings.

    Returns:
        What was measured; also written to `results.json` and, as a picture, `confusion.png`.
    """
    clip = ClipEncoder.from_pretrained(str(models / "image_to_audio" / "clip"))
    clap = ClapEncoder.from_pretrained(str(models / "clap"))
    # The pipeline would look for its CLAP among the models that are installed.
    folder = str(models / "image_to_audio")
    pipeline = ImageToAudioPipeline.from_pretrained(folder, ranker=clap)
    pipeline.set_progress_bar_config(disable=True)
    small_embeds = clip.encode_image([photo.image() for photo in _small_photos(recipe.data, split)])
    results: dict[str, float] = {}
    for part in (
        lambda: _seeing(recipe, clip, small_embeds, split),
        lambda: _words(recipe, clip, clap),
        lambda: _hearing(recipe, small_embeds, clap, pipeline, split),
        lambda: _vocoder(recipe, pipeline.vocoder, split),
        lambda: _painting(recipe, clip, clap, models / "audio_to_image", split),
        lambda: _sounding(recipe, clap, pipeline, split),
    ):
        # Written part by part: the later ones take minutes.
        results |= part()
        (recipe.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = Table("measured", "value")
    for name, value in results.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)
    return results


def _seeing(
    recipe: "Recipe", clip: ClipEncoder, small_embeds: Tensor, split: Split
) -> dict[str, float]:
    data, names = recipe.data, recipe.data.kind_names
    texts = clip.encode_text([f"a photo of a {name}" for name in names])

    def named_right(photos: list[Photo], embeds: Tensor) -> float:
        named = (embeds @ texts.T).argmax(1)
        return balanced_accuracy(named, torch.tensor([names.index(p.kind) for p in photos]))

    small = _small_photos(data, split)
    large = [photo for photo in data.photos if photo.full_size and photo.split == split]
    large_kinds = [photo for photo in large if photo.kind]
    rng = np.random.default_rng(0)
    windows = [photo for photo in large_kinds for _ in range(WINDOWS)]
    classes = clip.encode_text([f"a photo of a {name}" for name in data.imagenet_names])
    large_embeds = clip.encode_image([photo.image() for photo in large])
    named = (large_embeds @ classes.T).argmax(1).tolist()
    right = [
        data.imagenet_names[n] == photo.class_name for n, photo in zip(named, large, strict=True)
    ]
    return {
        "small photographs": len(small),
        "CLIP names the kind, small photographs": named_right(small, small_embeds),
        "full-size photographs of the kinds": len(large_kinds),
        "CLIP names the kind, full-size photographs": named_right(
            large_kinds, large_embeds[[bool(photo.kind) for photo in large]]
        ),
        "CLIP names the kind, windows of full-size photographs": named_right(
            windows, clip.encode_image([random_window(photo.image(), rng) for photo in windows])
        ),
        "full-size photographs": len(large),
        "CLIP names the class among ImageNet's 1,000, full-size": sum(right) / len(right),
    }


def _words(recipe: "Recipe", clip: ClipEncoder, clap: ClapEncoder) -> dict[str, float]:
    names = recipe.data.kind_names
    words = [word for name in names for word in UNSEEN[name]]
    kinds = torch.tensor([number for number, name in enumerate(names) for _ in UNSEEN[name]])
    return {
        "unseen words": len(words),
        **{
            f"{encoder} names the kind of unseen words": balanced_accuracy(
                (
                    model.encode_text(words)
                    @ model.encode_text([prompt.format(n) for n in names]).T
                ).argmax(1),
                kinds,
            )
            for encoder, model, prompt in (
                ("CLIP", clip, "a photo of a {}"),
                ("CLAP", clap, "the sound of a {}"),
            )
        },
    }


def _hearing(
    recipe: "Recipe",
    small_embeds: Tensor,
    clap: ClapEncoder,
    pipeline: ImageToAudioPipeline,
    split: Split,
) -> dict[str, float]:
    data, names = recipe.data, recipe.data.kind_names
    recordings = [recording for recording in data.recordings if recording.split == split]
    embeds = clap.encode_audio([(read_recording(recording), 16_000) for recording in recordings])
    labels = sound_labels(data)
    truth = torch.tensor([label_of(recording, labels) for recording in recordings])
    of_kind = truth < len(names)
    heard = embeds @ clap.encode_text([f"the sound of a {label}" for label in names]).T
    esc50 = torch.tensor([recording.path.parent.name == "esc50" for recording in recordings])
    categories = sorted({recordings[n].label for n in torch.where(esc50)[0].tolist()})
    told = clap.encode_text([f"the sound of a {name.replace('_', ' ')}" for name in categories])
    wanted = torch.tensor([categories.index(recordings[n].label) for n in torch.where(esc50)[0]])
    kinds = torch.tensor([names.index(photo.kind) for photo in _small_photos(data, split)])
    assert pipeline.translator is not None
    translated = pipeline.translator(small_embeds)
    nearest = truth[(translated @ embeds.T).argmax(1)]
    return {
        "recordings of the kinds": int(of_kind.sum()),
        "CLAP names the kind": balanced_accuracy(heard[of_kind].argmax(1), truth[of_kind]),
        "CLAP names the category among ESC-50's 50": balanced_accuracy(
            (embeds[esc50] @ told.T).argmax(1), wanted
        ),
        "the recording nearest to a photograph is of its kind": balanced_accuracy(nearest, kinds),
    }


def _sounding(
    recipe: "Recipe", clap: ClapEncoder, pipeline: ImageToAudioPipeline, split: Split
) -> dict[str, float]:
    data, names, classifier = recipe.data, recipe.data.kind_names, recipe.classifier
    bank, rows, vectors = _some_recordings(recipe, clap, split)
    real = bank.batch(rows, CLIP_SAMPLES)
    real_named = balanced_accuracy(name_kinds(classifier, real), bank.kinds[rows])

    def alone(**options: Any) -> float:
        made = _make(pipeline, prompt_embeds=vectors, seed=1, **options)
        return balanced_accuracy(name_kinds(classifier, made), bank.kinds[rows])

    first_named, best_named = alone(num_candidates=1), alone()

    photos = _photos(data.photos, split, names)
    kinds = torch.tensor([names.index(photo.kind) for photo in photos])
    made = _make(pipeline, images=[photo.image() for photo in photos], seed=0)
    named = name_kinds(classifier, made)
    _confusion(named, kinds, names).savefig(recipe.folder / "confusion.png", dpi=110)

    firsts = [photos[int(torch.where(kinds == kind)[0][0])].image() for kind in range(len(names))]
    many = _make(pipeline, images=[image for image in firsts for _ in range(SEEDS)], seed=2)
    spread = [_spread(classifier, part) for part in many.split(SEEDS)]
    spread_real = [
        _spread(classifier, real[bank.kinds[rows] == kind]) for kind in range(len(names))
    ]
    return {
        "judge names the kind of a real recording": real_named,
        "generator alone, one candidate, judge": first_named,
        "generator alone, one candidate, share of the real": first_named / real_named,
        "generator alone, judge": best_named,
        "generator alone, share of the real recordings' accuracy": best_named / real_named,
        "photographs": len(photos),
        "photograph to sound, judge": balanced_accuracy(named, kinds),
        "photograph to sound, held against the next kind": balanced_accuracy(
            named, (kinds + 1) % len(names)
        ),
        "variety, share of real recordings'": float(np.mean(spread) / np.mean(spread_real)),
        **_copies(recipe, pipeline, made),
        "silent": int((made.abs().amax(1) < 0.01).sum()),
        "clipped": int(((made.abs() >= 0.999).float().mean(1) > 1e-3).sum()),
        "pure tones": int((_tonality(made) > 0.5).sum()),
    }


def _make(pipeline: ImageToAudioPipeline, *, seed: int, **what: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = pipeline(**what, generator=generator, output_type="pt").audios
    assert isinstance(made, Tensor)
    return made[:, :CLIP_SAMPLES]


def _spread(classifier: Classifier, waveforms: Tensor) -> float:
    """Give the mean distance between sounds in the judge's feature space."""
    return F.pdist(sound_features(classifier, waveforms)).mean().item()


def _tonality(waveforms: Tensor) -> Tensor:
    """Give the share of a sound's power in its strongest 2 Hz."""
    power = torch.fft.rfft(waveforms).abs().square()
    return F.avg_pool1d(power, 11, 1).amax(1) * 11 / power.sum(1).clamp(min=1e-9)


def _copies(recipe: "Recipe", pipeline: ImageToAudioPipeline, made: Tensor) -> dict[str, float]:
    """Hold sounds against all training recordings, and some of these against their own copies.

    Both as waveforms and as log-mel spectrograms: the vocoder makes phases of its own, so that the
    waveform of a copy is another.
    """
    bank, filters = recipe.bank("train"), mel_filters()
    known = bank.batch(torch.arange(len(bank)), CLIP_SAMPLES)
    sample = torch.arange(0, len(bank), max(len(bank) // 100, 1))
    vae: Any = pipeline.vae
    copies = []
    with torch.inference_mode():
        for part in known[sample].split(8):
            mels = log_mel(part, filters).unsqueeze(1).to(vae.dtype)
            decoded = vae.decode(vae.encode(mels).latent_dist.mode()).sample
            copies.append(pipeline.vocoder(decoded.float()[:, 0])[:, :CLIP_SAMPLES])
    sounds = known, torch.cat(copies), made[:: max(len(made) // 50, 1)]
    views = {
        "waveforms": lambda waveforms: waveforms.unsqueeze(1),
        "spectrograms": lambda waveforms: log_mel(waveforms, filters).transpose(1, 2),
    }
    results = {}
    for name, view in views.items():
        clips, copied, tried = (view(waveforms) for waveforms in sounds)
        pairs = zip(copied.split(1), clips[sample].split(1), strict=True)
        own = torch.cat([likeness(copy, clip)[0] for copy, clip in pairs])
        highest = likeness(tried, clips).amax(1)
        results |= {
            f"{name}: likeness of a training clip and its own copy, lowest": own.min().item(),
            f"{name}: of a training clip and its own copy, median": own.median().item(),
            f"{name}: of a made clip and the likest training clip, median": highest.median().item(),
            f"{name}: of a made clip and the likest training clip, highest": highest.max().item(),
        }
    return results


def likeness(made: Tensor, known: Tensor) -> Tensor:
    """Find the highest normalised cross-correlation in time of each sound with each known one.

    Args:
        made: Shape (n, channels, times): waveforms of one channel, or the bins of spectrograms.
        known: Shape (m, channels, times).

    Returns:
        Shape (n, m), from 0 to 1.
    """
    parts = [_spectra(part).conj() for part in known.split(64)]
    return torch.stack(
        [
            torch.cat([torch.fft.irfft((one * part).sum(1)).abs().amax(1) for part in parts])
            for one in _spectra(made)
        ]
    )


def _spectra(sounds: Tensor) -> Tensor:
    """Transform sounds (n, channels, times) of unit norm, with as much silence behind them."""
    centred = sounds - sounds.mean(dim=2, keepdim=True)
    unit = F.normalize(centred.flatten(1), dim=1).view_as(sounds)
    return torch.fft.rfft(unit, 2 * sounds.shape[2])


def _vocoder(recipe: "Recipe", vocoder: Any, split: Split) -> dict[str, float]:
    """Compare mel -> waveform -> mel with librosa's Griffin-Lim of 64 iterations."""
    import librosa  # pyright: ignore[reportMissingImports]

    bank, filters = recipe.bank(split), mel_filters()
    real = bank.batch(torch.arange(0, len(bank), 6), CLIP_SAMPLES)
    mels = log_mel(real, filters)
    with torch.inference_mode():
        ours = torch.cat([vocoder(part) for part in mels.split(8)])
    theirs = []
    for mel in mels.exp().transpose(1, 2).numpy():
        padded = np.concatenate([mel, mel[:, -1:]], axis=1)
        magnitudes = librosa.feature.inverse.mel_to_stft(padded, sr=16_000, n_fft=WINDOW, power=1.0)
        waveform = librosa.griffinlim(
            magnitudes, n_iter=64, hop_length=HOP, n_fft=WINDOW, random_state=0
        )
        # Our frames are centred half a hop later than librosa's.
        theirs.append(torch.from_numpy(np.pad(waveform, (HOP // 2, HOP))[:CLIP_SAMPLES]))
    wanted = vocoder.stft(real).abs()

    def measure(made: Tensor) -> tuple[float, float]:
        away = (vocoder.stft(made).abs() - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))
        return F.l1_loss(log_mel(made, filters), mels).item(), away.mean().item()

    results = {}
    for name, made in (("vocoder", ours), ("Griffin-Lim", torch.stack(theirs))):
        distance, convergence = measure(made)
        results[f"{name}: log-mel L1"] = distance
        results[f"{name}: spectral convergence"] = convergence
    return results


def _painting(
    recipe: "Recipe", clip: ClipEncoder, clap: ClapEncoder, folder: Path, split: Split
) -> dict[str, float]:
    data, names, classifier = recipe.data, recipe.data.kind_names, recipe.photo_judge
    # Its own encoders would be looked for among the models that are installed.
    pipeline = AudioToImagePipeline.from_pretrained(folder, clap=clap, clip=clip)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.translator is not None
    photos = _photos(data.photos, split, names)
    kinds = torch.tensor([names.index(photo.kind) for photo in photos])
    bank, rows, heard = _some_recordings(recipe, clap, split)
    vectors = {
        "photographs": clip.encode_image([photo.image() for photo in photos]),
        "recordings": pipeline.translator(heard),
    }
    results = {
        "photo judge names the kind of a real photograph": balanced_accuracy(
            classifier.names([photo.image() for photo in photos]), kinds
        )
    }
    for (name, embeds), truth in zip(vectors.items(), (kinds, bank.kinds[rows]), strict=True):
        generator = torch.Generator().manual_seed(0)
        painted = pipeline(image_embeds=embeds, generator=generator).images
        assert isinstance(painted, list)
        named = classifier.names(painted)
        results[f"pictures made from {name}, photo judge"] = balanced_accuracy(named, truth)
        _sheet(painted, truth).save(recipe.folder / f"pictures_from_{name}.png")
    return results


def _sheet(pictures: list[Image.Image], kinds: Tensor) -> Image.Image:
    """Lay pictures out: a row for each kind."""
    rows = [torch.where(kinds == kind)[0].tolist() for kind in kinds.unique()]
    widest = min(len(row) for row in rows)
    return make_image_grid([pictures[n] for row in rows for n in row[:widest]], len(rows), widest)


def _small_photos(data: DemoData, split: Split) -> list[Photo]:
    return [p for p in data.photos if p.kind and p.split == split and not p.full_size]


def _some_recordings(
    recipe: "Recipe", clap: ClapEncoder, split: Split
) -> tuple[SoundBank, Tensor, Tensor]:
    """Choose recordings, as many of each kind as there are up to a number.

    Returns:
        The recordings of the split, the rows chosen, and the CLAP vectors of these.
    """
    bank, recordings = recipe.bank(split), recipe.data.recordings
    kinds = range(len(recipe.data.kinds))
    rows = torch.cat([torch.where(bank.kinds == kind)[0][:RECORDINGS_OF_A_KIND] for kind in kinds])
    waves = [read_recording(recordings[bank.numbers[row]]) for row in rows.tolist()]
    return bank, rows, clap.encode_audio([(wave, 16_000) for wave in waves])


def _photos(photos: list[Photo], split: Split, kinds: list[str]) -> list[Photo]:
    """Choose photographs: as many of each kind, the first of the split."""
    of_kind = {kind: [p for p in photos if p.kind == kind and p.split == split] for kind in kinds}
    return [photo for kind in kinds for photo in of_kind[kind][:PHOTOS_OF_A_KIND]]


def _confusion(named: Tensor, kinds: Tensor, names: list[str]) -> Figure:
    counts = torch.zeros(len(names), len(names))
    counts.index_put_((kinds, named), torch.ones(len(kinds)), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="magma_r", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("what the judge hears in the sound")
    axes.set_ylabel("what the photograph shows")
    figure.colorbar(image, label="share of the photographs", shrink=0.8)
    return figure
