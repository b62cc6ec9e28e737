"""Choice of the weights that are tuned."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.training.finetuning.config import FineTuningConfig

_MODULES = {
    "image": ("vision_model", "visual_projection"),
    "audio": ("audio_model", "audio_projection"),
}
# Share of the layers, from the last, that `partial` tunes.
_LAST = 4


def choose_weights(
    encoder: Encoder, modality: str, config: FineTuningConfig
) -> dict[str, nn.Parameter]:
    """Let the gradients reach the weights that are tuned, and return these by name.

    Raises:
        UserError: If the checkpoint is not in transformers' format.
        MissingExtraError: If peft is not installed, for low-rank adapters.
    """
    model: Any = getattr(encoder.backend, "model", None)
    tower, head = (getattr(model, name, None) for name in _MODULES[modality])
    if tower is None or head is None:
        raise UserError(
            f"{encoder.space(encoder.modalities[0]).model_id} cannot be tuned: expected a CLIP or "
            f"CLAP in transformers' format, with {' and '.join(_MODULES[modality])}.",
            param="encoder",
        )
    encoder.requires_grad_(False)
    if config.part == "lora":
        _add_adapters(model, modality, config)
    else:
        tuned = {"head": [head], "partial": [head, *_last_layers(tower)], "all": [head, tower]}
        for module in tuned[config.part]:
            module.requires_grad_(True)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def merge_adapters(model: nn.Module) -> None:
    """Add low-rank adapters to the weights that they adapt, and remove them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())


def _add_adapters(model: nn.Module, modality: str, config: FineTuningConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError(
            "Low-rank adapters need peft: pip install 'clip2clap[finetune]'. Or tune another part.",
            param="part",
        ) from error
    names = [
        f"{prefix}.{name}" if name else prefix
        for prefix in _MODULES[modality]
        for name, module in model.get_submodule(prefix).named_modules()
        if isinstance(module, nn.Linear)
    ]
    adapters = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=names)
    inject_adapter_in_model(adapters, model)


def _last_layers(tower: nn.Module) -> Iterator[nn.Module]:
    """Yield the last quarter of the layers, at least one, of the longest list of modules."""
    lists = [m for m in tower.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
    if lists:
        layers = list(max(lists, key=len))
        yield from layers[-max(1, len(layers) // _LAST) :]
