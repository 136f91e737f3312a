"""Pools on a GPU: what the daemon is told of them. The driver is a stand-in: no GPU is needed."""

from __future__ import annotations

import unittest
from unittest import mock

from terrace_kv import Namespace, convert, cuda, errors
from terrace_kv.lent import Borrowed, CudaExport, HbmMemory
from terrace_kv.pool import PageLayout

NAMESPACE = Namespace(model="m", layers=3, page_bytes=4096, block_tokens=16)
LAYOUT = PageLayout(4, 0, 0, 4 * 4096, 4096)


class Tensor:
    def __init__(self, at: int) -> None:
        self.at = at

    def data_ptr(self) -> int:
        return self.at


class Driver:
    """Allocations of 1 MiB, each where a MiB begins."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        # Event and stream; stream and event are what waited.
        self.marks: list[tuple[int, int]] = []
        self.held: list[tuple[int, int]] = []
        self.events = 0

    def uuid(self, device: int) -> bytes:
        return bytes([device] * 16)

    def allocation(self, at: int) -> int:
        return at & ~0xFFFFF

    def memory_handle(self, start: int) -> bytes:
        return start.to_bytes(64, "little")

    def event(self) -> int:
        self.events += 1
        return self.events

    def event_handle(self, event: int) -> bytes:
        return bytes([event] * 64)

    def record(self, event: int, stream: int) -> None:
        self.marks.append((event, stream))

    def hold(self, stream: int, event: int) -> None:
        self.held.append((stream, event))

    def open(self, handle: bytes) -> int:
        return int.from_bytes(handle[:8], "little")

    def close(self, address: int) -> None:
        self.recorded.append(address)


class CudaPools(unittest.TestCase):
    def test_each_allocation_is_sent_once_and_layers_name_theirs(self) -> None:
        tensors = [Tensor(0x300040), Tensor(0x100000), Tensor(0x380000)]
        with mock.patch.object(cuda, "_Driver", Driver):
            pool = cuda.CudaPool(NAMESPACE, LAYOUT, tensors, device=2)
        sent = convert.cuda_memory(pool)
        self.assertEqual(sent.device_uuid, bytes([2] * 16))
        starts = [int.from_bytes(one, "little") for one in sent.memories]
        self.assertEqual(starts, [0x300000, 0x100000])
        layers = [(layer.memory, layer.base_bytes) for layer in sent.layers]
        self.assertEqual(layers, [(0, 0x40), (1, 0), (0, 0x80000)])
        self.assertEqual(list(sent.ready_events), [bytes([event] * 64) for event in range(1, 9)])

    def test_events_are_recorded_in_turns_and_streams_follow_each_other(self) -> None:
        with mock.patch.object(cuda, "_Driver", Driver):
            pool = cuda.CudaPool(NAMESPACE, LAYOUT, [Tensor(0x100000)] * 3)
        streams = [77, 77, 88, 88, 77, 77, 77, 77, 77]
        for stream in streams:
            pool.record(stream)
        turns = [1, 2, 3, 4, 5, 6, 7, 8, 1]
        self.assertEqual(pool._driver.marks, list(zip(turns, streams, strict=True)))
        # The other stream runs after what was marked last: the second event, and then the fourth.
        self.assertEqual(pool._driver.held, [(88, 2), (77, 4)])

    def test_the_daemons_memory_is_read_in_place(self) -> None:
        export = CudaExport(bytes([2] * 16), (0x700000).to_bytes(64, "little"))
        memory = HbmMemory(NAMESPACE, 64 << 20, export, None, 1)
        with mock.patch.object(cuda, "_Driver", Driver):
            opened = cuda.OpenedHbm(memory, device=2)
            with self.assertRaisesRegex(errors.Invalid, "on another GPU than number 1"):
                cuda.OpenedHbm(memory, device=1)
        lent = Borrowed({4: 8192}, 0, 9, 300, 200, 1)
        told = opened.pages(lent, 4)
        self.assertEqual(told["data"], (0x700000 + 8192, False))
        self.assertEqual((told["shape"], told["strides"]), ((1, 3, 2, 4096), (9, 300, 200, 1)))
        with self.assertRaisesRegex(errors.Invalid, "block 5 was not lent"):
            opened.pages(lent, 5)
        with self.assertRaisesRegex(errors.Invalid, "another connection"):
            opened.pages(Borrowed({4: 8192}, 0, 9, 300, 200, 2), 4)
        opened.close()
        self.assertEqual(opened._driver.recorded, [0x700000])

    def test_a_layer_too_few_is_refused(self) -> None:
        with self.assertRaisesRegex(errors.Invalid, "2 tensors for 3 layers"):
            cuda.CudaPool(NAMESPACE, LAYOUT, [Tensor(0), Tensor(0)])

    def test_without_a_driver_it_says_so(self) -> None:
        with (
            mock.patch.object(cuda.ctypes, "CDLL", side_effect=OSError("no such file")),
            self.assertRaisesRegex(errors.Invalid, "no NVIDIA driver here"),
        ):
            cuda.CudaPool(NAMESPACE, LAYOUT, [Tensor(0)] * 3)


if __name__ == "__main__":
    unittest.main()
