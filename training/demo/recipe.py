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
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertModel,
    SpeechT5HifiGan,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from clip2clap.embeddings import ClapEncoder, ClipEncoder, TableWriter
from clip2clap.embeddings.sfx_clap import (
    SfxClapConfig,
    SfxClapFeatureExtractor,
    SfxClapModel,
    SfxProjection,
)
from clip2clap.inference import ImageToAudioPipeline, LearnedNegativeEmbedding
from clip2clap.inference.image_to_audio import few_step_scheduler
from clip2clap.training import TrainingConfig, train
from clip2clap.training.demo import features, generator, heads, judge, text, vae, vocoder
from clip2clap.training.demo.data import DemoData, Split
from clip2clap.training.demo.loop import Fit, Schedule
from clip2clap.training.demo.parts import aisfx, efficientnet_lite0, minilm, sentence_embeds
from clip2clap.training.demo.sounds import SoundBank
from clip2clap.translator import AutoTranslator

SCHEDULES: dict[str, Schedule] = {
    "text": text.SCHEDULE,
    "clip_heads": heads.CLIP_SCHEDULE,
    "clap_heads": heads.CLAP_SCHEDULE,
    "autoencoder": vae.SCHEDULE,
    "vocoder": vocoder.SCHEDULE,
    "generator": generator.SCHEDULE,
    "judge": judge.SCHEDULE,
}
TRANSLATOR = TrainingConfig(loss="cosine", hidden=512, epochs=10, batch_size=256)
KIND_PROMPT = "the sound of a {}"
GUIDANCE_SCALE = 3.0
INFERENCE_STEPS = 20


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

    def package(self, target: Path) -> None:
        """Write the demo models as the package ships them.

        Args:
            target: The folder to write; what it held is overwritten.
        """
        clip_folder, clap_folder = self.folder / "clip_model", target / "clap"
        self._save_clip(clip_folder)
        self._save_clap(clap_folder)
        clip = ClipEncoder.from_pretrained(str(clip_folder), dtype=torch.float16)
        clap = ClapEncoder.from_pretrained(str(clap_folder), dtype=torch.float32)
        translator_folder = self._train_translator(clip, clap)
        unet = self.generator
        pipeline = ImageToAudioPipeline(
            clip=clip,
            translator=AutoTranslator.from_pretrained(translator_folder).half(),
            unet=unet.unet.half(),
            vae=self.autoencoder.half(),
            vocoder=self.vocoder.half(),
            scheduler=few_step_scheduler(generator.build_scheduler().config),
            negative_embedding=LearnedNegativeEmbedding.from_vector(
                unet.negative_embeds.detach()
            ).half(),
            clap_id="demo",
            clap_space=clap.space("audio").to_dict(),
            default_guidance_scale=GUIDANCE_SCALE,
            default_num_inference_steps=INFERENCE_STEPS,
        )
        pipeline.save_pretrained(target / "image_to_audio")
        names = self.data.kind_names
        prompts = clap.texts([KIND_PROMPT.format(name) for name in names])
        save_file({"clap_text": prompts.half().contiguous()}, target / "kinds.safetensors")
        (target / "kinds.json").write_text(json.dumps({"kinds": names}, indent=2) + "\n")

    def _save_clip(self, folder: Path) -> None:
        network, _ = efficientnet_lite0()
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            network.config, self.text.model.config, projection_dim=heads.EMBED_DIM
        )
        model = VisionTextDualEncoderModel(
            config, network, BertModel(self.text.model.config, add_pooling_layer=True)
        )
        model.text_model.load_state_dict(self.text.model.state_dict())
        with torch.no_grad():
            model.visual_projection.weight.copy_(_weight(self.clip_heads.tower))
            folded = _weight(self.clip_heads.text) @ self.text.to_minilm.weight
            model.text_projection.weight.copy_(folded)
            model.logit_scale.copy_(self.clip_heads.logit_scale)
        model.half().save_pretrained(folder)
        features.image_processor().save_pretrained(folder)
        self.text.tokenizer.save_pretrained(folder)

    def _save_clap(self, folder: Path) -> None:
        model = SfxClapModel(SfxClapConfig(text_config=self.text.model.config))
        model.audio_model.load_state_dict(aisfx().state_dict())
        model.text_model.load_state_dict(self.text.model.state_dict())
        model.audio_projection.load_state_dict(self.clap_heads.tower.state_dict())
        assert isinstance(self.clap_heads.text, SfxProjection)
        model.text_projection.load_state_dict(self.clap_heads.text.state_dict())
        with torch.no_grad():
            folded = self.clap_heads.text.linear1.weight @ self.text.to_minilm.weight
            model.text_projection.linear1 = nn.Linear(*reversed(folded.shape))
            model.text_projection.linear1.weight.copy_(folded)
            model.text_projection.linear1.bias.copy_(self.clap_heads.text.linear1.bias)
            model.logit_scale.copy_(self.clap_heads.logit_scale)
        model.half().save_pretrained(folder)
        SfxClapFeatureExtractor().save_pretrained(folder)
        self.text.tokenizer.save_pretrained(folder)

    def _train_translator(self, clip: ClipEncoder, clap: ClapEncoder) -> Path:
        """Learn from pairs of a training photograph and a training recording of its kind."""
        folder = self.folder / "translator"
        table = self.folder / "pairs"
        if not table.is_dir():
            self._pair(table, clip, clap)
        train(table, folder, TRANSLATOR)
        return folder

    def _pair(self, table: Path, clip: ClipEncoder, clap: ClapEncoder) -> None:
        seed = torch.Generator().manual_seed(0)
        train_split = features.SPLITS.index("train")
        photos = torch.where((self.photos["split"] == train_split) & (self.photos["kind"] >= 0))[0]
        sounds = self.sounds["split"] == train_split
        partners = torch.empty_like(photos)
        for kind in range(len(self.data.kinds)):
            places = torch.where(self.photos["kind"][photos] == kind)[0]
            choices = torch.where(sounds & (self.sounds["kind"] == kind))[0]
            draw = torch.randint(len(choices), (len(places),), generator=seed)
            partners[places] = choices[draw]
        spaces = {"clip_image": clip.space("image"), "clap_audio": clap.space("audio")}
        names = [f"photo-{number}" for number in self.photos["photo"][photos].tolist()]
        kinds = [self.data.kind_names[kind] for kind in self.photos["kind"][photos].tolist()]
        with TableWriter(table, spaces) as writer:
            writer.append(
                names,
                {"kind": kinds},
                {
                    "clip_image": self.image_embeds[photos],
                    "clap_audio": self.audio_embeds[partners],
                },
            )

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


def _weight(projection: nn.Module) -> Tensor:
    assert isinstance(projection, nn.Linear)
    return projection.weight
