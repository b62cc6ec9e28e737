"""Transcripts of speech by a recognizer, kept in a file so that a killed run goes on."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import ModelNotFoundError, UserError, one_line
from clip2clap.core.files import replacing
from clip2clap.core.hub import quiet
from clip2clap.media.audio import load_audio

_RATE = 16_000


class Transcriber:
    """Automatic speech recognition by a model of transformers.

    Args:
        name: Hub id or folder of a Whisper, Moonshine, wav2vec 2.0 or another recognizer.
        device: Device.

    Raises:
        ModelNotFoundError: If it cannot be loaded.
    """

    def __init__(self, name: str, *, device: torch.device | str | None = None):
        from transformers import pipeline

        self.name = name
        try:
            with quiet():
                self._recognize: Any = pipeline(
                    "automatic-speech-recognition", model=name, device=device or "cpu"
                )
        except Exception as error:
            raise ModelNotFoundError(
                f"The recognizer {name!r} can't be loaded: {one_line(error)} Give a hub id such "
                "as openai/whisper-tiny.en, or a folder of transformers.",
                param="asr",
            ) from error

    def __call__(self, audio: list[Any], *, batch_size: int = 16) -> list[str]:
        """Transcribe audio as `load_audio` reads it; what has no words is an empty text."""
        inputs = []
        for each in audio:
            waveform, rate = load_audio(each)
            if rate != _RATE:
                import soxr

                waveform = soxr.resample(waveform, rate, _RATE)
            inputs.append({"raw": waveform, "sampling_rate": _RATE})
        with quiet():
            found = self._recognize(inputs, batch_size=batch_size)
        return [each["text"].strip() for each in found]


def transcribe(
    transcriber: Transcriber,
    audio: Mapping[str, Any],
    file: Path,
    *,
    batch_size: int = 16,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, str]:
    """Transcribe audio by id, and add the transcripts to a file of JSON lines.

    Args:
        transcriber: Recognizer.
        audio: Audio by id.
        file: File of JSON lines, which a killed run goes on with.
        batch_size: Audio per batch.
        on_progress: Called with the share that is done.

    Raises:
        UserError: If the file is another recognizer's, or cannot be written.
    """
    known = _read(file, transcriber.name)
    left = [key for key in audio if key not in known]
    if not file.exists():
        with replacing(file) as partial:
            partial.write_text(
                json.dumps({"recognizer": transcriber.name}) + "\n", encoding="utf-8"
            )
    done = len(audio) - len(left)
    with file.open("a", encoding="utf-8") as lines:
        if not file.read_bytes().endswith(b"\n"):
            lines.write("\n")
        for batch in batched(left, batch_size):
            texts = transcriber([audio[key] for key in batch], batch_size=batch_size)
            for key, text in zip(batch, texts, strict=True):
                known[key] = text
                lines.write(json.dumps({"id": key, "text": text}) + "\n")
            lines.flush()
            done += len(batch)
            if on_progress is not None:
                on_progress(done / len(audio))
    return known


def _read(file: Path, recognizer: str) -> dict[str, str]:
    if not file.is_file():
        return {}
    known: dict[str, str] = {}
    first, *lines = file.read_text(encoding="utf-8").splitlines() or ["{}"]
    found = json.loads(first).get("recognizer")
    if found != recognizer:
        raise UserError(
            f"{file} has the transcripts of {found!r}, not of {recognizer!r}. Name another output "
            "folder.",
            param="output",
        )
    for line in lines:
        # A killed run may have written half a line, which is transcribed again.
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            known[entry["id"]] = entry["text"]
    return known
