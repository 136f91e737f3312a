"""A paged KV pool on a GPU, lent to the daemon by CUDA IPC, and the daemon's own memory there.

Asks the driver itself (`libcuda.so.1`), so it works with any library's tensors: only their
`data_ptr()` is used. Keeps the tensors; copies nothing. The daemon must use the same GPU, and the
memory must come from cudaMalloc: for PyTorch, no `expandable_segments` in PYTORCH_CUDA_ALLOC_CONF.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Invalid
from .lent import Borrowed, HbmMemory
from .namespace import Namespace
from .pool import PageLayout

_HANDLE_BYTES = 64
_EVENT_INTERPROCESS_WITHOUT_TIMES = 0x4 | 0x2
_LAZY_PEER_ACCESS = 0x1
# Recorded in turns: copies are held up by a stream that is more calls behind than this, less one.
# vLLM records twice a step, and has two steps under way.
_READY_EVENTS = 8


@dataclass(frozen=True)
class CudaLayer:
    """Where a layer's first page lies: an index into `memories`, and bytes from its start."""

    memory: int
    base_bytes: int


class CudaPool:
    """Tensors of a KV cache, one a layer, and events for the stream that fills them."""

    def __init__(
        self, namespace: Namespace, layout: PageLayout, tensors: Sequence[Any], device: int = 0
    ) -> None:
        """`tensors` are one a layer, alike: plane and slot lie `plane_stride_bytes` and
        `slot_stride_bytes` apart in each. `device` is the GPU's number in this process, whose
        context must be current, as it is after the tensors were made."""
        if len(tensors) != namespace.layers:
            raise Invalid(f"{len(tensors)} tensors for {namespace.layers} layers: one a layer")
        self.namespace = namespace
        self.layout = layout
        self._tensors = list(tensors)
        self._driver = _Driver()
        self.device_uuid = self._driver.uuid(device)
        self.memories, self.layers = _allocations(self._driver, self._tensors)
        self._events = [self._driver.event() for _ in range(_READY_EVENTS)]
        self.ready_events = [self._driver.event_handle(event) for event in self._events]
        # How often was recorded, and where last.
        self._records = 0
        self._stream: int | None = None
        self._recording = threading.Lock()

    def __len__(self) -> int:
        """Slots."""
        return self.layout.slots

    def record(self, stream: int) -> None:
        """Marks what was queued on `stream` (`torch.cuda.current_stream().cuda_stream`) so far:
        copies of later stores and loads wait for it; this process does not. What is queued on
        another stream than the time before runs after what was marked there."""
        with self._recording:
            if self._stream not in (None, stream):
                self._driver.hold(stream, self._events[(self._records - 1) % _READY_EVENTS])
            self._driver.record(self._events[self._records % _READY_EVENTS], stream)
            self._records, self._stream = self._records + 1, stream


class OpenedHbm:
    """The daemon's HBM tier on the GPU, opened in this process: to be read, never written.

    A process opens it once, in the context of that GPU, which must be current.
    """

    def __init__(self, memory: HbmMemory, device: int = 0) -> None:
        """`device` is the GPU's number in this process."""
        if memory.cuda is None:
            raise Invalid("the HBM tier is in this machine's memory: `pages` has its blocks")
        self._driver = _Driver()
        uuid = memory.cuda.device_uuid
        if self._driver.uuid(device) != uuid:
            raise Invalid(f"the HBM tier is on another GPU than number {device}: {uuid.hex()}")
        self.address = self._driver.open(memory.cuda.handle)
        self._memory = memory

    def pages(self, lent: Borrowed, index: int) -> dict[str, Any]:
        """A lent block in place, `[shard, layer, plane, byte]`, as `__cuda_array_interface__` has
        it: an object with that attribute is what `torch.as_tensor` takes."""
        start = self._memory.start(lent, index)
        space = self._memory.namespace
        strides = (lent.shard_stride_bytes, lent.layer_stride_bytes, lent.plane_stride_bytes, 1)
        return {
            "shape": (space.shard_count, space.layers, space.planes, space.page_bytes),
            "typestr": "|u1",
            # Marked as writable: torch refuses arrays that are not.
            "data": (self.address + start, False),
            "strides": strides,
            "version": 3,
        }

    def close(self) -> None:
        """Nothing of this process reads it any more."""
        self._driver.close(self.address)


def _allocations(driver: _Driver, tensors: list[Any]) -> tuple[list[bytes], list[CudaLayer]]:
    """Each allocation once, and where in them the tensors begin."""
    known: dict[int, int] = {}
    layers = []
    for tensor in tensors:
        at = tensor.data_ptr()
        start = driver.allocation(at)
        memory = known.setdefault(start, len(known))
        layers.append(CudaLayer(memory, at - start))
    return [driver.memory_handle(start) for start in known], layers


class _IpcHandle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * _HANDLE_BYTES),)


class _Driver:
    """The driver's calls that lending needs."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Invalid(
                f"no NVIDIA driver here, so there is no pool on a GPU: {error}"
            ) from error

    def uuid(self, device: int) -> bytes:
        number = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(number), ctypes.c_int(device))
        uuid = (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetUuid_v2", uuid, number)
        return bytes(uuid)

    def allocation(self, at: int) -> int:
        """Where the allocation begins that `at` lies in."""
        start, length = ctypes.c_uint64(), ctypes.c_size_t()
        address = ctypes.c_uint64(at)
        self._call("cuMemGetAddressRange_v2", ctypes.byref(start), ctypes.byref(length), address)
        return start.value

    def memory_handle(self, start: int) -> bytes:
        handle = (ctypes.c_ubyte * _HANDLE_BYTES)()
        self._call("cuIpcGetMemHandle", handle, ctypes.c_uint64(start))
        return bytes(handle)

    def open(self, handle: bytes) -> int:
        """Another process's allocation; gives its address here."""
        raw, address = _IpcHandle.from_buffer_copy(handle), ctypes.c_uint64()
        flags = ctypes.c_uint(_LAZY_PEER_ACCESS)
        self._call("cuIpcOpenMemHandle_v2", ctypes.byref(address), raw, flags)
        return address.value

    def close(self, address: int) -> None:
        self._call("cuIpcCloseMemHandle", ctypes.c_uint64(address))

    def event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        flags = ctypes.c_uint(_EVENT_INTERPROCESS_WITHOUT_TIMES)
        self._call("cuEventCreate", ctypes.byref(event), flags)
        return event

    def event_handle(self, event: ctypes.c_void_p) -> bytes:
        handle = (ctypes.c_ubyte * _HANDLE_BYTES)()
        self._call("cuIpcGetEventHandle", handle, event)
        return bytes(handle)

    def record(self, event: ctypes.c_void_p, stream: int) -> None:
        self._call("cuEventRecord", event, ctypes.c_void_p(stream))

    def hold(self, stream: int, event: ctypes.c_void_p) -> None:
        """What is queued on the stream from now on runs after what the event recorded last."""
        self._call("cuStreamWaitEvent", ctypes.c_void_p(stream), event, ctypes.c_uint(0))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise Invalid(f"{name} failed with the driver's error {code}: see CUresult")
