"""Latent diffusion conditioned on embeddings: requests, and the loop that all generators share."""

import contextlib
import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import CheckpointError, UserError, is_out_of_memory, one_line
from clip2clap.inference.caching import CachedUNet
from clip2clap.inference.noise import draw_noise, step_generators
from clip2clap.inference.similarity_guidance import guided_prediction

Tensors = dict[str, Tensor]
OnStep = Callable[[int, Tensor, Tensors], Tensors]
"""Called with the step, its timestep and the tensors; returns those to replace, or nothing."""


def interval_steps(interval: tuple[float, float], num_steps: int) -> range:
    """Return the indices of the denoising steps between two fractions of them."""
    start, end = interval
    return range(math.ceil(start * num_steps), math.ceil(end * num_steps))


@dataclass(frozen=True)
class Request:
    """Batch of outputs to generate, one row or entry per output.

    `call` holds the arguments of the pipeline's call, `shape` is that of one output's latents, and
    `latents` is the starting noise in place of the generators'. Embeddings are of shape (n, d),
    those of `embeds` as the UNet gets them and those of `own_embeds` as they were before; images to
    start from are of shape (n, 3, height, width), in [0, 1].
    """

    call: Any
    shape: tuple[int, int, int]
    embeds: Tensor
    own_embeds: Tensor
    generators: Sequence[torch.Generator]
    latents: Tensor | None = None
    negative_embeds: Tensor | None = None
    prompt: Sequence[str] | None = None
    negative_prompt: Sequence[str] | None = None
    image: Tensor | None = None

    @property
    def guided(self) -> bool:
        """True if classifier-free guidance is on."""
        return self.call.guidance_scale > 1

    def __len__(self) -> int:
        return len(self.embeds)

    def split(self, batch_size: int) -> "list[Request]":
        """Split into batches of at most `batch_size` outputs."""
        whole = ("call", "shape")
        rows = {k: v for k, v in vars(self).items() if k not in whole and v is not None}
        return [
            replace(self, **{name: value[at : at + batch_size] for name, value in rows.items()})
            for at in range(0, len(self), batch_size)
        ]


class LatentDiffusion(ABC):
    """Latent diffusion model conditioned on embeddings; subclasses define how its UNet is.

    Args:
        pipeline: Pipeline with `unet`, `vae`, `scheduler` and further components. They are read at
            each use, so that a component may be replaced.
    """

    def __init__(self, pipeline: Any):
        self.parts = pipeline

    @property
    def embed_dim(self) -> int:
        """Dimension of the embeddings that it is conditioned on."""
        return self.parts.unet.config["projection_class_embeddings_input_dim"]

    @abstractmethod
    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n."""

    @abstractmethod
    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Encode images (n, 3, height, width) in [0, 1], for models that can start from them."""
        raise NotImplementedError

    def generate_start(self, request: Request) -> Tensor:
        """Generate the images that are refined, for models that can start from them."""
        raise NotImplementedError

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents to images in [0, 1], with their gradient, for models of images."""
        raise NotImplementedError

    def to_outputs(self, latents: Tensor) -> Tensor:
        """Decode latents, with their gradient, to what guidance compares: images or waveforms."""
        return self.to_pixels(latents)

    def schedule(self, call: Any, device: Any = None) -> tuple[Any, Tensor]:
        """Return a copy of the scheduler for one batch, and its timesteps.

        As in diffusers, those that a starting image replaces are dropped.
        """
        scheduler = copy.deepcopy(self.parts.scheduler)
        steps = call.num_inference_steps
        with _explained(scheduler, steps):
            scheduler.set_timesteps(steps, device=device)
        if call.start_strength is None:
            return scheduler, scheduler.timesteps
        kept = min(int(steps * call.start_strength), steps)
        first = (steps - kept) * getattr(scheduler, "order", 1)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler, scheduler.timesteps[first:]

    @torch.no_grad()
    def generate(self, request: Request, on_step: OnStep) -> Tensor:
        """Generate a batch's latents of unit scale, shape (n, channels, ...), float32.

        After each step `on_step` gets `latents`, the conditional tensors under their names, and the
        unconditional ones under `negative_` and the name.
        """
        if request.image is None and request.call.start_strength is not None:
            request = replace(request, image=self.generate_start(request))
        unet, device = self.parts.unet, self.parts._execution_device
        conditional, unconditional = self.condition(request)
        scheduler, timesteps = self.schedule(request.call, device)
        with _explained(scheduler, len(timesteps)):
            start, accepted = self._start(request, scheduler, timesteps), _accepted(scheduler)
        tensors = {"latents": start, **conditional}
        tensors |= {f"negative_{name}": value for name, value in (unconditional or {}).items()}
        options = {"eta": request.call.eta, "generator": list(request.generators)}
        options = {name: value for name, value in options.items() if name in accepted}
        if request.call.cache_interval > 1:
            unet = CachedUNet(unet, request.call.cache_interval)
        guidance = getattr(request.call, "guidance", None)
        guidance = guidance if guidance is not None and guidance.is_on else None
        guided_steps = interval_steps(request.call.guidance_interval, len(timesteps))
        for index, timestep in enumerate(timesteps):
            latents = tensors["latents"]
            guided = unconditional is not None and index in guided_steps
            with _explained(scheduler, len(timesteps)):
                scaled = scheduler.scale_model_input(latents, timestep).to(self.parts.unet.dtype)
            inputs = {name: tensors[name].to(scaled.device, scaled.dtype) for name in conditional}
            if guided:
                scaled = torch.cat([scaled, scaled])
                for name, value in inputs.items():
                    inputs[name] = torch.cat([tensors[f"negative_{name}"].to(value), value])
            with running("UNet"):
                output = unet(scaled, timestep, **self.unet_inputs(inputs), return_dict=False)[0]
            # Some UNets predict a variance beside the noise.
            sizes = [latents.shape[1], output.shape[1] - latents.shape[1]]
            predicted, variance = output.float().split(sizes, dim=1)
            if guided:
                negative, positive = predicted.chunk(2)
                predicted = negative + request.call.guidance_scale * (positive - negative)
                variance = variance.chunk(2)[1]
            predicted = self._filter(predicted, scaled[-len(latents) :], timestep, tensors)
            if guidance is not None and index in guidance.steps(len(timesteps)):
                cuts = step_generators(request.generators, index)
                own = {"generators": cuts, "embeds": request.own_embeds}
                move = partial(guidance, decode=self.to_outputs, **own)
                predicted = guided_prediction(scheduler, predicted, timestep, latents, move)
            if scheduler.config.get("variance_type") in ("learned", "learned_range"):
                predicted = torch.cat([predicted, variance], dim=1)
            with _explained(scheduler, len(timesteps)):
                step = scheduler.step(predicted, timestep, latents, **options, return_dict=False)
            tensors["latents"] = step[0]
            tensors |= on_step(index, timestep, tensors)
        return tensors["latents"]

    def _filter(
        self, predicted: Tensor, noisy: Tensor, timestep: Tensor, tensors: Tensors
    ) -> Tensor:
        """Replace velocities by those of the pipeline's class filters, if it has any."""
        filters, scheduler = getattr(self.parts, "class_filters", None), self.parts.scheduler
        if filters is None or scheduler.config.get("prediction_type") != "v_prediction":
            return predicted
        level = round(float(timestep))
        alpha_cumprod = scheduler.alphas_cumprod[level].to(predicted.device)
        return filters(predicted, noisy, level, alpha_cumprod, tensors["prompt_embeds"])

    def _start(self, request: Request, scheduler: Any, timesteps: Tensor) -> Tensor:
        """Return the scaled noise or the noised image to start from, shape (n, channels, ...)."""
        device, noise = self.parts._execution_device, request.latents
        if noise is None:
            noise = draw_noise(request.shape, request.generators)
        noise = noise.to(device, torch.float32)
        if request.image is None:
            return noise * scheduler.init_noise_sigma
        latents = self.to_latents(request.image.to(device))
        if not len(timesteps):
            return latents
        return scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(request)))


def _accepted(scheduler: Any) -> Collection[str]:
    """Return the names of the options that a scheduler's `step` accepts; they differ."""
    return inspect.signature(scheduler.step).parameters


@contextlib.contextmanager
def _explained(scheduler: Any, steps: int) -> Iterator[None]:
    """Raise a `UserError` for a scheduler that does not fit."""
    with _converted(
        UserError,
        f"{type(scheduler).__name__} does not fit the pipeline with {steps} steps. Use a scheduler "
        "of models that predict noise or v, such as DPMSolverMultistepScheduler or DDIMScheduler, "
        "or other num_inference_steps",
    ):
        yield


@contextlib.contextmanager
def running(part: str) -> Iterator[None]:
    """Raise a `CheckpointError` for a component that cannot run."""
    message = f"The {part} cannot run: its config.json does not fit its weights or these inputs"
    with _converted(CheckpointError, message):
        yield


@contextlib.contextmanager
def _converted(error_class: type[UserError], message: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Errors of the machine are none of a model.
        if is_out_of_memory(error) or "CUDA" in str(error):
            raise
        raise error_class(f"{message} ({one_line(error)}).") from error
