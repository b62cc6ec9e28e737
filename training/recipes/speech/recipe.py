"""Training of the demo speech encoder: Whisper's encoder, frozen, and attention pooling."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperFeatureExtractor

from clip2clap.core.files import replacing, save_tensors
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.models.speech import SpeechConfig, SpeechModel
from clip2clap.training.recipes.demo.data import DemoData, read_audio
from clip2clap.training.recipes.demo.loop import Schedule, Stage, mixed_precision
from clip2clap.training.recipes.demo.words import CLASSES
from clip2clap.training.recipes.speech.alterations import altered
from clip2clap.training.recipes.speech.bank import PART, SpeechBank, draw_utterances
from clip2clap.training.recipes.speech.calibration import calibrate
from clip2clap.training.recipes.speech.texts import (
    TEMPLATES,
    Sentence,
    name_sentences,
    short_captions,
    word_sentences,
)
from clip2clap.training.recipes.speech.whisper import whisper_encoder

SCHEDULE = Schedule(5_000, 2e-3, weight_decay=0.05, ema_decay=0.998)
LAYERS, POSITIONS, WINDOW_S = 4, 200, 4.0
BATCH = 64
# Scale of cosine similarities in the softmax over meanings and images, of teacher and student.
LOGIT_SCALE = 60.0
# Memory of the names, whose embeddings are nearer to those of images than what is heard.
MEMORY = {"beta": 60.0, "mix": 0.8}
# Speakers of other sizes are heard alike; chosen on the calibration's voices.
SPEEDS = (0.88, 1.07)
# Training images of each category that speech is compared with.
IMAGES = 5
# Utterances of each of ImageNet's names, each synonym of a demo class, and each frequent word.
PER_NAME, PER_SYNONYM, PER_WORD = 12, 30, 2
WORDS, CAPTIONS = 5_000, 4_000
# Times that each utterance is altered anew.
COPIES = 2
# Longest stretch of an utterance's frames that is hidden in training, 20 ms each.
MASKED_FRAMES = 15
# Share of the pooling's values that is dropped in training.
DROPOUT = 0.12


def build_model(backbone: dict[str, Tensor], space: dict[str, Any] | None = None) -> SpeechModel:
    """Build the demo speech encoder from the weights of its frozen layers."""
    config = WhisperConfig(
        d_model=384,
        encoder_layers=LAYERS,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        max_source_positions=POSITIONS,
    )
    model = SpeechModel(SpeechConfig(config, window_s=WINDOW_S, space=space))
    model.backbone.load_state_dict(backbone)
    model.backbone.requires_grad_(False)
    model.backbone.layer_norm.requires_grad_(True)
    return model


@dataclass(frozen=True)
class Frames:
    """Frozen frames of utterances, one after another.

    Args:
        values: Frames, shape (frames, 384), in float16.
        lengths: Number of frames of each utterance, shape (n,).
    """

    values: Tensor
    lengths: Tensor

    @cached_property
    def _starts(self) -> Tensor:
        return self.lengths.cumsum(0) - self.lengths

    def batch(self, rows: Tensor) -> Tensor:
        """Return frames in float32, (n, longest, 384), those past an utterance's own arbitrary."""
        places = torch.arange(int(self.lengths[rows].max()))
        found = self._starts[rows].unsqueeze(1) + places  # (n, longest)
        return self.values[found.clamp(max=len(self.values) - 1)].float()


class SpeechRecipe:
    """Data, frozen frames and training of the demo speech encoder.

    Args:
        data: The demo models' data.
        folder: Folder of speech, frames and checkpoints.
        whisper: `model.bin` of Whisper tiny.en in the format of CTranslate2.
        steps: Training steps, where they differ from `SCHEDULE`'s.
    """

    def __init__(
        self,
        data: DemoData,
        folder: Path,
        whisper: Path,
        *,
        steps: int | None = None,
    ):
        self.data, self.folder = data, folder
        state = whisper_encoder(whisper, layers=LAYERS, positions=POSITIONS)
        # Frames are those of the weights as they are shipped.
        self.backbone = {name: value.float() for name, value in compressed(state).items()}
        self.schedule = SCHEDULE if steps is None else replace(SCHEDULE, steps=steps)

    @cached_property
    def clip(self) -> ClipEncoder:
        """Demo CLIP, whose text encoder is the teacher."""
        return ClipEncoder.from_pretrained("demo")

    @cached_property
    def names(self) -> list[str]:
        """ImageNet's names and those of the demo classes."""
        of_classes = (name for entry in CLASSES.values() for name in entry["names"])
        return list(dict.fromkeys([*self.data.imagenet_names, *of_classes]))

    @cached_property
    def captions(self) -> list[str]:
        """Captions that are spoken as they are."""
        return short_captions(self.data.folder / "audiocaps/train.csv", CAPTIONS, seed=1)

    @cached_property
    def bank(self) -> SpeechBank:
        """Speech of training."""
        sentences = [
            *name_sentences(
                self.data.imagenet_names, seed=1, per_synonym=PER_SYNONYM, per_name=PER_NAME
            ),
            *word_sentences(self.data.captions, WORDS, seed=9, each=PER_WORD),
            *(Sentence(caption, caption) for caption in self.captions),
        ]
        random.Random(1).shuffle(sentences)
        bank = SpeechBank(self.folder / "speech", draw_utterances(sentences, seed=2))
        bank.synthesize()
        return bank

    @cached_property
    def meanings(self) -> tuple[dict[str, int], Tensor]:
        """Numbers of names and captions, and their text embeddings, (meanings, d), unit norm."""
        spoken = dict.fromkeys(each.sentence.meaning for each in self.bank.utterances)
        captions = [each for each in self.captions if each in spoken]
        names = [each for each in spoken if each not in set(captions)]
        embeds = [name_embeds(self.clip, names), self.clip.encode_text(captions)]
        numbers = {each: number for number, each in enumerate([*names, *captions])}
        return numbers, torch.cat(embeds)

    @cached_property
    def images(self) -> Tensor:
        """CLIP embeddings of some training images of each category, unit norm."""
        found: dict[str, list[Any]] = {}
        for image in self.data.images:
            if image.split == "train" and len(found.setdefault(image.category, [])) < IMAGES:
                found[image.category].append(image)
        return self.clip.encode_image([each.load() for own in found.values() for each in own])

    @cached_property
    def noises(self) -> list[np.ndarray]:
        """Recordings that noise is drawn from, none of the test split."""
        found = [audio for audio in self.data.audio if audio.split == "train"][::6]
        waveforms = [read_audio(audio) for audio in found]
        return [waveform for waveform in waveforms if waveform.any()]

    @cached_property
    def frames(self) -> "Frames":
        """Frozen frames of each utterance, altered `COPIES` times in turn."""
        folder = self.folder / "frames"
        folder.mkdir(parents=True, exist_ok=True)
        model = build_model(self.backbone).eval()
        waveforms = iter(self.bank)
        parts = []
        for start in track(range(0, len(self.bank), PART), description="frames"):
            spoken = list(itertools.islice(waveforms, PART))
            path = folder / f"part-{start // PART:04d}.npz"
            if not path.exists():
                rng = np.random.default_rng(100 + start)
                heard = [altered(each, self.noises, rng) for each in spoken for _ in range(COPIES)]
                made = encode_frames(model, heard)
                with replacing(path) as temporary, open(temporary, "wb") as file:
                    np.savez(file, values=made.values.numpy(), lengths=made.lengths.numpy())
            with np.load(path) as part:
                parts.append(Frames(*(torch.from_numpy(part[key]) for key in part)))
        return Frames(
            torch.cat([part.values for part in parts]), torch.cat([part.lengths for part in parts])
        )

    @cached_property
    def model(self) -> SpeechModel:
        """Trained model."""
        frames, (numbers, targets) = self.frames, self.meanings
        meant = torch.tensor([numbers[each.sentence.meaning] for each in self.bank.utterances])
        meant = meant.repeat_interleave(COPIES)
        stage = Stage("speech", self.folder, self.schedule)
        stage.folder.mkdir(parents=True, exist_ok=True)

        def batch_loss(model: Any, generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(meant), (BATCH,), generator=generator)
            mask = training_mask(frames.lengths[rows], generator)
            embeds = pooled(model, frames.batch(rows), mask, generator)
            return distillation_loss(embeds, targets[meant[rows]], (targets, self.images))

        space = self.clip.space("text").in_modality("audio").to_dict()
        build: Callable[[], nn.Module] = partial(build_model, self.backbone, space)
        return stage.train(build, batch_loss, device=torch.device("cpu"))


def feature_extractor() -> WhisperFeatureExtractor:
    """Return Whisper's feature extractor for windows of 4 s."""
    return WhisperFeatureExtractor(chunk_length=int(WINDOW_S))


@torch.inference_mode()
def encode_frames(model: SpeechModel, waveforms: list[np.ndarray]) -> Frames:
    """Return the normalized output of the frozen layers where there is audio.

    The norm after the last layer is trained. Normalizing twice changes nothing, so that it can be
    trained on frames that are normalized already.
    """
    extractor, samples = feature_extractor(), model.config.window
    cut = [waveform[:samples] for waveform in waveforms]
    lengths = [max(1, int(np.ceil(each.size / samples * POSITIONS))) for each in cut]
    values = []
    for start in range(0, len(cut), 16):
        batch = extractor(cut[start : start + 16], sampling_rate=16_000, return_tensors="pt")
        with mixed_precision():
            found = model.backbone(batch.input_features).last_hidden_state.half()
        values += [frames[:count] for frames, count in zip(found, lengths[start:], strict=False)]
    return Frames(torch.cat(values), torch.tensor(lengths))


def name_embeds(clip: ClipEncoder, names: list[str]) -> Tensor:
    """Return text embeddings of names, shape (n, d), unit norm, the mean over templates of each."""
    texts = [template.format(name) for name in names for template in TEMPLATES]
    embeds = clip.encode_text(texts).unflatten(0, (-1, len(TEMPLATES)))
    return unit_norm(embeds.mean(dim=1))


def pooled(model: SpeechModel, frames: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Embed frozen frames, those where `mask` is True, with dropout, shape (n, d), unit norm."""
    pooling: Any = model.pooling
    means = _dropped(pooling.means(model.backbone.layer_norm(frames), mask), generator)
    hidden = _dropped(F.gelu(pooling.hidden(means)), generator)
    return F.normalize(pooling.projection(hidden), dim=-1)


def _dropped(values: Tensor, generator: torch.Generator) -> Tensor:
    # Of the loop's generator, which a resumed run restores.
    kept = torch.rand(values.shape, generator=generator) >= DROPOUT
    return values * kept / (1 - DROPOUT)


def training_mask(lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Return a mask, (n, longest), of frames that hold audio, but for a short stretch of each."""
    places = torch.arange(int(lengths.max()))
    count = torch.randint(MASKED_FRAMES + 1, (len(lengths), 1), generator=generator)
    start = (torch.rand(len(lengths), 1, generator=generator) * lengths.unsqueeze(1)).long()
    hidden = (places >= start) & (places < start + count)
    # The first frame stays, so that no row is empty.
    hidden[:, 0] = False
    return (places < lengths.unsqueeze(1)) & ~hidden


def distillation_loss(embeds: Tensor, targets: Tensor, banks: Sequence[Tensor]) -> Tensor:
    """Compare speech with all meanings, and with images, as the text encoder compares them.

    Args:
        embeds: Speech embeddings, shape (n, d), unit norm.
        targets: Text embeddings of what is meant, shape (n, d), unit norm.
        banks: Embeddings that both are compared with, shapes (m, d), unit norm.

    Returns:
        The divergences of the softmax over each bank from the teacher's, in which synonyms share,
        plus the cosine distance.
    """
    loss = (1 - (embeds * targets).sum(dim=-1)).mean()
    for bank in banks:
        teacher = (targets @ bank.T * LOGIT_SCALE).softmax(dim=-1)
        student = F.log_softmax(embeds @ bank.T * LOGIT_SCALE, dim=-1)
        loss = loss + F.kl_div(student, teacher, reduction="batchmean")
    return loss


def package(recipe: SpeechRecipe, target: Path) -> None:
    """Write the speech encoder, matrices in 8 bits (e4m3) and all else in half precision."""
    facts = {"recipe": {"method": __name__.rpartition(".")[0], "steps": recipe.schedule.steps}}
    model, known = recipe.model, name_embeds(recipe.clip, recipe.names)
    model.config.memory = {"count": len(known), **MEMORY}
    model.memory = nn.Parameter(known)
    model.config.speeds = list(SPEEDS)
    encoder = SpeechEncoder.of(model, feature_extractor())
    found = calibrate(encoder, recipe.clip, recipe.data, recipe.folder / "calibration")
    model.config.calibration = found.to_dict()
    encoder.save_pretrained(target, facts=facts)
    path = target / "model.safetensors"
    save_tensors(compressed(load_file(path)), path, {"format": "pt"})


def compressed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with matrices in 8 bits (e4m3) and all else in half precision."""
    return {
        name: value.to(torch.float8_e4m3fn if value.dim() > 1 else torch.float16)
        for name, value in state.items()
    }
