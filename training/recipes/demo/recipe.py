"""The recipe of the demo models, stage by stage.

A stage that is done is read back; one that was killed goes on where it stopped.
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
    audio_classifier as classifier,
)
from clip2clap.training.recipes.demo import (
    features,
    generator,
    heads,
    text,
    vocoder,
)
from clip2clap.training.recipes.demo import (
    image_classifier as photo_judge,
)
from clip2clap.training.recipes.demo import (
    image_decoder as pictures,
)
from clip2clap.training.recipes.demo.audio_bank import SoundBank
from clip2clap.training.recipes.demo.data import DemoData, Split
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet
from clip2clap.training.recipes.demo.loop import Fit, Schedule
from clip2clap.training.recipes.demo.parts import aisfx, efficientnet_lite0
from clip2clap.training.recipes.demo.perceptual import PerceptualFeatures

SCHEDULES: dict[str, Schedule] = {
    "words": text.SCHEDULE,
    "text": text.TOWERS_SCHEDULE,
    "clip_space": heads.CLIP_SCHEDULE,
    "clap_space": heads.CLAP_SCHEDULE,
    "clap_average": heads.CLAP_AVERAGE_SCHEDULE,
    "vocoder": vocoder.SCHEDULE,
    "generator": generator.SCHEDULE,
    "painter": pictures.SCHEDULE,
    "finisher": pictures.FINISHER_SCHEDULE,
    "classifier": classifier.SCHEDULE,
    "photo_judge": photo_judge.SCHEDULE,
}


class Recipe:
    """Grows the demo models.

    Args:
        data: The data folder.
        folder: Where features, checkpoints and results are kept.
        steps: Steps a stage is trained for, where they differ from the recipe's.
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
    def photos(self) -> dict[str, Tensor]:
        """Features of photographs."""
        return features.photo_features(self.data, self.folder / "photo_features.safetensors")

    @cached_property
    def maps(self) -> dict[str, Tensor]:
        """What the audio tower's lower blocks see in recordings."""
        return features.sound_maps(self.data, self.folder / "sound_maps.safetensors")

    @cached_property
    def sounds(self) -> dict[str, Tensor]:
        """Features and CLAP vectors (`embeds`) of recordings."""
        path = self.folder / "sound_features.safetensors"
        if not path.is_file():
            rows = features.sound_features(self.data, self.maps, self.audio_model)
            with torch.inference_mode():
                embeds = self.clap_space.embed(rows["features"])
            features.keep({**rows, "embeds": embeds}, path)
        return load_file(path)

    def bank(self, split: Split, *, kinds_only: bool = True) -> SoundBank:
        """Read the recordings of a split."""
        return SoundBank(self.data, split, kinds_only=kinds_only)

    @cached_property
    def words(self) -> text.Words:
        """A small BERT that knows words."""
        words, run = text.train_words(self.data, self._run("words"), self.schedules["words"])
        self._note("words", run)
        return words

    @cached_property
    def text(self) -> text.TextTowers:
        """The text towers of both demo encoders."""
        spaces = self.clip_space, self.clap_space
        schedule = self.schedules["text"]
        run = text.train_towers(self.data, self.words, spaces, self._run("text"), schedule)
        return self._note("text", run)

    @cached_property
    def clip_space(self) -> heads.Space:
        """The demo CLIP's space."""
        _, classifier = efficientnet_lite0()
        train, schedule = heads.train_clip_space, self.schedules["clip_space"]
        run = train(self.data, self.photos, classifier, self._run("clip_space"), schedule)
        return self._note("clip_space", run)

    @cached_property
    def clap_space(self) -> heads.AudioSpace:
        """The demo CLAP's space: learnt, then averaged over more steps at a constant rate."""
        torch.manual_seed(self.schedules["clap_space"].seed)
        space = heads.AudioSpace(aisfx(), len(heads.sound_labels(self.data)))
        for name in ("clap_space", "clap_average"):
            schedule = self.schedules[name]
            run = heads.train_clap_space(self.data, self.maps, space, self._run(name), schedule)
            space = self._note(name, run)
        return space

    @cached_property
    def audio_model(self) -> SfxAudioModel:
        """The demo CLAP's audio tower."""
        model = aisfx()
        model.blocks[-1] = self.clap_space.block
        return model.eval()

    @cached_property
    def autoencoder(self) -> PatchAutoencoder:
        """The generator's autoencoder."""
        return generator.build_autoencoder(self.bank("train", kinds_only=False))

    @cached_property
    def vocoder(self) -> SpectralVocoder:
        """The generator's vocoder."""
        bank = self.bank("train", kinds_only=False)
        run = vocoder.train_vocoder(bank, self._run("vocoder"), self.schedules["vocoder"])
        return self._note("vocoder", run)

    @cached_property
    def latents(self) -> Tensor:
        """What the autoencoder makes of the training recordings."""
        path = self.folder / "latents.safetensors"
        return generator.encode_clips(self.bank("train"), self.autoencoder, path)

    @cached_property
    def generator(self) -> ConditionalUNet:
        """The generator's UNet and its learned negative vector."""
        bank = self.bank("train")
        clips = generator.gather_clips(bank, self.latents, self.sounds, self.sound_means)
        schedule = self.schedules["generator"]
        run = generator.train_generator(clips, self._run("generator"), schedule)
        return self._note("generator", run)

    @cached_property
    def pixels(self) -> Tensor:
        """The rows of `photos` that are for training, as pictures of 64 x 64."""
        photos = [self.data.photos[number] for number in self.photos["photo"][self._shown].tolist()]
        return pictures.load_pixels(photos, self.folder / "pixels.safetensors")

    @cached_property
    def eye(self) -> PerceptualFeatures:
        """What pictures are compared by."""
        network, _ = efficientnet_lite0()
        return PerceptualFeatures(network)

    @cached_property
    def picture_vae(self) -> PatchAutoencoder:
        """The picture decoder's autoencoder."""
        return PatchAutoencoder.from_pictures(
            self.pixels, latent_channels=pictures.CHANNELS, patch_size=pictures.PATCH
        )

    @cached_property
    def told_pictures(self) -> pictures.Pictures:
        """What the picture decoder learns from."""
        latents = pictures.encode_pictures(self.picture_vae, self.pixels)
        kinds = self.photos["kind"][self._shown]
        # Each kind alike often; a third of the draws are photographs of anything else.
        weights = heads.balance(kinds + 1)
        weights[kinds < 0] *= len(self.data.kinds) / 2
        embeds = self.image_embeds[self._shown]
        means = torch.where((kinds >= 0).unsqueeze(1), self.image_means[kinds], embeds)
        return pictures.Pictures(latents, embeds, means, weights)

    @cached_property
    def painter(self) -> ConditionalUNet:
        """A UNet that denoises pictures, and its learned negative vector."""
        folder, schedule = self._run("painter"), self.schedules["painter"]
        return self._note("painter", pictures.train_painter(self.told_pictures, folder, schedule))

    @cached_property
    def finisher(self) -> pictures.Finisher:
        """The picture decoder: UNet and negative vector, as the eye taught them."""
        run = pictures.train_finisher(
            self.told_pictures,
            self.pixels,
            deepcopy(self.painter),
            self.picture_vae,
            self.eye,
            self.clip_space.tower,
            self._run("finisher"),
            self.schedules["finisher"],
        )
        return self._note("finisher", run)

    @cached_property
    def photo_judge(self) -> photo_judge.PhotoJudge:
        """The independent judge of pictures."""
        photos = [photo for photo in self.data.photos if photo.kind and photo.split == "train"]
        pixels = pictures.load_pixels(photos, self.folder / "judge_pixels.safetensors")
        kinds = torch.tensor([self.data.kind_names.index(photo.kind) for photo in photos])
        train, schedule = photo_judge.train_photo_judge, self.schedules["photo_judge"]
        run = train(pixels, kinds, self._run("photo_judge"), schedule)
        return self._note("photo_judge", run)

    @cached_property
    def classifier(self) -> classifier.Classifier:
        """The independent judge."""
        bank, classes = self.bank("train"), len(self.data.kinds)
        run = classifier.train_judge(
            bank, classes, self._run("classifier"), self.schedules["classifier"]
        )
        return self._note("classifier", run)

    @cached_property
    def image_embeds(self) -> Tensor:
        """CLIP vectors of the rows of `photos`, unit norm."""
        with torch.inference_mode():
            return self.clip_space.embed(self.photos["features"]).clone()

    @cached_property
    def image_means(self) -> Tensor:
        """The mean CLIP vector of each kind's training photographs, unit norm."""
        return self._kind_means(self.photos, self.image_embeds)

    @cached_property
    def sound_means(self) -> Tensor:
        """The mean CLAP vector of each kind's training recordings, unit norm."""
        return self._kind_means(self.sounds, self.sounds["embeds"])

    @property
    def _shown(self) -> Tensor:
        return torch.where(self.photos["split"] == features.SPLITS.index("train"))[0]

    def _kind_means(self, rows: dict[str, Tensor], embeds: Tensor) -> Tensor:
        train = rows["split"] == features.SPLITS.index("train")
        known = train & (rows["kind"] >= 0)
        return heads.label_means(embeds[known], rows["kind"][known], len(self.data.kinds))

    def _run(self, name: str) -> Path:
        return self.folder / f"{name}_run"

    def _note(self, name: str, run: Fit) -> Any:
        path = self.folder / "stages.json"
        stages = json.loads(path.read_text()) if path.is_file() else {}
        stages[name] = {
            "steps": self.schedules[name].steps,
            "seconds": round(run.seconds),
            "loss": round(run.loss, 4),
        }
        path.write_text(json.dumps(stages, indent=2) + "\n")
        return run.model
