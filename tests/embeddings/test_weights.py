import pytest

from clip2clap.core.errors import CheckpointError
from clip2clap.embeddings.weights import check_weights


def test_every_fault_is_named_in_one_line():
    with pytest.raises(CheckpointError) as error:
        check_weights(
            "clip.safetensors",
            missing=[f"layers.{number}.weight" for number in range(7)],
            unexpected=["extra"],
            mismatched=["bias (3,) where (6,) is expected"],
        )
    assert str(error.value) == (
        "clip.safetensors: the weights do not fit the config: missing layers.0.weight, "
        "layers.1.weight, layers.2.weight, layers.3.weight and 3 more; unexpected extra; "
        "mismatched bias (3,) where (6,) is expected. Fetch the checkpoint again, or correct its "
        "config.json."
    )


def test_constant_buffers_of_older_versions_are_allowed():
    buffers = ["text_model.embeddings.position_ids", "token_type_ids"]
    check_weights("clip", missing=buffers, unexpected=buffers)
