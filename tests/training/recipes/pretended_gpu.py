"""A device that is the processor but minds, as a GPU does, what lies where."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

GPU = torch.device("cuda")

# What a GPU takes from both sides: copies, and indices.
_FROM_BOTH = ("aten.copy_", "aten.index")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments or results of an operator, which may be lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class _Watch(TorchDispatchMode):
    """Knows which storages lie on the GPU, and refuses to compute with some that do not."""

    def __init__(self):
        super().__init__()
        self.storages: dict[int, StorageWeakRef] = {}
        self.computed = 0

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        # It keeps the address, so that no other storage is taken for this one, but not the data.
        self.storages[storage._cdata] = StorageWeakRef(storage)

    def copy(self, tensor: Tensor, *, to_gpu: bool) -> Tensor:
        with _disable_current_modes():
            made = tensor.clone()
        if to_gpu:
            self.add(made)
        return made

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = list(_tensors(args))
        if kwargs:
            tensors += _tensors(kwargs.values())
        there = [self.holds(x) for x in tensors]
        # A single number may lie on either side.
        elsewhere = [x.ndim > 0 and not held for x, held in zip(tensors, there, strict=True)]
        from_both = any(there) and str(func).startswith(_FROM_BOTH)
        if any(there) and any(elsewhere) and not from_both:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        made = func(*args, **(kwargs or {}))
        if there[0] if from_both else any(there):
            self.computed += 1
            for tensor in _tensors((made,)):
                self.add(tensor)
        return made


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, watch, to_gpu):
        ctx.back = watch, not to_gpu
        return watch.copy(tensor, to_gpu=to_gpu)

    @staticmethod
    def backward(ctx, *gradients):
        watch, to_gpu = ctx.back
        return watch.copy(gradients[0], to_gpu=to_gpu), None, None


class PretendedGpu(TorchFunctionMode):
    """Within it, tensors and models can be moved to `GPU`, and computed with where they lie."""

    def __init__(self):
        super().__init__()
        self._watch = _Watch()

    @property
    def computed(self) -> int:
        """How many operations ran on the GPU."""
        return self._watch.computed

    def __enter__(self):
        self._watch.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._watch.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return GPU if self._watch.holds(args[0]) else torch.device("cpu")
        if func in (Tensor.to, Tensor.cpu):
            return self._to(func, *args, **kwargs)
        if kwargs.get("device") is not None:
            to_gpu = torch.device(kwargs["device"]).type == GPU.type
            made = func(*args, **{**kwargs, "device": "cpu"})
        else:
            to_gpu = func in (Tensor.__deepcopy__, Tensor.new_tensor) and self._watch.holds(args[0])
            made = func(*args, **kwargs)
        if to_gpu:
            self._watch.add(made)
        return made

    def _to(self, func, tensor, *args, **kwargs):
        devices = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.device | str)]
        if func is Tensor.cpu:
            devices = [torch.device("cpu")]
        if not devices:
            return func(tensor, *args, **kwargs)
        to_gpu = torch.device(devices[0]).type == GPU.type
        if to_gpu != self._watch.holds(tensor):
            tensor = _Move.apply(tensor, self._watch, to_gpu)
        dtypes = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.dtype)]
        return Tensor.to(tensor, dtypes[0]) if dtypes else tensor
