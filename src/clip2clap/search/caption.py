"""Captions of image and audio files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError
from clip2clap.media.audio import is_silent, load_audio
from clip2clap.media.images import load_image
from clip2clap.search.files import modality_of

if TYPE_CHECKING:
    from clip2clap.captioning.captioner import Captioner
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.translator.base import Translator

_BATCH_SIZE = 16
_MODALITIES: tuple[Literal["image", "audio"], ...] = ("image", "audio")


@dataclass(frozen=True)
class CaptionedFile:
    """Captions of a file, none of silence, or the reason why it could not be read."""

    source: str
    captions: list[str]
    reason: UserError | OSError | None = None


class FileCaptioner:
    """Captioner of image and audio files with CLIP and CLAP.

    A file is captioned by the captioner that reads its encoder's space; without one it is
    translated first.

    Args:
        captioners: Captioners of a CLIP or a CLAP, at most one of each.
        clip: CLIP that encodes images.
        clap: CLAP that encodes audio.
        translator: Translator from the space of files that no captioner reads.

    Raises:
        SpaceMismatchError: If a captioner or the translator was trained for other encoders.
        UserError: If two captioners read one family, or there is no captioner.

    Examples:
        >>> from clip2clap import ClipEncoder
        >>> from clip2clap.captioning import Captioner
        >>> from clip2clap.search import FileCaptioner
        >>> captioner = Captioner.from_pretrained("demo")
        >>> describe = FileCaptioner([captioner], clip=ClipEncoder.from_pretrained("demo"))
        >>> [len(file.captions) for file in describe(["dog.jpg"], num_captions=2)]
        [2]
    """

    def __init__(
        self,
        captioners: "Sequence[Captioner]",
        *,
        clip: "ClipEncoder | None" = None,
        clap: "ClapEncoder | None" = None,
        translator: "Translator | None" = None,
    ):
        self._encoders: dict[str, Any] = {"image": clip, "audio": clap}
        self._translator = translator
        self._captioners: dict[str, Captioner] = {}
        for captioner in captioners:
            family = "clip" if captioner.space is None else captioner.space.family
            if family in self._captioners:
                raise UserError(f"Two captioners read {family.upper()}: give one.")
            self._captioners[family] = captioner
        if not self._captioners:
            raise UserError("Expected a captioner or two, got none.")
        for modality, encoder in self._encoders.items():
            if encoder is None:
                continue
            own = self._captioners.get(encoder.family)
            if own is not None:
                own.check_source(encoder.space(modality))
            elif translator is not None:
                (other,) = self._captioners.values()
                translator.check_source(encoder.space(modality))
                other.check_source(translator.target_space)

    @torch.no_grad()
    def __call__(
        self,
        files: Sequence[str | Path],
        *,
        batch_size: int | None = None,
        load: Callable[[str], Any] = load_image,
        longest_s: float | None = None,
        **options: Any,
    ) -> Iterator[CaptionedFile]:
        """Caption files, in the order given.

        Args:
            files: Images, http(s) URLs of images, and audio files.
            batch_size: Files per batch; 16 by default.
            load: Reads an image; by default as `load_image` does.
            longest_s: Length of audio files, in s, from which on they are refused.
            **options: `num_captions`, `num_beams`, `top_p`, `temperature`, `max_new_tokens` and
                `generator`, as for `Captioner.generate`; and `num_candidates`, of which those are
                kept that the encoder finds the most similar to the file.

        Yields:
            Captions of each file, or the reason why it has none.
        """
        for batch in batched(map(str, files), batch_size or _BATCH_SIZE):
            read = [self._read(source, load, longest_s) for source in batch]
            found: dict[int, list[str]] = {}
            for modality in _MODALITIES:
                places = [
                    place
                    for place, source in enumerate(batch)
                    if modality_of(source) == modality and isinstance(read[place], dict)
                ]
                if places:
                    inputs = [read[place] for place in places]
                    embeds = self._encoders[modality].encode_preprocessed(modality, inputs)
                    captions = self.caption_embeds(modality, embeds, **options)
                    found |= dict(zip(places, captions, strict=True))
            for place, source in enumerate(batch):
                reason = read[place] if isinstance(read[place], Exception) else None
                yield CaptionedFile(source, found.get(place, []), reason)

    def _read(self, source: str, load: Callable[[str], Any], longest_s: float | None) -> Any:
        """Return a file's preprocessed inputs, None of silence, or the reason of a failure."""
        modality = modality_of(source)
        encoder = self._encoders[modality]
        try:
            if encoder is None:
                raise UserError(f"{source} is {modality}, and there is no encoder for it.")
            if encoder.family not in self._captioners and self._translator is None:
                known = " and ".join(map(str.upper, self._captioners))
                raise UserError(
                    f"{source} is {modality}, and the captioner reads {known}: a translator is "
                    "needed."
                )
            is_image = modality == "image"
            item = load(source) if is_image else load_audio(source, longest_s=longest_s)
            if modality == "audio" and is_silent(item[0]):
                return None
            return encoder.preprocess(modality, [item])[0]
        except (UserError, OSError) as error:
            return error

    @torch.no_grad()
    def caption_embeds(
        self, modality: Literal["image", "audio"], embeds: Tensor, **options: Any
    ) -> list[list[str]]:
        """Caption embeddings of the modality's encoder, shape (n, d), translated if need be.

        Options are those of a call.

        Raises:
            UserError: If no captioner reads them, and there is no translator.
        """
        encoder = self._encoders[modality]
        own = self._captioners.get("clip" if modality == "image" else "clap")
        if own is not None:
            return self._generate(own, embeds, modality=modality, **options)
        if encoder is None or self._translator is None:
            raise UserError(f"No captioner reads embeddings of {modality}: a translator is needed.")
        translator: Any = self._translator
        (other,) = self._captioners.values()
        target = translator.target_space
        translated = translator(embeds.to(translator.device)).float().cpu()
        target_modality = None if target is None else target.modality
        return self._generate(other, translated, modality=target_modality, **options)

    def _generate(
        self,
        captioner: "Captioner",
        embeds: Tensor,
        *,
        num_candidates: int | None = None,
        **options: Any,
    ) -> list[list[str]]:
        if num_candidates is None:
            return captioner.generate(embeds, **options)
        family = "clip" if captioner.space is None else captioner.space.family
        encoder = self._encoders["image" if family == "clip" else "audio"]
        if encoder is None:
            raise UserError(
                f"Candidates are compared by the text encoder of the {family.upper()}, which is "
                "not loaded.",
                param="num_candidates",
            )
        options.pop("num_beams", None)
        return captioner.generate_nearest(embeds, encoder, num_candidates=num_candidates, **options)
