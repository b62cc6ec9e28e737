"""Guidance of an audio generator by similarity to embeddings of a CLAP."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from clip2clap.inference.painting.paint import Target
from clip2clap.inference.similarity_guidance import Guidance, GuidanceOptions

# Shortest excerpt that is compared, as a share of the waveform.
_SHORTEST = 0.5


class WaveformEncoder(Protocol):
    """Differentiable encoder of waveforms, such as `ClapEncoder`."""

    def encode_waveforms(self, waveforms: Tensor, sampling_rate: int) -> Tensor:
        """Encode waveforms of shape (n, samples) in [-1, 1], shape (n, d), unit norm."""
        ...


class AudioSimilarityGuidance(Guidance):
    """Guidance of an audio generator by similarity to embeddings of one CLAP.

    Cutouts are excerpts: the whole waveform, and others of one length, drawn in each step from half
    to all of it, at random places. `cut_size`, `augment` and the weights of images have no effect.

    Args:
        clap: CLAP that encodes waveforms.
        sampling_rate: Sampling rate of the generator, in Hz.
        targets: As for `Guidance`, in this CLAP's space.
        options: As for `Guidance`.
        on_outputs: As for `Guidance`.

    Raises:
        UserError: As for `Guidance`.

    Examples:
        >>> from clip2clap import ClapEncoder, ImageToAudioPipeline
        >>> from clip2clap.inference import Target
        >>> from clip2clap.inference.audio_guidance import AudioSimilarityGuidance
        >>> from clip2clap.inference.similarity_guidance import GuidanceOptions
        >>> pipe = ImageToAudioPipeline.from_pretrained("demo")
        >>> clap = ClapEncoder.from_pretrained("demo")
        >>> embed = clap.encode_text(["the sound of a dog"])
        >>> guidance = AudioSimilarityGuidance(
        ...     clap, pipe.sampling_rate, [Target(embed[0])], GuidanceOptions(cutouts=1)
        ... )
        >>> options = {"num_inference_steps": 2, "num_candidates": 1}
        >>> pipe(prompt_embeds=embed, guidance=guidance, **options).audios.shape
        (1, ...)
    """

    def __init__(
        self,
        clap: WaveformEncoder,
        sampling_rate: int,
        targets: Sequence[Target],
        options: GuidanceOptions | None = None,
        *,
        on_outputs: Callable[[Tensor], object] | None = None,
    ):
        super().__init__(targets, options, on_outputs=on_outputs)
        self.clap, self.sampling_rate = clap, sampling_rate

    def embed_cutouts(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Encode excerpts of a waveform, shape (1, samples)."""
        embeds = self.clap.encode_waveforms(output, self.sampling_rate)
        count = self.options.cutouts - 1
        if not count:
            return embeds
        drawn = torch.rand(count + 1, generator=generator)
        samples = output.shape[1]
        length = round(samples * (_SHORTEST + (1 - _SHORTEST) * drawn[0].item()))
        starts = (drawn[1:] * (samples - length)).long().tolist()
        excerpts = torch.stack([output[0, start : start + length] for start in starts])
        return torch.cat([embeds, self.clap.encode_waveforms(excerpts, self.sampling_rate)])
