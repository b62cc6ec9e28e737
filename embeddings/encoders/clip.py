"""CLIP encoder: images and texts to one embedding space."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.backends.base import Inputs
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.media.images import load_image


class ClipEncoder(Encoder):
    """CLIP image and text encoder (CLIP, SigLIP or another dual encoder of images and texts).

    Examples:
        >>> clip = ClipEncoder.from_pretrained("demo")
        >>> image_embeds = clip.encode_image(["dog.jpg"])
        >>> image_embeds.shape
        torch.Size([1, 512])
        >>> text_embeds = clip.encode_text(["a dog", "the sea"])
        >>> (image_embeds @ text_embeds.T).shape  # cosine similarities
        torch.Size([1, 2])
    """

    family = kind = "clip"

    def encode_image(
        self,
        images: Sequence[Any],
        *,
        batch_size: int = 64,
        normalize: bool = True,
    ) -> Tensor:
        """Encode images with the checkpoint's own preprocessing.

        Args:
            images: What `load_image` reads: files, PIL images, arrays and tensors, items of a
                `datasets` image column. EXIF orientation is applied, and transparent pixels are put
                on white.
            batch_size: Images per batch; it does not change the embeddings.
            normalize: Scale embeddings to unit norm.

        Returns:
            Embeddings, shape (n, d), float32, on the CPU, in input order; unit norm by default.

        Raises:
            UnreadableImageError: If an image cannot be read; the message names it.
            UserError: If `images` is not a list of images.
        """
        return self._encode_items("image", images, batch_size, normalize)

    def encode_pixels(
        self, pixel_values: Tensor, *, size: int | None = None, normalize: bool = True
    ) -> Tensor:
        """Encode image tensors with gradients to their pixels.

        The checkpoint's preprocessing is repeated in torch: the embeddings equal those of
        `encode_image` up to rounding to 8 bits.

        Args:
            pixel_values: RGB images, shape (n, 3, h, w), floating point, in [0, 1].
            size: Side in pixels of the square input of the image encoder, for encoders with
                `takes_any_size`; a smaller one is faster and less accurate.
            normalize: Scale embeddings to unit norm.

        Returns:
            Embeddings, shape (n, d), float32, on the encoder's device; unit norm by default.

        Raises:
            UserError: If shape, dtype or size is wrong, or there is no image encoder.
        """
        self._require("image")
        if (
            pixel_values.ndim != 4
            or pixel_values.shape[1] != 3
            or not pixel_values.is_floating_point()
        ):
            raise UserError(
                "Expected pixel_values of shape (n, 3, h, w), floating point in [0, 1], got "
                f"{pixel_values.dtype} of shape {tuple(pixel_values.shape)}."
            )
        transform = self.backend.pixel_transform
        if size is not None and not transform.any_size and size != transform.height:
            raise UserError(
                f"{self._space.model_id!r} expects images of {transform.width} x "
                f"{transform.height} pixels only, got size={size}. Leave size out.",
                param="size",
            )
        embeds = self("image", {"pixel_values": transform(pixel_values, size)})  # (n, d)
        return unit_norm(embeds) if normalize else embeds.float()

    @property
    def takes_any_size(self) -> bool:
        """True if the image encoder accepts inputs of other sizes than `image_size`."""
        self._require("image")
        return self.backend.pixel_transform.any_size

    @property
    def image_size(self) -> int:
        """Height of the image encoder's input, in pixels."""
        self._require("image")
        return self.backend.pixel_transform.height

    def _preprocess_item(self, numbered: tuple[int, Any]) -> Inputs:
        position, image = numbered
        return self.backend.preprocess_images([load_image(image, name=f"image {position}")])
