"""Evaluation of images that pipelines generate from audio."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import require_same_model
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.classifiers import Audio, Classifier, ZeroShotClassifier
from clip2clap.evaluation.cycle import similarity_within_labels
from clip2clap.evaluation.datasets import AudioDataset
from clip2clap.evaluation.encoding import IMAGE_BATCH_SIZE, encode_files
from clip2clap.evaluation.generation.base import (
    EncodedFiles,
    GenerationEvaluation,
    GenerationEvaluator,
)
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio, require_audible
from clip2clap.media.images import load_image
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
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
    evaluator = _ImageEvaluator(
        _check(pipeline, translators, dataset, needs_clap=round_trip is not None),
        dataset,
        source_encoder=pipeline.clap,
        encoder=clip,
        classifier=classifier,
        config=config or GenerationConfig(),
    )
    return evaluator.run(translators, folder, round_trip=round_trip, on_progress=on_progress)


def _check(
    pipeline: AudioToImagePipeline,
    translators: Mapping[str, Translator],
    dataset: AudioDataset,
    *,
    needs_clap: bool,
) -> AudioToImagePipeline:
    """Return the pipeline if all models belong to the same spaces."""
    table, clap = dataset.embeddings, pipeline.clap
    if clap is None and (table is None or needs_clap):
        raise UserError("The pipeline has no CLAP to encode recordings. Load it with clap=.")
    source = clap.space("audio") if table is None and clap is not None else None
    source = table.source_space if table is not None else source
    for translator in translators.values():
        if source is not None:
            translator.check_source(source)
        if pipeline.decoder.space is not None:
            translator.check_target(pipeline.decoder.space)
    if needs_clap and source is not None and clap is not None:
        require_same_model(
            source, clap.space("audio"), what="The recordings' CLAP is not the pipeline's"
        )
    return pipeline


class _ImageEvaluator(GenerationEvaluator):
    """Evaluator of generated images."""

    level = "images"
    pipeline: AudioToImagePipeline
    encoder: ClipEncoder

    own_embeds: Tensor | None = None
    """Embedding of each recording's own image, if each has one, shape (n, d)."""

    @property
    def is_own_encoder(self) -> bool:
        decoder = self.pipeline.decoder.space
        return decoder is not None and decoder.same_model_as(self.encoder.space("image"))

    def encode_sources(self) -> Tensor:
        if self.dataset.embeddings is not None:
            return self.dataset.embeddings.source
        assert self.source_encoder is not None
        files = [item.path for item in self.dataset.items if item.path is not None]
        return encode_files(self.source_encoder, files, load=_load_audible)

    def encode(self, files: Sequence[Path]) -> EncodedFiles:
        embeds = [torch.empty(0, self.encoder.space("image").dim)]
        classifier = self.classifier
        labels: list[str] | None = None if classifier is None else []
        for batch in batched(files, IMAGE_BATCH_SIZE):
            images = [load_image(file) for file in batch]
            embeds.append(self.encoder.encode_image(images))
            if classifier is not None and labels is not None:
                labels += classifier(images, embeds[-1])
        return EncodedFiles(torch.cat(embeds), labels)

    def encode_references(self) -> tuple[EncodedFiles, list[str] | None]:
        space, table = self.encoder.space("image"), self.dataset.embeddings
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

    def distances(self, one: EncodedFiles, reference: EncodedFiles) -> dict[str, float]:
        sides = one.embeds.numpy(), reference.embeds.numpy()
        return {"fd": frechet_distance(*sides), "kd": kernel_distance(*sides)}

    def row_metrics(self, embeds: Tensor, order: list[int]) -> dict[str, np.ndarray]:
        means = self._class_means()
        if self.own_embeds is not None:
            real = self.own_embeds[order]
        elif means is not None:
            real = torch.stack([means[self.labels[at]] for at in order])
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
        notes = []
        if self.is_own_encoder:
            notes.append(
                "The measuring CLIP is the one the decoder was trained on, which flatters the "
                "metrics. Measure with another."
            )
        if len(self.real.embeds) > 1:
            notes.append(
                "Distances are from all real images; the real images' own are between two halves, "
                "so their Fréchet distance is too high for their number. Compare kernel distances "
                "across sets of different sizes."
            )
        else:
            notes.append("There are no real images, so there is no distance from them.")
        if len(self.real.embeds) and self.own_embeds is None and self._class_means() is None:
            notes.append(
                "Not every class of recordings has a real image, so there is no similarity to "
                "real images."
            )
        notes.append(
            "Fréchet distances in this CLIP can't be compared with published ones in Inception."
        )
        return notes

    def _class_means(self) -> dict[str, Tensor] | None:
        """Return the mean embedding of each class's real images; None if a class has none."""
        if self.real_labels is None or not set(self.labels) <= set(self.real_labels):
            return None
        labels = np.array(self.real_labels)
        return {
            label: self.real.embeds[torch.from_numpy(labels == label)].mean(0)
            for label in set(self.labels)
        }


def _load_audible(file: Path) -> Audio:
    """Load a recording; raises `UserError` if it is silent."""
    waveform, sampling_rate = load_audio(file)
    require_audible(waveform, str(file))
    return waveform, sampling_rate
