"""Stages of the demo models' recipe.

A finished stage is read back; a killed one resumes from its checkpoint.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.models.sfx_clap import SfxAudioModel
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.training.recipes.demo import (
    classifiers,
    features,
    generator,
    image_decoder,
    spaces,
    text,
    vocoder,
)
from clip2clap.training.recipes.demo.audio_bank import AudioBank
from clip2clap.training.recipes.demo.data import SPLITS, DemoData, Split
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet, ConditionedLatents
from clip2clap.training.recipes.demo.loop import Schedule, StageResult
from clip2clap.training.recipes.demo.perceptual import PerceptualFeatures
from clip2clap.training.recipes.demo.pretrained import aisfx, efficientnet_lite0

SCHEDULES: dict[str, Schedule] = {
    "text_student": text.STUDENT_SCHEDULE,
    "text_encoders": text.ENCODERS_SCHEDULE,
    "clip_space": spaces.CLIP_SCHEDULE,
    "clip_words": spaces.WORDS_SCHEDULE,
    "clap_space": spaces.CLAP_SCHEDULE,
    "clap_average": spaces.CLAP_AVERAGE_SCHEDULE,
    "vocoder": vocoder.SCHEDULE,
    "generator": generator.SCHEDULE,
    "decoder": image_decoder.SCHEDULE,
    "tuned_decoder": image_decoder.TUNING_SCHEDULE,
    "audio_classifier": classifiers.AUDIO_SCHEDULE,
    "image_classifier": classifiers.IMAGE_SCHEDULE,
}


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
        self.schedules = {
            name: replace(schedule, steps=(steps or {}).get(name, schedule.steps))
            for name, schedule in SCHEDULES.items()
        }
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def image_features(self) -> dict[str, Tensor]:
        """EfficientNet-Lite0 features of images."""
        return features.image_features(self.data, self.folder / "image_features.safetensors")

    @cached_property
    def audio_maps(self) -> dict[str, Tensor]:
        """Feature maps of audio from aiSFX's lower blocks."""
        return features.audio_maps(self.data, self.folder / "audio_maps.safetensors")

    @cached_property
    def audio_features(self) -> dict[str, Tensor]:
        """Features and CLAP embeddings (`embeds`) of audio."""
        path = self.folder / "audio_features.safetensors"
        if not path.is_file():
            rows = features.audio_features(self.data, self.audio_maps, self.audio_model)
            with torch.inference_mode():
                embeds = self.clap_space.embed(rows["features"])
            features.save_tensors({**rows, "embeds": embeds}, path)
        return load_file(path)

    def bank(self, split: Split, *, labeled_only: bool = True) -> AudioBank:
        """Read the audio of a split."""
        return AudioBank(self.data, split, labeled_only=labeled_only)

    @cached_property
    def text_student(self) -> text.TextStudent:
        """Small BERT distilled from MiniLM."""
        student, result = text.train_student(self.data, *self._run("text_student"))
        self._record("text_student", result)
        return student

    @cached_property
    def text_encoders(self) -> text.TextEncoders:
        """Text encoders of both demo models."""
        both = self.clip_space, self.clap_space
        run = self._run("text_encoders")
        result = text.train_text_encoders(self.data, self.text_student, both, *run)
        return self._record("text_encoders", result)

    @cached_property
    def clip_space(self) -> spaces.Space:
        """Joint space of the demo CLIP: its projection, then the words of all of ImageNet."""
        _, classifier = efficientnet_lite0()
        inputs = self.data, self.image_features, classifier
        result = spaces.train_clip_space(*inputs, *self._run("clip_space"))
        space = self._record("clip_space", result)
        result = spaces.train_words(*inputs, space, *self._run("clip_words"))
        return self._record("clip_words", result)

    @cached_property
    def clap_space(self) -> spaces.AudioSpace:
        """Joint space of the demo CLAP: trained, then averaged over steps at a constant rate."""
        torch.manual_seed(self.schedules["clap_space"].seed)
        space = spaces.AudioSpace(aisfx(), len(spaces.audio_classes(self.data)))
        for name in ("clap_space", "clap_average"):
            result = spaces.train_clap_space(self.data, self.audio_maps, space, *self._run(name))
            space = self._record(name, result)
        return space

    @cached_property
    def audio_model(self) -> SfxAudioModel:
        """Audio encoder of the demo CLAP."""
        model = aisfx()
        model.blocks[-1] = self.clap_space.block
        return model.eval()

    @cached_property
    def autoencoder(self) -> PatchAutoencoder:
        """Autoencoder of the generator."""
        return generator.build_autoencoder(self.bank("train", labeled_only=False))

    @cached_property
    def vocoder(self) -> SpectralVocoder:
        """Vocoder of the generator."""
        bank = self.bank("train", labeled_only=False)
        return self._record("vocoder", vocoder.train_vocoder(bank, *self._run("vocoder")))

    @cached_property
    def latents(self) -> Tensor:
        """Latents of the training audio."""
        path = self.folder / "latents.safetensors"
        return generator.encode_latents(self.bank("train"), self.autoencoder, path)

    @cached_property
    def generator(self) -> ConditionalUNet:
        """UNet of the generator, with its negative embedding."""
        clips = generator.condition_latents(
            self.bank("train"), self.latents, self.audio_features, self.audio_means
        )
        return self._record("generator", generator.train_generator(clips, *self._run("generator")))

    @cached_property
    def pixels(self) -> Tensor:
        """Training rows of `image_features`, as 64 x 64 images."""
        indices = self.image_features["index"][self._train_rows].tolist()
        images = [self.data.images[index] for index in indices]
        return image_decoder.load_pixels(images, self.folder / "pixels.safetensors")

    @cached_property
    def perceptual(self) -> PerceptualFeatures:
        """Perceptual features that the decoder is tuned with."""
        network, _ = efficientnet_lite0()
        return PerceptualFeatures(network)

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
        result = image_decoder.train_decoder(self.decoder_inputs, *self._run("decoder"))
        return self._record("decoder", result)

    @cached_property
    def tuned_decoder(self) -> image_decoder.TunedDecoder:
        """UNet of the image decoder, with its negative embedding, after tuning."""
        loss = image_decoder.TuningLoss(
            self.decoder_inputs,
            self.pixels,
            self.image_autoencoder,
            self.perceptual,
            self.clip_space.projection,
        )
        run = self._run("tuned_decoder")
        result = image_decoder.tune_decoder(loss, deepcopy(self.decoder), *run)
        return self._record("tuned_decoder", result)

    @cached_property
    def image_classifier(self) -> classifiers.ImageClassifier:
        """Independent classifier of images."""
        images = [image for image in self.data.images if image.label and image.split == "train"]
        pixels = image_decoder.load_pixels(images, self.folder / "labeled_pixels.safetensors")
        labels = torch.tensor([self.data.class_names.index(image.label) for image in images])
        run = self._run("image_classifier")
        result = classifiers.train_image_classifier(pixels, labels, *run)
        return self._record("image_classifier", result)

    @cached_property
    def audio_classifier(self) -> classifiers.AudioClassifier:
        """Independent classifier of audio."""
        classes, run = len(self.data.classes), self._run("audio_classifier")
        result = classifiers.train_audio_classifier(self.bank("train"), classes, *run)
        return self._record("audio_classifier", result)

    @cached_property
    def image_embeds(self) -> Tensor:
        """CLIP embeddings of the rows of `image_features`, unit norm."""
        with torch.inference_mode():
            return self.clip_space.embed(self.image_features["features"]).clone()

    @cached_property
    def image_means(self) -> Tensor:
        """Mean CLIP embedding of each class's training images, unit norm."""
        return self._class_means(self.image_features, self.image_embeds)

    @cached_property
    def audio_means(self) -> Tensor:
        """Mean CLAP embedding of each class's training audio, unit norm."""
        return self._class_means(self.audio_features, self.audio_features["embeds"])

    @property
    def _train_rows(self) -> Tensor:
        return torch.where(self.image_features["split"] == SPLITS.index("train"))[0]

    def _class_means(self, rows: dict[str, Tensor], embeds: Tensor) -> Tensor:
        train = rows["split"] == SPLITS.index("train")
        labeled = train & (rows["label"] >= 0)
        return spaces.class_means(embeds[labeled], rows["label"][labeled], len(self.data.classes))

    def _run(self, name: str) -> tuple[Path, Schedule]:
        """Return the folder and the schedule of a stage."""
        return self.folder / f"{name}_run", self.schedules[name]

    def _record(self, name: str, result: StageResult) -> Any:
        """Add a stage's steps, time and loss to stages.json, and return its model."""
        path = self.folder / "stages.json"
        stages = json.loads(path.read_text()) if path.is_file() else {}
        stages[name] = {
            "steps": self.schedules[name].steps,
            "seconds": round(result.seconds),
            "loss": round(result.loss, 4),
        }
        path.write_text(json.dumps(stages, indent=2) + "\n")
        return result.model
