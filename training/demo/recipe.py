"""The recipe of the demo models, stage by stage.

A stage that is done is read back; one that was killed goes on where it stopped.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SpeechT5HifiGan

from clip2clap.training.demo import features, generator, heads, judge, text, vae, vocoder
from clip2clap.training.demo.data import DemoData, Split
from clip2clap.training.demo.loop import Fit, Schedule
from clip2clap.training.demo.parts import minilm, sentence_embeds
from clip2clap.training.demo.sounds import SoundBank

SCHEDULES: dict[str, Schedule] = {
    "text": text.SCHEDULE,
    "clip_heads": heads.CLIP_SCHEDULE,
    "clap_heads": heads.CLAP_SCHEDULE,
    "autoencoder": vae.SCHEDULE,
    "vocoder": vocoder.SCHEDULE,
    "generator": generator.SCHEDULE,
    "judge": judge.SCHEDULE,
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
    def sounds(self) -> dict[str, Tensor]:
        """Features of recordings."""
        return features.sound_features(self.data, self.folder / "sound_features.safetensors")

    def bank(self, split: Split, *, kinds_only: bool = True) -> SoundBank:
        """Read the recordings of a split."""
        return SoundBank(self.data, split, kinds_only=kinds_only)

    @cached_property
    def text(self) -> text.TextTower:
        """The text tower of both demo encoders."""
        tower, run = text.train_text(self.data, self._run("text"), self.schedules["text"])
        self._note("text", run)
        return tower

    @cached_property
    def clip_heads(self) -> heads.Heads:
        """The demo CLIP's projections."""
        train = heads.train_clip_heads
        schedule = self.schedules["clip_heads"]
        run = train(self.data, self.photos, self._minilm, self._run("clip_heads"), schedule)
        return self._note("clip_heads", run)

    @cached_property
    def clap_heads(self) -> heads.Heads:
        """The demo CLAP's projections."""
        train = heads.train_clap_heads
        schedule = self.schedules["clap_heads"]
        run = train(self.data, self.sounds, self._minilm, self._run("clap_heads"), schedule)
        return self._note("clap_heads", run)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """The generator's autoencoder."""
        bank = self.bank("train", kinds_only=False)
        run = vae.train_vae(bank, self._run("autoencoder"), self.schedules["autoencoder"])
        return self._note("autoencoder", run)

    @cached_property
    def vocoder(self) -> SpeechT5HifiGan:
        """The generator's vocoder."""
        bank = self.bank("train", kinds_only=False)
        run = vocoder.train_vocoder(bank, self._run("vocoder"), self.schedules["vocoder"])
        return self._note("vocoder", run)

    @cached_property
    def generator(self) -> generator.ConditionalUNet:
        """The generator's UNet and its learned negative vector."""
        path = self.folder / "latents.safetensors"
        bank = self.bank("train")
        clips = generator.encode_clips(bank, self.autoencoder, self.sounds, self.audio_embeds, path)
        schedule = self.schedules["generator"]
        run = generator.train_generator(clips, self._run("generator"), schedule)
        return self._note("generator", run)

    @cached_property
    def judge(self) -> judge.Judge:
        """The independent judge."""
        bank, classes = self.bank("train"), len(self.data.kinds)
        run = judge.train_judge(bank, classes, self._run("judge"), self.schedules["judge"])
        return self._note("judge", run)

    @property
    def image_embeds(self) -> Tensor:
        """CLIP vectors of the rows of `photos`, unit norm."""
        return _project(self.clip_heads.tower, self.photos["features"])

    @property
    def audio_embeds(self) -> Tensor:
        """CLAP vectors of the rows of `sounds`, unit norm."""
        return _project(self.clap_heads.tower, self.sounds["features"])

    def _minilm(self, texts: Any) -> Tensor:
        return sentence_embeds(*self._sentence_encoder, list(texts))

    @cached_property
    def _sentence_encoder(self) -> tuple[Any, Any]:
        return minilm()

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


def _project(projection: nn.Module, rows: Tensor) -> Tensor:
    with torch.inference_mode():
        return F.normalize(projection(rows), dim=-1).clone()
