"""Fixtures that tests of translators share."""

import pytest

from clip2clap.translator.base import Translator

from .builders import KINDS


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def translator(request: pytest.FixtureRequest) -> Translator:
    return request.param()
