"""Vectors of queries in the spaces of an index, through translators where need be."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import is_local_url
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    Family,
    Modality,
    require_same_model,
)
from clip2clap.media.audio import load_audio, require_audible
from clip2clap.media.images import load_image
from clip2clap.search.query import Query, Term
from clip2clap.search.store import COLUMNS
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator

Known = dict[tuple[str, str, Family], Tensor]
"""Encoded terms of a query, by modality, value and family of the encoder."""

_DEMO: dict[Family, str] = {"clip": "demo", "clap": "demo-back"}


class MissingTranslatorError(UserError):
    """Error of a query that needs a translator, and none was given."""


class QueryEncoder:
    """Encoder of queries into the spaces of an index; models are loaded once they are needed.

    Args:
        models: Names of the index's encoders.
        spaces: Spaces of the index's columns.
        clip: CLIP or its name; by default the index's.
        clap: CLAP or its name; by default the index's.
        translators: Translators between them; by default the demo translators, where they fit.
        device: Device of encoders that are loaded.
        speech_encoder: Speech encoder or its name; by default the demo's.
        longest_s: Length of audio, in s, from which on it is refused.
    """

    def __init__(
        self,
        models: Mapping[Family, str],
        spaces: Mapping[str, EmbeddingSpace],
        clip: ClipEncoder | str | None,
        clap: ClapEncoder | str | None,
        translators: Sequence[Translator],
        device: torch.device | str | None,
        speech_encoder: SpeechEncoder | str | None = None,
        longest_s: float | None = None,
    ):
        self._spaces = spaces
        self._speech = speech_encoder
        self._encoders: dict[Family, Any] = {"clip": clip, "clap": clap}
        for family, name in models.items():
            self._encoders[family] = self._encoders[family] or name
        self._translators: dict[Family, Translator] = {}
        for each in translators:
            space = each.source_space
            self._translators["clip" if space is None else space.family] = each
        self._device, self._longest_s = device, longest_s

    def share(
        self, encoders: Sequence[ClipEncoder | ClapEncoder], translators: Sequence[Translator]
    ) -> None:
        """Use models that are loaded already, of these the ones that fit the index."""
        known = {space.family: space for space in self._spaces.values()}
        for encoder in encoders:
            space = encoder.space(encoder.modalities[0])
            if known.setdefault(encoder.family, space).same_model_as(space):
                self._encoders[encoder.family] = encoder
        for each in translators:
            source, target = each.source_space, each.target_space
            if source is None or target is None:
                continue
            if all(_fits(known.get(end.family), end) for end in (source, target)):
                self._translators[source.family] = each

    def column(self, query: Query, modality: Modality) -> str:
        """Return the column in which entries of a modality are compared with a query."""
        own = {term.modality for term in query.terms}
        if modality == "text" and "audio" in own and "image" not in own:
            return "clap_text"
        return next(iter(COLUMNS[modality]))

    def encode(self, query: Query, column: str, known: Known | None = None) -> Tensor:
        """Return the vectors of a query's terms in the space of a column, (terms, dim).

        A search in several columns encodes each term once, if `known` holds what it has encoded.
        """
        known = {} if known is None else known
        return torch.cat([self._encode(term, column, known) for term in query.terms])

    def _encode(self, term: Term, column: str, known: Known) -> Tensor:
        """Return a term's vector in the space of a column, (1, dim)."""
        family = _family(column)
        own: Family = family
        if term.modality != "text":
            own = "clap" if term.modality == "audio" else "clip"
        key = (term.modality, term.value, own)
        if key not in known:
            known[key] = self._encode_anew(term, own)
        return self._translate(known[key], own, column)

    def _encode_anew(self, term: Term, family: Family) -> Tensor:
        encoder = self.encoder(family)
        if term.modality == "text":
            return encoder.encode_text([term.value])
        if term.modality == "image":
            is_local = is_local_url(term.value)
            return encoder.encode_image([load_image(term.value, allow_private=is_local)])
        audio = load_audio(term.value, longest_s=self._longest_s)
        require_audible(audio[0], term.value)
        if term.modality == "speech":
            encoder = self._speech_encoder(encoder)
        return encoder.encode_audio([audio])

    def _speech_encoder(self, clip: Any) -> SpeechEncoder:
        """Return the speech encoder into the space of the index's CLIP."""
        if not isinstance(self._speech, SpeechEncoder):
            name = "demo" if self._speech is None else self._speech
            self._speech = SpeechEncoder.from_pretrained(name, device=self._device)
        self._speech.check_clip(clip.space(clip.modalities[0]))
        return self._speech

    def carry(self, sample: Callable[[str], Tensor], modality: Modality, column: str) -> Tensor:
        """Return vectors of a modality in the space of a column, (n, dim).

        `sample` returns those in a column of the modality itself.
        """
        own = COLUMNS[modality]
        name = next((each for each in own if _family(each) == _family(column)), next(iter(own)))
        return self._translate(sample(name), own[name], column)

    @torch.no_grad()
    def _translate(self, embeds: Tensor, source: Family, column: str) -> Tensor:
        """Carry embeddings into the space of a column, (n, dim); there they stay as they are."""
        if source == _family(column) or self._is_joint(source, column):
            return embeds
        translator = self._translator(source, column)
        return unit_norm(translator(embeds.to(translator.device))).cpu()

    def _is_joint(self, source: Family, column: str) -> bool:
        """Return True if the CLIP and the CLAP are one model, such as AudioCLIP."""
        own = self.encoder(source)
        return own.space(own.modalities[0]).same_model_as(self._spaces[column])

    def _translator(self, source: Family, column: str) -> Translator:
        own = self.encoder(source)
        space, target = own.space(own.modalities[0]), self._spaces[column]
        if source not in self._translators:
            translator = AutoTranslator.from_pretrained(_DEMO[source])
            fits = _fits(translator.source_space, space) and _fits(translator.target_space, target)
            if not fits:
                raise MissingTranslatorError(
                    f"The query needs a translator from {space} into {target}. Name one.",
                    param="translator" if source == "clip" else "back",
                )
            self._translators[source] = translator
        translator = self._translators[source]
        translator.check_source(space)
        translator.check_target(target)
        return translator

    def encoder(self, family: Family) -> Any:
        """Return the encoder of a family, loaded and checked against the index."""
        encoder = self._encoders[family]
        if isinstance(encoder, str):
            loader = ClipEncoder if family == "clip" else ClapEncoder
            encoder = loader.from_pretrained(encoder, device=self._device)
        for column, space in self._spaces.items():
            if space.family == family and space.modality in encoder.modalities:
                what = f"The index's {column.replace('_', ' ')}"
                require_same_model(space, encoder.space(space.modality), what=what)
        self._encoders[family] = encoder
        return encoder


def _family(column: str) -> Family:
    return "clip" if column.startswith("clip") else "clap"


def _fits(own: EmbeddingSpace | None, other: EmbeddingSpace) -> bool:
    return own is not None and own.same_model_as(other)
