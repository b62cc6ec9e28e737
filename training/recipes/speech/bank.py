"""Banks of synthesized speech: sentences drawn from a seed, spoken once, kept on disk in parts."""

import json
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from clip2clap.core.files import replacing
from clip2clap.training.recipes.speech.texts import Sentence
from clip2clap.training.recipes.speech.voices import Voice, draw_voice

PART = 500
"""Utterances of one file."""


@dataclass(frozen=True)
class Utterance:
    """A sentence, and how it is spoken."""

    sentence: Sentence
    voice: Voice
    tempo: float
    pitch: float
    seed: int

    def speak(self) -> np.ndarray:
        """Return the waveform at 16 kHz as 16-bit samples."""
        spoken = self.voice.speak(
            self.sentence.text, tempo=self.tempo, pitch=self.pitch, seed=self.seed
        )
        return np.round(spoken * 32767).astype(np.int16)


def draw_utterances(
    sentences: Sequence[Sentence], *, seed: int, voices: Sequence[Voice] | None = None
) -> list[Utterance]:
    """Draw a voice (of those given, in turn), a tempo and a pitch for each sentence."""
    rng = random.Random(seed)
    return [
        Utterance(
            sentence=sentence,
            voice=voices[number % len(voices)] if voices else draw_voice(rng),
            tempo=rng.uniform(0.8, 1.25),
            pitch=rng.uniform(-1, 1),
            seed=seed + number,
        )
        for number, sentence in enumerate(sentences)
    ]


class SpeechBank:
    """Speech on disk, in the order of its utterances.

    Args:
        folder: Where parts are kept; a bank of other utterances there is an error.
        utterances: What is spoken.
    """

    def __init__(self, folder: Path, utterances: Sequence[Utterance]) -> None:
        self.folder, self.utterances = folder, list(utterances)

    def synthesize(self, workers: int | None = None) -> None:
        """Speak the parts that are not on disk yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        described = json.dumps([asdict(u) for u in self.utterances])
        listing = self.folder / "utterances.json"
        if listing.exists() and listing.read_text() != described:
            raise ValueError(
                f"{self.folder} holds other utterances. Remove it, or name another folder."
            )
        listing.write_text(described)
        starts = range(0, len(self.utterances), PART)
        missing = [start for start in starts if not self._path(start).exists()]
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            jobs = [
                pool.submit(_speak, self.utterances[start : start + PART], self._path(start))
                for start in missing
            ]
            for job in jobs:
                job.result()

    def __len__(self) -> int:
        """Return how many utterances the bank has."""
        return len(self.utterances)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield waveforms at 16 kHz in [-1, 1], in order."""
        for start in range(0, len(self.utterances), PART):
            with np.load(self._path(start)) as part:
                samples, lengths = part["samples"], part["lengths"]
            for waveform in np.split(samples, np.cumsum(lengths)[:-1]):
                yield waveform.astype(np.float32) / 32768

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start // PART:04d}.npz"


def _speak(utterances: list[Utterance], path: Path) -> None:
    waveforms = [utterance.speak() for utterance in utterances]
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, samples=np.concatenate(waveforms), lengths=[w.size for w in waveforms])
