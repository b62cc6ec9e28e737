"""Speech from text."""

import shutil

import numpy as np
import pytest

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.media.synthesis import VOICES, find_synthesizer, speak

INSTALLED = [name for name in VOICES if shutil.which(name)]


@pytest.mark.parametrize("name", INSTALLED)
def test_longer_texts_take_longer_and_voices_differ(name):
    short, rate = speak("dog", synthesizer=name)
    long, _ = speak("a dog and a cat on a mat; a sea", synthesizer=name)
    assert len(short) > 0.2 * rate
    assert len(long) > 2 * len(short)
    other, _ = speak("dog", synthesizer=name, voice=VOICES[name][1])
    assert len(other) != len(short) or not np.allclose(other, short)


@pytest.mark.skipif("espeak-ng" not in INSTALLED, reason="needs espeak-ng")
def test_a_voice_that_is_missing_is_named():
    with pytest.raises(UserError, match="nobody"):
        speak("dog", synthesizer="espeak-ng", voice="nobody")


def test_without_a_synthesizer_the_packages_are_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"apt install espeak-ng \(or flite\)"):
        find_synthesizer()
