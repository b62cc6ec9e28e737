"""The demo speech encoder, on speech of voices that its training did not have."""

from pathlib import Path

import pytest
import torch

from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.embeddings.space import require_same_model
from clip2clap.media.audio import load_audio
from clip2clap.search.labels import read_vocabulary

SPEECH = sorted(Path(__file__).with_name("speech").glob("*.opus"))


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return ClipEncoder.from_pretrained("demo")


@pytest.fixture(scope="module")
def speech() -> SpeechEncoder:
    return SpeechEncoder.from_pretrained("demo")


def test_what_is_said_is_nearest_to_its_own_words(clip, speech):
    require_same_model(clip.space("text"), speech.space("audio"), what="speech")
    classes = list(read_vocabulary("demo"))
    similarities = speech.encode_audio(SPEECH) @ clip.encode_text(classes).T
    named = [classes[number] for number in similarities.argmax(dim=1)]
    right = [name == path.stem for name, path in zip(named, SPEECH, strict=True)]
    assert sum(right) >= 7, named


def test_noise_and_a_pause_before_it_leave_what_is_said(speech):
    quiet = speech.encode_audio(SPEECH)
    generator = torch.Generator().manual_seed(0)
    altered = []
    for path in SPEECH:
        waveform, rate = load_audio(path)
        padded = torch.cat([torch.zeros(rate // 4), torch.from_numpy(waveform)])
        noise = torch.randn(padded.shape, generator=generator) * 10 ** (-20 / 20)
        altered.append(((padded + noise * padded.std()).numpy(), rate))
    same = (quiet * speech.encode_audio(altered)).sum(dim=1)
    others = quiet @ quiet.T - torch.eye(len(quiet))
    assert (same > others.amax(dim=1)).all()
