"""Calibration of how likely speech means the image that it is most similar to."""

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder, similarity_share
from clip2clap.metrics.calibration import Calibration, fit_calibration
from clip2clap.training.recipes.demo.data import DemoData, Split, read_audio
from clip2clap.training.recipes.demo.words import CLASSES
from clip2clap.training.recipes.speech.bank import SpeechBank, draw_utterances
from clip2clap.training.recipes.speech.texts import TRAINING_PHRASES, Sentence, phrase
from clip2clap.training.recipes.speech.voices import RATE, Voice

# Variants of eSpeak NG that neither training nor evaluation has.
VOICES = [
    Voice("espeak", name)
    for name in ("en-us+anika", "en-gb+ed", "en-us+john", "en-gb+max", "en-us+quincy", "en-gb+zac")
]
PHRASES = 8
# Images that each utterance may mean.
CHOICES = 4
# Images of each class that choices are drawn from.
IMAGES = 8


def calibrate(
    encoder: SpeechEncoder, clip: ClipEncoder, data: DemoData, folder: Path
) -> Calibration:
    """Fit the probability that the most similar image is meant, on voices and images held out.

    Half of the utterances choose among images one of which is meant, the others among images of
    other classes; recordings that are no speech mean none.

    Args:
        encoder: Speech encoder.
        clip: Demo CLIP.
        data: The demo models' data, whose validation split is used.
        folder: Folder of the speech.
    """
    rng = random.Random(8)
    sentences = [
        Sentence(phrase(rng.choice(TRAINING_PHRASES), name), name)
        for name in CLASSES
        for _ in range(PHRASES)
    ]
    bank = SpeechBank(folder, draw_utterances(sentences, seed=14, voices=VOICES))
    bank.synthesize()
    spoken = encoder.encode_audio([(waveform, RATE) for waveform in bank])
    labels, images = draw_images(clip, data, "validation")
    others = [read_audio(audio) for audio in data.audio if audio.split == "validation"]
    noises = encoder.encode_audio([(each, RATE) for each in others if each.any()])
    found = [
        choose(embed, sentence.meaning, labels, images, rng, is_meant=place % 2 == 0)
        for place, (embed, sentence) in enumerate(zip(spoken, sentences, strict=True))
    ]
    found += [choose(embed, "", labels, images, rng, is_meant=False) for embed in noises]
    similarities, right = zip(*found, strict=True)
    shares = similarity_share(torch.tensor(similarities)).numpy()
    return fit_calibration(shares, np.array(right))


def draw_images(clip: ClipEncoder, data: DemoData, split: Split) -> tuple[list[str], Tensor]:
    """Return some small images of each class of a split: classes and embeddings (n, d)."""
    chosen = [
        image
        for name in CLASSES
        for image in [
            each
            for each in data.images
            if each.label == name and each.split == split and not each.full_size
        ][:IMAGES]
    ]
    return [each.label for each in chosen], clip.encode_image([each.load() for each in chosen])


def choose(
    embed: Tensor,
    meaning: str,
    labels: list[str],
    images: Tensor,
    rng: random.Random,
    *,
    is_meant: bool,
) -> tuple[float, bool]:
    """Return the highest similarity of speech to images drawn, and True if that image is meant.

    One of the images is meant if `is_meant`, else none.
    """
    own = [place for place, label in enumerate(labels) if label == meaning]
    other = [place for place, label in enumerate(labels) if label != meaning]
    places = rng.sample(other, CHOICES - is_meant) + ([rng.choice(own)] if is_meant else [])
    best, place = (images[places] @ embed).max(dim=0)
    return float(best), labels[places[int(place)]] == meaning
