"""What needs no daemon: BLAKE3, the protocol's numbers, pools, completions, errors."""

import asyncio
import os
import pickle
import unittest
from dataclasses import fields
from pathlib import Path
from unittest import mock

import grpc
import numpy as np

from rig import namespace
from terrace_kv import _blake3, _wire, answers, convert, errors, hints
from terrace_kv.completions import Completions
from terrace_kv.pool import HostPool, PageLayout

# Of bytes counting up to 250: plain, keyed, derived.
VECTORS = {
    0: (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    ),
    1: (
        "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
        "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
        "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
    ),
    64: (
        "4eed7141ea4a5cd4b788606bd23f46e212af9cacebacdc7d1f4c6dc7f2511b98",
        "ba8ced36f327700d213f120b1a207a3b8c04330528586f414d09f2f7d9ccb7e6",
        "a5c4a7053fa86b64746d4bb688d06ad1f02a18fce9afd3e818fefaa7126bf73e",
    ),
    65: (
        "de1e5fa0be70df6d2be8fffd0e99ceaa8eb6e8c93a63f2d8d1c30ecb6b263dee",
        "c0a4edefa2d2accb9277c371ac12fcdbb52988a86edc54f0716e1591b4326e72",
        "51fd05c3c1cfbc8ed67d139ad76f5cf8236cd2acd26627a30c104dfd9d3ff8a8",
    ),
    1024: (
        "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
        "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4",
        "7356cd7720d5b66b6d0697eb3177d9f8d73a4a5c5e968896eb6a689684302706",
    ),
    1025: (
        "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
        "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69",
        "effaa245f065fbf82ac186839a249707c3bddf6d3fdda22d1b95a3c970379bcb",
    ),
    2049: (
        "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
        "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5",
        "2ea477c5515cc3dd606512ee72bb3e0e758cfae7232826f35fb98ca1bcbdf273",
    ),
    5120: (
        "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833",
        "2c493e48e9b9bf31e0553a22b23503c0a3388f035cece68eb438d22fa1943e20",
        "7a7acac8a02adcf3038d74cdd1d34527de8a0fcc0ee3399d1262397ce5817f60",
    ),
    8193: (
        "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b",
        "954a2a75420c8d6547e3ba5b98d963e6fa6491addc8c023189cc519821b4a1f5",
        "af1e0346e389b17c23200270a64aa4e1ead98c61695d917de7d5b00491c9b0f1",
    ),
}


class Blake3Test(unittest.TestCase):
    """The inputs, key and context of BLAKE3's own vectors; the hashes of its implementation."""

    KEY = b"whats the Elvish word for friend"
    CONTEXT = "BLAKE3 2019-12-27 16:29:52 test vectors context"

    def test_vectors(self):
        for length, (plain, keyed, derived) in VECTORS.items():
            with self.subTest(length):
                data = bytes(place % 251 for place in range(length))
                self.assertEqual(_blake3.blake3(data).hex(), plain)
                self.assertEqual(_blake3.keyed(self.KEY, data).hex(), keyed)
                self.assertEqual(_blake3.derive_key(self.CONTEXT, data).hex(), derived)


class WireTest(unittest.TestCase):
    def test_every_number_is_known(self):
        prefixes = {
            "Tier": answers.Tier, "Kind": answers.Kind, "Scope": answers.Scope,
            "Stop": answers.Stop, "OpKind": answers.OpKind, "CopyState": answers.CopyState,
            "OutcomeStatus": answers.OutcomeStatus, "SessionState": answers.SessionState,
        }  # fmt: skip
        for name, enum in prefixes.items():
            for number, spelled in _wire.enum_names(name).items():
                if number > 0:
                    with self.subTest(spelled):
                        self.assertTrue(spelled.endswith(f"_{enum(number).name}"))

    def test_every_call_is_there(self):
        streams = [name for name, method in _wire.METHODS.items() if method.streams]
        self.assertEqual(streams, ["Completions", "Events"])
        self.assertEqual(_wire.METHODS["Lookup"].path, "/terrace.v1.Terrace/Lookup")

    def test_types_have_the_fields_of_their_messages(self):
        named = {"StatusResponse": answers.Status, "NvmeWrites": answers.NvmeWrites,
                 "LiftCounts": answers.LiftCounts, "Wish": hints.Wish}  # fmt: skip
        actions = hints.Action.__subclasses__()
        for name, kind in {**named, **{f"Action.{one.__name__}": one for one in actions}}.items():
            with self.subTest(name):
                spelled = {one.name for one in _wire.message(name).DESCRIPTOR.fields}
                self.assertEqual({one.name for one in fields(kind)} - {"action_id"}, spelled)

    def test_values_that_no_message_holds(self):
        for values in ({"pool_id": -1}, {"pool_id": 1 << 64}, {"hashes": 7}, {"slots": [1.5]}):
            with self.subTest(values), self.assertRaises(errors.Invalid):
                convert.built("StoreRequest", **values)

    def test_tokens_that_are_none(self):
        for wrong in ([1.9], ["12"], "12", b"ab", [[1, 2], [3, 4]], [-1], [1 << 32], [True], 7,
                      np.array([-1, 5]), np.array([(1 << 32) + 7]), np.array([1.0])):  # fmt: skip
            with self.subTest(repr(wrong)), self.assertRaisesRegex(errors.Invalid, "token_ids"):
                convert.tokens(wrong)
        made = bytes.fromhex("01000000 ffffffff")
        for right in (
            [1, (1 << 32) - 1],
            np.array([1, (1 << 32) - 1]),
            [*np.array([1, 0xFFFFFFFF])],
        ):
            self.assertEqual(convert.tokens(right), made)
        self.assertEqual(convert.tokens(()), b"")

    def test_hashes_of_a_wrong_width_whose_sum_is_right(self):
        self.assertEqual(convert.joined([b"ab", b"cd"], 2), b"abcd")
        with self.assertRaises(errors.Invalid):
            convert.joined([b"a", b"bcd"], 2)


class PoolTest(unittest.TestCase):
    SPACE = namespace(layers=3, planes=2, page_bytes=512)

    def test_views_lie_where_the_layout_says(self):
        for make in (PageLayout.paged, PageLayout.contiguous):
            layout = make(self.SPACE, 5)
            with HostPool.create(self.SPACE, 5, layout) as pool:
                pool.view()[:] = 0
                pool.pages(3)[2, 1] = 77
                at = 2 * layout.layer_stride_bytes + layout.plane_stride_bytes
                at += 3 * layout.slot_stride_bytes
                raw = os.pread(pool.fileno(), len(pool.memory), 0)
                self.assertEqual(raw[at : at + 512], b"\x4d" * 512)
                self.assertEqual(raw.count(b"\x4d"), 512)

    def test_strides(self):
        paged, together = PageLayout.paged(self.SPACE, 5), PageLayout.contiguous(self.SPACE, 5)
        self.assertEqual(vars(paged), vars(PageLayout(5, 0, 2 * 5 * 512, 5 * 512, 512)))
        self.assertEqual(vars(together), vars(PageLayout(5, 0, 2 * 512, 512, 3 * 2 * 512)))
        self.assertEqual(paged.end_bytes(self.SPACE), 3 * 2 * 5 * 512)

    def test_pages_as_tensors(self):
        with HostPool.create(self.SPACE, 2) as pool:
            view = pool.view(np.float16, (4, 8, 8))
            self.assertEqual(view.shape, (2, 3, 2, 4, 8, 8))
            view[1, 2, 0, 3, 7, 7] = 1.5
            self.assertEqual(pool.view(np.float16)[1, 2, 0, -1], 1.5)
            with self.assertRaises(errors.Invalid):
                pool.view(np.float16, (4, 8, 9))
            self.assertEqual(pool.view(np.uint32).shape, (2, 3, 2, 128))

    def test_a_view_outlives_its_pool(self):
        pool = HostPool.create(self.SPACE, 2)
        view = pool.pages(1)
        view[:] = 9
        pool.close()
        del pool
        self.assertEqual(int(view.sum()), 9 * view.size)

    def test_memory_of_the_callers_own(self):
        fd = os.memfd_create("own", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4096 + 2 * 3 * 2 * 512)
        packed = PageLayout.paged(self.SPACE, 2)
        layout = PageLayout(2, 4096, *list(vars(packed).values())[2:])
        with HostPool(self.SPACE, layout, fd) as pool:
            os.close(fd)
            pool.pages(0)[0, 0] = 5
            self.assertEqual(pool.memory[4096:4098], b"\5\5")
            with self.assertRaises(errors.Invalid):
                HostPool(self.SPACE, PageLayout.paged(self.SPACE, 4), pool.fileno())

    def test_what_makes_no_memory(self):
        for slots, layout in ((0, None), (-1, None), (3, PageLayout.paged(self.SPACE, 2))):
            with self.subTest(slots), self.assertRaises(errors.Invalid):
                HostPool.create(self.SPACE, slots, layout)
        with self.assertRaises(errors.Invalid):
            HostPool.create(self.SPACE, 2, PageLayout(2, 0, -1, 1, 1))
        with HostPool.create(self.SPACE, 2) as pool:
            for slot in (-1, 2):
                with self.assertRaises(errors.Invalid):
                    pool.pages(slot)
            # Sealed: what the daemon maps can never be taken from under it.
            with self.assertRaises(OSError):
                os.ftruncate(pool.fileno(), 0)


class CompletionsTest(unittest.TestCase):
    @staticmethod
    def ended(op, kind=answers.OpKind.LOAD):
        return answers.Completion(op, 1, kind, 1, ())

    def test_early_late_forgotten_and_lost_ends(self):
        completions = Completions()
        completions.arrived(self.ended(1))
        self.assertEqual(completions.expect(1).result(0), self.ended(1))
        late = completions.expect(2)
        with self.assertRaises(errors.TimedOut):
            late.result(0.01)
        called = []
        late.add_done_callback(called.append)
        completions.arrived(self.ended(2))
        self.assertEqual((late.result(0), called), (self.ended(2), [late]))
        completions.expect(3)
        lost = completions.expect(4)
        completions.close(errors.DaemonGone("it went"))
        completions.close(errors.DaemonGone("twice"))
        for op in (lost, completions.expect(5)):
            with self.assertRaisesRegex(errors.DaemonGone, "it went"):
                op.result(0)

    def test_a_callback_that_raises_anything_holds_no_other_up(self):
        for raised in (
            SystemExit(3),
            asyncio.CancelledError(),
            ValueError("x"),
        ):
            completions, called = Completions(), []
            op, lost = completions.expect(1), completions.expect(2)
            for one in (op, lost):
                one.add_done_callback(mock.Mock(side_effect=raised))
                one.add_done_callback(called.append)
            with self.subTest(repr(raised)), self.assertLogs("terrace_kv", "ERROR"):
                completions.arrived(self.ended(1))
                completions.close(errors.DaemonGone("it went"))
            self.assertEqual(called, [op, lost])

    def test_early_ends_are_bounded_and_the_oldest_go(self):
        completions = Completions()
        for op in range(1025):
            completions.arrived(self.ended(op))
        self.assertTrue(completions.expect(1).done())
        self.assertFalse(completions.expect(0).done())
        for op in range(2000, 2000 + 1025):
            completions.arrived(self.ended(op, answers.OpKind.PREFETCH))
        self.assertTrue(completions.expect(2).done())
        self.assertTrue(completions.expect(2001).done())
        self.assertFalse(completions.expect(2000).done())


class ErrorsTest(unittest.TestCase):
    class Failed:
        def __init__(self, code, **metadata):
            self._code, self._metadata = code, metadata

        def code(self):
            return self._code

        def details(self):
            return "x"

        def trailing_metadata(self):
            return [(key.replace("_", "-"), value) for key, value in self._metadata.items()]

    def kind(self, code, **metadata):
        return type(errors.from_rpc(self.Failed(code, **metadata), Path("/run/t.sock")))

    def test_each_status_says_what_to_do_next(self):
        codes = grpc.StatusCode
        cases = {
            codes.RESOURCE_EXHAUSTED: errors.Busy,
            codes.INVALID_ARGUMENT: errors.Invalid,
            codes.OUT_OF_RANGE: errors.Invalid,
            codes.NOT_FOUND: errors.NotFound,
            codes.FAILED_PRECONDITION: errors.Precondition,
            codes.DEADLINE_EXCEEDED: errors.TimedOut,
            codes.CANCELLED: errors.TimedOut,
            codes.UNAVAILABLE: errors.DaemonGone,
            codes.INTERNAL: errors.DaemonFault,
        }
        for code, expected in cases.items():
            self.assertIs(self.kind(code), expected)

    def test_reasons_go_before_codes(self):
        code = grpc.StatusCode.FAILED_PRECONDITION
        cases = {
            "version_mismatch": errors.VersionMismatch,
            "name_taken": errors.NameTaken,
            "not_attached": errors.SessionLost,
            "unknown_token": errors.SessionLost,
            "a word of tomorrow": errors.Precondition,
        }
        for reason, expected in cases.items():
            self.assertIs(self.kind(code, terrace_reason=reason), expected)

    def test_they_pass_between_processes(self):
        named = (one for one in vars(errors).values() if isinstance(one, type))
        for kind in filter(lambda one: issubclass(one, errors.TerraceError), named):
            error = kind("x", 0.25) if kind is errors.Busy else kind("x")
            with self.subTest(kind.__name__):
                again = pickle.loads(pickle.dumps(error))
                self.assertEqual((type(again), str(again)), (kind, "x"))
                self.assertEqual(vars(again), vars(error))

    def test_the_time_to_try_again_is_the_daemons(self):
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        for text, expected in (("7", 0.007), ("soon", 0.1)):
            busy = errors.from_rpc(self.Failed(code, retry_after_ms=text), Path("t"))
            self.assertEqual(busy.retry_after_s, expected)


class EnvelopeTest(unittest.TestCase):
    def test_it_is_that_of_the_documentation(self):
        actions = [
            hints.Pin(
                hints.SessionTokens("agent-7", hints.TokenRange(end=4096)),
                hints.Wish(ttl_ms=3600000, kind=answers.Kind.SYSTEM),
                action_id="keep",
            ),
            hints.ToolStart("agent-7", expected_ms=12000),
            hints.SessionEnd("agent-8", tree=True),
            hints.Demote(hints.Blocks([b"\0\xff"]), answers.Tier.NVME),
            hints.Release(hints.SessionTree("agent-7")),
        ]
        made = hints.envelope(actions, "turn-17")
        said = [
            (one["action_id"], one["action_type"], one["action_version"], one["payload"])
            for one in made["actions"]
        ]
        tokens = {"start": 0, "end": 4096}
        keep = {"target": {"session": "agent-7", "tokens": tokens}, "ttl_ms": 3600000}
        self.assertEqual((made["protocol_version"], made["message_id"]), ("0.1", "turn-17"))
        self.assertEqual(
            said,
            [
                ("keep", "pin", "1.0", {**keep, "kind": "system"}),
                ("1", "tool.start", "1.0", {"session": "agent-7", "expected_ms": 12000}),
                ("2", "session.end", "1.0", {"session": "agent-8", "tree": True}),
                ("3", "demote", "1.0", {"target": {"hashes": ["00ff"]}, "to": "nvme"}),
                ("4", "release", "1.0", {"target": {"session_tree": "agent-7"}}),
            ],
        )


if __name__ == "__main__":
    unittest.main()
