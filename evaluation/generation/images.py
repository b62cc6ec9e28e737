"""Evaluation of images that pipelines generate from audio."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import require_same_model
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.classifiers import Audio, Classifier
from clip2clap.evaluation.cycle import similarity_within_labels
from clip2clap.evaluation.datasets import AudioDataset
from clip2clap.evaluation.generation.base import (
    EncodedFiles,
    GenerationEvaluation,
    GenerationEvaluator,
)
from clip2clap.evaluation.generation.words import WordsBaseline, check_sources
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio, require_audible
from clip2clap.metrics.retrieval import distinct_rows
from clip2clap.translator.base import Translator


def evaluate_images(
    pipeline: AudioToImagePipeline,
    translators: Mapping[str, Translator],
    dataset: AudioDataset,
    folder: str | Path,
    *,
    clip: ClipEncoder,
    classifier: Classifier | None = None,
    round_trip: ImageToAudioPipeline | None = None,
    words: WordsBaseline | None = None,
    config: GenerationConfig | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> GenerationEvaluation:
    """Generate an image from each recording with each translator, and measure it.

    Generated files are kept in `folder`; an interrupted run resumes with the missing ones.

    Args:
        pipeline: Generator; its own translator is not used. Its CLAP encodes the recordings.
        translators: Translators by name, from the recordings' CLAP into the decoder's CLIP.
        dataset: Recordings, labels and real images.
        folder: Folder of the generated files, one subfolder per translator.
        clip: Measuring CLIP with an image encoder.
        classifier: Image classifier; used if there are labels.
        round_trip: Pipeline that generates audio from the images, to compare with the inputs.
        words: Captioner of the recordings' CLAP, whose captions are the prompts of a baseline.
        config: Seed, steps, batch size and bootstrap draws.
        on_progress: Called with the share that is done.

    Raises:
        SpaceMismatchError: If a translator belongs to other spaces.
        UserError: If a file cannot be read or written, a recording is silent, or there is no CLAP.

    Examples:
        >>> from clip2clap import AutoTranslator
        >>> from clip2clap.evaluation import read_audio_dataset
        >>> pipeline = AudioToImagePipeline.from_pretrained("demo")
        >>> evaluation = evaluate_images(
        ...     pipeline, {"demo": AutoTranslator.from_pretrained("demo-back")},
        ...     read_audio_dataset("classes-audio", "classes"), "out", clip=pipeline.clip,
        ...     config=GenerationConfig(num_inference_steps=2))
        >>> evaluation.translators[0].scores.metrics["translated_similarity"]
        Estimate(value=..., low=..., high=...)
    """
    table, clap = dataset.embeddings, pipeline.clap
    if clap is None and (table is None or round_trip is not None):
        raise UserError("The pipeline has no CLAP to encode recordings. Load it with clap=.")
    source = table.source_space if table is not None else clap and clap.space("audio")
    check_sources(translators, words, source)
    for translator in translators.values():
        translator.check_target(pipeline.decoder.space)
    if round_trip is not None and source is not None and clap is not None:
        what = "The recordings' CLAP is not the pipeline's"
        require_same_model(source, clap.space("audio"), what=what)
    own_space = pipeline.decoder.space
    evaluator = _ImageEvaluator(pipeline, dataset, clap, clip, own_space, classifier, config)
    return evaluator.run(
        translators, folder, round_trip=round_trip, on_progress=on_progress, words=words
    )


class _ImageEvaluator(GenerationEvaluator):
    level, references, published = "images", "real images", "Inception"
    own_embeds: Tensor | None = None
    """Embedding of each recording's own image, if each has one, shape (n, d)."""

    def load_source(self, file: Path) -> Audio:
        waveform, sampling_rate = load_audio(file)
        require_audible(waveform, str(file))
        return waveform, sampling_rate

    def encode_references(self) -> tuple[EncodedFiles, list[str] | None]:
        space, table = self.space, self.dataset.embeddings
        if table is None:
            real, labels = super().encode_references()
            self.own_embeds = real.embeds if self.dataset.protocol == "pairs" else None
            return real, labels
        if table.target_space is not None and not table.target_space.same_model_as(space):
            return EncodedFiles(torch.empty(0, space.dim)), None
        self.own_embeds = table.target
        first = distinct_rows(table.target)[0]
        embeds = table.target[first]
        labels = [self.labels[at] for at in first.tolist()]
        # A table has no images for any other classifier.
        zero_shot = self.classifier if isinstance(self.classifier, ZeroShotClassifier) else None
        predicted = None if zero_shot is None else zero_shot([], embeds)
        return EncodedFiles(embeds, predicted), labels if all(labels) else None

    def row_metrics(self, embeds: Tensor, order: list[int]) -> dict[str, np.ndarray]:
        if self.own_embeds is not None:
            real = self.own_embeds[order]
        elif self.class_means is not None:
            real = torch.stack([self.class_means[self.labels[at]] for at in order])
        else:
            return {}
        return {"real_similarity": (embeds * real).sum(1).numpy()}

    def real_metrics(self) -> dict[str, np.ndarray]:
        if self.real_labels is None:
            return {}
        alike = similarity_within_labels(self.real.embeds, self.real_labels)
        alike = alike[~np.isnan(alike)]
        return {"real_similarity": alike} if len(alike) else {}

    def notes(self) -> list[str]:
        notes = super().notes()
        if len(self.real.embeds) and self.own_embeds is None and self.class_means is None:
            notes.append(
                "Not every class of recordings has a real image, so there is no similarity to "
                "real images."
            )
        return notes

    @cached_property
    def class_means(self) -> dict[str, Tensor] | None:
        """Mean embedding of each class's real images; None if a class has none."""
        if self.real_labels is None or not set(self.labels) <= set(self.real_labels):
            return None
        labels = np.array(self.real_labels)
        return {
            label: self.real.embeds[torch.from_numpy(labels == label)].mean(0)
            for label in set(self.labels)
        }
