"""Evaluation of the demo models on images and audio that training never used."""

import json
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.classification import (
    AUDIO_PROMPT,
    IMAGE_PROMPT,
    balanced_accuracy,
    confusion_matrix,
)
from clip2clap.metrics.distribution import frechet_distance
from clip2clap.report import charts
from clip2clap.training.recipes.demo import audioset
from clip2clap.training.recipes.demo.alterations import AUDIO_ALTERATIONS, IMAGE_ALTERATIONS
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, AudioBank
from clip2clap.training.recipes.demo.classifiers import AudioClassifier
from clip2clap.training.recipes.demo.data import (
    SAMPLING_RATE,
    DemoAudio,
    DemoImage,
    Split,
    read_audio,
)
from clip2clap.training.recipes.demo.features import random_window
from clip2clap.training.recipes.demo.generated import CANDIDATES, generate, recognize_further
from clip2clap.training.recipes.demo.similarity import similarity_to_training
from clip2clap.training.recipes.demo.spaces import audio_class_index, audio_classes
from clip2clap.training.recipes.demo.vocoder import vocoder_errors
from clip2clap.training.recipes.demo.words import CLASSES

if TYPE_CHECKING:
    from clip2clap.training.recipes.demo.recipe import Recipe

PER_CLASS, SEEDS = 8, 8
WINDOWS = 4
# Recordings of each class on either side of a Fréchet distance, and its principal components.
FRECHET_ROWS, COMPONENTS = 4, 64


def evaluate_demo(
    recipe: "Recipe", models: Path, *, split: Split = "test", per_class: int = PER_CLASS
) -> dict[str, float]:
    """Evaluate the demo models and write the results beside the checkpoints.

    Args:
        recipe: The recipe, for its data and its classifiers.
        models: Folder of the demo models.
        split: Split to evaluate on.
        per_class: Images and recordings of each class to generate from.

    Returns:
        Metrics by name. They are also written to `results.json`; `confusion.png` and grids of
        generated images are written beside it.
    """
    evaluation = _Evaluation(recipe, models, split, per_class)
    results: dict[str, float] = {}
    for part in (
        evaluation.clip_accuracy,
        evaluation.text_accuracy,
        evaluation.clap_accuracy,
        evaluation.audioset_precision,
        evaluation.altered_accuracy,
        evaluation.audio_to_image,
        evaluation.image_to_audio,
        evaluation.generator,
        evaluation.further_classes,
        evaluation.vocoder_errors,
    ):
        # Written part by part: the later ones are slow.
        results |= part()
        (recipe.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    table = Table("metric", "value")
    for name, value in results.items():
        table.add_row(name, f"{value:.3g}")
    Console().print(table)
    return results


class _Evaluation:
    """Demo models, and the images and audio of a split that they are evaluated on."""

    def __init__(self, recipe: "Recipe", models: Path, split: Split, per_class: int):
        self.recipe, self.data, self.folder = recipe, recipe.data, models
        self.per_class = per_class
        self.split: Split = split
        self.names = recipe.data.class_names
        self.clip = ClipEncoder.from_pretrained(str(models / "image_to_audio" / "clip"))
        self.clap = ClapEncoder.from_pretrained(str(models / "clap"))
        # Without a ranker, the pipeline would load the installed demo CLAP.
        self.pipeline = ImageToAudioPipeline.from_pretrained(
            str(models / "image_to_audio"), ranker=self.clap
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.images = [image for image in recipe.data.images if image.split == split]
        self.small = [image for image in self.images if image.label and not image.full_size]

    @cached_property
    def small_embeds(self) -> Tensor:
        """CLIP embeddings of the small images."""
        return self.clip.encode_image([image.load() for image in self.small])

    @cached_property
    def recordings(self) -> list[DemoAudio]:
        """All recordings of the split, those of no demo class too."""
        return [audio for audio in self.data.audio if audio.split == self.split]

    @cached_property
    def waveforms(self) -> list[np.ndarray]:
        """Waveforms of the recordings."""
        return [read_audio(one) for one in self.recordings]

    @cached_property
    def recording_embeds(self) -> Tensor:
        """CLAP embeddings of the recordings."""
        return self.clap.encode_audio([(waveform, SAMPLING_RATE) for waveform in self.waveforms])

    @cached_property
    def bank(self) -> AudioBank:
        """Audio of the demo classes."""
        return self.recipe.bank(self.split)

    @cached_property
    def audio_rows(self) -> Tensor:
        """The first rows of each class in `bank`."""
        labels, classes = self.bank.labels, range(len(self.names))
        return torch.cat([torch.where(labels == n)[0][: self.per_class] for n in classes])

    @cached_property
    def audio_embeds(self) -> Tensor:
        """CLAP embeddings of `audio_rows`."""
        chosen = [self.data.audio[self.bank.indices[row]] for row in self.audio_rows.tolist()]
        return self.clap.encode_audio([(read_audio(one), SAMPLING_RATE) for one in chosen])

    @cached_property
    def sample(self) -> list[DemoImage]:
        """The first images of each class."""
        by_name = [[image for image in self.images if image.label == name] for name in self.names]
        return [image for images in by_name for image in images[: self.per_class]]

    def labels(self, images: list[DemoImage]) -> Tensor:
        """Return the class numbers of images."""
        return torch.tensor([self.names.index(image.label) for image in images])

    def clip_accuracy(self) -> dict[str, float]:
        """Classify images among the demo classes and among ImageNet's."""
        texts = self.clip.encode_text([IMAGE_PROMPT.format(name) for name in self.names])

        def accuracy(images: list[DemoImage], embeds: Tensor) -> float:
            return balanced_accuracy((embeds @ texts.T).argmax(1), self.labels(images))

        large = [image for image in self.images if image.full_size]
        labeled = [image for image in large if image.label]
        rng = np.random.default_rng(0)
        windows = [image for image in labeled for _ in range(WINDOWS)]
        names = self.data.imagenet_names
        classes = self.clip.encode_text([IMAGE_PROMPT.format(name) for name in names])
        large_embeds = self.clip.encode_image([image.load() for image in large])
        labeled_embeds = large_embeds[[bool(image.label) for image in large]]
        predicted = (large_embeds @ classes.T).argmax(1).tolist()
        right = [names[n] == image.category for n, image in zip(predicted, large, strict=True)]
        window_embeds = self.clip.encode_image([random_window(x.load(), rng) for x in windows])
        return {
            "small images": len(self.small),
            "CLIP accuracy, small images": accuracy(self.small, self.small_embeds),
            "full-size images of the demo classes": len(labeled),
            "CLIP accuracy, full-size images": accuracy(labeled, labeled_embeds),
            "CLIP accuracy, windows of full-size images": accuracy(windows, window_embeds),
            "full-size images": len(large),
            "CLIP accuracy among ImageNet's 1,000 classes, full-size images": np.mean(right).item(),
        }

    def text_accuracy(self) -> dict[str, float]:
        """Classify texts that the text encoders were not trained on."""
        unseen = [CLASSES[name]["unseen"] for name in self.names]
        texts = [text for row in unseen for text in row]
        labels = torch.tensor([n for n, row in enumerate(unseen) for _ in row])
        results: dict[str, float] = {"unseen texts": len(texts)}
        encoders = (("CLIP", self.clip, IMAGE_PROMPT), ("CLAP", self.clap, AUDIO_PROMPT))
        for encoder, model, prompt in encoders:
            classes = model.encode_text([prompt.format(name) for name in self.names])
            predicted = (model.encode_text(texts) @ classes.T).argmax(1)
            results[f"{encoder} accuracy, unseen texts"] = balanced_accuracy(predicted, labels)
        return results

    def clap_accuracy(self) -> dict[str, float]:
        """Classify audio by texts, and find the audio nearest to translated images."""
        audio, embeds = self.recordings, self.recording_embeds
        all_names = audio_classes(self.data)
        labels = torch.tensor([audio_class_index(one, all_names) for one in audio])

        def accuracy(chosen: Tensor, names: list[str], targets: Tensor) -> float:
            texts = [AUDIO_PROMPT.format(name.replace("_", " ")) for name in names]
            predicted = (embeds[chosen] @ self.clap.encode_text(texts).T).argmax(1)
            return balanced_accuracy(predicted, targets)

        labeled = labels < len(self.names)
        esc50 = torch.tensor([one.path.parent.name == "esc50" for one in audio])
        of_esc50 = [one.category for one, is_esc50 in zip(audio, esc50, strict=True) if is_esc50]
        categories = sorted(set(of_esc50))
        numbers = torch.tensor([categories.index(name) for name in of_esc50])
        assert self.pipeline.translator is not None
        nearest = labels[(self.pipeline.translator(self.small_embeds) @ embeds.T).argmax(1)]
        return {
            "audio of the demo classes": int(labeled.sum()),
            "CLAP accuracy": accuracy(labeled, self.names, labels[labeled]),
            "CLAP accuracy among ESC-50's 50 categories": accuracy(esc50, categories, numbers),
            "image to audio retrieval accuracy": balanced_accuracy(
                nearest, self.labels(self.small)
            ),
        }

    def audioset_precision(self) -> dict[str, float]:
        """Rank recordings by AudioSet's names, with the CLAP and with YAMNet's own outputs."""
        categories = [recording.category for recording in self.recordings]
        scores = audioset.yamnet_scores(self.data.folder, self.waveforms)
        return audioset.compare_precision(
            categories, scores, self.recording_embeds, self.clap.encode_text
        )

    def altered_accuracy(self) -> dict[str, float]:
        """Classify images and audio whose size, coding or level is another."""
        large = [image for image in self.images if image.full_size and image.label]
        loaded = [image.load() for image in (*large, *self.sample)]
        labels = self.labels([*large, *self.sample])
        audio = [self.bank.waveforms[row] for row in self.audio_rows.tolist()]
        audio_labels = self.bank.labels[self.audio_rows]
        image_texts = self.clip.encode_text([IMAGE_PROMPT.format(name) for name in self.names])
        audio_texts = self.clap.encode_text([AUDIO_PROMPT.format(name) for name in self.names])
        results: dict[str, float] = {"altered images": len(loaded), "altered audio": len(audio)}
        for name, alter in {"unaltered": lambda image: image, **IMAGE_ALTERATIONS}.items():
            embeds = self.clip.encode_image([alter(image) for image in loaded])
            predicted = (embeds @ image_texts.T).argmax(1)
            results[f"CLIP accuracy, {name}"] = balanced_accuracy(predicted, labels)
        for name, alter in {"unaltered": lambda waveform: waveform, **AUDIO_ALTERATIONS}.items():
            embeds = self.clap.encode_audio([(alter(one), SAMPLING_RATE) for one in audio])
            predicted = (embeds @ audio_texts.T).argmax(1)
            results[f"CLAP accuracy, {name}"] = balanced_accuracy(predicted, audio_labels)
        return results

    def image_to_audio(self) -> dict[str, float]:
        """Classify audio generated from images, and compare it with real audio.

        All candidates are generated one by one, and the best of them ranked afterwards.
        """
        bank, pipeline, names = self.bank, self.pipeline, self.names
        labels, images = self.labels(self.sample), [image.load() for image in self.sample]
        assert pipeline.translator is not None
        embeds = pipeline.translator(self.clip.encode_image(images))
        every = generate(pipeline, embeds.repeat_interleave(CANDIDATES, 0), seed=0)
        _, similarities = pipeline.rank(every, embeds)
        waveforms = every[torch.arange(len(labels)) * CANDIDATES + similarities.argmax(1)]
        classifier, each = self.recipe.audio_classifier, labels.repeat_interleave(CANDIDATES)
        predicted, predicted_each = classifier.predict(waveforms), classifier.predict(every)
        inside = predicted_each < len(names)  # not taken for a further class of audio
        counts = confusion_matrix(predicted_each[inside], each[inside], len(names)).tolist()
        (self.recipe.folder / "confusion.png").write_bytes(charts.confusion_matrix(names, counts))
        by_class = torch.stack(
            [(predicted_each[each == n] == n).float().mean() for n in range(len(names))]
        )
        worst = int(by_class.argmin())
        real = bank.batch(torch.arange(len(bank)), CLIP_SAMPLES)
        known = bank.labels < len(names)
        step = max(self.per_class * CANDIDATES // FRECHET_ROWS, 1)
        made = [torch.where(each == n)[0][::step][:FRECHET_ROWS] for n in range(len(names))]
        spread = [_spread(classifier, part) for part in every.split(CANDIDATES)]
        real_spread = [_spread(classifier, real[bank.labels == n][:SEEDS]) for n in each.unique()]
        return {
            "audio classifier accuracy, real audio": balanced_accuracy(
                classifier.predict(real[known]), bank.labels[known]
            ),
            "images": len(images),
            "image to audio accuracy": balanced_accuracy(predicted, labels),
            "image to audio accuracy, one candidate": balanced_accuracy(predicted_each, each),
            "image to audio accuracy against the next class": balanced_accuracy(
                predicted, (labels + 1) % len(names)
            ),
            f"lowest accuracy of a class, one candidate ({names[worst]})": by_class[worst].item(),
            **self._frechet_ratios(every[torch.cat(made)], real),
            "diversity, relative to real audio": float(np.mean(spread) / np.mean(real_spread)),
            **similarity_to_training(self.recipe, pipeline, waveforms),
            "silent": int((waveforms.abs().amax(1) < 0.01).sum()),
            "clipped": int(((waveforms.abs() >= 0.999).float().mean(1) > 1e-3).sum()),
            "pure tones": int((_tonality(waveforms) > 0.5).sum()),
        }

    def _frechet_ratios(self, made: Tensor, real: Tensor) -> dict[str, float]:
        """Compare generated with real audio, relative to other real audio, in two embeddings."""
        labels, rows = self.bank.labels, FRECHET_ROWS
        of_classes = [torch.where(labels == n)[0] for n in range(len(self.names))]
        sides = [torch.cat([x[k * rows : (k + 1) * rows] for x in of_classes]) for k in range(2)]
        sets = [made, real[sides[0]], real[sides[1]]]
        results: dict[str, float] = {"audio per side of a Fréchet distance": len(sides[0])}
        for name, encode in (
            ("YAMNet", partial(audioset.yamnet_embeds, self.data.folder)),
            ("aiSFX", self.recipe.audio_classifier.encode),
        ):
            generated, reference, other = (encode(waveforms).double() for waveforms in sets)
            mean = reference.mean(dim=0)
            # Those of all real audio; the generated is not needed to know them.
            axes = torch.linalg.svd(torch.cat([reference, other]) - mean, full_matrices=False)[2]
            parts = [((x - mean) @ axes[:COMPONENTS].T).numpy() for x in (generated, other)]
            base = ((reference - mean) @ axes[:COMPONENTS].T).numpy()
            ratio = frechet_distance(parts[0], base) / frechet_distance(parts[1], base)
            results[f"Fréchet distance, relative to other real audio, {name}"] = ratio
        return results

    def generator(self) -> dict[str, float]:
        """Classify audio generated from recordings' own embeddings."""
        labels, classifier = self.bank.labels[self.audio_rows], self.recipe.audio_classifier
        waveforms = generate(self.pipeline, self.audio_embeds, seed=1)
        accuracy = balanced_accuracy(classifier.predict(waveforms), labels)
        real = classifier.predict(self.bank.batch(self.audio_rows, CLIP_SAMPLES))
        return {
            "generator accuracy, one candidate": accuracy,
            "generator accuracy, one candidate, relative to real audio": (
                accuracy / balanced_accuracy(real, labels)
            ),
        }

    def further_classes(self) -> dict[str, float]:
        """Classify audio of the classes that there are no images of."""
        large = [image for image in self.images if image.full_size]
        return recognize_further(
            self.recipe, self.pipeline, self.clip, self.clap, large, self.bank, 2 * self.per_class
        )

    def vocoder_errors(self) -> dict[str, float]:
        """Compare the vocoder with librosa's Griffin-Lim."""
        return vocoder_errors(self.pipeline.vocoder, self.bank)

    def audio_to_image(self) -> dict[str, float]:
        """Classify images generated from the embeddings of images and of audio."""
        classifier = self.recipe.image_classifier
        # Without encoders, the pipeline would load the installed demo models.
        pipeline = AudioToImagePipeline.from_pretrained(
            self.folder / "audio_to_image", clap=self.clap, clip=self.clip
        )
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline.translator is not None
        loaded, labels = [image.load() for image in self.sample], self.labels(self.sample)
        sources = (
            ("images", self.clip.encode_image(loaded), labels),
            ("audio", pipeline.translator(self.audio_embeds), self.bank.labels[self.audio_rows]),
        )
        real = classifier.predict([image.load() for image in self.small])
        results = {
            "image classifier accuracy, real images": balanced_accuracy(
                real, self.labels(self.small)
            )
        }
        for name, embeds, targets in sources:
            generator = torch.Generator().manual_seed(0)
            generated = pipeline(image_embeds=embeds, generator=generator).images
            assert isinstance(generated, list)
            predicted = classifier.predict(generated)
            accuracy = balanced_accuracy(predicted, targets)
            results[f"accuracy of images generated from {name}"] = accuracy
            wrong = balanced_accuracy(predicted, (targets + 1) % len(self.names))
            results[f"accuracy of images generated from {name}, against the next class"] = wrong
            _grid(generated, targets).save(self.recipe.folder / f"images_from_{name}.png")
        # One recording of each class with several seeds, beside as many real images.
        _, embeds, targets = sources[-1]
        firsts = torch.stack([torch.where(targets == n)[0][0] for n in targets.unique()])
        many = pipeline(
            image_embeds=embeds[firsts].repeat_interleave(SEEDS, 0),
            generator=torch.Generator().manual_seed(1),
        ).images
        assert isinstance(many, list)
        spread = [F.pdist(part).mean() for part in classifier.encode(many).split(SEEDS)]
        by_class = [[x for x in self.small if x.label == name][:SEEDS] for name in self.names]
        real_spread = [
            F.pdist(classifier.encode([x.load() for x in part])).mean() for part in by_class
        ]
        results["diversity of images, relative to real images"] = float(
            torch.stack(spread).mean() / torch.stack(real_spread).mean()
        )
        return results


def _spread(classifier: AudioClassifier, waveforms: Tensor) -> float:
    """Compute the mean distance of waveforms in the classifier's feature space."""
    return F.pdist(classifier.encode(waveforms)).mean().item()


def _tonality(waveforms: Tensor) -> Tensor:
    """Compute the share of each waveform's power in its strongest 2 Hz."""
    power = torch.fft.rfft(waveforms).abs().square()
    return F.avg_pool1d(power, 11, 1).amax(1) * 11 / power.sum(1).clamp(min=1e-9)


def _grid(images: list[Image.Image], labels: Tensor) -> Image.Image:
    """Arrange images in a grid with one row per class."""
    rows = [torch.where(labels == label)[0].tolist() for label in labels.unique()]
    columns = min(len(row) for row in rows)
    return make_image_grid([images[n] for row in rows for n in row[:columns]], len(rows), columns)
