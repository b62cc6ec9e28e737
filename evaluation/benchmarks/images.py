"""Zero-shot classification of a benchmark's images, as they are and translated into CLAP space."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.fingerprint import fingerprint_tensors
from clip2clap.evaluation.benchmarks.classification import Accuracy
from clip2clap.evaluation.benchmarks.encoding import encode_images
from clip2clap.evaluation.benchmarks.folders import Benchmark, Clip
from clip2clap.evaluation.benchmarks.run import (
    BenchmarkConfig,
    classification_of,
    write_results,
)
from clip2clap.metrics.classification import IMAGE_PROMPT
from clip2clap.translator.base import Translator


def run_image_benchmark(
    benchmark: Benchmark,
    clip: ClipEncoder,
    clap: ClapEncoder,
    translator: Translator,
    folder: str | Path,
    config: BenchmarkConfig,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Measure a translator on images with labels, and write the files of `run_benchmark`.

    Images are named by the CLIP's texts, and, translated, by the CLAP's: by what they would sound
    like. The first is the most that the second can be expected to reach.

    Args:
        benchmark: Benchmark of images, as `read_benchmark` reads it.
        clip: CLIP that encodes the images, and the labels of the first row.
        clap: CLAP that encodes the labels under each protocol.
        translator: Translator from the CLIP's images into the CLAP.
        folder: Folder of the results; created if it does not exist.
        config: Protocols and options.
        on_progress: Called with the share of the images that is encoded.

    Returns:
        Content of `benchmark.json`.

    Raises:
        SpaceMismatchError: If the translator was trained for other encoders.
        UserError: If an image cannot be read, or the folder cannot be written to.
    """
    spaces = clip.space("image"), clap.space("text")
    translator.check_source(spaces[0])
    translator.check_target(spaces[1])
    clips, embeds, unreadable = _encode(benchmark, clip, config, on_progress)
    labels = classification_of(benchmark, clips, config)
    words = [label.replace("_", " ") for label in benchmark.labels]
    prompts = clip.encode_text([IMAGE_PROMPT.replace("{}", each) for each in words])
    described = f'prompt "{IMAGE_PROMPT}", images and words by {spaces[0].model_id}'
    seen = labels.zero_shot(embeds, prompts, protocol="clip2clap", description=described)
    found: list[tuple[list[Clip], Accuracy]] = [(clips, replace(seen, method="zero-shot, CLIP"))]
    translated = translator(embeds)
    for protocol in config.protocols:
        heard = labels.zero_shot(
            translated,
            clap.encode_text(protocol.prompts(benchmark.name, benchmark.labels)),
            protocol=protocol.name,
            description=f'prompt "{protocol.template}", images translated, words by '
            f"{spaces[1].model_id}",
        )
        found.append((clips, replace(heard, method="zero-shot, translated")))
    about = {
        "encoder": " -> ".join(dict.fromkeys(space.model_id for space in spaces)),
        "fingerprint": fingerprint_tensors(translator.state_dict().values()),
        "unreadable": unreadable,
        "resamples": config.resamples,
        "seed": config.seed,
        "trained_on": [],
    }
    return write_results(as_path(folder), benchmark, found, about)


def _encode(
    benchmark: Benchmark,
    clip: ClipEncoder,
    config: BenchmarkConfig,
    on_progress: Callable[[float], None] | None,
) -> tuple[list[Clip], Tensor, dict[str, str]]:
    """Return the images that can be read, their embeddings, shape (n, d), and why others cannot."""
    images = [each.path for each in benchmark.clips]
    embeds, reasons = encode_images(clip, images, on_progress=on_progress)
    unreadable = {benchmark.clips[place].id: reason for place, reason in reasons.items()}
    if len(unreadable) == len(images) or (unreadable and not config.partial):
        raise UserError(
            f"{len(unreadable)} images cannot be read: {next(iter(unreadable.values()))} Get them "
            "again, or give partial=True to leave them out.",
            param="folder",
        )
    read = [place for place in range(len(images)) if place not in reasons]
    return [benchmark.clips[place] for place in read], embeds[read], unreadable
