"""Image decoders conditioned on CLIP image embeddings, one module per architecture."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import UserError

if TYPE_CHECKING:
    from clip2clap.inference.decoders.base import ImageDecoder

_DECODERS = {
    "demo": "demo:DemoDecoder",
    "kandinsky-2-2": "kandinsky:KandinskyDecoder",
    "stable-unclip": "unclip:UnclipDecoder",
    "ip-adapter": "ip_adapter:IPAdapterDecoder",
}


def create_decoder(pipeline: Any, kind: str) -> "ImageDecoder":
    """Create the decoder of a pipeline.

    Args:
        pipeline: Pipeline that holds the components.
        kind: `"demo"`, `"kandinsky-2-2"`, `"stable-unclip"` or `"ip-adapter"`.

    Raises:
        UserError: If `kind` is unknown.
    """
    if kind not in _DECODERS:
        raise UserError(
            f"Expected decoder_kind to be one of {', '.join(_DECODERS)}, got {kind!r}.",
            param="decoder_kind",
        )
    module, _, name = _DECODERS[kind].partition(":")
    return getattr(import_module(f"clip2clap.inference.decoders.{module}"), name)(pipeline)
