import pytest

from clip2clap.core.presets import PRESETS, Kind, suggestion


@pytest.mark.parametrize("kind", PRESETS)
def test_a_suggestion_never_repeats_what_was_typed(kind: Kind):
    for name in PRESETS[kind]:
        assert repr(name) not in suggestion(name, kind)


def test_a_mistyped_preset_is_suggested_and_others_list_all():
    assert suggestion("clip-vit-base-patch31", "clip") == "Did you mean 'clip-vit-base-patch32'?"
    assert "clap-htsat-unfused" in suggestion("something else", "clap")
