"""Metrics of the translators on real pairs of images and audio, with the demo encoders.

Translators are trained on captions of AudioCaps and Conceptual Captions, embedded as text on both
sides, and on pairs of an image and audio of its class; all are evaluated on pairs of the test
split. Some of them generate audio of test images. Every step is a `clip2clap` command, which is
printed.

    python benchmarks/results.py --data DATA -o results
"""

import json
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import soundfile
import typer
from pictures import write_folders

from clip2clap import ClapEncoder, ClipEncoder
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.evaluation.results import leaderboard
from clip2clap.training.recipes.demo.data import DemoData, Split

CAPTIONS = 10_000

# Images per class, and audio files that each is paired with.
TRAINED_IMAGES, TESTED_IMAGES = 40, 10
PARTNERS = {"train": 4, "test": 1}
# Translators by folder name: the table and the options of `clip2clap train`.
RUNS = {
    "pairs-mlp": "pairs-train",
    "pairs-mlp-random": "pairs-train --init random",
    "pairs-mlp-reference": "pairs-train --recipe reference",
    "pairs-mlp-contrastive": "pairs-train --loss contrastive",
    "pairs-mlp-bank": "pairs-train --loss bank",
    "pairs-mlp-cosine-and-bank": "pairs-train --loss cosine:1+bank:0.1",
    "pairs-residual": "pairs-train --architecture residual",
    "pairs-prior": "pairs-train --architecture prior",
    "pairs-ridge": "pairs-train --architecture ridge",
    "pairs-ridge-scaled": "pairs-train --architecture ridge --scale",
    "pairs-procrustes": "pairs-train --architecture procrustes",
    "pairs-procrustes-rank-20": "pairs-train --architecture procrustes --rank 20",
    "pairs-procrustes-rank-100": "pairs-train --architecture procrustes --rank 100",
    "pairs-unpaired": "pairs-train --architecture unpaired",
    "captions-mlp": "audiocaps",
    "captions-mlp-random": "audiocaps --init random",
    "captions-mlp-noise-0.03": "audiocaps --noise 0.03",
    "captions-mlp-noise-0.1": "audiocaps --noise 0.1",
    "captions-mlp-centered": "audiocaps --center yes",
    "captions-mlp-no-noise": "audiocaps --noise 0",
    "captions-mlp-no-noise-centered": "audiocaps --noise 0 --center yes",
    "captions-mlp-contrastive": "audiocaps --loss contrastive",
    "captions-residual": "audiocaps --architecture residual",
    "captions-residual-no-noise": "audiocaps --architecture residual --noise 0",
    "captions-prior": "audiocaps --architecture prior",
    "captions-prior-no-noise": "audiocaps --architecture prior --noise 0",
    "captions-ridge": "audiocaps --architecture ridge",
    "captions-ridge-no-noise": "audiocaps --architecture ridge --noise 0",
    "captions-procrustes": "audiocaps --architecture procrustes",
    "captions-procrustes-rank-20": "audiocaps --architecture procrustes --rank 20",
    "captions-procrustes-rank-100": "audiocaps --architecture procrustes --rank 100",
    "captions-unpaired": "audiocaps --architecture unpaired",
    "captions-then-pairs-mlp": (
        "pairs-train --learning-rate 1e-4 --init-from translators/captions-mlp"
    ),
}


# Translators that audio is generated with.
GENERATORS = ("captions-then-pairs-mlp", "pairs-mlp", "captions-mlp", "captions-mlp-no-noise")


def write_pairs(data: DemoData, folder: Path, split: Split) -> None:
    """Pair images of one split with audio of the same split and class."""
    if (folder / "state.json").is_file():
        return
    clip, clap = ClipEncoder.from_pretrained("demo"), ClapEncoder.from_pretrained("demo")
    draw = random.Random(0)
    images, audio = defaultdict(list), defaultdict(list)
    for index, image in enumerate(data.images):
        if image.split == split and image.label and not image.full_size:
            images[image.label].append(index)
    for index, one in enumerate(data.audio):
        if one.split == split and one.label:
            audio[one.label].append(index)
    count = TRAINED_IMAGES if split == "train" else TESTED_IMAGES
    chosen = {label: draw.sample(indices, count) for label, indices in images.items()}
    rows: list[tuple[int, int, str]] = [
        (image, draw.choice(audio[label]), label)
        for label in data.class_names
        for image in chosen[label]
        for _ in range(PARTNERS[split])
    ]
    used = [sorted({row[0] for row in rows}), sorted({row[1] for row in rows})]
    image_embeds = clip.encode_image([data.images[index].load() for index in used[0]])
    audio_embeds = clap.encode_audio([_read(data.audio[index].path) for index in used[1]])
    columns = {
        "item": [f"photo-{image}" for image, _, _ in rows],
        "label": [label for _, _, label in rows],
    }
    embeds = {
        "clip_image": image_embeds[[used[0].index(image) for image, _, _ in rows]],
        "clap_audio": audio_embeds[[used[1].index(audio) for _, audio, _ in rows]],
    }
    spaces = {"clip_image": clip.space("image"), "clap_audio": clap.space("audio")}
    with TableWriter(folder, spaces) as writer:
        writer.append([f"pair-{number}" for number in range(len(rows))], columns, embeds)


def _read(path: Path) -> tuple[Any, int]:
    return soundfile.read(path, dtype="float32")


def run(folder: Path, *arguments: str) -> None:
    """Print and run a clip2clap command in the folder of results."""
    print("clip2clap", " ".join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "clip2clap", *arguments], cwd=folder, check=True)


def write_tables(data: Path, folder: Path, needed: set[str]) -> None:
    """Write the tables to train on, of captions and pairs, and the one of test pairs."""
    captions = {
        "audiocaps": data / "audiocaps/train.csv",
        "conceptual-captions": next((data / "conceptual_captions").glob("*.tsv")),
    }
    for source in captions.keys() & needed:
        file = captions[source]
        pair = ("--captions", str(file.resolve()), "--pair", "caption-caption", "--demo")
        run(folder, "extract", source, *pair, "--limit", str(CAPTIONS), "-o", source)
    demo = DemoData(data)
    write_pairs(demo, folder / "pairs-test", "test")
    if "pairs-train" in needed:
        write_pairs(demo, folder / "pairs-train", "train")


def markdown(results: dict[str, Any]) -> str:
    """Format the metrics as a table, the best translator first."""
    part = results["embeddings"]
    ranked = leaderboard(part)
    titles = ["recall at 1", "at 10", "mean reciprocal rank", "cosine", "nearest class"]
    lines = ["| translator | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    rows = [(one["scores"]["name"], one["scores"]) for one in ranked]
    rows += [("*shuffled pairs*", ranked[0]["shuffled"]), ("*mean vector*", part["mean_vector"])]
    for name, scores in rows:
        forward = scores["forward"]
        cells = [
            percent(forward["recall_at_1"]),
            percent(forward["recall_at_10"]),
            f"{forward['mrr']['value']:.3f}",
            f"{scores['cosine']['value']:.3f}",
            percent(scores["nearest_label"]["accuracy"]),
        ]
        lines.append(f"| {name.removeprefix('translators/')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def audio_lines(part: dict[str, Any]) -> str:
    """Format the metrics of generated audio as a table, the controls last."""
    rows = [part["real"], *(one["scores"] for one in part["translators"])]
    rows += [{**part["translators"][0]["wrong_source"], "name": "*the first, wrong images*"}]
    titles = [
        "Fréchet",
        "kernel",
        "CLAP accuracy",
        "CLAP score",
        "translated similarity",
        "seconds",
    ]
    lines = ["| audio | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for scores in rows:
        distances, metrics = scores["distances"], scores["metrics"]
        cells = [f"{distances[key]:.3f}" for key in ("fd", "kd")]
        cells += [
            percent(metrics["classifier"]),
            *(
                f"{metrics[key]['value']:.3f}" if key in metrics else ""
                for key in ("clap_score", "translated_similarity")
            ),
        ]
        cells.append("" if scores["seconds"] is None else f"{scores['seconds']:.2f}")
        name = scores["name"].removeprefix("translators/")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def percent(estimate: dict[str, float]) -> str:
    """Format a share with half its interval."""
    return f"{100 * estimate['value']:.1f} ± {50 * (estimate['high'] - estimate['low']):.1f} %"


def evaluate(output: Path, folders: list[str], report: str) -> None:
    """Evaluate translators on the pairs of the test split, and write the table."""
    on = ("--table", "pairs-test", "--split", "all", "--label-column", "label")
    run(output, "evaluate", *folders, *on, "-o", report)
    results = json.loads((output / report / "results.json").read_text())
    (output / f"{report}.md").write_text(markdown(results))


def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Tables, translators, reports.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Train and evaluate these of RUNS, and no more.")
    ] = None,
) -> None:
    """Write the tables, train the translators, evaluate them, and write the results."""
    output.mkdir(parents=True, exist_ok=True)
    runs = {name: RUNS[name] for name in only or RUNS}
    tables = {arguments.split()[0] for arguments in runs.values()}
    write_tables(data, output, tables if only else tables | {"conceptual-captions"})
    for name, arguments in runs.items():
        run(output, "train", *arguments.split(), "-o", f"translators/{name}")
    if only:
        evaluate(output, [f"translators/{name}" for name in only], "report")
        return
    run(output, "sweep", "audiocaps", "--plus", "conceptual-captions", "-o", "sweep")
    models = [f"translators/{name}" for name in RUNS]
    swept = sorted(path.parent.name for path in (output / "sweep").glob("*/config.json"))
    evaluate(output, models, "report")
    evaluate(output, [f"sweep/{name}" for name in swept], "swept")
    write_folders(DemoData(data), output)
    made_with = [f"translators/{name}" for name in GENERATORS]
    folders = ("--image-dir", "starts", "--audio-dir", "recordings")
    run(output, "evaluate", *made_with, "--pipeline", "demo", *folders, "-o", "heard")
    results = json.loads((output / "heard" / "results.json").read_text())
    (output / "heard.md").write_text(audio_lines(results["audio"]))


if __name__ == "__main__":
    typer.run(main)
