"""Components of a pipeline: their dtypes, and loading with complete weights."""

import inspect
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.checkpoint import component_class, find_checkpoint
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.embeddings.weights import check_weights
from clip2clap.inference.loading.configs import check_config
from clip2clap.inference.loading.files import WEIGHTS, explained, part_names
from clip2clap.inference.loading.streaming import cast_layer, stored_tensors, stream_weights
from clip2clap.models.autoencoders import AUTOENCODERS
from clip2clap.models.hifigan import wide_convolutions

# Channels of the first block from which a UNet's convolutions are fastest channels last.
_WIDE = 128

HEAVY_PARTS = ("unet", "vae", "vocoder", "text_encoder")
"""Components that dominate time and memory, to which a pipeline's `torch_dtype` applies."""

DtypeChoice = torch.dtype | dict[str, torch.dtype] | Literal["auto"] | None

Model = TypeVar("Model")

# Classes of the components, with several by the class name in a pipeline's index.
_CLASSES: dict[str, str | dict[str, str]] = {
    "clip": "clip2clap.embeddings.encoders.clip:ClipEncoder",
    "clap": "clip2clap.embeddings.encoders.clap:ClapEncoder",
    "ranker": "clip2clap.embeddings.encoders.clap:ClapEncoder",
    "translator": "clip2clap.translator.auto:AutoTranslator",
    "ranker_translator": "clip2clap.translator.auto:AutoTranslator",
    "ip_adapter": "clip2clap.inference.loading.ip_adapter:IPAdapterWeights",
    "unet": "diffusers:UNet2DConditionModel",
    "vae": {name: f"clip2clap.models.autoencoders:{name}" for name in AUTOENCODERS},
    "vocoder": {
        "SpeechT5HifiGan": "transformers:SpeechT5HifiGan",
        "SpectralVocoder": "clip2clap.models.spectral_vocoder:SpectralVocoder",
    },
    "text_encoder": "transformers:CLIPTextModel",
    "tokenizer": "transformers:CLIPTokenizer",
    "image_normalizer": "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer:"
    "StableUnCLIPImageNormalizer",
    "negative_embedding": "clip2clap.models.negative_embedding:LearnedNegativeEmbedding",
    "class_filters": "clip2clap.models.class_filters:ClassFilters",
    "retrieval_memory": "clip2clap.models.retrieval_memory:RetrievalMemory",
}


def fastest_dtype() -> torch.dtype:
    """Return the dtype in which this machine's CPU generates fastest.

    bfloat16 if the CPU has instructions for it (AVX-512 BF16 or AMX), else float32, since emulated
    bfloat16 is slower than float32, and fails in kernels that ATEN_CPU_CAPABILITY sets lower.
    """
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return torch.float32
    has_bf16 = (
        getattr(torch.cpu, name, bool)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if any(has_bf16) else torch.float32


def part_dtypes(choice: DtypeChoice) -> Callable[[str], torch.dtype]:
    """Return a function from a component's name to its dtype.

    `"auto"` is `fastest_dtype()`, except for the vocoder, which stays in float32 but for its
    `wide_convolutions`, named `"vocoder.resblocks"`.

    Args:
        choice: A pipeline's `torch_dtype`; a single dtype is for `HEAVY_PARTS`.

    Raises:
        UserError: If the choice is invalid.
    """
    if choice == "auto":
        fastest = fastest_dtype()
        choice = {"default": fastest, "vocoder": torch.float32, "vocoder.resblocks": fastest}
    named = choice if isinstance(choice, dict) else {"default": choice}
    general = named.get("default") or torch.float32
    for dtype in (general, *named.values()):
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise UserError(
                "Expected torch_dtype to be a floating torch.dtype, a dict of them by component, "
                f"'auto' or None, got {dtype!r}.",
                param="torch_dtype",
            )

    def dtype_of(part: str) -> torch.dtype:
        component = part.partition(".")[0]
        default = general if component in HEAVY_PARTS else torch.float32
        return named.get(part) or named.get(component) or default

    return dtype_of


def load_strictly(
    model_class: type[Model],
    folder: Path,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    low_memory: bool = False,
) -> Model:
    """Load a diffusers or transformers model whose folder must hold exactly its weights.

    The weights' variant is used if the folder has it, or has no other weights. With `low_memory`
    they stay in their files, see `stream_weights`.

    Raises:
        CheckpointError: If the config or a weight is missing, unexpected or of another size; the
            weights are named.
    """
    import diffusers

    what = f"{model_class.__name__} in {folder}"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{what}: config.json is missing. Is the checkpoint complete?")
    config = check_config(folder / "config.json", model_class)
    chosen = _variant_in(folder, variant)
    stored = {}
    if low_memory and use_safetensors is not False:
        files = folder.glob("*.safetensors")
        stored = stored_tensors(file for file in files if _variant_of(file) == (chosen or ""))
    # Weights in their own dtype are mapped, not read.
    (loaded_dtype, *others) = {each.dtype for each in stored.values()} or {dtype}
    loaded_dtype = dtype if others else loaded_dtype
    # transformers lists mismatched sizes only if it may ignore them.
    options: dict[str, Any] = {"dtype": loaded_dtype, "ignore_mismatched_sizes": True}
    if issubclass(model_class, diffusers.ModelMixin):
        options = {"torch_dtype": loaded_dtype}
    if use_safetensors is not None:
        options["use_safetensors"] = use_safetensors
    load: Any = model_class.from_pretrained  # pyright: ignore[reportAttributeAccessIssue]
    default = torch.get_default_dtype()
    try:
        with explained(what, config, model_class):
            model, info = load(folder, variant=chosen, output_loading_info=True, **options)
    finally:
        # A model that diffusers fails to build leaves its dtype as torch's default.
        torch.set_default_dtype(default)
    check_weights(
        what,
        missing=set(info["missing_keys"]) - _unused_weights(model),
        unexpected=info["unexpected_keys"],
        mismatched=[str(key[0]) for key in info["mismatched_keys"]],
    )
    if stored:
        stream_weights(model, stored, dtype)
    return model


def _variant_in(folder: Path, variant: str | None) -> str | None:
    """Return the variant of weights to load from a folder: the one asked for, or the only one."""
    variants = [_variant_of(path) for path in folder.iterdir() if path.suffix in WEIGHTS]
    if variant in variants:
        return variant
    return (variants[0] if variants and all(variants) else "") or None


def _variant_of(weights: Path) -> str:
    """Return the variant in the name of a file of weights; empty for plain ones."""
    return weights.stem.partition(".")[2].split("-")[0]


def load_encoders(
    given: Mapping[str, Any],
    dtypes: Callable[[str], torch.dtype],
    *,
    modalities: Mapping[str, Sequence[Any]],
    variant: str | None = None,
    low_memory: bool = False,
    **access: Any,
) -> dict[str, Any]:
    """Load the encoders, translators and IP-Adapters that were given by name.

    `modalities` are those of an encoder that are needed, where not all are; with `low_memory` the
    weights of encoders stay in their files.
    """
    loaded = dict(given)
    for part, name in given.items():
        if isinstance(name, str | os.PathLike):
            options = {"torch_dtype": dtypes(part), **access}
            if part in modalities:
                options["modalities"] = modalities[part]
            if part.endswith("translator") and Path(name).is_dir():
                options["variant"] = _variant_in(Path(name), variant)
            with explained(f"The {part} {os.fspath(name)}"):
                loaded[part] = _class_of(part).from_pretrained(os.fspath(name), **options)
            if low_memory and isinstance(loaded[part], Encoder):
                stream_encoder(loaded[part], os.fspath(name), **access)
    return loaded


def stream_encoder(encoder: Encoder, name: str, **access: Any) -> None:
    """Leave the weights of an encoder, which was loaded by its name, in their files."""
    files = find_checkpoint(name, encoder.family, **access).weights
    stored = stored_tensors(file for file in files if file.suffix == ".safetensors")
    stream_weights(cast(Any, encoder.backend).model, stored, encoder.dtype)


def load_components(
    folder: Path,
    index: dict[str, Any],
    places: Mapping[str, str],
    dtypes: Callable[[str], torch.dtype],
    **options: Any,
) -> dict[str, Any]:
    """Load a generator's components, each with exactly its weights.

    `places` has the name of each in the index, `model_index.json`, by its name in our pipelines;
    the options are those of `load_strictly`.

    Raises:
        CheckpointError: If one is missing or of an unknown class, or its weights don't match.
    """
    loaded: dict[str, Any] = {}
    for part, place in places.items():
        folders = [folder / name for name in part_names(place)]
        path = next((each for each in folders if each.is_dir()), folders[0])
        class_name = component_class(index, place)
        if part == "tokenizer":
            with explained(f"The tokenizer in {folder}"):
                loaded[part] = _class_of(part).from_pretrained(path, local_files_only=True)
        elif part in ("scheduler", "image_noising_scheduler"):
            loaded[part] = _load_scheduler(path, class_name)
        else:
            model_class = _class_of(part, class_name, folder)
            loaded[part] = load_strictly(model_class, path, dtype=dtypes(part), **options)
    if (dtype := dtypes("vocoder.resblocks")) != dtypes("vocoder") and "vocoder" in loaded:
        for layer in wide_convolutions(loaded["vocoder"]):
            cast_layer(layer, dtype)
    if "unet" in loaded and not options.get("low_memory"):
        _order_channels(loaded["unet"])
    return loaded


def _order_channels(unet: Any) -> None:
    """Keep the weights of a wide UNet channels last, which its activations then follow.

    A step of full-size AudioLDM-S takes 12 to 18 % less time in bfloat16 on a CPU, 4 % less in
    float32 with AVX2 (`benchmarks/flops.py`). Results differ by rounding. Narrow UNets do not gain,
    and MPS was not tried.
    """
    if unet.config.block_out_channels[0] >= _WIDE and not torch.backends.mps.is_available():
        unet.to(memory_format=torch.channels_last)


def _load_scheduler(path: Path, class_name: str | None) -> Any:
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    scheduler_class = getattr(diffusers, str(class_name), None)
    if not (inspect.isclass(scheduler_class) and issubclass(scheduler_class, SchedulerMixin)):
        raise CheckpointError(
            f"{path.parent} names a scheduler {class_name!r} that diffusers "
            f"{diffusers.__version__} doesn't have. Give scheduler=..., or install the diffusers "
            "it was saved with."
        )
    file = path / "scheduler_config.json"
    config = check_config(file, scheduler_class) if file.is_file() else {}
    with explained(f"The scheduler in {path.parent}", config, scheduler_class):
        return cast(Any, scheduler_class).from_pretrained(path)


def _class_of(part: str, class_name: str | None = None, folder: Path | None = None) -> Any:
    """Return the class of a component; with several candidates, the one that an index names."""
    choices = _CLASSES[part]
    if isinstance(choices, str):
        return pkgutil.resolve_name(choices)
    if class_name not in choices:
        raise CheckpointError(
            f"{folder} names a {part} {class_name!r}; the known ones are {', '.join(choices)}."
        )
    return pkgutil.resolve_name(choices[class_name])


def _unused_weights(model: Any) -> set[str]:
    """Return weights that a model never reads, which older checkpoints may lack."""
    config = model.config
    is_hifigan = type(model).__name__ == "SpeechT5HifiGan"
    return {"mean", "scale"} if is_hifigan and not config.normalize_before else set()
