"""Evaluation of the demo speech encoder, by voices and phrases that training does not have."""

import importlib
import random
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import FITS, SpeechEncoder
from clip2clap.training.recipes.demo.data import DemoData, read_audio
from clip2clap.training.recipes.demo.words import CLASSES
from clip2clap.training.recipes.speech.bank import SpeechBank, Utterance, draw_utterances
from clip2clap.training.recipes.speech.calibration import choose, draw_images
from clip2clap.training.recipes.speech.recipe import name_embeds
from clip2clap.training.recipes.speech.texts import (
    EVALUATION_PHRASES,
    FOREIGN,
    Sentence,
    phrase,
)
from clip2clap.training.recipes.speech.voices import (
    EVALUATION_VOICES,
    FURTHER_VOICES,
    RATE,
    UNSEEN_VOICES,
    Voice,
)
from clip2clap.training.speech.alterations import add_noise

NAMES = 200
PHRASES_SEED = 11
NOISE_DB = 10.0

Transcribe = Callable[[np.ndarray], str]


class SpeechEvaluation:
    """Spoken names of evaluation, and how they are recognized.

    Args:
        data: The demo models' data.
        folder: Folder of the speech.
        encoder: Speech encoder that is measured.
        transcribe: Speech recognition of a waveform at 16 kHz, for the baseline.
    """

    def __init__(
        self, data: DemoData, folder: Path, encoder: SpeechEncoder, transcribe: Transcribe | None
    ):
        self.data, self.folder = data, folder
        self.encoder, self.transcribe = encoder, transcribe

    @cached_property
    def clip(self) -> ClipEncoder:
        """Demo CLIP."""
        return ClipEncoder.from_pretrained("demo")

    def run(self, report: Callable[[str], Any]) -> None:
        """Report one line for each way that names are meant, and each way to encode them."""
        classes, phrases = list(CLASSES), class_phrases()
        synonyms = [
            Sentence(text, name)
            for name, entry in CLASSES.items()
            for text in (*entry["names"][1:4], *entry["unseen"])
        ]
        labels = name_embeds(self.clip, classes)
        queries = self.encode(phrases, seed=PHRASES_SEED)
        _report(report, "classes", queries, phrases, classes, labels)
        self._report_fits(queries["speech"], phrases, report)
        shuffled = random.Random(0).sample(classes, len(classes))
        control = [Sentence(each.text, shuffled[classes.index(each.meaning)]) for each in phrases]
        _report(report, "classes, shuffled", queries, control, classes, labels)
        queries = self.encode(phrases, seed=PHRASES_SEED, noisy=True)
        _report(report, f"classes, noise at {NOISE_DB:g} dB", queries, phrases, classes, labels)
        queries = self.encode(synonyms, seed=13)
        _report(report, "synonyms", queries, synonyms, classes, labels)
        names, images = self._photographs()
        rng = random.Random(5)
        spoken = [
            Sentence(phrase(rng.choice(["{}", "{a}", *EVALUATION_PHRASES]), name), name)
            for name in names
        ]
        queries, name_labels = self.encode(spoken, seed=12), name_embeds(self.clip, names)
        _report(report, "names", queries, spoken, names, name_labels)
        _report(report, "images by name", queries, spoken, names, images)
        for group, voices, seed in (
            ("further voices", FURTHER_VOICES, 21),
            ("unseen voices", UNSEEN_VOICES, 31),
        ):
            queries = self.encode(phrases, seed=seed, voices=voices)
            _report(report, f"classes, {group}", queries, phrases, classes, labels)
            queries = self.encode(spoken, seed=seed + 1, voices=voices)
            _report(report, f"names, {group}", queries, spoken, names, name_labels)
            _report(report, f"images by name, {group}", queries, spoken, names, images)

    def _report_fits(
        self, spoken: Tensor, phrases: Sequence[Sentence], report: Callable[[str], Any]
    ) -> None:
        """Report how often phrases fit an image among four, if one is of the class and if none."""
        labels, images = draw_images(self.clip, self.data, "test")
        others = [read_audio(each) for each in self.data.audio if each.split == "test"]
        noises = self.encoder.encode_audio([(each, RATE) for each in others if each.any()])
        bank = SpeechBank(self.folder / "foreign", foreign_utterances())
        bank.synthesize()
        foreign = self.encoder.encode_audio([(waveform, RATE) for waveform in bank])
        meanings = [each.meaning for each in phrases]
        for name, embeds, meant, is_meant in (
            ("of the class", spoken, meanings, True),
            ("of other classes", spoken, meanings, False),
            ("and a recording instead of speech", noises, [""] * len(noises), False),
            ("and speech that is not English", foreign, [""] * len(foreign), False),
        ):
            rng = random.Random(4)
            best = [
                choose(embed, each, labels, images, rng, is_meant=is_meant)[0]
                for embed, each in zip(embeds, meant, strict=True)
            ]
            fits = self.encoder.fit_probability(torch.tensor(best))
            if fits is not None:
                report(f"fits an image {name}: {_share(int((fits >= FITS).sum()), len(fits))}")

    def generate_images(
        self,
        pipeline: Callable[..., Any],
        classify: Callable[[list[Image.Image]], Tensor],
        report: Callable[[str], Any],
    ) -> None:
        """Report how often images generated from spoken class names show the class.

        Beside them stand images from the same phrases typed, with the same noise in each batch.

        Args:
            pipeline: `AudioToImagePipeline` of the demo CLIP.
            classify: Independent classifier of images, which returns places in `CLASSES`.
            report: Takes one line for each way to encode the phrases.
        """
        phrases = class_phrases()
        for kind, embeds in self.encode(phrases, seed=PHRASES_SEED).items():
            images: list[Image.Image] = []
            for part in embeds.split(len(CLASSES)):
                generator = torch.Generator().manual_seed(0)
                images += pipeline(image_embeds=part, generator=generator).images
            found = classify(images).tolist()
            names = [list(CLASSES)[place] for place in found]
            hits = [name == each.meaning for name, each in zip(names, phrases, strict=True)]
            report(f"images generated, {kind}: {_share(sum(hits), len(hits))}")

    def paint_images(
        self,
        paint: Callable[[Tensor], Image.Image],
        classify: Callable[[list[Image.Image]], Tensor],
        report: Callable[[str], Any],
    ) -> None:
        """Report how like their class images are that are painted from the phrases of each.

        Beside them stand images painted from the same phrases typed.

        Args:
            paint: Paints an image towards an embedding, shape (d,), of the demo CLIP.
            classify: Independent classifier of images, which returns places in `CLASSES`.
            report: Takes one line for each way to encode the phrases.
        """
        phrases, labels = class_phrases(), name_embeds(self.clip, list(CLASSES))
        places = torch.arange(len(CLASSES)).repeat_interleave(len(EVALUATION_PHRASES))
        for kind, embeds in self.encode(phrases, seed=PHRASES_SEED).items():
            images = [paint(embed) for embed in embeds]
            similarities = self.clip.encode_image(images) @ labels.T
            own = similarities.gather(1, places.unsqueeze(1)).mean()
            named = int((similarities.argmax(dim=1) == places).sum())
            classified = int((classify(images) == places).sum())
            report(
                f"images painted, {kind}: similarity to the class "
                f"{own:.3f}, nearest to it "
                f"{_share(named, len(places))}, image classifier {_share(classified, len(places))}"
            )

    def _photographs(self) -> tuple[list[str], Tensor]:
        """Return names with a full-size photograph each, those of the test split first."""
        found = {}
        for image in sorted(self.data.images, key=lambda each: each.split != "test"):
            if image.full_size and image.category in self.data.imagenet_names:
                found.setdefault(image.category, image)
        chosen = list(found.values())[:NAMES]
        embeds = self.clip.encode_image([image.load() for image in chosen])
        return [image.category for image in chosen], embeds

    def encode(
        self,
        sentences: Sequence[Sentence],
        *,
        seed: int,
        voices: Sequence[Voice] = EVALUATION_VOICES,
        noisy: bool = False,
    ) -> dict[str, Tensor]:
        """Return embeddings of the sentences as speech, as its transcript, and as text."""
        utterances = draw_utterances(sentences, seed=seed, voices=voices)
        bank = SpeechBank(self.folder / f"{len(sentences)}-{seed}", utterances)
        bank.synthesize()
        waveforms = list(bank)
        if noisy:
            rng = np.random.default_rng(3)
            waveforms = [add_noise(each, NOISE_DB, rng) for each in waveforms]
        queries = {"speech": self.encoder.encode_audio([(each, RATE) for each in waveforms])}
        if self.transcribe is not None:
            texts = [self.transcribe(waveform) or "silence" for waveform in waveforms]
            queries["transcript"] = self.clip.encode_text(texts)
        queries["text"] = self.clip.encode_text([each.text for each in sentences])
        return queries


def _report(
    report: Callable[[str], Any],
    name: str,
    queries: dict[str, Tensor],
    sentences: Sequence[Sentence],
    candidates: Sequence[str],
    embeds: Tensor,
) -> None:
    """Report how often what is meant is the nearest candidate, and among the nearest ten."""
    meant = torch.tensor([list(candidates).index(each.meaning) for each in sentences])
    for kind, query in queries.items():
        ranks = (query @ embeds.T).argsort(dim=1, descending=True)
        places = (ranks == meant.unsqueeze(1)).int().argmax(dim=1)
        hits = int((places == 0).sum())
        among_ten = (places < 10).float().mean()
        report(f"{name}, {kind}: {_share(hits, len(meant))}, among ten {among_ten:.1%}")


def _share(hits: int, count: int) -> str:
    """Return a share with its interval of 95 %."""
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return f"{hits / count:.1%} of {count} ({low:.0%} to {high:.0%})"


def class_phrases() -> list[Sentence]:
    """Return the phrases of evaluation for each demo class."""
    return [
        Sentence(phrase(template, name), name)
        for name in CLASSES
        for template in EVALUATION_PHRASES
    ]


def foreign_utterances() -> list[Utterance]:
    """Draw utterances that are not English, by the variants of the unseen voices in turn."""
    spoken = [(language, text) for language, texts in FOREIGN.items() for text in texts]
    variants = [voice.name.split("+")[1] for voice in UNSEEN_VOICES]
    voices = [
        Voice("espeak", f"{language}+{variants[place % len(variants)]}")
        for place, (language, _) in enumerate(spoken)
    ]
    return draw_utterances([Sentence(text, "") for _, text in spoken], seed=41, voices=voices)


def whisper_transcriber(folder: Path) -> Transcribe:
    """Return speech recognition by a Whisper of CTranslate2 (package faster-whisper)."""
    package: Any = importlib.import_module("faster_whisper")
    model = package.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=2)

    def transcribe(waveform: np.ndarray) -> str:
        # One pass: sampling anew where it is unsure takes minutes, and differs from run to run.
        segments, _ = model.transcribe(waveform, language="en", beam_size=1, temperature=0.0)
        return " ".join(segment.text.strip() for segment in segments).strip(" .")

    return transcribe
