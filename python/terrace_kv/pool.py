"""A paged KV pool in shared memory, seen by numpy here and by the daemon there.

A slot of an operation under way belongs to the daemon: what is read from it then is mixed bytes,
and what is written to it leaves mixed bytes. Nothing here keeps the caller from it.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import arguments
from .errors import Invalid
from .namespace import Namespace

# How the machine says that a memory is too long.
_NO_ROOM = (errno.ENOMEM, errno.EFBIG, errno.EINVAL)


@dataclass(frozen=True)
class PageLayout:
    """Page (layer, plane, slot) starts at base + layer * layer_stride + plane * plane_stride +
    slot * slot_stride. All in bytes."""

    slots: int
    base_bytes: int
    layer_stride_bytes: int
    plane_stride_bytes: int
    slot_stride_bytes: int

    @classmethod
    def paged(cls, namespace: Namespace, slots: int) -> PageLayout:
        """`[layer][plane][slot]`: one tensor a layer and plane, as vLLM's."""
        slots = _slots(namespace, slots)
        slot = namespace.page_bytes
        plane = slot * slots
        return cls(slots, 0, plane * namespace.planes, plane, slot)

    @classmethod
    def contiguous(cls, namespace: Namespace, slots: int) -> PageLayout:
        """`[slot][layer][plane]`: all pages of a block side by side."""
        slots = _slots(namespace, slots)
        plane = namespace.page_bytes
        layer = plane * namespace.planes
        return cls(slots, 0, layer, plane, layer * namespace.layers)

    def end_bytes(self, namespace: Namespace) -> int:
        """Where the memory must reach, in bytes from its start."""
        return (
            self.base_bytes
            + (namespace.layers - 1) * self.layer_stride_bytes
            + (namespace.planes - 1) * self.plane_stride_bytes
            + (self.slots - 1) * self.slot_stride_bytes
            + namespace.page_bytes
        )


class HostPool:
    """Shared memory with a page layout; its memory lives as long as this or any view of it."""

    def __init__(self, namespace: Namespace, layout: PageLayout, fd: int) -> None:
        """Over memory of the caller's own: `fd` is a memfd that may be sealed against shrinking,
        or is already. It is duplicated, so the caller's may be closed."""
        _check(namespace, layout)
        end = layout.end_bytes(namespace)
        size = _size(fd)
        if end > size:
            raise Invalid(f"the pool's pages reach to byte {end}, its memory has {size}")
        self.namespace = namespace
        self.layout = layout
        self._fd = os.dup(fd)
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        try:
            self._memory = mmap.mmap(self._fd, size, flags)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            raise Invalid(f"fd is {fd}: its memory can't be shared and written: {error}") from error

    @classmethod
    def create(cls, namespace: Namespace, slots: int, layout: PageLayout | None = None) -> HostPool:
        """Makes the memory, touches it, and seals it. Paged unless `layout` says otherwise."""
        slots = _slots(namespace, slots)
        layout = PageLayout.paged(namespace, slots) if layout is None else layout
        _check(namespace, layout)
        if layout.slots != slots:
            raise Invalid(f"slots is {slots}, the layout's {layout.slots}: give them alike")
        end = layout.end_bytes(namespace)
        fd = os.memfd_create("terrace-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, -(-end // mmap.PAGESIZE) * mmap.PAGESIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return cls(namespace, layout, fd)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_ROOM:
                raise
            raise Invalid(f"slots is {slots}: no memory for {end} bytes: {error}") from error
        finally:
            os.close(fd)

    def __len__(self) -> int:
        """Slots."""
        return self.layout.slots

    def fileno(self) -> int:
        """The memory's descriptor, to hand to the daemon."""
        return self._fd

    @property
    def memory(self) -> mmap.mmap:
        """All of it, as a buffer: what `torch.frombuffer` and the like take."""
        return self._memory

    def pages(self, slot: int) -> npt.NDArray[np.uint8]:
        """A slot's pages, in place: `[layer, plane, byte]`."""
        if not 0 <= arguments.count("slot", slot, least=0) < self.layout.slots:
            raise Invalid(f"slot {slot} is outside the pool's {self.layout.slots} slots")
        view: npt.NDArray[np.uint8] = self.view()[slot]
        return view

    def view(
        self, dtype: npt.DTypeLike = np.uint8, page_shape: tuple[int, ...] | None = None
    ) -> npt.NDArray[Any]:
        """The whole pool, in place: `[slot, layer, plane, *page_shape]`.

        `page_shape` is that of one page in elements of `dtype`; flat where it is not given.
        """
        element = _element(dtype)
        page_bytes = self.namespace.page_bytes
        shape = (page_bytes // element.itemsize,) if page_shape is None else page_shape
        shape = tuple(arguments.whole_numbers("page_shape", shape))
        if not shape or min(shape) < 1 or math.prod(shape) * element.itemsize != page_bytes:
            raise Invalid(
                f"a page of {shape} {element} is not {page_bytes} bytes: give a shape that fills it"
            )
        inner = [element.itemsize]
        for length in reversed(shape[1:]):
            inner.insert(0, inner[0] * length)
        layout = self.layout
        outer = (layout.slot_stride_bytes, layout.layer_stride_bytes, layout.plane_stride_bytes)
        view: npt.NDArray[Any] = np.ndarray(
            (layout.slots, self.namespace.layers, self.namespace.planes, *shape),
            dtype=element,
            buffer=self._memory,
            offset=layout.base_bytes,
            strides=(*outer, *inner),
        )
        return view

    def close(self) -> None:
        """Closes the descriptor. The memory goes when the last view of it does."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> HostPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _slots(namespace: Namespace, slots: int) -> int:
    """The slots of a pool of that namespace's blocks."""
    arguments.one_of("namespace", namespace, Namespace, "a Namespace")
    for name in ("layers", "planes", "page_bytes"):
        arguments.count(name, getattr(namespace, name))
    return arguments.count("slots", slots)


def _check(namespace: Namespace, layout: PageLayout) -> None:
    """What would make no memory at all; the daemon checks the rest, overlaps among it."""
    arguments.one_of("layout", layout, PageLayout, "a PageLayout")
    _slots(namespace, layout.slots)
    for name, value in vars(layout).items():
        arguments.count(name, value, least=0)


def _size(fd: Any) -> int:
    try:
        return os.fstat(arguments.count("fd", fd, least=0)).st_size
    except (OSError, OverflowError) as error:
        raise Invalid(f"fd is {fd}: give a memfd that is open: {error}") from error


def _element(dtype: Any) -> np.dtype[Any]:
    try:
        element: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise Invalid(f"dtype is {dtype!r}: give one of numpy's: {error}") from error
    if element.itemsize == 0:
        raise Invalid(f"dtype is {dtype!r}: give one of a length")
    return element
