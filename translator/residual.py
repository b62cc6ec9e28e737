"""Residual translator: blocks with LayerNorm and dropout, wider and deeper than the MLP."""

from torch import Tensor, nn

from clip2clap.translator.base import Translator
from clip2clap.translator.saving import Provenance


class ResidualTranslator(Translator):
    """Residual blocks between two linear layers; 2.1 million parameters by default.

    A block adds Linear(GELU(Linear(LayerNorm(x)))), with dropout, to its input (He et al. 2016,
    https://arxiv.org/abs/1603.05027). Published regression mappers have as many parameters.

    Args:
        source_dim: Length of the input vectors.
        target_dim: Length of the output vectors.
        hidden_size: Width of the blocks.
        blocks: Number of blocks.
        dropout: Dropout probability in the blocks.
        centered: Keep a mean per side, which is subtracted and added back; see `center`.
        provenance: Facts about the translator.

    Raises:
        UserError: If a size is not a positive whole number, `dropout` is out of range, or a space
            has another size.

    Examples:
        >>> from clip2clap import ResidualTranslator
        >>> sum(weight.numel() for weight in ResidualTranslator().parameters())
        2105344
    """

    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        hidden_size: int = 512,
        blocks: int = 3,
        dropout: float = 0.1,
        centered: bool = False,
        provenance: Provenance | None = None,
    ):
        super().__init__(locals())
        self.enter = nn.Linear(source_dim, hidden_size)
        self.body = nn.Sequential(*(ResidualBlock(hidden_size, dropout) for _ in range(blocks)))
        self.leave = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, target_dim))

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        # The values of a long unit vector are small; the layers expect them around 1.
        return self.leave(self.body(self.enter(embeds * self.source_dim**0.5)))


class ResidualBlock(nn.Module):
    """Residual block: LayerNorm, Linear, GELU, dropout, Linear."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return vectors of the input's shape, (n, width)."""
        return hidden + self.layers(hidden)
