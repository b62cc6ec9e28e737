"""Stages of the demo models' recipe.

A finished stage is read back; a killed one resumes from its checkpoint.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from clip2clap.core.files import save_tensors
from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.recipes.demo import (
    classifiers,
    features,
    generator,
    image_decoder,
    spaces,
    text,
    vision,
    vocoder,
)
from clip2clap.training.recipes.demo.audio_bank import AudioBank
from clip2clap.training.recipes.demo.data import SPLITS, DemoData, Split
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet, ConditionedLatents
from clip2clap.training.recipes.demo.loop import Schedule, Stage
from clip2clap.training.recipes.demo.perceptual import PerceptualFeatures
from clip2clap.training.recipes.demo.pretrained import efficientnet_lite0
from clip2clap.training.recipes.demo.words import FURTHER_CLASSES, members
from clip2clap.training.train import train
from clip2clap.translator.auto import AutoTranslator

SCHEDULES = {
    "text_student": Schedule(1500, 5e-4, ema_decay=0.995),
    "text_encoders": Schedule(900, 5e-4, ema_decay=0.995),
    "clip_space": Schedule(600, 3e-3, warmup=50, weight_decay=0.0, ema_decay=0.98),
    "vision": Schedule(500, 1.5e-4, warmup=30, ema_decay=0.99),
    "clip_words": Schedule(400, 1e-2, warmup=20, weight_decay=0.0, ema_decay=0.98),
    "vocoder": Schedule(2500, 1e-3, ema_decay=0.998),
    "generator": Schedule(7500, 4e-4, warmup=300),
    "tuned_generator": Schedule(1150, 2e-4, weight_decay=0.0, ema_decay=0.99),
    "decoder": Schedule(3000, 8e-4, warmup=300),
    "tuned_decoder": Schedule(5450, 3e-4, weight_decay=0.0, betas=(0.5, 0.99), ema_decay=0.998),
}
TRANSLATOR = TrainingConfig.reference(
    loss="cosine", hidden_size=512, epochs=10, batch_size=256, patience=10
)


@dataclass(frozen=True)
class ClassPairs:
    """Pairs of an image and audio of one class."""

    items: list[str]
    """Names of the images."""
    labels: Tensor
    """Class numbers, shape (n,)."""
    images: Tensor
    """CLIP embeddings, shape (n, 512), unit norm."""
    audio: Tensor
    """CLAP embeddings, shape (n, 512), unit norm."""


class Recipe:
    """Stages of the demo models, each run when it is first read.

    Args:
        data: The data folder.
        folder: Folder of features, checkpoints and results.
        steps: Training steps by stage, where they differ from `SCHEDULES`.
    """

    def __init__(self, data: DemoData, folder: Path, *, steps: Mapping[str, int] | None = None):
        self.data = data
        self.folder = folder
        self.steps = steps or {}
        folder.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str) -> Stage:
        """Return a stage by its name in `SCHEDULES`."""
        schedule = SCHEDULES[name]
        steps = self.steps.get(name, schedule.steps)
        return Stage(name, self.folder, replace(schedule, steps=steps))

    @cached_property
    def image_activations(self) -> np.ndarray:
        """Activations of images after the blocks of EfficientNet-Lite0 that are not tuned."""
        return features.image_activations(self.data, self.folder / "image_activations.npy")

    @cached_property
    def image_features(self) -> dict[str, Tensor]:
        """EfficientNet-Lite0 features of images."""
        path = self.folder / "image_features.safetensors"
        return features.image_features(self.data, self.image_activations, path)

    @cached_property
    def audio_features(self) -> dict[str, Tensor]:
        """YAMNet features of audio."""
        return features.audio_features(self.data, self.folder / "audio_features.safetensors")

    def bank(self, split: Split, *, labeled_only: bool = True) -> AudioBank:
        """Read the audio of a split."""
        return AudioBank(self.data, split, labeled_only=labeled_only)

    @cached_property
    def text_student(self) -> text.TextStudent:
        """Small BERT distilled from MiniLM."""
        return text.train_student(self.data, self.stage("text_student"))

    @cached_property
    def text_encoders(self) -> text.TextEncoders:
        """Text encoders of both demo models."""
        both = self.clip_space, self.clap_space
        stage = self.stage("text_encoders")
        return text.train_text_encoders(self.data, self.text_student, both, stage)

    @cached_property
    def clip_space(self) -> spaces.Space:
        """Joint space of the demo CLIP: its projection, then the words of all of ImageNet."""
        _, classifier = efficientnet_lite0()
        inputs = self.data, self.image_features, classifier
        space = spaces.train_clip_space(*inputs, self.stage("clip_space"))
        return spaces.train_words(*inputs, space, self.stage("clip_words"))

    @cached_property
    def vision(self) -> vision.ImageEncoder:
        """Image encoder of the demo CLIP, tuned for small images."""
        network, _ = efficientnet_lite0()
        start = vision.ImageEncoder(network, self.clip_space.projection)
        inputs = self.data, self.image_features, self.image_activations
        return vision.tune_encoder(start, *inputs, self.clip_space, self.stage("vision"))

    @cached_property
    def clap_space(self) -> spaces.Space:
        """Joint space of the demo CLAP."""
        return spaces.fit_clap_space(self.data, self.audio_features)

    @cached_property
    def autoencoder(self) -> PatchAutoencoder:
        """Autoencoder of the generator."""
        return generator.build_autoencoder(self.bank("train", labeled_only=False))

    @cached_property
    def vocoder(self) -> SpectralVocoder:
        """Vocoder of the generator."""
        bank = self.bank("train", labeled_only=False)
        return vocoder.train_vocoder(bank, self.stage("vocoder"))

    @cached_property
    def latents(self) -> Tensor:
        """Latents of the training audio."""
        path = self.folder / "latents.safetensors"
        return generator.encode_latents(self.bank("train"), self.autoencoder, path)

    @cached_property
    def generator_inputs(self) -> ConditionedLatents:
        """Training data of the generator."""
        index, embeds = self.audio_features["index"], self.audio_embeds
        return generator.condition_latents(
            self.bank("train"), self.latents, index, embeds, self.audio_means
        )

    @cached_property
    def generator(self) -> ConditionalUNet:
        """UNet of the generator, with its negative embedding, before tuning."""
        return generator.train_generator(self.generator_inputs, self.stage("generator"))

    @cached_property
    def tuned_generator(self) -> ConditionalUNet:
        """UNet of the generator, with its negative embedding, tuned on translated images."""
        clips = generator.add_images(
            self.generator_inputs,
            self.bank("train").labels,
            self.translated_images,
            self.data.audio_class_names,
        )
        return generator.tune_generator(clips, self.generator, self.stage("tuned_generator"))

    @cached_property
    def pixels(self) -> Tensor:
        """Training rows of `image_features`, as 64 x 64 images."""
        indices = self.image_features["index"][self._train_rows].tolist()
        images = [self.data.images[index] for index in indices]
        return image_decoder.load_pixels(images, self.folder / "pixels.safetensors")

    @cached_property
    def perceptual(self) -> PerceptualFeatures:
        """Perceptual features that the decoder is tuned with."""
        return PerceptualFeatures(deepcopy(self.vision.network))

    @cached_property
    def image_autoencoder(self) -> PatchAutoencoder:
        """Autoencoder of the image decoder."""
        return PatchAutoencoder.from_images(
            self.pixels, latent_channels=image_decoder.CHANNELS, patch_size=image_decoder.PATCH
        )

    @cached_property
    def decoder_inputs(self) -> ConditionedLatents:
        """Training data of the image decoder."""
        latents = image_decoder.encode_images(self.image_autoencoder, self.pixels)
        labels = self.image_features["label"][self._train_rows]
        # Classes are drawn equally often; a third of the draws are images of no demo class.
        weights = spaces.class_weights(labels + 1)
        weights[labels < 0] *= len(self.data.classes) / 2
        embeds = self.image_embeds[self._train_rows]
        means = torch.where((labels >= 0).unsqueeze(1), self.image_means[labels], embeds)
        return ConditionedLatents(latents, embeds, means, weights)

    @cached_property
    def decoder(self) -> ConditionalUNet:
        """UNet of the image decoder, with its negative embedding, before tuning."""
        return image_decoder.train_decoder(self.decoder_inputs, self.stage("decoder"))

    @cached_property
    def tuned_decoder(self) -> image_decoder.TunedDecoder:
        """UNet of the image decoder, with its negative embedding, after tuning."""
        loss = image_decoder.TuningLoss(
            self.decoder_inputs,
            self.pixels,
            self.image_autoencoder,
            self.perceptual,
            self.vision.projection,
        )
        decoder = deepcopy(self.decoder)
        return image_decoder.tune_decoder(loss, decoder, self.stage("tuned_decoder"))

    @cached_property
    def image_classifier(self) -> classifiers.ImageClassifier:
        """Independent classifier of images."""
        images = [image for image in self.data.images if image.split == "classifier"]
        images = [image for image in images if image.label]
        labels = torch.tensor([self.data.class_names.index(image.label) for image in images])
        return classifiers.train_image_classifier(
            [image.load() for image in images],
            labels,
            len(self.data.classes),
            self.folder / "image_classifier.safetensors",
        )

    @cached_property
    def audio_classifier(self) -> classifiers.AudioClassifier:
        """Independent classifier of audio."""
        path = self.folder / "audio_classifier.safetensors"
        count = len(self.data.audio_class_names)
        return classifiers.train_audio_classifier(self.bank("train"), count, path)

    @cached_property
    def image_embeds(self) -> Tensor:
        """CLIP embeddings of the rows of `image_features`, unit norm."""
        path = self.folder / "image_embeds.safetensors"
        if not path.is_file():
            activations = self.image_activations[: len(self.image_features["label"])]
            embeds = vision.embed(self.vision.tail(), activations)
            save_tensors({"embeds": embeds}, path)
        return load_file(path)["embeds"]

    @cached_property
    def audio_embeds(self) -> Tensor:
        """CLAP embeddings of the rows of `audio_features`, unit norm."""
        with torch.inference_mode():
            return self.clap_space.embed(self.audio_features["features"]).clone()

    @cached_property
    def image_means(self) -> Tensor:
        """Mean CLIP embedding of each class's training images, unit norm."""
        return self._class_means(self.image_features, self.image_embeds, self.data.class_names)

    @cached_property
    def audio_means(self) -> Tensor:
        """Mean CLAP embedding of each class's training audio, unit norm."""
        names = self.data.audio_class_names
        return self._class_means(self.audio_features, self.audio_embeds, names)

    @cached_property
    def pairs(self) -> ClassPairs:
        """Training images, each with training audio of its class.

        Typical embeddings of ImageNet's classes stand for images of the further classes.
        """
        images, names = self.image_features, self.data.audio_class_names
        classes = len(self.data.classes)
        rows = spaces.draw_images(images)
        items = [f"photo-{index}" for index in images["index"][rows].tolist()]
        labels, embeds = [images["label"][rows]], [self.image_embeds[rows]]
        vectors = self.clip_space.targets().detach()[classes:][: len(self.data.imagenet_names)]
        known = spaces.full_size_rows(images)
        typical = spaces.TypicalFeatures(vectors, self.image_embeds[known], images["number"][known])
        for label, name in enumerate(names[classes:], classes):
            numbers = torch.tensor(members(FURTHER_CLASSES[name]))
            numbers = numbers.repeat(-(-len(rows) // classes // len(numbers)))
            embeds.append(typical.draw_embeds(numbers))
            labels.append(torch.full((len(numbers),), label))
            items += [f"{name}-{number}" for number in range(len(numbers))]
        joined = torch.cat(labels)
        audio = self.audio_embeds[spaces.draw_partners(joined, self.audio_features)]
        return ClassPairs(items, joined, torch.cat(embeds), audio)

    @cached_property
    def translated_images(self) -> tuple[Tensor, Tensor]:
        """CLAP embeddings that the images of `pairs` are translated to, and their class numbers.

        The translator is trained as the packaged one, which is bound to the packaged encoders.
        """
        pairs, folder = self.pairs, self.folder / "tuning_translator"
        train(Pairs(pairs.images, pairs.audio), folder, TRANSLATOR)
        with torch.inference_mode():
            translated = AutoTranslator.from_pretrained(folder)(pairs.images).clone()
        return translated, pairs.labels

    @property
    def _train_rows(self) -> Tensor:
        return torch.where(self.image_features["split"] == SPLITS.index("train"))[0]

    def _class_means(self, rows: dict[str, Tensor], embeds: Tensor, names: Sequence[str]) -> Tensor:
        train = rows["split"] == SPLITS.index("train")
        labeled = train & (rows["label"] >= 0)
        return spaces.class_means(embeds[labeled], rows["label"][labeled], len(names))
