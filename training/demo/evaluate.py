"""How good the demo models are, on photographs and recordings that training never saw."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from clip2clap.embeddings import ClapEncoder, ClipEncoder
from clip2clap.inference import ImageToAudioPipeline
from clip2clap.training.demo.data import Photo, Split, read_recording
from clip2clap.training.demo.judge import name_kinds
from clip2clap.training.demo.sounds import CLIP_SAMPLES

if TYPE_CHECKING:
    from clip2clap.training.demo.recipe import Recipe

PHOTOS_OF_A_KIND = 8


def balanced_accuracy(named: Tensor, kinds: Tensor) -> float:
    """Give the share named right, averaged over the kinds that occur.

    Args:
        named: Numbers of the kinds that were named, shape (n,).
        kinds: Numbers of the true kinds, shape (n,).
    """
    right = (named == kinds).float()
    return torch.stack([right[kinds == kind].mean() for kind in kinds.unique()]).mean().item()


def evaluate_demo(recipe: "Recipe", models: Path, *, split: Split = "validation") -> dict:
    """Measure the demo models and write the results beside the checkpoints.

    Args:
        recipe: The recipe, for its data and its judge.
        models: The folder of the demo models.
        split: Which photographs; the recordings are the test split's.

    Returns:
        What was measured; also written to `results.json` and, as a picture, `confusion.png`.
    """
    data, names = recipe.data, recipe.data.kind_names
    judge = recipe.judge
    clip = ClipEncoder.from_pretrained(str(models / "image_to_audio" / "clip"))
    clap = ClapEncoder.from_pretrained(str(models / "clap"))
    pipeline = ImageToAudioPipeline.from_pretrained(str(models / "image_to_audio"))
    pipeline.set_progress_bar_config(disable=True)

    photos = _photos(data.photos, split, names)
    kinds = torch.tensor([names.index(photo.kind) for photo in photos])
    images = [photo.image() for photo in photos]
    seen = clip.images(images) @ clip.texts([f"a photo of a {name}" for name in names]).T

    bank = recipe.bank("test")
    real = bank.batch(torch.arange(len(bank)), CLIP_SAMPLES)
    recordings = [data.recordings[number] for number in bank.numbers]
    waves = [(read_recording(recording), 16_000) for recording in recordings]
    sound_embeds = clap.audios(waves)
    heard = sound_embeds @ clap.texts([f"the sound of a {name}" for name in names]).T

    made = pipeline(images, generator=torch.Generator().manual_seed(0), output_type="pt")
    assert isinstance(made.audios, Tensor)
    nearest = bank.kinds[(made.audio_embeds @ sound_embeds.T).argmax(1)]
    named = name_kinds(judge, made.audios[:, :CLIP_SAMPLES])
    results = {
        "kinds": len(names),
        "chance": 1 / len(names),
        "photographs": len(photos),
        "recordings": len(bank),
        "CLIP names the photograph": balanced_accuracy(seen.argmax(1), kinds),
        "CLAP names the recording": balanced_accuracy(heard.argmax(1), bank.kinds),
        "translated photograph is nearest a recording of its kind": balanced_accuracy(
            nearest, kinds
        ),
        "judge names the real recording": balanced_accuracy(name_kinds(judge, real), bank.kinds),
        "judge names the photograph's sound": balanced_accuracy(named, kinds),
        "judge, sounds swapped between photographs": balanced_accuracy(
            named, (kinds + 1) % len(names)
        ),
        "silent": int((made.audios.abs().amax(1) < 0.01).sum()),
        "clipped": int(((made.audios.abs() >= 0.999).float().mean(1) > 1e-3).sum()),
    }
    (recipe.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _confusion(named, kinds, names).savefig(recipe.folder / "confusion.png", dpi=110)
    table = Table("measured", "value")
    for name, value in results.items():
        table.add_row(name, f"{value:.1%}" if isinstance(value, float) else str(value))
    Console().print(table)
    return results


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
