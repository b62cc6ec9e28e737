"""Quality of the demo generator against steps, solver, guidance, caching and candidates.

Audio is generated from CLAP embeddings of test recordings, a number of each class, with one seed
for all settings. Each is scored by the demo recipe's audio classifier, which shares no weights with
the models (it is trained if `--recipe` holds none), and by the Fréchet distance of its features to
those of the real recordings, which depends on the number of recordings. Finished settings are kept
in `OUTPUT/quality.json`, so that a stopped run goes on.

    python benchmarks/quality.py --data DATA --recipe RECIPE -o OUTPUT
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import typer
from scipy.stats import binomtest
from torch import Tensor

from clip2clap import ClapEncoder, ImageToAudioPipeline
from clip2clap.inference.schedulers import replace_solver
from clip2clap.metrics.distribution import frechet_distance
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES
from clip2clap.training.recipes.demo.data import SAMPLING_RATE, DemoData, read_audio
from clip2clap.training.recipes.demo.recipe import Recipe

STEPS = (4, 6, 10, 15, 25, 50)
SOLVERS = {
    "DPM++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "DDIM": ("DDIMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}
GUIDED = (0.0, 0.25, 0.5, 1.0)
CACHED = (1, 2, 3)
CANDIDATES = (1, 2, 4, 8, 16)
# Of the demo models.
USUAL_STEPS = 10


class Study:
    """Demo generator, its judge, and the recordings to generate from.

    Args:
        recipe: Demo recipe, for its test audio and classifier.
        per_class: Recordings of each class.
        folder: Folder of the results.
    """

    def __init__(self, recipe: Recipe, per_class: int, folder: Path):
        self.pipeline: Any = ImageToAudioPipeline.from_pretrained("demo")
        self.pipeline.set_progress_bar_config(disable=True)
        self.classifier, bank = recipe.audio_classifier, recipe.bank("test")
        classes = range(len(recipe.data.class_names))
        rows = torch.cat([torch.where(bank.labels == n)[0][:per_class] for n in classes])
        self.labels, self.real = bank.labels[rows], bank.batch(rows, CLIP_SAMPLES)
        recordings = [recipe.data.audio[bank.indices[row]] for row in rows.tolist()]
        clap = ClapEncoder.from_pretrained("demo", modalities=("audio",))
        self.embeds = clap.encode_audio([(read_audio(one), SAMPLING_RATE) for one in recordings])
        self.file = folder / "quality.json"
        self.results: dict[str, Any] = {}
        if self.file.is_file():
            self.results = json.loads(self.file.read_text())
        self.keep("real", self.score(self.real))

    def keep(self, name: str, result: dict[str, Any]) -> None:
        """Write a result beside the others, and print it."""
        self.results[name] = result
        self.file.write_text(json.dumps(self.results, indent=2) + "\n")
        typer.echo(f"{name}: {json.dumps(result)}")

    def score(self, waveforms: Tensor) -> dict[str, Any]:
        """Return the classifier's accuracy with its 95 % interval, and the Fréchet distance."""
        right = int((self.classifier.predict(waveforms) == self.labels).sum())
        interval = binomtest(right, len(self.labels)).proportion_ci(method="wilson")
        features = (self.classifier.encode(each).numpy() for each in (waveforms, self.real))
        return {
            "accuracy": right / len(self.labels),
            "interval": [interval.low, interval.high],
            "frechet": frechet_distance(*features),
            "count": len(self.labels),
        }

    def generate(self, count: int = 1, **options: Any) -> tuple[Tensor, float]:
        """Return `count` waveforms per recording, side by side, and the CPU seconds of one."""
        start = time.process_time()
        waveforms = self.pipeline(
            prompt_embeds=self.embeds.repeat_interleave(count, 0),
            num_candidates=1,
            generator=1,
            output_type="pt",
            **options,
        ).audios[:, :CLIP_SAMPLES]
        return waveforms, (time.process_time() - start) / len(waveforms)

    def run(self, name: str, **options: Any) -> None:
        """Generate and score with options of the call, unless done."""
        if name not in self.results:
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
        if not counts or f"candidates {counts[-1]}" in self.results:
            return
        waveforms, seconds = self.generate(counts[-1])
        _, similarities = self.pipeline.rank(waveforms, self.embeds)
        items = torch.arange(len(self.labels)) * counts[-1]
        for count in counts:
            best = waveforms[items + similarities[:, :count].argmax(1)]
            self.keep(f"candidates {count}", {**self.score(best), "seconds": seconds * count})


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy and Fréchet distance against steps, solver, guidance and candidates."""
    import matplotlib.pyplot as plt

    axes_of = ("steps", "solver", "guided", "cached", "candidates")
    labels = {"guided": "guided share of the steps", "cached": "cache interval"}
    figure, axes = plt.subplots(
        2, len(axes_of), figsize=(14, 5.5), sharey="row", layout="constrained"
    )
    for column, axis in enumerate(axes_of):
        found = {k.removeprefix(f"{axis} "): v for k, v in results.items() if k.startswith(axis)}
        places = range(len(found))
        accuracy = [100 * each["accuracy"] for each in found.values()]
        ends = [[100 * side for side in each["interval"]] for each in found.values()]
        errors = [
            [value - low for value, (low, _) in zip(accuracy, ends, strict=True)],
            [high - value for value, (_, high) in zip(accuracy, ends, strict=True)],
        ]
        axes[0][column].errorbar(places, accuracy, yerr=errors, marker="o", capsize=3)
        axes[0][column].axhline(100 * results["real"]["accuracy"], color="gray", linestyle="--")
        axes[1][column].plot(places, [each["frechet"] for each in found.values()], marker="o")
        axes[1][column].set_xticks(places, list(found))
        axes[0][column].set_xticks(places, [""] * len(found))
        axes[1][column].set_xlabel(labels.get(axis, axis))
    axes[0][0].set_ylabel("classifier accuracy, %")
    axes[1][0].set_ylabel("Fréchet distance")
    figure.savefig(path, dpi=100)


def main(
    data: Annotated[Path, typer.Option(help="Data folder.")],
    recipe: Annotated[Path, typer.Option(help="Folder of the demo recipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")],
    per_class: Annotated[int, typer.Option(min=1, help="Recordings of each class.")] = 4,
    most_candidates: Annotated[int, typer.Option(help="Largest number of candidates.")] = 16,
    most_steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure the quality of the demo generator, and draw it."""
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    study = Study(Recipe(DemoData(data), recipe), per_class, output)
    for count in (each for each in STEPS if each <= most_steps):
        study.run(f"steps {count}", num_inference_steps=count)
    for name in SOLVERS:
        study.run_solver(name)
    for share in GUIDED:
        options = {"guidance_interval": (0.0, share)}
        study.run(f"guided {share:g}", num_inference_steps=USUAL_STEPS, **options)
    for interval in CACHED:
        options = {"num_inference_steps": USUAL_STEPS, "cache_interval": interval}
        study.run(f"cached {interval}", **options)
    study.run_candidates(tuple(count for count in CANDIDATES if count <= most_candidates))
    draw(study.results, output / "quality.png")


if __name__ == "__main__":
    typer.run(main)
