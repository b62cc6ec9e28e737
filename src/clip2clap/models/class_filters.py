"""Wiener filters in place of a UNet for classes that are noises."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from clip2clap.core.errors import UserError, expect, is_integer
from clip2clap.core.math import unit_norm


class ClassFilters(ModelMixin, ConfigMixin):
    """Wiener filters that estimate the fine texture of some classes at low noise levels.

    A small UNet gives all classes the same texture. The latents of a steady noise, such as wind,
    are nearly independent and normal, for which the filter of each component's mean and variance is
    the best estimate (Wiener 1949). Rows whose condition is nearest to another class are left as
    they are.

    Args:
        dim: Size of the conditions.
        count: Number of classes that are known.
        filtered: Number of classes that are filtered, the first of them.
        channels: Components of the latents.
        bands: Width of the latents.
        first_channel: First component that is filtered; those before are left to the UNet.
        below: Timestep below which the filters are used.

    Examples:
        >>> import torch
        >>> from clip2clap.models.class_filters import ClassFilters
        >>> filters = ClassFilters(dim=4, channels=2, bands=8, first_channel=0)
        >>> noisy = torch.ones(1, 2, 6, 8)
        >>> filters(noisy, noisy, 100, torch.tensor(0.5), torch.ones(1, 4)).shape
        torch.Size([1, 2, 6, 8])
    """

    @register_to_config
    def __init__(
        self,
        dim: int = 512,
        count: int = 1,
        filtered: int = 1,
        channels: int = 24,
        bands: int = 8,
        first_channel: int = 1,
        below: int = 550,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "count": count, "filtered": filtered}
        for name, value in (sizes | {"channels": channels, "bands": bands}).items():
            expect(is_integer(value) and value > 0, name, "a positive whole number", value)
        components = f"from 0 to below the {channels} channels"
        expect(0 <= first_channel < channels, "first_channel", components, first_channel)
        expect(filtered <= count, "filtered", f"at most the {count} known classes", filtered)
        self.known = nn.Parameter(torch.zeros(count, dim))
        self.means = nn.Parameter(torch.zeros(filtered, channels, 1, bands))
        self.variances = nn.Parameter(torch.ones(filtered, channels, 1, bands))

    @classmethod
    def from_latents(
        cls, latents: Tensor, labels: Tensor, known: Tensor, filtered: Sequence[int]
    ) -> "ClassFilters":
        """Fit the filters of some classes.

        Args:
            latents: Latents of unit scale, shape (rows, crops, channels, time, bands).
            labels: Class numbers of the rows, shape (rows,).
            known: Mean condition of each class, shape (count, d).
            filtered: Numbers of the classes to filter.

        Raises:
            UserError: If a class to filter has no latents.
        """
        others = [number for number in range(len(known)) if number not in filtered]
        filters = cls(known.shape[1], len(known), len(filtered), latents.shape[2], latents.shape[4])
        with torch.no_grad():
            filters.known.copy_(unit_norm(known[[*filtered, *others]]))
            for place, number in enumerate(filtered):
                group = latents[labels == number]
                if not len(group):
                    raise UserError(f"Expected latents of class {number}, got none.")
                mean = group.mean(dim=(0, 1, 3), keepdim=True)
                filters.means[place] = mean[0, 0]
                filters.variances[place] = (group - mean).square().mean(dim=(0, 1, 3)).unsqueeze(1)
        return filters

    def forward(
        self,
        predicted: Tensor,
        noisy: Tensor,
        timestep: int,
        alpha_cumprod: Tensor,
        embeds: Tensor,
    ) -> Tensor:
        """Replace velocities that a UNet predicted where a filter is used.

        Args:
            predicted: Velocities, shape (n, channels, time, bands).
            noisy: The UNet's input, the same shape.
            timestep: Its timestep.
            alpha_cumprod: Share of the signal's variance at the timestep.
            embeds: Conditions, shape (n, d).
        """
        if timestep >= self.config["below"]:
            return predicted
        device = predicted.device
        known, means, variances = (
            x.to(device, torch.float32) for x in (self.known, self.means, self.variances)
        )
        nearest = (unit_norm(embeds.to(device, torch.float32)) @ known.T).argmax(dim=1)
        rows = (nearest < len(means)).nonzero().flatten()
        if not len(rows):
            return predicted
        first = self.config["first_channel"]
        means, variances = means[nearest[rows], first:], variances[nearest[rows], first:]
        signal, noise = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
        inputs = noisy[rows, first:].float()
        gain = variances * signal / (signal.square() * variances + noise.square())
        clean = means + gain * (inputs - signal * means)
        output = predicted.clone()
        output[rows, first:] = ((signal * inputs - clean) / noise).to(output.dtype)
        return output
