"""Components of different encoders are refused."""

import json

import pytest

from clip2clap.core.errors import CheckpointError
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.inference.image_to_audio import ImageToAudioPipeline

from .builders import joined, make_translator


def test_translator_of_another_clap_is_refused_before_anything_is_loaded(
    audioldm_folder, foreign_folder, clip_folder, tmp_path, no_loading_later
):
    make_translator(clip_folder, audioldm_folder).save_pretrained(tmp_path)
    no_loading_later()
    with pytest.raises(SpaceMismatchError) as refusal:
        ImageToAudioPipeline.from_audioldm(foreign_folder, clip=clip_folder, translator=tmp_path)
    assert str(audioldm_folder) in str(refusal.value)
    assert str(foreign_folder) in str(refusal.value)


def test_translator_of_another_clip_is_refused_before_anything_is_loaded(
    audioldm_folder, clip_folder, foreign_clip_folder, tmp_path, no_loading_later
):
    make_translator(clip_folder, audioldm_folder).save_pretrained(tmp_path)
    no_loading_later()
    with pytest.raises(SpaceMismatchError) as refusal:
        ImageToAudioPipeline.from_audioldm(
            audioldm_folder, clip=foreign_clip_folder, translator=tmp_path
        )
    assert str(clip_folder) in str(refusal.value)
    assert str(foreign_clip_folder) in str(refusal.value)


def test_saved_pipeline_refuses_a_foreign_translator_before_anything_is_loaded(
    saved, clip_folder, foreign_folder, tmp_path, no_loading_later
):
    make_translator(clip_folder, foreign_folder).save_pretrained(tmp_path / "translator")
    no_loading_later()
    with pytest.raises(SpaceMismatchError, match="foreign"):
        ImageToAudioPipeline.from_pretrained(saved, translator=tmp_path / "translator")


def test_parts_made_for_different_encoders_are_not_joined_by_hand(
    pipe, clip_folder, foreign_folder
):
    with pytest.raises(SpaceMismatchError, match="foreign"):
        joined(pipe, translator=make_translator(clip_folder, foreign_folder))


def test_a_pipeline_of_another_architecture_is_refused(saved):
    index = json.loads((saved / "model_index.json").read_text())
    (saved / "model_index.json").write_text(json.dumps({**index, "_class_name": "AudioLDM2"}))
    for load_from in (ImageToAudioPipeline.from_audioldm, ImageToAudioPipeline.from_pretrained):
        with pytest.raises(CheckpointError, match=r"AudioLDM2.*AudioLDMPipeline"):
            load_from(saved)
