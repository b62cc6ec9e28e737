"""Speech encoder: speech to the embedding space of a CLIP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from clip2clap.core.errors import expect
from clip2clap.embeddings.backends.base import Inputs
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.embeddings.encoders.clap import preprocess_windows
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model
from clip2clap.metrics.calibration import Calibration

FITS = 0.25
"""Probability that an image is meant below which none fits well.

It is less than even, since small and unusual images have low ones, too."""


class SpeechEncoder(Encoder):
    """Encoder of speech into a CLIP's space, beside that CLIP's images and texts.

    It is distilled from the CLIP, as in SAliCLIP; its `space` is the CLIP's, so that any other
    CLIP's embeddings are refused.

    Examples:
        >>> from clip2clap import ClipEncoder, SpeechEncoder
        >>> speech = SpeechEncoder.from_pretrained("demo")
        >>> speech_embeds = speech.encode_audio(["say.wav"])
        >>> clip = ClipEncoder.from_pretrained("demo")
        >>> similarities = speech_embeds @ clip.encode_text(["a dog", "the sea"]).T
        >>> similarities.shape
        torch.Size([1, 2])
    """

    family = "clip"
    kind = "speech_encoder"
    weighs_windows = True

    @classmethod
    def of(cls, model: Any, extractor: Any) -> Self:
        """Create from a `SpeechModel` with a space in its config, and a feature extractor.

        Raises:
            UserError: If the extractor does not make what the model reads.
            CheckpointError: If the config has no space of a CLIP.
        """
        from clip2clap.embeddings.backends.speech import SpeechBackend, check_sizes, space_of

        check_sizes(model, extractor)
        space = space_of(model.config, "the speech model")
        encoder = cls(SpeechBackend(model, extractor), space.in_modality("audio"))
        return encoder.eval().requires_grad_(False)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of its own weights and preprocessing; `space` has the CLIP's."""
        backend: Any = self.backend
        return backend.fingerprint

    def check_clip(self, space: EmbeddingSpace | None) -> None:
        """Raise a `SpaceMismatchError` unless a space is that of this encoder's CLIP.

        None is unknown, and passes.
        """
        if space is not None:
            require_same_model(space, self.space("audio"), what="The speech encoder's CLIP")

    def fit_probability(self, similarities: Tensor) -> Tensor | None:
        """Return the probability that speech means the image that it is most similar to.

        It is low where what is said shows in none of the images, or nothing is said, as in music.

        Args:
            similarities: Highest cosine similarity of each utterance to an image, or of each image
                to an utterance, shape (n,).

        Returns:
            Shape (n,), calibrated on held-out speech; None if this encoder was not calibrated.
        """
        backend: Any = self.backend
        values = backend.model.config.calibration
        if values is None:
            return None
        calibrated = Calibration.from_dict(values)(similarity_share(similarities).numpy())
        return torch.from_numpy(calibrated)

    def encode_audio(
        self,
        audio: Sequence[Any],
        *,
        batch_size: int = 16,
        normalize: bool = True,
    ) -> Tensor:
        """Encode speech deterministically.

        Speech longer than the model's window is split into the fewest windows that cover it, spaced
        evenly from start to end; their embeddings are averaged and normalized again. Shorter speech
        is padded, and the padding masked. A model with several `speeds` embeds a copy at each, and
        averages all windows. One with a `memory` counts a window by how sure it is of what is said.

        Args:
            audio: What `load_audio` reads: files, waveforms with their sampling rates, items of a
                `datasets` audio column. Waveforms are resampled to the model's rate.
            batch_size: Windows per batch; it does not change the embeddings.
            normalize: Scale embeddings to unit norm. Without, those of a model with a `memory` have
                norms that say how sure it is.

        Returns:
            Embeddings in the CLIP's space, shape (n, d), float32, on the CPU, in input order; unit
            norm by default.

        Raises:
            UserError: If a file can't be read, a waveform is empty, not of one or two channels, not
                floating point or not finite, or it lasts longer than `load_audio` reads.
        """
        return self._encode_items("audio", audio, batch_size, normalize)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        name: str | None = None,
        facts: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Save weights, preprocessing, space and model card to a folder of `from_pretrained`.

        Args:
            save_directory: Output folder.
            name: Title of the model card; the folder's name if None.
            facts: Recipe, data and metrics of the training, for the model card.

        Raises:
            UserError: If `save_directory` is a file.
        """
        from clip2clap.embeddings.encoders.speech_card import write_card

        folder = Path(save_directory)
        expect(not folder.is_file(), "save_directory", "a folder", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(folder)
        write_card(self, folder, name or folder.resolve().name, facts or {})

    def _preprocess_item(self, numbered: tuple[int, Any]) -> Inputs:
        backend: Any = self.backend
        return preprocess_windows(backend, *numbered, speeds=backend.config.speeds)


def similarity_share(similarities: Tensor) -> Tensor:
    """Return cosine similarities as shares from 0 to 1, whose log odds a `Calibration` maps."""
    return ((1 + similarities.double()) / 2).clamp(0, 1)
