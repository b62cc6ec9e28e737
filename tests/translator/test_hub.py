"""Translators on the hub and in diffusers pipelines, and their model cards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines import pipeline_loading_utils
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import ModelCard

from clip2clap.core.errors import UserError
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.checkpoint import read_config
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator

from .builders import embeds, linear, mlp


def test_names_that_lead_nowhere_are_refused_in_one_line(tmp_path: Path):
    (tmp_path / "pipeline").mkdir()
    mlp().save_pretrained(tmp_path / "pipeline" / "translator")
    (tmp_path / "file").write_text("")
    for name, message in [
        (tmp_path / "nowhere", "no translator folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "pipeline", "subfolder 'translator'"),
        (tmp_path, r"config\.json is missing"),
        ("owner/not a name", "neither a folder nor a hub id"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            AutoTranslator.from_pretrained(name)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)


def test_an_id_that_was_never_downloaded_is_refused_without_network(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"owner/name.*can't be reached.*hf download"):
        AutoTranslator.from_pretrained("owner/name", local_files_only=True, cache_dir=tmp_path)


def test_without_network_what_was_downloaded_before_is_taken_and_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlp().save_pretrained(tmp_path)
    asked = []

    def download(repo_id: str, *, local_files_only: bool, **_: Any) -> str:
        asked.append(local_files_only)
        return str(tmp_path)

    def silent(*_: Any, timeout: float, **__: Any) -> None:
        # A time limit is asked for, and this is what happens when it has passed.
        assert timeout <= 60
        raise TimeoutError("timed out")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", silent)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert torch.equal(AutoTranslator.from_pretrained("owner/name")(embeds()), mlp()(embeds()))
    assert set(asked) == {True}


def test_pushing_uploads_the_config_and_the_safetensors(monkeypatch: pytest.MonkeyPatch):
    pushed: dict[str, list[str]] = {}

    def upload(self: object, *, folder_path: str, repo_id: str, **_: object) -> SimpleNamespace:
        pushed[repo_id] = sorted(p.name for p in Path(folder_path).iterdir())
        return SimpleNamespace(commit_url="https://hub/commit")

    created = SimpleNamespace(repo_id="me/translator")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: created)
    monkeypatch.setattr("huggingface_hub.HfApi.file_exists", lambda *_, **__: False)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert mlp().push_to_hub("translator") == "https://hub/commit"
    assert pushed == {
        "me/translator": ["README.md", "config.json", "diffusion_pytorch_model.safetensors"]
    }


def test_a_card_says_what_a_translator_is_for_and_what_it_was_measured_to_do(tmp_path: Path):
    translator = mlp()
    translator.record(
        recipe={"method": "mlp", "loss": "cosine:1+mse:2"},
        data="da7a",
        metrics={"measured_on": "test", "mrr": 0.25, "shuffled_pairs": {"mrr": 0.0625}},
    )
    translator.save_pretrained(tmp_path / "mine", license="cc-by-4.0")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"]) == ("cc-by-4.0", "clip2clap")
    assert data["base_model"] == ["some/clip", "some/clap"]
    for line in (
        "# mine",
        'translator = AutoTranslator.from_pretrained("mine")',
        "| some/clip | text | 8 | c11p |",
        "| loss | cosine:1+mse:2 |",
        "| data | da7a |",
        "| Metric | Value | shuffled pairs |",
        "| mrr | 0.25 | 0.0625 |",
    ):
        assert line in card.text.splitlines()


def test_a_generated_card_follows_the_translator_and_an_edited_one_is_kept(tmp_path: Path):
    card = tmp_path / "README.md"
    mlp().save_pretrained(tmp_path, name="one")
    linear().save_pretrained(tmp_path, name="other")
    assert "# other" in card.read_text()
    card.write_text("# My own words")
    mlp().save_pretrained(tmp_path)
    assert card.read_text() == "# My own words"


def test_a_translator_without_facts_has_a_card_too(tmp_path: Path):
    LinearTranslator(4, 3).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "maps 4 values of an unnamed model to 3 values of an unnamed model" in text
    assert "## Metrics" not in text


class TwoTranslators(DiffusionPipeline):
    def __init__(self, translator: MLPTranslator, backwards: LinearTranslator):
        super().__init__()
        self.register_modules(translator=translator, backwards=backwards)


def test_a_translator_is_a_component_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = {"Translator": ["save_pretrained", "from_pretrained"]}
    monkeypatch.setitem(pipeline_loading_utils.LOADABLE_CLASSES, "clip2clap", ours)
    monkeypatch.setitem(
        pipeline_loading_utils.ALL_IMPORTABLE_CLASSES, "Translator", ours["Translator"]
    )
    pipeline = TwoTranslators(mlp(), linear())
    pipeline.save_pretrained(tmp_path)
    loaded = TwoTranslators.from_pretrained(tmp_path)
    assert torch.equal(loaded.translator(embeds()), pipeline.translator(embeds()))
    assert torch.equal(loaded.backwards(embeds()), pipeline.backwards(embeds()))


def test_the_hub_is_asked_for_no_more_than_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlp().save_pretrained(tmp_path / "sub", variant="fp16")
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repo_id: str, **options: Any) -> str:
        asked.append((repo_id, options))
        return str(tmp_path)

    info = SimpleNamespace(siblings=[])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    read_config("owner/name", subfolder="sub", revision="v1", token="secret")
    loaded = AutoTranslator.from_pretrained("owner/name", subfolder="sub", variant="fp16")
    assert torch.equal(loaded(embeds()), mlp()(embeds()))
    assert loaded.config["_name_or_path"] == "owner/name"
    weights = "sub/diffusion_pytorch_model.fp16.safetensors"
    assert [(repo_id, options["allow_patterns"]) for repo_id, options in asked] == [
        ("owner/name", ["sub/config.json"]),
        ("owner/name", ["sub/config.json"]),
        ("owner/name", ["sub/config.json", weights]),
    ]
    assert (asked[0][1]["revision"], asked[0][1]["token"]) == ("v1", "secret")
