"""Zero-shot classification of embeddings by the texts of labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import expect, is_number
from clip2clap.core.labels import check_labels
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.metrics.classification import AUDIO_PROMPT, IMAGE_PROMPT, label_probabilities


class ZeroShotClassifier:
    """Zero-shot classifier of CLIP or CLAP embeddings: softmax over the prompts of labels.

    Radford et al. (2021), https://arxiv.org/abs/2103.00020, section 3.1. The unit-norm embeddings
    of a label's prompts, one per template, are averaged and normalized again.

    Args:
        encoder: CLIP or CLAP with a text encoder.
        labels: Labels to choose from; or the texts that stand for each, whose prompts are averaged
            alike.
        templates: Prompt templates, each with one `{}`; by default "a photo of a {}" for CLIP and
            "the sound of a {}" for CLAP.
        temperature: Divisor of the cosine similarities in the softmax; by default the encoder's
            own, 1 / `encoder.logit_scale`.

    Raises:
        UserError: If there are no labels, blank or equal ones, a template has no `{}`, or the
            encoder has no text encoder.

    Examples:
        >>> from clip2clap import ClapEncoder
        >>> clap = ClapEncoder.from_pretrained("demo")
        >>> classifier = ZeroShotClassifier(clap, ["dog", "rain"])
        >>> classifier.nearest(clap.encode_text(["the sound of a dog"]), k=1)
        [[('dog', 0...)]]
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        templates: str | Sequence[str] | None = None,
        temperature: float | None = None,
    ):
        self.labels = check_labels(labels if isinstance(labels, str) else list(labels))
        """The labels."""
        self.encoder = encoder
        if templates is None:
            templates = AUDIO_PROMPT if encoder.family == "clap" else IMAGE_PROMPT
        found = [templates] if isinstance(templates, str) else list(templates)
        for each in found:
            holds = isinstance(each, str) and each.count("{}") == 1
            expect(holds, "templates", "texts with one {} for the label", each)
        if temperature is not None:
            positive = is_number(temperature) and temperature > 0
            expect(positive, "temperature", "above 0", temperature)
        self.label_embeds = self._embed(found, labels if isinstance(labels, Mapping) else {})
        """Embeddings of the labels, shape (labels, d), float32, unit norm."""
        self._scale = encoder.logit_scale if temperature is None else 1 / temperature

    def _embed(self, templates: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> Tensor:
        texts = [check_labels(synonyms.get(label, [label])) for label in self.labels]
        prompts = [t.replace("{}", text) for own in texts for text in own for t in templates]
        embeds = self.encoder.encode_text(prompts)
        parts = embeds.split([len(own) * len(templates) for own in texts])
        return unit_norm(torch.stack([part.mean(dim=0) for part in parts]))

    @property
    def name(self) -> str:
        """Name in reports."""
        modality = "audio" if self.encoder.family == "clap" else "image"
        return f"zero-shot by {self.encoder.space(modality).model_id}"

    def probabilities(self, embeds: Tensor) -> Tensor:
        """Compute the probability of each label.

        Args:
            embeds: Embeddings in the encoder's space, shape (n, d), of any norm.

        Returns:
            Shape (n, labels), float32, on the CPU. Rows sum to 1, except for a SigLIP, whose labels
            are independent of one another.
        """
        expect(
            embeds.ndim == 2 and embeds.shape[1] == self.label_embeds.shape[1],
            "embeds",
            f"of shape (n, {self.label_embeds.shape[1]})",
            tuple(embeds.shape),
        )
        similarities = self._similarities(unit_norm(embeds.float()).cpu())
        return label_probabilities(similarities, self._scale, self.encoder.logit_bias)

    def _similarities(self, embeds: Tensor) -> Tensor:
        """Return the cosine similarity of each label to unit vectors (n, d), shape (n, labels)."""
        return embeds @ self.label_embeds.T

    def fits(self, embeds: Tensor) -> list[float | None]:
        """Return the probability that the most likely label fits at all, None where unknown."""
        return [None] * len(embeds)

    def nearest(self, embeds: Tensor, k: int | None = None) -> list[list[tuple[str, float]]]:
        """Return the most likely labels of each embedding with their probabilities.

        Args:
            embeds: As for `probabilities`.
            k: Labels per embedding; all if None.
        """
        values, places = self.probabilities(embeds).topk(min(k or 10**9, len(self.labels)))
        return [
            [(self.labels[place], value) for place, value in zip(*row, strict=True)]
            for row in zip(places.tolist(), values.tolist(), strict=True)
        ]

    def __call__(self, inputs: Sequence[Any], embeds: Tensor) -> list[str]:
        """Return the most likely label of each embedding; `inputs` are not used."""
        return [label for ((label, _),) in self.nearest(embeds, k=1)]
