"""CPU seconds of commands until their first useful work, optionally before and after a change.

    python benchmarks/command_line.py [--before FOLDER]

FOLDER is a checkout of an older version; both are measured in turns in one run. First useful work
is the first image encoded (demo, image-to-audio), the first text encoded (extract), the first read
of the pairs (train) or of the norms (norms): the process ends there. `--help` and a mistake run to
their end.
"""

import argparse
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 3
COMMANDS = {
    "--help": "--help",
    "a mistake": "train absent -o out",
    "demo": "demo -o demo",
    "image-to-audio": "image-to-audio image.png -o audio",
    "extract": "extract captions.csv --pair caption-caption --demo -o {name}-table",
    "norms": "norms table -o {name}-norms",
    "train": "train table -o {name}-translator",
}
# First useful work: functions of the present version, then of those before the floors.
FIRST_WORK = (
    "clip2clap.embeddings.encoders.clip:ClipEncoder.encode_image",
    "clip2clap.embeddings.encoders.clip:ClipEncoder.encode_text",
    "clip2clap.embeddings.norms.measure:measure_norms",
    "clip2clap.embeddings.norms:measure_norms",
    "clip2clap.embeddings.encoders:ClipEncoder.images",
    "clip2clap.embeddings.encoders:ClipEncoder.texts",
    "clip2clap.training.pairs:read_pairs",
)
# Ends the process when one of these functions is called first.
CHILD = """
import importlib.abc, importlib.util, os, sys
targets = {}
for target in sys.argv.pop(1).split(","):
    targets.setdefault(target.partition(":")[0], []).append(target.partition(":")[2])
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in targets:
            return None
        wanted = targets.pop(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            for path in wanted:
                *owner, last = path.split(".")
                holder = getattr(module, owner[0], None) if owner else module
                if holder is not None and hasattr(holder, last):
                    setattr(holder, last, lambda *_, **__: os._exit(0))
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
from runpy import run_module
run_module("clip2clap", run_name="__main__", alter_sys=True)
"""


def cpu_seconds(command: str, top: Path, folder: Path) -> float:
    """Return the CPU seconds, of user and system, of a command of the version in `top`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(top / ".typing"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", CHILD, ",".join(FIRST_WORK), *shlex.split(command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def prepare(folder: Path) -> None:
    """Write the inputs of the commands."""
    import torch
    from PIL import Image

    from clip2clap.embeddings.space import EmbeddingSpace
    from clip2clap.embeddings.table.writer import TableWriter

    Image.new("RGB", (64, 64), "green").save(folder / "image.png")
    (folder / "captions.csv").write_text("id,caption\n1,a dog barks\n2,rain falls\n")
    spaces = {
        "clip_text": EmbeddingSpace("clip", "a/clip", "text", 8, True, "clip"),
        "clap_text": EmbeddingSpace("clap", "a/clap", "text", 8, True, "clap"),
    }
    embeds = torch.nn.functional.normalize(torch.randn(64, 8))
    with TableWriter(folder / "table", spaces, dtype="float32") as writer:
        ids = [str(row) for row in range(len(embeds))]
        writer.append(ids, {"caption": ids}, dict.fromkeys(spaces, embeds))


def main() -> None:
    """Measure all commands and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    before = parser.parse_args().before
    tops = {"before": before, "now": Path(__file__).parents[1]}
    tops = {name: top.resolve() for name, top in tops.items() if top is not None}
    for top in tops.values():
        subprocess.run([top / ".ci" / "typing-tree"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        print(f"{'CPU seconds':16s}" + "".join(f"{each:>10s}" for each in tops))
        for label, command in COMMANDS.items():
            runs: dict[str, list[float]] = {each: [] for each in tops}
            for _ in range(RUNS):
                for each, top in tops.items():
                    runs[each].append(cpu_seconds(command.format(name=each), top, folder))
            medians = [statistics.median(values) for values in runs.values()]
            share = f"{medians[-1] / medians[0]:9.0%}" if len(medians) > 1 else ""
            print(f"{label:16s}" + "".join(f"{value:10.2f}" for value in medians) + share)


if __name__ == "__main__":
    main()
