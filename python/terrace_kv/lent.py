"""Blocks of the daemon's HBM tier, read where they lie.

A view of memory that the daemon writes: a block's bytes count from `borrow` until `give_back`, its
request's end or the session's, and no longer. Copies nothing and writes nothing.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import Invalid
from .namespace import Namespace


@dataclass(frozen=True)
class CudaExport:
    """The tier's memory on a GPU, for `cuIpcOpenMemHandle`: to be read, never written."""

    device_uuid: bytes
    handle: bytes


@dataclass(frozen=True)
class Borrowed:
    """Blocks that stay where they are for now."""

    # Where each lent block begins in the tier's memory, by its index among the hashes.
    starts: Mapping[int, int]
    # In HBM and not lent: the share of the tier that may be is used up.
    clipped_blocks: int
    # From a page to the next one's, in bytes.
    shard_stride_bytes: int
    layer_stride_bytes: int
    plane_stride_bytes: int
    # The connection that holds them: they are held no longer than it.
    epoch: int


class HbmMemory:
    """The tier's memory: mapped read-only where it is this machine's, else as `cuda` says."""

    def __init__(
        self,
        namespace: Namespace,
        length_bytes: int,
        cuda: CudaExport | None,
        fd: int | None,
        epoch: int,
    ) -> None:
        """Maps `fd`, and closes it. `epoch` is the connection's over which it was told."""
        self.namespace = namespace
        self.length_bytes = length_bytes
        self.cuda = cuda
        self.epoch = epoch
        self._memory: mmap.mmap | None = None
        if fd is not None:
            try:
                self._memory = mmap.mmap(fd, length_bytes, prot=mmap.PROT_READ)
            finally:
                os.close(fd)

    def start(self, lent: Borrowed, index: int) -> int:
        """Where a lent block begins in the memory, in bytes."""
        if lent.epoch != self.epoch:
            # The daemon may be another one since, with other memory.
            raise Invalid("the block was lent over another connection: call `hbm` again")
        start = lent.starts.get(index)
        if start is None:
            raise Invalid(f"block {index} was not lent: `starts` has those that were")
        return start

    def pages(self, lent: Borrowed, index: int) -> npt.NDArray[np.uint8]:
        """A lent block's pages, in place: `[shard, layer, plane, byte]`."""
        if self._memory is None:
            raise Invalid("the HBM tier is on a GPU: open what `cuda` says with its driver")
        start = self.start(lent, index)
        space = self.namespace
        view: npt.NDArray[np.uint8] = np.ndarray(
            (space.shard_count, space.layers, space.planes, space.page_bytes),
            dtype=np.uint8,
            buffer=self._memory,
            offset=start,
            strides=(
                lent.shard_stride_bytes,
                lent.layer_stride_bytes,
                lent.plane_stride_bytes,
                1,
            ),
        )
        return view
