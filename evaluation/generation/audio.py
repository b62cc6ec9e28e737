"""Evaluation of audio that pipelines generate from images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.classifiers import Audio, Classifier
from clip2clap.evaluation.datasets import ImageDataset
from clip2clap.evaluation.encoding import AUDIO_BATCH_SIZE, encode_files
from clip2clap.evaluation.generation.base import (
    EncodedFiles,
    GenerationEvaluation,
    GenerationEvaluator,
)
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
from clip2clap.translator.base import Translator

WINDOW_SECONDS = 1.0
"""Length of the windows of `fad`; VGGish's, which it was published with, are 0.96 s."""


def evaluate_audio(
    pipeline: ImageToAudioPipeline,
    translators: Mapping[str, Translator],
    dataset: ImageDataset,
    folder: str | Path,
    *,
    clap: ClapEncoder,
    classifier: Classifier | None = None,
    back: Translator | None = None,
    round_trip: AudioToImagePipeline | None = None,
    config: GenerationConfig | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> GenerationEvaluation:
    """Generate audio from each image with each translator, and measure it.

    Generated files are kept in `folder`; an interrupted run resumes with the missing ones.

    Args:
        pipeline: Generator; its own translator is not used.
        translators: Translators by name, from the pipeline's CLIP into its generator's CLAP.
        dataset: Images, their texts and real recordings.
        folder: Folder of the generated files, one subfolder per translator.
        clap: Measuring CLAP with an audio encoder, and a text encoder if there are texts.
        classifier: Audio classifier; used if there are labels.
        back: Translator from the measuring CLAP into the pipeline's CLIP, for the CLIP-score.
        round_trip: Pipeline that generates images from the audio, to compare with the inputs.
        config: Seed, steps, length, batch size and bootstrap draws.
        on_progress: Called with the share that is done.

    Raises:
        SpaceMismatchError: If a translator belongs to other spaces.
        UserError: If a file cannot be read or written, or a model lacks an encoder.

    Examples:
        >>> from clip2clap import AutoTranslator
        >>> from clip2clap.evaluation import read_image_dataset
        >>> evaluation = evaluate_audio(
        ...     ImageToAudioPipeline.from_pretrained("demo"),
        ...     {"demo": AutoTranslator.from_pretrained("demo")},
        ...     read_image_dataset("classes", "classes-audio"), "out",
        ...     clap=ClapEncoder.from_pretrained("demo"),
        ...     config=GenerationConfig(num_inference_steps=2))
        >>> evaluation.translators[0].scores.metrics["clap_score"]
        Estimate(value=..., low=..., high=...)
    """
    evaluator = _AudioEvaluator(
        _check(pipeline, translators, clap, back),
        dataset,
        source_encoder=pipeline.clip,
        encoder=clap,
        classifier=classifier,
        config=config or GenerationConfig(),
    )
    evaluator.back = back
    return evaluator.run(translators, folder, round_trip=round_trip, on_progress=on_progress)


def _check(
    pipeline: ImageToAudioPipeline,
    translators: Mapping[str, Translator],
    clap: ClapEncoder,
    back: Translator | None,
) -> ImageToAudioPipeline:
    """Return the pipeline if all models belong to the same spaces."""
    if pipeline.clip is None:
        raise UserError("The pipeline has no CLIP to encode images. Load it with clip=.")
    for translator in translators.values():
        translator.check_source(pipeline.clip.space("image"))
    if back is not None:
        back.check_source(clap.space("audio"))
        back.check_target(pipeline.clip.space("image"))
    return pipeline


class _AudioEvaluator(GenerationEvaluator):
    """Evaluator of generated audio."""

    level = "audio"
    encoder: ClapEncoder
    back: Translator | None = None

    @property
    def is_own_encoder(self) -> bool:
        generator_clap = self.pipeline.config["clap_space"]
        return generator_clap is not None and EmbeddingSpace.from_dict(
            generator_clap
        ).same_model_as(self.encoder.space("audio"))

    def encode_sources(self) -> Tensor:
        assert self.source_encoder is not None
        files = [item.path for item in self.dataset.items if item.path is not None]
        return encode_files(self.source_encoder, files)

    def encode(self, files: Sequence[Path]) -> EncodedFiles:
        embeds, windows, places = [], [], []
        classifier = self.classifier
        labels: list[str] | None = None if classifier is None else []
        for start, batch in enumerate(batched(files, AUDIO_BATCH_SIZE)):
            audio = [load_audio(file) for file in batch]
            embeds.append(self.encoder.encode_audio(audio))
            for at, one in enumerate(audio, start * AUDIO_BATCH_SIZE):
                cut = _windows(*one)
                windows.append(self.encoder.encode_audio(cut))
                places += [at] * len(cut)
            if classifier is not None and labels is not None:
                labels += classifier(audio, embeds[-1])
        empty = torch.empty(0, self.encoder.space("audio").dim)
        return EncodedFiles(
            embeds=torch.cat([empty, *embeds]),
            labels=labels,
            windows=torch.cat([empty, *windows]),
            window_files=torch.tensor(places, dtype=torch.long),
        )

    def distances(self, one: EncodedFiles, reference: EncodedFiles) -> dict[str, float]:
        assert one.windows is not None
        assert reference.windows is not None
        return {
            "fd": frechet_distance(one.embeds.numpy(), reference.embeds.numpy()),
            "fad": frechet_distance(one.windows.numpy(), reference.windows.numpy()),
            "kd": kernel_distance(one.embeds.numpy(), reference.embeds.numpy()),
        }

    def row_metrics(self, embeds: Tensor, order: list[int]) -> dict[str, np.ndarray]:
        rows = {}
        texts = [self.dataset.items[at].text for at in order]
        if all(texts):
            text_embeds = self.encoder.encode_text([text or "" for text in texts])
            rows["clap_score"] = (embeds * text_embeds).sum(1).numpy()
        if self.back is not None:
            with torch.no_grad():
                image_embeds = self.back(embeds).float()
            rows["clip_score"] = 100 * (image_embeds * self.source_embeds[order]).sum(1).numpy()
        return rows

    def real_metrics(self) -> dict[str, np.ndarray]:
        texts = [reference.text for reference in self.dataset.references]
        if not all(texts):
            return {}
        text_embeds = self.encoder.encode_text([text or "" for text in texts])
        return {"clap_score": (self.real.embeds * text_embeds).sum(1).numpy()}

    def notes(self) -> list[str]:
        notes = []
        if self.is_own_encoder:
            notes.append(
                "The measuring CLAP is the generator's own, which flatters the metrics. Measure "
                "with another."
            )
        if len(self.real.embeds) > 1:
            notes.append(
                "Distances are from all recordings; the recordings' own are between two halves, "
                "so their Fréchet distances are too high for their number. Compare kernel "
                "distances across sets of different sizes."
            )
        else:
            notes.append("There are no recordings, so there is no distance from real audio.")
        notes.append(
            "Fréchet distances in this CLAP can't be compared with published ones in PANNs or "
            "VGGish."
        )
        return notes


def _windows(waveform: np.ndarray, sampling_rate: int) -> list[Audio]:
    """Cut audio into windows of a second; the rest at the end is left out."""
    length = round(WINDOW_SECONDS * sampling_rate)
    count = max(len(waveform) // length, 1)
    return [(waveform[at * length : (at + 1) * length], sampling_rate) for at in range(count)]
