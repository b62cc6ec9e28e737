import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2clap.core import presets
from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
    require_same_model,
)

AUDIOLDM = EmbeddingSpace("clap", "cvssp/audioldm-s-full-v2", "text", 512, True, "aaaa")
LAION = EmbeddingSpace("clap", "laion/clap-htsat-unfused", "audio", 512, True, "bbbb")


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        EmbeddingSpace,
        family=st.sampled_from(["clip", "clap"]),
        model_id=st.text(),
        modality=st.sampled_from(["image", "text", "audio"]),
        dim=st.integers(1, 4096),
        unit_norm=st.booleans(),
        fingerprint=st.text(min_size=1),
    )
)
def test_a_space_survives_its_dictionary(space):
    assert EmbeddingSpace.from_dict(space.to_dict()) == space


def test_the_towers_of_one_model_share_a_space_under_any_name():
    heard = AUDIOLDM.in_modality("audio")
    assert heard.modality == "audio"
    assert heard.same_model_as(AUDIOLDM)
    renamed = EmbeddingSpace("clap", "my/copy", "text", 512, True, "aaaa")
    assert renamed.same_model_as(AUDIOLDM)
    require_same_model(AUDIOLDM, renamed, what="the translator's target")


def test_two_models_of_one_size_are_refused_by_both_their_names():
    with pytest.raises(SpaceMismatchError) as error:
        require_same_model(AUDIOLDM, LAION, what="The translator's target")
    message = str(error.value)
    for part in ("The translator's target", AUDIOLDM.model_id, LAION.model_id, "aaaa", "bbbb"):
        assert part in message
    assert "\n" not in message
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "clop"}, "family"),
        ({"modality": "smell"}, "modality"),
        ({"dim": 0}, "dim"),
        ({"fingerprint": ""}, "fingerprint"),
    ],
)
def test_senseless_spaces_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        EmbeddingSpace.from_dict({**AUDIOLDM.to_dict(), **change})


def test_a_missing_value_is_named():
    values = AUDIOLDM.to_dict()
    del values["fingerprint"]
    with pytest.raises(UserError, match="fingerprint missing"):
        EmbeddingSpace.from_dict(values)


def test_unit_norm_scales_in_float32_and_keeps_zeros():
    embeds = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float16)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    assert torch.allclose(unit_norm(embeds), expected)
    assert unit_norm(embeds).dtype == torch.float32


def test_presets_stand_for_hub_ids_and_the_demo_for_its_folder():
    assert presets.resolve("clip-vit-base-patch32", "clip") == "openai/clip-vit-base-patch32"
    assert presets.resolve("audioldm-s-full-v2", "generator") == "cvssp/audioldm-s-full-v2"
    demo = presets.DEMO_FOLDER
    assert presets.resolve("demo", "clip") == str(demo / "image_to_audio" / "clip")
    assert presets.resolve("demo", "clap") == str(demo / "clap")
    assert presets.resolve("demo", "generator") == str(demo / "image_to_audio")
    assert presets.resolve("any/id", "clap") == "any/id"
