"""Has vLLM's KV cache allocated in memory that the daemon can map.

On a CPU engine vLLM 0.32 makes one `torch.zeros` of bytes for all layers, inside a context that the
connector may give. That one call is answered with a tensor over a memfd: the engine computes in it
and the daemon copies from and to it, so nothing is copied a second time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .layout import Memory


class SharedMemory:
    """A memfd, mapped here. Zero bytes until somebody writes."""

    def __init__(self, length: int) -> None:
        size = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = os.memfd_create("terrace-vllm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.tensor = torch.frombuffer(mmap.mmap(self.fd, size), dtype=torch.int8)[:length]

    @property
    def memory(self) -> Memory:
        return Memory(self.tensor.data_ptr(), self.tensor.numel())


class SharedAllocation(TorchFunctionMode):
    """While it is entered, the KV cache is made in shared memory; all else is made as ever."""

    def __init__(self, made: Callable[[SharedMemory], None]) -> None:
        super().__init__()
        self._made = made

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.zeros and _is_backing(args, named):
            shared = SharedMemory(int(args[0]))
            self._made(shared)
            return shared.tensor
        return func(*args, **named)


def _is_backing(args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether this is the allocation of all layers: a flat run of bytes."""
    flat = len(args) == 1 and isinstance(args[0], int) and args[0] > 0
    device = torch.device(named.get("device") or "cpu")
    return flat and named.get("dtype") is torch.int8 and device.type == "cpu"
