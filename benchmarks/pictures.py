"""What pictures of recordings the demo models make, and what round trips leave of the start.

Recordings and photographs of the test split, as many of a kind, in folders of their kinds. Every
step is a `clip2clap` command, which is printed; what the independent photo judge says, whose
checkpoint the recipe of the demo models writes, is added.

    python benchmarks/pictures.py --data DATA -o pictures
        --classifier runs/demo/photo_judge_run/checkpoint.pt
"""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from clip2clap.media.images import load_image
from clip2clap.training.recipes.demo.data import DemoData
from clip2clap.training.recipes.demo.image_classifier import PhotoJudge

RECORDINGS, PHOTOS, STARTS = 8, 10, 4
"""Of each kind: recordings, real photographs beside them, and photographs that become sounds."""


def write_folders(data: DemoData, folder: Path) -> None:
    """Write the first test recordings and photographs of each kind into folders."""
    counts: dict[str, int] = defaultdict(int)
    for recording in data.recordings:
        counts[recording.kind] += recording.split == "test"
        if recording.kind and recording.split == "test" and counts[recording.kind] <= RECORDINGS:
            place = folder / "recordings" / recording.kind
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(recording.path, place)
    counts.clear()
    for photo in data.photos:
        if not photo.kind or photo.split != "test" or photo.full_size:
            continue
        counts[photo.kind] += 1
        for name, most in (("photographs", PHOTOS), ("starts", STARTS)):
            if counts[photo.kind] <= most:
                place = folder / name / photo.kind
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{counts[photo.kind]:02d}.jpg").write_bytes(photo.jpeg)


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a clip2clap evaluation in a folder, show it, and read what it found."""
    print("clip2clap", " ".join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "clip2clap", *arguments], cwd=folder, check=True)
    return json.loads((folder / arguments[-1] / "results.json").read_text())


def judge_pictures(checkpoint: Path, kinds: list[str], folder: Path) -> dict[str, float]:
    """Give the shares of pictures whose kind the photo judge names.

    Args:
        checkpoint: What the recipe's stage `photo_judge` wrote.
        kinds: Their names, in the order of the recipe.
        folder: Where `run` wrote.

    Returns:
        Of real photographs, made pictures, and these held against another kind.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
    classifier = PhotoJudge(len(kinds))
    classifier.load_state_dict(
        {key[7:]: value for key, value in state.items() if key.startswith("module.")}
    )
    classifier.eval()

    def named(files: list[Path]) -> list[str]:
        return [kinds[n] for n in classifier.names([load_image(file) for file in files]).tolist()]

    real = sorted((folder / "photographs").rglob("*.jpg"))
    made = sorted((folder / "report/images/demo-back").glob("*.png"))
    truth = [path.parent.name for path in sorted((folder / "recordings").rglob("*.ogg"))]
    seen = named(made)
    after = {kind: kinds[(at + 1) % len(kinds)] for at, kind in enumerate(kinds)}
    return {
        "real photographs": share(named(real), [path.parent.name for path in real]),
        "made pictures": share(seen, truth),
        "held against the next kind": share(seen, [after[kind] for kind in truth]),
    }


def share(named: list[str], truth: list[str]) -> float:
    """Give the share of names that are right."""
    return sum(a == b for a, b in zip(named, truth, strict=True)) / len(truth)


def spread(figure: dict[str, float] | None, *, percent: bool = False) -> str:
    """Write a figure with half its interval."""
    if figure is None:
        return ""
    half = (figure["high"] - figure["low"]) / 2
    if percent:
        return f"{100 * figure['value']:.1f} ± {100 * half:.1f} %"
    return f"{figure['value']:.3f} ± {half:.3f}"


def picture_lines(part: dict[str, Any]) -> list[str]:
    """Lay the figures of pictures out as a table."""
    (one,) = part["translators"]
    lines = [
        "| | pictures | Fréchet | kernel | named right by CLIP | translated vector | true pictures "
        "| seconds |",
        "|---" * 8 + "|",
    ]
    for name, scores in (
        ("real photographs", part["real"]),
        ("made of recordings", one["scores"]),
        ("*held against a wrong sound*", one["wrong_source"]),
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
    """Lay the figures of round trips out as a table."""
    lines = ["| | similarity to the start | nearest kind |", "|---" * 3 + "|"]
    for title, trip in trips.items():
        for name, key in (
            (title, "scores"),
            ("*held against a wrong start*", "wrong_source"),
            ("*other real ones of the kind*", "real"),
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
    classifier: Annotated[
        Path | None, typer.Option(help="Checkpoint of the recipe's photo judge.")
    ] = None,
) -> None:
    """Make pictures of recordings and sounds of photographs, go back, and write results.md."""
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
        "recording, picture, sound": there["translators"][0]["round_trip"],
        "photograph, sound, picture": other["translators"][0]["round_trip"],
    }
    lines = [*picture_lines(there), "", *trip_lines(trips)]
    if classifier is not None:
        said = judge_pictures(classifier, demo.kind_names, output)
        lines += ["", "| photo judge | named right |", "|---|---|"]
        lines += [f"| {name} | {100 * value:.1f} % |" for name, value in said.items()]
    (output / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
