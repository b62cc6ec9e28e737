"""Quality of the demo generator against steps, solver, guidance, caching and candidates.

Audio is generated from photographs of the demo classes, a number of each, with the same seeds for
all settings. Each is scored by the demo recipe's audio classifier, which shares no weights with the
models, and by the Fréchet distance of its features to those of real test recordings, which depends
on the numbers of both. Settings are chosen on validation photographs and confirmed on others
(`--split test --only`). Finished settings are kept in `OUTPUT/quality.json`, so that a stopped run
goes on.

    python benchmarks/quality.py --data DATA --recipe RECIPE -o OUTPUT
"""

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, cast

import diffusers
import torch
import typer
from scipy.stats import binomtest
from torch import Tensor

from clip2clap import ImageToAudioPipeline
from clip2clap.inference.schedulers import replace_solver
from clip2clap.metrics.distribution import frechet_distance
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES
from clip2clap.training.recipes.demo.data import DemoData, Split
from clip2clap.training.recipes.demo.recipe import Recipe

STEPS = (4, 6, 8, 10, 15, 25, 50)
SOLVERS = {
    "DPM++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "DDIM": ("DDIMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}
GUIDED = (0.0, 0.25, 1.0)
CACHED = (2, 3)
CANDIDATES = (1, 2, 4, 8, 16)
# Candidates that are ranked, and how.
RANKED = 4
RANKINGS: dict[str, dict[str, Any]] = {
    "drafts": {"draft_candidates": True},
    "audio": {"draft_candidates": False},
    "drafts of 8 steps": {"draft_candidates": True, "num_inference_steps": 8},
}
# Of the demo models.
USUAL_STEPS = 10


class Study:
    """Demo generator, its judge, and the photographs to generate from.

    Args:
        recipe: Demo recipe, for its data and classifier.
        split: Split of the photographs.
        per_class: Photographs of each class.
        folder: Folder of the results.
        only: Settings to run; all if empty.
    """

    def __init__(
        self, recipe: Recipe, split: Split, per_class: int, folder: Path, only: Collection[str]
    ):
        self.pipeline: Any = ImageToAudioPipeline.from_pretrained("demo")
        self.pipeline.set_progress_bar_config(disable=True)
        self.classifier, self.only = recipe.audio_classifier, only
        self.head: Any = self.classifier.head
        names = recipe.data.class_names
        found = [image for image in recipe.data.images if image.split == split and image.label]
        images = [[each for each in found if each.label == name][:per_class] for name in names]
        chosen = [image for one_class in images for image in one_class]
        self.labels = torch.tensor([names.index(image.label) for image in chosen])
        embeds = self.pipeline.encode_image([image.load() for image in chosen])
        self.embeds = self.pipeline.translate(embeds)
        self.file = folder / "quality.json"
        self.results: dict[str, Any] = {}
        if self.file.is_file():
            self.results = json.loads(self.file.read_text())
        bank = recipe.bank("test")
        real = bank.batch(torch.arange(len(bank)), CLIP_SAMPLES)
        self.real = self.classifier.encode(real)
        right = self.head(self.real).argmax(1) == bank.labels
        self.keep("real recordings", {**accuracy(right), "frechet": 0.0})

    def keep(self, name: str, result: dict[str, Any]) -> None:
        """Write a result beside the others, and print it."""
        self.results[name] = result
        self.file.write_text(json.dumps(self.results) + "\n")
        shown = {key: value for key, value in result.items() if key != "right"}
        typer.echo(f"{name}: {json.dumps(shown)}")

    def wants(self, name: str) -> bool:
        """Return True for a setting that is to be run, and was not."""
        return name not in self.results and (not self.only or name in self.only)

    def score(self, waveforms: Tensor) -> dict[str, Any]:
        """Return the classifier's accuracy with its 95 % interval, and the Fréchet distance."""
        features = self.classifier.encode(waveforms)
        right = self.head(features).argmax(1) == self.labels
        distance = frechet_distance(features.numpy(), self.real.numpy())
        return {**accuracy(right), "frechet": distance, "right": right.int().tolist()}

    def generate(self, count: int = 1, **options: Any) -> tuple[Tensor, float]:
        """Return `count` waveforms per photograph, side by side, and the CPU seconds of one."""
        # The first of several is the one that is generated alone.
        seeds = [1000 * n + k for n in range(len(self.labels)) for k in range(count)]
        options = {"num_candidates": 1, "generator": seeds, "output_type": "pt", **options}
        embeds = self.embeds.repeat_interleave(count, 0)
        start = time.process_time()
        waveforms = self.pipeline(prompt_embeds=embeds, **options).audios[:, :CLIP_SAMPLES]
        return waveforms, (time.process_time() - start) / len(waveforms)

    def run(self, name: str, **options: Any) -> None:
        """Generate and score with options of the call, unless done."""
        if self.wants(name):
            waveforms, seconds = self.generate(**options)
            self.keep(name, {**self.score(waveforms), "seconds": seconds})

    def run_solver(self, name: str) -> None:
        """Generate and score with a solver, unless done."""
        class_name, settings = SOLVERS[name]
        usual = self.pipeline.scheduler
        self.pipeline.scheduler = replace_solver(usual, getattr(diffusers, class_name), **settings)
        self.run(f"solver {name}", num_inference_steps=USUAL_STEPS)
        self.pipeline.scheduler = usual

    def run_candidates(self, counts: tuple[int, ...]) -> None:
        """Score the best of several numbers of candidates, all from one generation."""
        names = {count: f"candidates {count}" for count in counts}
        if not any(map(self.wants, names.values())):
            return
        waveforms, seconds = self.generate(counts[-1])
        _, similarities = self.pipeline.rank(waveforms, self.embeds)
        items = torch.arange(len(self.labels)) * counts[-1]
        for count, name in names.items():
            best = waveforms[items + similarities[:, :count].argmax(1)]
            self.keep(name, {**self.score(best), "seconds": seconds * count})

    def run_ranking(self, count: int) -> None:
        """Score the best of some candidates as ranking finds it by drafts and by whole audio."""
        # One seed an item, so that all rank the same candidates.
        usual = {"num_candidates": count, "generator": list(range(len(self.labels)))}
        for name, options in RANKINGS.items():
            self.run(f"ranked {name}", **usual, **options)


def accuracy(right: Tensor) -> dict[str, Any]:
    """Return the share of right answers with its 95 % interval by Wilson, and their number."""
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    share = right.float().mean().item()
    return {"accuracy": share, "interval": [interval.low, interval.high], "count": len(right)}


def table(results: dict[str, Any], usual: str) -> str:
    """Return results as a table, with the p-value of an exact McNemar test against one of them."""
    lines = ["| setting | accuracy | p | Fréchet distance | CPU seconds |", "|---|---|---|---|---|"]
    base = results.get(usual, {}).get("right")
    for name, each in results.items():
        low, high = (100 * side for side in each["interval"])
        p = ""
        if base is not None and name != usual and "right" in each:
            pairs = list(zip(base, each["right"], strict=True))
            lost, won = pairs.count((1, 0)), pairs.count((0, 1))
            p = f"{binomtest(won, won + lost).pvalue:.2f}" if won + lost else "1.00"
        seconds = f"{each['seconds']:.2f}" if "seconds" in each else ""
        shown = f"{100 * each['accuracy']:.1f} % ({low:.0f} to {high:.0f})"
        lines.append(f"| {name} | {shown} | {p} | {each['frechet']:.2f} | {seconds} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy and Fréchet distance against steps, solver, guidance and candidates."""
    import matplotlib.pyplot as plt

    # Of each axis: its label, and what the usual setting is there.
    axes_of = {
        "steps": ("steps", None),
        "cached": ("cache interval", "1"),
        "guided": ("guided share of the steps", "0.5"),
        "solver": ("solver", "DPM++ SDE"),
        "candidates": ("candidates", None),
    }
    figure, axes = plt.subplots(
        2, len(axes_of), figsize=(14, 5.5), sharey="row", layout="constrained", squeeze=False
    )
    real = 100 * results["real recordings"]["accuracy"]
    for column, (axis, (label, usual)) in enumerate(axes_of.items()):
        found = {k.removeprefix(f"{axis} "): v for k, v in results.items() if k.startswith(axis)}
        if usual is not None:
            found[usual] = results[f"steps {USUAL_STEPS}"]
        if axis != "solver":
            found = {key: found[key] for key in sorted(found, key=float)}
        places, values = range(len(found)), [100 * each["accuracy"] for each in found.values()]
        ends = torch.tensor([each["interval"] for each in found.values()]).reshape(-1, 2)
        errors = (100 * ends - torch.tensor(values).unsqueeze(1)).abs().T.numpy()
        axes[0][column].errorbar(places, values, yerr=errors, marker="o", capsize=3)
        axes[0][column].axhline(real, color="gray", linestyle="--")
        axes[1][column].plot(places, [each["frechet"] for each in found.values()], marker="o")
        axes[1][column].set_xticks(places, list(found))
        axes[0][column].set_xticks(places, [""] * len(found))
        axes[1][column].set_xlabel(label)
    axes[0][0].set_ylabel("classifier accuracy, %")
    axes[1][0].set_ylabel("Fréchet distance")
    figure.savefig(path, dpi=100)


def main(
    data: Annotated[Path, typer.Option(help="Data folder.")],
    recipe: Annotated[Path, typer.Option(help="Folder of the demo recipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    split: Annotated[str, typer.Option(help="Split of the photographs.")] = "validation",
    per_class: Annotated[int, typer.Option(min=1, help="Photographs of each class.")] = 4,
    most_candidates: Annotated[int, typer.Option(help="Largest number of candidates.")] = 16,
    most_steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 50,
    only: Annotated[
        list[str] | None, typer.Option(help="Settings to run, such as 'steps 10'.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure the quality of the demo generator, and draw it."""
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    demo = Recipe(DemoData(data), recipe)
    study = Study(demo, cast(Split, split), per_class, output, only or ())
    # The usual setting first, then from the cheapest on.
    for count in sorted(STEPS, key=lambda each: (each != USUAL_STEPS, each)):
        if count <= most_steps:
            study.run(f"steps {count}", num_inference_steps=count)
    for interval in CACHED:
        options = {"num_inference_steps": USUAL_STEPS, "cache_interval": interval}
        study.run(f"cached {interval}", **options)
    for share in GUIDED:
        options = {"guidance_interval": (0.0, share)}
        study.run(f"guided {share:g}", num_inference_steps=USUAL_STEPS, **options)
    for name in SOLVERS:
        study.run_solver(name)
    study.run_ranking(RANKED)
    study.run_candidates(tuple(count for count in CANDIDATES if count <= most_candidates))
    results = study.results
    (output / "quality.md").write_text(table(results, f"steps {USUAL_STEPS}"), encoding="utf-8")
    draw(results, output / "quality.png")


if __name__ == "__main__":
    typer.run(main)
