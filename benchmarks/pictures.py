"""Metrics of images that the demo models generate from audio, and of round trips.

Test audio and images, as many of each class, are written to one folder per class. Every step is a
`clip2clap` command, which is printed. With `--recipe`, the accuracy of the recipe's independent
image classifier is added.

    python benchmarks/pictures.py --data DATA -o pictures --recipe runs/demo
"""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clip2clap.media.images import load_image
from clip2clap.training.recipes.demo.data import DemoData
from clip2clap.training.recipes.demo.recipe import Recipe

# Per class: audio files, real images beside them, and images to generate audio from.
RECORDINGS, PHOTOS, STARTS = 8, 10, 4


def write_folders(data: DemoData, folder: Path) -> None:
    """Write the first test audio files and images of each class into folders."""
    counts: dict[str, int] = defaultdict(int)
    for audio in data.audio:
        counts[audio.label] += audio.split == "test"
        if audio.label and audio.split == "test" and counts[audio.label] <= RECORDINGS:
            place = folder / "recordings" / audio.label
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(audio.path, place)
    counts.clear()
    for image in data.images:
        if not image.label or image.split != "test" or image.full_size:
            continue
        counts[image.label] += 1
        for name, most in (("photographs", PHOTOS), ("starts", STARTS)):
            if counts[image.label] <= most:
                place = folder / name / image.label
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{counts[image.label]:02d}.jpg").write_bytes(image.jpeg)


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Print and run a clip2clap evaluation in a folder, and return its results."""
    print("clip2clap", " ".join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "clip2clap", *arguments], cwd=folder, check=True)
    return json.loads((folder / arguments[-1] / "results.json").read_text())


def classify_images(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Compute the accuracy of the independent image classifier.

    Args:
        recipe: The recipe; its classifier is trained if it has none.
        folder: Output folder of `run`.

    Returns:
        Accuracy on real images, on generated ones, and on generated ones against the next class.
    """
    classifier, classes = recipe.image_classifier, recipe.data.class_names

    def predict(files: list[Path]) -> list[str]:
        return [classes[n] for n in classifier.predict([load_image(f) for f in files]).tolist()]

    real = sorted((folder / "photographs").rglob("*.jpg"))
    generated = sorted((folder / "report/images/demo-back").glob("*.png"))
    labels = [path.parent.name for path in sorted((folder / "recordings").rglob("*.ogg"))]
    predicted = predict(generated)
    following = dict(zip(classes, [*classes[1:], classes[0]], strict=True))
    return {
        "real images": accuracy(predict(real), [path.parent.name for path in real]),
        "generated images": accuracy(predicted, labels),
        "against the next class": accuracy(predicted, [following[label] for label in labels]),
    }


def accuracy(predicted: list[str], labels: list[str]) -> float:
    """Return the share of predictions that are right."""
    return sum(a == b for a, b in zip(predicted, labels, strict=True)) / len(labels)


def spread(estimate: dict[str, float] | None, *, percent: bool = False) -> str:
    """Format an estimate with half its interval."""
    if estimate is None:
        return ""
    half = (estimate["high"] - estimate["low"]) / 2
    if percent:
        return f"{100 * estimate['value']:.1f} ± {100 * half:.1f} %"
    return f"{estimate['value']:.3f} ± {half:.3f}"


def image_lines(part: dict[str, Any]) -> list[str]:
    """Format the metrics of generated images as a table."""
    (one,) = part["translators"]
    lines = [
        "| | images | Fréchet | kernel | CLIP accuracy | translated similarity | real similarity "
        "| seconds |",
        "|---" * 8 + "|",
    ]
    for name, scores in (
        ("real images", part["real"]),
        ("generated from audio", one["scores"]),
        ("*against the wrong audio*", one["wrong_source"]),
    ):
        seconds = "" if scores["seconds"] is None else f"{scores['seconds']:.2f}"
        distances, metrics = scores["distances"], scores["metrics"]
        lines.append(
            f"| {name} | {scores['files']} | {distances['fd']:.3f} | {distances['kd']:.3f} | "
            f"{spread(metrics.get('classifier'), percent=True)} | "
            f"{spread(metrics.get('translated_similarity'))} | "
            f"{spread(metrics.get('real_similarity'))} | {seconds} |"
        )
    return lines


def trip_lines(trips: dict[str, dict[str, Any]]) -> list[str]:
    """Format the metrics of round trips as a table."""
    lines = ["| | similarity to the start | nearest class |", "|---" * 3 + "|"]
    for title, trip in trips.items():
        for name, key in (
            (title, "scores"),
            ("*against the wrong start*", "wrong_source"),
            ("*other real items of the class*", "real"),
        ):
            scores = trip[key]
            lines.append(
                f"| {name} | {spread(scores['similarity'])} | "
                f"{spread(scores['nearest_label'], percent=True)} |"
            )
    return lines


def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folders and reports.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Folder of the demo recipe, for its image classifier.")
    ] = None,
) -> None:
    """Generate images from audio and audio from images, go back, and write results.md."""
    demo = DemoData(data)
    write_folders(demo, output)
    there = run(
        output,
        *("evaluate", "demo-back", "--pipeline", "demo", "--audio-dir", "recordings"),
        *("--image-dir", "photographs", "--round-trip", "demo", "--contact-sheet", "-o", "report"),
    )["images"]
    other = run(
        output,
        *("evaluate", "demo", "--pipeline", "demo", "--image-dir", "starts"),
        *("--round-trip", "demo", "-o", "report-of-sounds"),
    )["audio"]
    trips = {
        "audio, image, audio": there["translators"][0]["round_trip"],
        "image, audio, image": other["translators"][0]["round_trip"],
    }
    lines = [*image_lines(there), "", *trip_lines(trips)]
    if recipe is not None:
        shares = classify_images(Recipe(demo, recipe), output)
        lines += ["", "| image classifier | accuracy |", "|---|---|"]
        lines += [f"| {name} | {100 * value:.1f} % |" for name, value in shares.items()]
    (output / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
