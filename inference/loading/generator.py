"""Find a generator's folder and load its parts strictly and quietly."""

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import diffusers
import torch
import transformers
from diffusers import UNet2DConditionModel
from diffusers.pipelines import pipeline_loading_utils
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging as diffusers_log
from transformers import SpeechT5HifiGan

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.core.presets import Kind, names_of
from clip2clap.embeddings.checkpoint import (
    ModelNotFoundError,
    fetch_from_hub,
    is_counting_buffer,
    quiet,
    read_json,
)
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import Modality
from clip2clap.models.autoencoders import autoencoder_class
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.retrieval_memory import RetrievalMemory
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.translator.auto import AutoTranslator

_INDEX_FILE = "model_index.json"
_RENAMED_PARTS = {"embedding_memory": "retrieval_memory"}
_VOCODERS = {model.__name__: model for model in (SpeechT5HifiGan, SpectralVocoder)}
_ENCODERS = {"clip": ClipEncoder, "clap": ClapEncoder, "ranker": ClapEncoder}
SOUND_PARTS = ("unet", "vae", "vocoder")
"""The parts that make sound from a CLAP vector, which is where time and memory go."""
SMALL_PARTS = {
    "negative_embedding": LearnedNegativeEmbedding,
    "retrieval_memory": RetrievalMemory,
}
"""What pipelines of either direction may hold beside their models, to do with conditions."""

OLDER_PARTS = tuple(_RENAMED_PARTS)
"""Names of components in pipelines saved by earlier versions."""

DtypeChoice = torch.dtype | dict[str, torch.dtype] | Literal["auto"] | None

_WEIGHTS = (".safetensors", ".bin")

Model = TypeVar("Model")

logger = logging.getLogger(__name__)

# Parts of pipelines that diffusers shall save and load, beside its own.
_LOADABLE = {
    name: ["save_pretrained", "from_pretrained"]
    for name in (
        "ClapEncoder",
        "ClipEncoder",
        "IPAdapterWeights",
        "LearnedNegativeEmbedding",
        "PatchAutoencoder",
        "SpectralVocoder",
        "Translator",
    )
}
pipeline_loading_utils.LOADABLE_CLASSES["clip2clap"] = _LOADABLE
pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(_LOADABLE)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep diffusers' and transformers' warnings and progress bars from the user meanwhile.

    What they would warn of (missing or extra weights) is checked here and raised instead.
    """
    verbosity, bars = diffusers_log.get_verbosity(), diffusers_log.is_progress_bar_enabled()
    diffusers_log.set_verbosity_error()
    diffusers_log.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        diffusers_log.set_verbosity(verbosity)
        if bars:
            diffusers_log.enable_progress_bar()


def fetch_folder(
    name: str | os.PathLike[str],
    parts: Sequence[str],
    *,
    kind: Kind = "generator",
    variant: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Give the local folder of a pipeline, and download what is missing of the parts named.

    Of each part only what is needed comes: its descriptions, and its weights in safetensors where
    the repository has them. Parts not named (such as a text encoder) are left on the hub.

    Args:
        name: A folder, or a repository's id on the hub.
        parts: Subfolders wanted.
        kind: What sort of pipeline is meant, for the messages.
        variant: The weights' variant, such as `"fp16"`; where a part lacks it, the plain weights.
        revision: Branch, tag or commit on the hub.
        token: Credentials for a private repository.
        local_files_only: Use what was downloaded before and ask no hub.

    Returns:
        A folder with a `model_index.json`.

    Raises:
        ModelNotFoundError: If there is no such folder or repository, or it can't be reached.
    """
    repo_id = os.fspath(name)
    if Path(repo_id).expanduser().is_dir():
        return Path(repo_id).expanduser()
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"There is no {kind} folder {repo_id!r}. Give a preset "
            f"({', '.join(names_of(kind))}), a hub id or a folder."
        )

    def choose(listed: list[str] | None) -> list[str]:
        if listed is None:
            return [_INDEX_FILE, *(f"{part}/*" for part in parts)]
        return _needed_files(listed, parts, variant)

    return fetch_from_hub(
        repo_id,
        choose,
        hint=f"Give a preset ({', '.join(names_of(kind))}), a hub id or a folder.",
        revision=revision,
        token=token,
        local_files_only=local_files_only,
    )


def read_index(
    folder: Path,
    *,
    expected: str = "ImageToAudioPipeline.save_pretrained, or an AudioLDM or MusicLDM checkpoint",
) -> dict[str, Any]:
    """Read which pipeline a folder holds, from its `model_index.json`.

    Args:
        folder: Where it lies.
        expected: What would have been right, for the message.

    Returns:
        The index.

    Raises:
        CheckpointError: If the folder holds no pipeline.
    """
    if not (folder / _INDEX_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no pipeline: {_INDEX_FILE} is missing. Expected a folder written by "
            f"{expected}."
        )
    return upgrade_index(read_json(folder / _INDEX_FILE))


def upgrade_index(index: dict[str, Any]) -> dict[str, Any]:
    """Return an index with the names of earlier versions mapped to today's."""
    index = {_RENAMED_PARTS.get(name, name): value for name, value in index.items()}
    if "default_guidance_end" in index:
        index["default_guidance_interval"] = (0.0, index.pop("default_guidance_end"))
    return index


def part_folder(folder: Path, part: str) -> Path:
    """Return the folder of a component, which earlier versions may have named otherwise."""
    for older, newer in _RENAMED_PARTS.items():
        if part == newer and not (folder / newer).is_dir() and (folder / older).is_dir():
            return folder / older
    return folder / part


def load_strictly(
    model_class: type[Model],
    folder: Path,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
) -> Model:
    """Load a part of a pipeline whose checkpoint must hold its weights, all of them and no others.

    Args:
        model_class: A diffusers or transformers model class.
        folder: The part's folder.
        dtype: What the weights become.
        variant: The weights' variant, used where the part has it.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: If the folder, a weight or a size is missing or wrong; weights are named.
    """
    what = f"{model_class.__name__} in {folder}"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{what}: config.json is missing. Is the checkpoint complete?")
    is_diffusers = issubclass(model_class, diffusers.ModelMixin)
    names = [path.name for path in folder.iterdir()]
    chosen = variant if variant and any(f".{variant}." in name for name in names) else None
    # transformers tells wrong sizes apart only if it is to go on in spite of them.
    options = {"torch_dtype": dtype} if is_diffusers else {"dtype": dtype}
    options |= {} if is_diffusers else {"ignore_mismatched_sizes": True}
    try:
        with quietly():
            model, info = model_class.from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]
                folder, variant=chosen, output_loading_info=True, **options
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{what} can't be loaded: {one_line(error)}") from error
    missing = sorted(set(info["missing_keys"]) - _unused_weights(model))
    extra = sorted(key for key in info["unexpected_keys"] if not is_counting_buffer(key))
    resized = sorted(str(key[0]) for key in info["mismatched_keys"])
    faults = [
        f"{word} {_listing(keys)}"
        for word, keys in (("missing", missing), ("unknown", extra), ("wrongly sized", resized))
        if keys
    ]
    if faults:
        raise CheckpointError(
            f"{what}: the weights don't fit the config: {'; '.join(faults)}. "
            "Take the checkpoint from its source again, or mend its config.json."
        )
    return model


def fastest_dtype() -> torch.dtype:
    """Give the dtype in which this machine's processor makes sound fastest.

    Bfloat16 where the processor has instructions for it (AVX-512 BF16 or AMX), else float32,
    since bfloat16 that is only emulated is slower than float32.
    """
    has_bf16 = (
        getattr(torch.cpu, name, bool)()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return torch.bfloat16 if any(has_bf16) else torch.float32


def part_dtypes(
    choice: DtypeChoice, *, heavy: Sequence[str] = SOUND_PARTS
) -> Callable[[str], torch.dtype]:
    """Say which dtype each part of a pipeline is loaded in, by its name.

    `"auto"` is `fastest_dtype()` for UNet and VAE. The vocoder stays in float32 there: in bfloat16
    its noise lies only some 38 dB below the sound, for a tenth of the time.

    Args:
        choice: What a pipeline's `torch_dtype` may be.
        heavy: The parts that a choice for the whole is meant for; the others stay in float32
            unless they are named.

    Raises:
        UserError: If the choice is none.
    """
    if choice == "auto":
        choice = {"default": fastest_dtype(), "vocoder": torch.float32}
    named = choice if isinstance(choice, dict) else {}
    general = named.get("default", torch.float32) if isinstance(choice, dict) else choice
    general = torch.float32 if general is None else general
    for dtype in (general, *named.values()):
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise UserError(
                "Expected torch_dtype to be a floating torch.dtype, a dict of them by part, "
                f"'auto' or None, got {dtype!r}."
            )
    return lambda part: named.get(part, general if part in heavy else torch.float32)


def load_encoders(
    given: dict[str, Any],
    dtypes: Callable[[str], torch.dtype],
    *,
    modalities: dict[str, Sequence[Modality]] | None = None,
    **access: Any,
) -> dict[str, Any]:
    """Load encoders and translators that were given by name; those given as such stay.

    Args:
        given: The parts by their names in a pipeline; a CLIP, a CLAP or a translator each.
        dtypes: The dtype of each part.
        modalities: Modalities of an encoder by its part name; all by default.
        **access: As for `ClipEncoder.from_pretrained`.

    Returns:
        The parts.
    """
    loaded = dict(given)
    for part, value in given.items():
        if not isinstance(value, str | os.PathLike):
            continue
        if part in _ENCODERS:
            loaded[part] = _ENCODERS[part].from_pretrained(
                os.fspath(value),
                torch_dtype=dtypes(part),
                modalities=(modalities or {}).get(part),
                **access,
            )
        else:
            loaded[part] = AutoTranslator.from_pretrained(
                os.fspath(value), torch_dtype=dtypes(part), **access
            )
    return loaded


def load_sound_parts(
    folder: Path,
    index: dict[str, Any],
    dtypes: Callable[[str], torch.dtype],
    variant: str | None,
) -> dict[str, Any]:
    """Load UNet, VAE and the vocoder that a pipeline's index names, each strictly.

    Raises:
        CheckpointError: If the index names another kind of vocoder or autoencoder, or a part can't
            be loaded.
    """
    class_name = index.get("vocoder", [None, None])[1]
    if class_name not in _VOCODERS:
        raise CheckpointError(
            f"{folder} names a vocoder {class_name!r}; the known ones are {', '.join(_VOCODERS)}."
        )
    return {
        part: load_strictly(model_class, folder / part, dtype=dtypes(part), variant=variant)
        for part, model_class in (
            ("unet", UNet2DConditionModel),
            ("vae", autoencoder_class(index, "vae", folder)),
            ("vocoder", _VOCODERS[class_name]),
        )
    }


def load_scheduler(
    folder: Path, index: dict[str, Any], *, part: str = "scheduler"
) -> SchedulerMixin:
    """Load the scheduler that a pipeline's index names, if it is one of diffusers'.

    Raises:
        CheckpointError: If it isn't, or its config is missing or broken.
    """
    class_name = index.get(part, [None, None])[1]
    scheduler_class = getattr(diffusers, str(class_name), None)
    if not (inspect.isclass(scheduler_class) and issubclass(scheduler_class, SchedulerMixin)):
        raise CheckpointError(
            f"{folder} names a scheduler {class_name!r} that diffusers {diffusers.__version__} "
            "doesn't have. Give scheduler=..., or install the diffusers it was saved with."
        )
    try:
        with quietly():
            return cast(SchedulerMixin, scheduler_class.from_pretrained(folder / part))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The scheduler in {folder} can't be loaded: {one_line(error)}"
        ) from error


def _unused_weights(model: Any) -> set[str]:
    """Give the weights a model never reads, which older checkpoints may lack."""
    if isinstance(model, transformers.SpeechT5HifiGan) and not model.config.normalize_before:
        return {"mean", "scale"}
    return set()


def _needed_files(listed: Sequence[str], parts: Sequence[str], variant: str | None) -> list[str]:
    """Choose from a repository's files: descriptions, and each part's weights in one format."""
    needed = [_INDEX_FILE]
    for part in parts:
        files = [file for file in listed if file.startswith(f"{part}/")]
        needed += [file for file in files if file.endswith((".json", ".txt", ".model"))]
        for suffix in _WEIGHTS:
            weights = [file for file in files if file.endswith(suffix)]
            varied = [file for file in weights if variant and f".{variant}." in file]
            plain = [file for file in weights if Path(file).name.count(".") == 1]
            if varied or plain:
                needed += varied or plain
                break
    return needed


def _listing(keys: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more"
