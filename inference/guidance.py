"""Classifier-free guidance: which steps are guided, and by which negative embedding."""

import logging
import math
from typing import Any, Literal

import torch
from torch import Tensor

from clip2clap.inference.inputs import embeds_on_cpu

Negative = Literal["auto", "learned", "prompt", "zero"]

logger = logging.getLogger(__name__)


def interval_steps(interval: tuple[float, float], num_steps: int) -> range:
    """Return the indices of the denoising steps between two fractions of them."""
    start, end = interval
    return range(math.ceil(start * num_steps), math.ceil(end * num_steps))


def negative_texts(pipeline: Any, call: Any) -> list[str] | None:
    """Return the texts to guide away from; None where no text has to be encoded."""
    if call.negative_prompt is not None or call.negative_prompt_embeds is not None:
        return call.negative_prompt
    has_none = call.negative == "auto" and pipeline.negative_embedding is None
    if call.negative == "prompt" or (has_none and pipeline.generator_clap.is_local):
        return [""]
    return None


def negative_embeds(pipeline: Any, call: Any, texts: list[str] | None, count: int) -> Tensor:
    """Return the embeddings to guide away from, shape (count, d), float32, on the CPU."""
    if texts is not None:
        embeds = pipeline.retrieve(pipeline.encode_text(texts))
    elif call.negative_prompt_embeds is not None:
        embeds = pipeline.retrieve(embeds_on_cpu(call.negative_prompt_embeds))
    elif pipeline.negative_embedding is not None and call.negative != "zero":
        embeds = pipeline.negative_embedding(1).to("cpu", torch.float32)
    else:
        if call.negative == "auto":
            logger.info(
                "Guiding away from the zero vector: the pipeline has no negative_embedding, "
                "and its generator's text encoder is not on disk."
            )
        embeds = torch.zeros(1, pipeline.embed_dim)
    return embeds.expand(count, -1)
