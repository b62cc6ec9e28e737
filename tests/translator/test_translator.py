import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines import pipeline_loading_utils
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import clip2clap
from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import read_config
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.residual import ResidualTranslator
from clip2clap.translator.saving import Provenance

FORMAT_1 = Path(__file__).parents[1] / "checkpoints" / "format_1"
CLIP = EmbeddingSpace("clip", "some/clip", "text", 8, True, "c11p")
CLAP = EmbeddingSpace("clap", "some/clap", "text", 6, True, "c1a9")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeds(n: int = 5, dim: int = 8) -> Tensor:
    return torch.randn(n, dim, generator=seeded(1))


@pytest.mark.parametrize("hidden", [12, 13, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_a_perceptron_starts_as_a_linear_map(hidden: int, bias: bool):
    linear = LinearTranslator(8, 6, bias=bias)
    network = MLPTranslator(8, 6, hidden_size=hidden)
    network.start_as(linear)
    torch.testing.assert_close(network.translate(embeds()), linear.translate(embeds()))
    # It can learn from there: every weight that has an influence has a gradient.
    loss = network(embeds())[:, 0].sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_narrow_perceptron_starts_as_the_larger_part_of_a_linear_map():
    linear, network = LinearTranslator(8, 6), MLPTranslator(8, 6, hidden_size=5)
    network.start_as(linear)
    left, sizes, right = torch.linalg.svd(linear.linear.weight.detach(), full_matrices=False)
    part = embeds() @ (left[:, :2] * sizes[:2] @ right[:2]).T + linear.linear.bias
    torch.testing.assert_close(network.translate(embeds()), part)
    with pytest.raises(UserError, match="linear map of 8 values to 6, got one of 6 to 8"):
        network.start_as(LinearTranslator(6, 8))
    with pytest.raises(UserError, match="width 1 can't start"):
        MLPTranslator(8, 6, hidden_size=1).start_as(linear)


def mlp() -> MLPTranslator:
    translator = MLPTranslator(8, 6, hidden_size=16, provenance=Provenance(CLIP, CLAP))
    translator.initialize(seeded())
    return translator.eval()


def linear() -> LinearTranslator:
    return LinearTranslator(8, 6, provenance=Provenance(CLIP, CLAP)).eval()


def residual() -> ResidualTranslator:
    translator = ResidualTranslator(8, 6, hidden_size=16, provenance=Provenance(CLIP, CLAP))
    translator.initialize(seeded())
    return translator.eval()


def prior() -> PriorTranslator:
    translator = PriorTranslator(8, 6, hidden_size=16, provenance=Provenance(CLIP, CLAP))
    translator.initialize(seeded())
    return translator.eval()


KINDS = (mlp, linear, residual, prior)


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def translator(request: pytest.FixtureRequest) -> Translator:
    return request.param()


def weights_of(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("hidden", [256, 512])
def test_mlp_equals_the_reference_network(hidden: int):
    translator = MLPTranslator(hidden_size=hidden)
    network = nn.Sequential(
        nn.Linear(512, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, 512),
    )  # fmt: skip
    for ours, theirs in zip(translator.parameters(), network.parameters(), strict=True):
        theirs.data = ours.data.clone()
    x = 3 * torch.randn(7, 512, generator=seeded())
    x_unit = x / x.norm(dim=1, keepdim=True)
    y = network(x_unit)
    torch.testing.assert_close(translator(x), y / y.norm(dim=1, keepdim=True))


def test_residual_equals_its_formula_written_out_and_has_two_million_parameters():
    translator = residual()
    weights = translator.state_dict()

    def linear_layer(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()

    x = embeds()
    h = linear_layer("enter", 8**0.5 * x / x.norm(dim=1, keepdim=True))
    for block in range(3):
        inner = linear_layer(f"body.{block}.layers.1", standardised(h))
        h = h + linear_layer(f"body.{block}.layers.4", nn.functional.gelu(inner))
    y = linear_layer("leave.1", standardised(h))
    torch.testing.assert_close(translator(x), y / y.norm(dim=1, keepdim=True))
    size = sum(weight.numel() for weight in ResidualTranslator().parameters())
    assert size == pytest.approx(2e6, rel=0.1)


def test_dropout_is_for_training_alone():
    translator = residual()
    assert torch.equal(translator(embeds()), translator(embeds()))
    translator.train()
    assert not torch.equal(translator(embeds()), translator(embeds()))
    with pytest.raises(UserError, match="dropout"):
        ResidualTranslator(8, 6, dropout=1.0)


def test_output_has_unit_norm_and_ignores_the_length_of_the_input(translator: Translator):
    x = embeds()
    y = translator(x)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(translator(x * torch.logspace(-20, 15, 5)[:, None]), y)


def test_initialize_draws_as_linear_layers_do_and_from_the_generator_alone():
    first, second = MLPTranslator(), MLPTranslator()
    first.initialize(seeded(7))
    torch.manual_seed(3)
    second.initialize(seeded(7))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
        torch.testing.assert_close(weight.abs().max().item(), 512**-0.5, rtol=0.02, atol=0)
    second.initialize(seeded(8))
    assert not torch.equal(first(torch.ones(1, 512)), second(torch.ones(1, 512)))


def test_perturbed_weights_survive_saving_exactly(translator: Translator, tmp_path: Path):
    for weight in translator.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=seeded(2))
    translator.record(recipe={"loss": "cosine"}, metrics={"mrr": 0.25}, data="f1e1d")
    translator.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    loaded = AutoTranslator.from_pretrained(tmp_path)
    assert type(loaded) is type(translator)
    assert not loaded.training
    assert torch.equal(loaded(embeds()), translator(embeds()))
    assert (loaded.source_space, loaded.target_space) == (CLIP, CLAP)
    assert loaded.config["recipe"] == {"loss": "cosine"}
    assert loaded.config["metrics"] == {"mrr": 0.25}
    assert loaded.config["data"] == "f1e1d"
    assert loaded.config["versions"] == {
        "clip2clap": clip2clap.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def test_the_versions_that_made_a_translator_stay_in_its_config(tmp_path: Path):
    MLPTranslator(
        8, 6, hidden_size=4, provenance=Provenance(versions={"clip2clap": "0.0.9"})
    ).save_pretrained(tmp_path)
    assert AutoTranslator.from_pretrained(tmp_path).config["versions"] == {"clip2clap": "0.0.9"}


def test_every_kind_answers_the_same_in_a_fresh_process(tmp_path: Path):
    made = {make.__name__: make() for make in KINDS}
    for name, translator in made.items():
        translator.save_pretrained(tmp_path / name)
    save_file({"embeds": embeds()}, tmp_path / "in.safetensors")
    program = f"""
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from clip2clap import AutoTranslator
folder = Path({str(tmp_path)!r})
embeds = load_file(folder / "in.safetensors")["embeds"]
loaded = {{name: AutoTranslator.from_pretrained(folder / name) for name in {list(made)}}}
answers = {{name: translator(embeds).detach() for name, translator in loaded.items()}}
save_file(answers, folder / "out.safetensors")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = load_file(tmp_path / "out.safetensors")
    for name, translator in made.items():
        assert torch.equal(answers[name], translator(embeds()).detach()), name


def test_a_checkpoint_of_format_1_is_upgraded_on_load(tmp_path: Path):
    written = json.loads((FORMAT_1 / "config.json").read_text())
    assert "_format_version" not in written
    assert written["clip2clap_version"] == "0.1.0"
    for config in (read_config(FORMAT_1), AutoTranslator.from_pretrained(FORMAT_1).config):
        assert config["_format_version"] == 3
        assert config["versions"] == {"clip2clap": "0.1.0", "diffusers": "0.42.1"}
        assert config["data"] is None
        assert config["metrics"] == {"mrr": 0.25}
        assert "clip2clap_version" not in config
    loaded = AutoTranslator.from_pretrained(FORMAT_1)
    # Its weights keep the first two values and swap them.
    y = loaded(torch.tensor([[3.0, 4.0, 12.0]])).detach()
    torch.testing.assert_close(y, torch.tensor([[0.8, 0.6]]))
    assert loaded.source_space == EmbeddingSpace("clip", "some/clip", "text", 3, True, "c11p")
    loaded.save_pretrained(tmp_path)
    rewritten = json.loads((tmp_path / "config.json").read_text())
    assert rewritten["_format_version"] == 3
    assert rewritten["versions"] == {"clip2clap": "0.1.0", "diffusers": "0.42.1"}


def test_a_prior_of_format_2_keeps_its_renamed_options_and_weights(tmp_path: Path):
    written = PriorTranslator(8, 6, hidden_size=16, centered=True).eval()
    written.initialize(seeded())
    written.fit_whitening(torch.full((6,), 0.1), torch.diag(torch.arange(1.0, 7)))
    written.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"hidden": config.pop("hidden_size"), "centred": config.pop("centered")}
    (tmp_path / "config.json").write_text(json.dumps({**config, "_format_version": 2}))
    weights = load_file(weights_of(tmp_path))
    weights |= {"middle": weights.pop("mean"), "axes": weights.pop("eigenvectors")}
    save_file(weights, weights_of(tmp_path))
    loaded = AutoTranslator.from_pretrained(tmp_path)
    assert torch.equal(loaded(embeds()), written(embeds()))
    assert (loaded.config["hidden_size"], loaded.config["centered"]) == (16, True)


def test_loading_an_older_format_says_nothing(caplog: pytest.LogCaptureFixture, capfd):
    AutoTranslator.from_pretrained(FORMAT_1)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_format_of_the_future_is_refused(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_format_version": 4}))
    with pytest.raises(UserError, match=r"format 4; .*up to 3\. Install a newer"):
        AutoTranslator.from_pretrained(tmp_path)


def test_from_config_keeps_what_was_given_by_position():
    copy: Any = MLPTranslator.from_config(mlp().config)
    assert (copy.source_dim, copy.target_dim, copy.config["hidden_size"]) == (8, 6, 16)
    assert copy.target_space == CLAP


def test_read_config_needs_no_weights(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    weights_of(tmp_path).unlink()
    config = read_config(tmp_path)
    assert EmbeddingSpace.from_dict(config["target_space"]) == CLAP
    assert config["hidden_size"] == 16


def test_a_variant_and_a_subfolder_are_found(tmp_path: Path):
    mlp().to(torch.float16).save_pretrained(tmp_path / "translator", variant="fp16")
    assert (tmp_path / "translator/diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded = AutoTranslator.from_pretrained(tmp_path, subfolder="translator", variant="fp16")
    assert torch.equal(loaded(embeds()), mlp().to(torch.float16).to(torch.float32)(embeds()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_full_precision(
    translator: Translator, dtype: torch.dtype, tmp_path: Path
):
    exact = translator(embeds()).detach()
    translator.save_pretrained(tmp_path)
    half = AutoTranslator.from_pretrained(tmp_path, torch_dtype=dtype)
    y = half(embeds())
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.02)
    # A vector whose squared norm overflows float16 goes through all the same.
    torch.testing.assert_close(half((300 * embeds()).to(dtype)), y, rtol=0, atol=0.02)


def test_casting_prints_no_warning(translator: Translator, caplog: pytest.LogCaptureFixture):
    translator.to(torch.float16)
    assert not caplog.records


def test_an_empty_batch_gives_an_empty_batch(translator: Translator):
    assert translator(torch.empty(0, 8)).shape == (0, 6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (embeds(dim=5), r"shape \(n, 8\) .*some/clip.* got \(5, 5\)"),
        (embeds()[0], r"got \(8,\).*embeds\[None\]"),
        (torch.ones(2, 8, dtype=torch.int64), r"floating dtype, got torch\.int64"),
        (embeds().numpy(), r"torch\.from_numpy"),
        (torch.tensor([[1.0] * 8, [float("nan")] * 8]), r"1 of 2 embeds hold NaN.*row 1"),
        (torch.tensor([[float("inf")] * 8]), r"1 of 1 embeds hold NaN or infinity"),
        (torch.zeros(3, 8), r"3 of 3 embeds are all zeros.*row 0"),
        (torch.full((1, 8), 1e38), r"too large"),
    ],
)
def test_bad_input_is_refused_in_one_line(translator: Translator, bad: Tensor, message: str):
    with pytest.raises(UserError, match=message) as caught:
        translator(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_sizes_must_be_positive_whole_numbers(size: int):
    with pytest.raises(UserError, match="hidden"):
        MLPTranslator(hidden_size=size)


def test_another_clap_of_the_same_size_is_refused_and_both_are_named(translator: Translator):
    other = EmbeddingSpace("clap", "other/clap", "text", 6, True, "0the")
    with pytest.raises(SpaceMismatchError, match=r"some/clap.*c1a9.*other/clap.*0the"):
        translator.check_target(other)
    with pytest.raises(SpaceMismatchError, match="other/clap"):
        translator.check_source(other)


def test_the_other_tower_of_the_same_model_is_welcome(translator: Translator):
    translator.check_source(CLIP.in_modality("image"))
    translator.check_target(CLAP.in_modality("audio"))


def test_without_a_known_space_the_sizes_still_count():
    translator = MLPTranslator(8, 6, hidden_size=4)
    translator.check_target(CLAP)
    with pytest.raises(SpaceMismatchError, match="8 values"):
        translator.check_source(CLAP)


def test_a_space_of_another_size_is_refused_at_construction():
    with pytest.raises(SpaceMismatchError, match="8 values"):
        MLPTranslator(8, 6, provenance=Provenance(CLAP))


def test_record_takes_known_facts_only(translator: Translator):
    with pytest.raises(TypeError, match="'loss'"):
        translator.record(loss="cosine")


def test_missing_extra_and_wrongly_sized_weights_are_named(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    weights = load_file(weights_of(tmp_path))
    weights["layers.7.weight"] = weights.pop("layers.0.weight")
    weights["layers.4.bias"] = torch.zeros(3)
    save_file(weights, weights_of(tmp_path))
    with pytest.raises(
        UserError,
        match=r"missing layers\.0\.weight; unexpected layers\.7\.weight; "
        r"mismatched layers\.4\.bias \(3,\) where \(6,\)",
    ):
        AutoTranslator.from_pretrained(tmp_path)


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    whole = weights_of(tmp_path).read_bytes()
    weights_of(tmp_path).write_bytes(whole[:-10])
    with pytest.raises(UserError, match="can't be read") as caught:
        AutoTranslator.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_neither_loaded_nor_written(tmp_path: Path):
    translator = mlp()
    translator.save_pretrained(tmp_path)
    weights_of(tmp_path).unlink()
    torch.save(translator.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"safetensors is missing"):
        AutoTranslator.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="safetensors only"):
        translator.save_pretrained(tmp_path, safe_serialization=False)


def test_a_config_that_cannot_be_used_is_refused(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def load_with(**changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        AutoTranslator.from_pretrained(tmp_path)

    with pytest.raises(UserError, match=r"TreeTranslator.*MLPTranslator, LinearTranslator"):
        load_with(_class_name="TreeTranslator")
    with pytest.raises(UserError, match=r"doesn't know: dropout"):
        load_with(dropout=0.5)
    with pytest.raises(UserError, match="broken source_space"):
        load_with(source_space={"family": "clip"})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        AutoTranslator.from_pretrained(tmp_path)


def test_another_kind_is_not_loaded_by_its_class(tmp_path: Path):
    linear().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"LinearTranslator, not a MLPTranslator.*AutoTranslator"):
        MLPTranslator.from_pretrained(tmp_path)


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
