"""Denoising loop with classifier-free guidance, shared by all generators."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
OnStep = Callable[[int, Tensor, Tensors], Tensors]
"""Called with the step, its timestep and the tensors; returns those to replace, or nothing."""


@torch.no_grad()
def denoise(
    unet: Any,
    scheduler: Any,
    latents: Tensor,
    timesteps: Tensor,
    *,
    conditional: Tensors,
    unconditional: Tensors | None,
    unet_inputs: Callable[[Tensors], dict[str, Any]],
    guidance_scale: float,
    guided_steps: range,
    step_options: dict[str, Any],
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoise latents, in float32 regardless of the UNet's dtype.

    Args:
        unet: UNet, called with the latents, a timestep and the output of `unet_inputs`.
        scheduler: Scheduler whose timesteps are set.
        latents: Scaled starting noise, shape (n, channels, ...), float32.
        timesteps: Timesteps to run.
        conditional: Conditioning tensors by name, first dimension n.
        unconditional: Conditioning tensors to guide away from, by the same names; None for none.
        unet_inputs: Maps conditioning tensors to the UNet's keyword arguments.
        guidance_scale: Strength of classifier-free guidance.
        guided_steps: Steps that are guided; the UNet runs on half the batch for the rest.
        step_options: Keyword arguments of the scheduler's `step`.
        on_step: Called after each step with `latents`, the conditional tensors under their names,
            and the unconditional ones under `negative_` and the name.

    Returns:
        Denoised latents, shape (n, channels, ...), float32.
    """
    tensors = {"latents": latents, **conditional}
    tensors |= {f"negative_{name}": value for name, value in (unconditional or {}).items()}
    for index, timestep in enumerate(timesteps):
        latents = tensors["latents"]
        guided = unconditional is not None and index in guided_steps
        scaled = scheduler.scale_model_input(latents, timestep).to(unet.dtype)
        inputs = {name: tensors[name].to(scaled.device, scaled.dtype) for name in conditional}
        if guided:
            scaled = torch.cat([scaled, scaled])
            for name, value in inputs.items():
                inputs[name] = torch.cat([tensors[f"negative_{name}"].to(value), value])
        output = unet(scaled, timestep, **unet_inputs(inputs), return_dict=False)[0].float()
        # Some UNets predict a variance beside the noise.
        sizes = [latents.shape[1], output.shape[1] - latents.shape[1]]
        predicted, variance = output.split(sizes, dim=1)
        if guided:
            negative, positive = predicted.chunk(2)
            predicted = negative + guidance_scale * (positive - negative)
            variance = variance.chunk(2)[1]
        if scheduler.config.get("variance_type") in ("learned", "learned_range"):
            predicted = torch.cat([predicted, variance], dim=1)
        tensors["latents"] = scheduler.step(
            predicted, timestep, latents, **step_options, return_dict=False
        )[0]
        if on_step is not None:
            tensors |= on_step(index, timestep, tensors)
    return tensors["latents"]


def accepted_options(
    scheduler: Any, eta: float, generators: Sequence[torch.Generator]
) -> dict[str, Any]:
    """Return the options that a scheduler's `step` accepts; they differ between schedulers."""
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": eta, "generator": list(generators)}
    return {name: value for name, value in options.items() if name in accepted}
