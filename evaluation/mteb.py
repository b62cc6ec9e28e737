"""CLIP, CLAP, and both with a translator, as models of mteb (extra `mteb`).

mteb's audio, image and cross-modal tasks then measure them; no translator is registered there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.core.math import unit_norm
from clip2clap.core.presets import public_name
from clip2clap.core.version import __version__
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta
except ImportError as error:
    raise MissingExtraError(
        "mteb is not installed: pip install 'clip2clap[mteb]'. It measures encoders on its tasks."
    ) from error

if TYPE_CHECKING:
    from clip2clap.translator.base import Translator

_ENCODE = {"image": "encode_image", "audio": "encode_audio", "text": "encode_text"}


class MtebModel(AbsEncoder):
    """CLIP, CLAP, or both with a translator, as a model of mteb.

    With a translator all modalities are in its target space: for one from CLIP to CLAP, audio and
    texts are embedded by the CLAP, and images by the CLIP and the translator. Several modalities of
    one item are added, as by mteb's other models.

    Args:
        clip: CLIP, alone or beside a CLAP and a translator.
        clap: CLAP, alone or beside a CLIP and a translator.
        translator: Translator from one's space into the other's.

    Raises:
        UserError: If there is no encoder, or two without a translator.
        SpaceMismatchError: If the translator was trained for other encoders.

    Examples:
        >>> from clip2clap import ClapEncoder
        >>> model = MtebModel(clap=ClapEncoder.from_pretrained("demo"))
        >>> model.mteb_model_meta.name, sorted(model.mteb_model_meta.modalities)
        ('clip2clap/demo', ['audio', 'text'])
    """

    def __init__(
        self,
        *,
        clip: ClipEncoder | None = None,
        clap: ClapEncoder | None = None,
        translator: "Translator | None" = None,
    ):
        encoders: list[Encoder] = [each for each in (clip, clap) if each is not None]
        if len(encoders) != (1 if translator is None else 2):
            raise UserError(
                "Expected a CLIP or a CLAP, or both and a translator between them, got "
                f"{len(encoders)} encoders {'without' if translator is None else 'with'} a "
                "translator.",
                param="translator",
            )
        self.model = self._translator = translator
        self._encoders: dict[str, Encoder] = {}
        self._translated: str | None = None
        if translator is None:
            (encoder,) = encoders
            self._encoders = dict.fromkeys(encoder.modalities, encoder)
            name = encoder.space(encoder.modalities[0]).model_id
        else:
            forward = translator.target_space is None or translator.target_space.family == "clap"
            source, target = encoders if forward else encoders[::-1]
            self._translated = "image" if forward else "audio"
            translator.check_source(source.space(self._translated))  # pyright: ignore
            translator.check_target(target.space("text"))
            self._encoders = dict.fromkeys(target.modalities, target)
            self._encoders[self._translated] = source
            name = f"translator-{public_name(translator.name_or_path or 'translator')}"
        self.mteb_model_meta = _describe(name, self._encoders, encoders, translator)

    def encode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Any, *, batch_size: int = 16, **_: Any
    ) -> np.ndarray:
        """Encode the items of a `DataLoader` of mteb, shape (n, d), float32.

        Raises:
            UserError: If an item has none of the model's modalities.
        """
        inputs.collate_fn = _as_lists
        parts = [self._encode_batch(batch, batch_size) for batch in inputs]
        return torch.cat(parts).numpy()

    def _encode_batch(self, batch: Mapping[str, list[Any]], batch_size: int) -> Tensor:
        known = [modality for modality in self._encoders if modality in batch]
        if not known:
            raise UserError(
                f"This model embeds {', '.join(self._encoders)}, and the task has "
                f"{', '.join(batch)}."
            )
        return sum(
            (self._embed(modality, batch[modality], batch_size) for modality in known[1:]),
            self._embed(known[0], batch[known[0]], batch_size),
        )

    @torch.no_grad()
    def _embed(self, modality: str, items: list[Any], batch_size: int) -> Tensor:
        encode = getattr(self._encoders[modality], _ENCODE[modality])
        embeds = encode(items, batch_size=batch_size)
        if modality != self._translated or self._translator is None:
            return embeds
        return unit_norm(self._translator(embeds.to(self._translator.device)).float().cpu())


def _as_lists(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _describe(
    name: str,
    by_modality: Mapping[str, Encoder],
    encoders: list[Encoder],
    translator: "Translator | None",
) -> ModelMeta:
    modules = [*encoders, *([] if translator is None else [translator])]
    first, encoder = next(iter(by_modality.items()))
    dim: Any = encoder.space(first).dim  # pyright: ignore[reportArgumentType]
    if translator is not None and translator.target_space is not None:
        dim = translator.target_space.dim
    return ModelMeta(
        loader=None,
        name=name if "/" in name.strip("/") and not name.startswith("/") else f"clip2clap/{name}",
        revision=__version__,
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=sum(p.numel() for module in modules for p in module.parameters()),
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=dim,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",  # pyright: ignore[reportArgumentType]
        use_instructions=False,
        training_datasets=None,
        modalities=list(by_modality),  # pyright: ignore[reportArgumentType]
    )
