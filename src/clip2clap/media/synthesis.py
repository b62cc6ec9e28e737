"""Speech from text by a synthesizer that is installed: espeak-ng or flite."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from clip2clap.core.errors import MissingExtraError, UserError, one_line
from clip2clap.media.audio import load_audio

VOICES: dict[str, tuple[str, ...]] = {
    "espeak-ng": ("en-us", "en-gb", "en-us+f3"),
    "flite": ("slt", "kal16", "rms"),
}
"""English voices of each synthesizer, the first of which is the default."""

_MAX_SECONDS = 60


def find_synthesizer() -> str:
    """Return the name of the synthesizer that is installed, `espeak-ng` before `flite`.

    Raises:
        MissingExtraError: If there is none; the message names the packages that bring one.
    """
    for name in VOICES:
        if shutil.which(name) is not None:
            return name
    raise MissingExtraError(
        "No speech synthesizer is installed. espeak-ng brings one: apt install espeak-ng (or "
        "flite), or brew install espeak-ng."
    )


def speak(
    text: str, *, voice: str | None = None, synthesizer: str | None = None
) -> tuple[np.ndarray, int]:
    """Speak a text in English.

    Args:
        text: Text.
        voice: Voice of the synthesizer; its first of `VOICES` if None.
        synthesizer: `espeak-ng` or `flite`; the one that is installed if None.

    Returns:
        Waveform, shape (samples,), float32, and sampling rate in Hz.

    Raises:
        MissingExtraError: If there is no synthesizer.
        UserError: If it fails, as for a voice that it does not have.
    """
    name = synthesizer or find_synthesizer()
    voice = voice or VOICES[name][0]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "speech.wav"
        command = {
            "espeak-ng": [name, "-v", voice, "-w", str(file), "--stdin"],
            # From a file: flite takes a text of one word for a file's name.
            "flite": [name, "-voice", voice, "-f", str(Path(scratch) / "text"), "-o", str(file)],
        }[name]
        (Path(scratch) / "text").write_text(text + "\n", encoding="utf-8")
        try:
            done = subprocess.run(
                command, input=f"{text}\n".encode(), capture_output=True, timeout=_MAX_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{name} could not speak {text!r}: {one_line(error)}") from error
        if done.returncode or not file.is_file() or not file.stat().st_size:
            said = one_line(done.stderr.decode(errors="replace") or "it wrote nothing")
            raise UserError(f"{name} could not speak {text!r} in the voice {voice}: {said}")
        return load_audio(file)
