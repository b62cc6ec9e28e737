"""UNet whose deep features are reused for several denoising steps."""

import copy
from typing import Any

from torch import Tensor

from clip2clap.core.errors import UserError


class CachedUNet:
    """UNet of which all but the outermost blocks run at every `interval`-th call only.

    Deep features change little from step to step; see DeepCache (Ma et al. 2023, arXiv
    2312.00858). The UNet itself is not changed, so that threads may share it.

    Args:
        unet: A `UNet2DConditionModel`.
        interval: Calls from one update of the features to the next.

    Raises:
        UserError: If the UNet is offloaded.
    """

    def __init__(self, unet: Any, interval: int):
        if hasattr(unet, "_hf_hook"):
            raise UserError(
                "cache_interval does not work with offloaded models: use 1, or do not offload.",
                param="cache_interval",
            )
        self.interval, self.calls, self.count = interval, 0, 0
        self.is_update = True
        self.unet = copy.copy(unet)
        (first, *deeper), (*deep, last) = unet.down_blocks, unet.up_blocks
        vars(self.unet).update(
            down_blocks=[first, *(_CachedBlock(block, self) for block in deeper)],
            mid_block=unet.mid_block and _CachedBlock(unet.mid_block, self),
            up_blocks=[*(_CachedBlock(block, self) for block in deep), last],
        )

    def __call__(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the UNet; the features are updated for another number of samples too."""
        self.is_update = self.calls % self.interval == 0 or len(sample) != self.count
        self.calls, self.count = 1 if self.is_update else self.calls + 1, len(sample)
        return self.unet(sample, *args, **kwargs)


class _CachedBlock:
    """Block that returns its last output unless the features are updated."""

    def __init__(self, block: Any, owner: CachedUNet):
        self._block, self._owner, self._output = block, owner, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._owner.is_update:
            self._output = self._block(*args, **kwargs)
        return self._output
