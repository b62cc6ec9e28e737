"""Evaluation of audio that pipelines generate from images."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.classifiers import Audio, Classifier
from clip2clap.evaluation.datasets import DatasetItem, ImageDataset
from clip2clap.evaluation.encoding import translate
from clip2clap.evaluation.generation.base import GenerationEvaluation, GenerationEvaluator
from clip2clap.evaluation.generation.words import WordsBaseline, check_sources
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
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
    words: WordsBaseline | None = None,
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
        words: Captioner of the pipeline's CLIP, whose captions are the prompts of a baseline.
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
    if pipeline.clip is None:
        raise UserError("The pipeline has no CLIP to encode images. Load it with clip=.")
    source = pipeline.clip.space("image")
    check_sources(translators, words, source)
    if back is not None:
        back.check_source(clap.space("audio"))
        back.check_target(source)
    own = pipeline.generator_space
    evaluator = _AudioEvaluator(pipeline, dataset, pipeline.clip, clap, own, classifier, config)
    evaluator.back = back
    return evaluator.run(
        translators, folder, round_trip=round_trip, on_progress=on_progress, words=words
    )


class _AudioEvaluator(GenerationEvaluator):
    level, references, published = "audio", "recordings", "PANNs or VGGish"
    encoder: ClapEncoder
    back: Translator | None = None

    def windows(self, inputs: Sequence[Audio]) -> list[Tensor]:
        """Encode windows of a second of each waveform; the rest at the end is left out."""
        found = []
        for waveform, rate in inputs:
            length = round(WINDOW_SECONDS * rate)
            starts = range(0, max(len(waveform) // length, 1) * length, length)
            cut = [(waveform[start : start + length], rate) for start in starts]
            found.append(self.encoder.encode_audio(cut))
        return found

    def row_metrics(self, embeds: Tensor, order: list[int]) -> dict[str, np.ndarray]:
        rows = {}
        if self.text_embeds is not None:
            rows["clap_score"] = (embeds * self.text_embeds[order]).sum(1).numpy()
        if self.back is not None:
            image_embeds = translate(self.back, embeds)
            rows["clip_score"] = 100 * (image_embeds * self.source_embeds[order]).sum(1).numpy()
        return rows

    def real_metrics(self) -> dict[str, np.ndarray]:
        text_embeds = self._encode_texts(self.dataset.references)
        if text_embeds is None:
            return {}
        return {"clap_score": (self.real.embeds * text_embeds).sum(1).numpy()}

    @cached_property
    def text_embeds(self) -> Tensor | None:
        """Embeddings of the inputs' texts, shape (n, d); None if one has none."""
        return self._encode_texts(self.dataset.items)

    def _encode_texts(self, items: Sequence[DatasetItem]) -> Tensor | None:
        texts = [item.text for item in items if item.text]
        return self.encoder.encode_text(texts) if len(texts) == len(items) else None
