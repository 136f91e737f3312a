"""Arguments that make no sense: refused by name with what they take, before anything is sent."""

import os
import unittest
from fractions import Fraction

import numpy as np

from rig import DaemonCase, chain, namespace
from terrace_kv import (
    Client,
    HostPool,
    Invalid,
    PageLayout,
    TimedOut,
    daemon_block,
    daemon_events,
    daemon_overlap,
    daemon_status,
    default_socket,
    hashing,
    hints,
)


class ArgumentsTest(DaemonCase):
    def check(self, *cases) -> None:
        for call, says in cases:
            with self.subTest(says), self.assertRaisesRegex(Invalid, says):
                call()

    def test_of_a_client(self):
        def made(**changed):
            fields = {"client_id": "wrong", "namespace": namespace(), **changed}
            return Client(fields.pop("socket", self.daemon.socket), **fields)

        self.check(
            (lambda: made(call_timeout_s=-1), "call_timeout_s is -1: give seconds, more than 0"),
            (lambda: made(call_timeout_s=0), "call_timeout_s is 0"),
            (lambda: made(call_timeout_s="5"), "call_timeout_s is '5'"),
            (lambda: made(call_timeout_s=1e10), "call_timeout_s is 10000000000.0: .* up to 1e9"),
            (lambda: made(call_timeout_s=float("nan")), "call_timeout_s is nan"),
            (lambda: made(namespace="llama"), "namespace is 'llama': give a Namespace"),
            (lambda: made(socket=7), "socket is 7: give the path of a socket"),
            (lambda: made(socket="a\0b"), "socket is 'a.x00b': the path of a socket has no zero"),
            (lambda: made(client_id=7), "client_id=7"),
            (lambda: made(engine=7), "engine is 7: give the engine's name"),
        )

    def test_of_pools_and_slots(self):
        engine = self.engine()
        client, hashes = engine.client, chain(2, seed=31)
        self.check(
            (lambda: HostPool.create(engine.space, "5"), "slots is '5': give a whole number"),
            (lambda: HostPool.create(engine.space, 0), "slots is 0: give a whole number"),
            (lambda: HostPool.create(engine.space, 1 << 45), "no memory for [0-9]* bytes"),
            (lambda: client.register_pool(np.zeros(8)), r"pool is array.*HostPool\.create"),
            (lambda: client.unregister_pool(np.zeros(8)), "what register_pool answered"),
            (lambda: client.store(hashes, engine.pool, [0, 1]), "what register_pool answered"),
            (lambda: client.load(hashes, np.zeros(2), [0, 1]), "what register_pool answered"),
            (lambda: client.store(hashes, engine.handle, 0), "slots is 0: give slot numbers"),
            (lambda: client.load(hashes, engine.handle, [0, 1], load_timeout_s=-1), "load_timeout"),
            (lambda: client.lookup(hashes, timeout_s=0), "timeout_s is 0"),
            (lambda: client.lookup(5), "block hashes are bytes"),
            (lambda: client.inspect(5), "block_hash is 5"),
            (lambda: client.release(None), "found is None: give what lookup answered"),
            (lambda: client.end_request(1, prefill_s="1"), "prefill_s is '1'"),
        )

    def test_of_memory_and_its_layout(self):
        space, packed = namespace(), PageLayout.paged(namespace(), 4)
        fd = os.memfd_create("pool", os.MFD_ALLOW_SEALING)
        self.addCleanup(os.close, fd)
        os.ftruncate(fd, 1 << 20)
        read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        self.addCleanup(os.close, read_only)
        pool = HostPool.create(space, 4)
        self.addCleanup(pool.close)

        def layout(**changed):
            return PageLayout(**{**vars(packed), **changed})

        self.check(
            (lambda: HostPool.create("x", 5), "namespace is 'x': give a Namespace"),
            (lambda: HostPool.create(namespace(layers="3"), 5), "layers is '3': give a whole"),
            (lambda: HostPool.create(space, 4, "paged"), "layout is 'paged': give a PageLayout"),
            (lambda: HostPool(None, packed, fd), "namespace is None"),
            (lambda: HostPool(space, None, fd), "layout is None"),
            (lambda: HostPool(space, layout(slots="4"), fd), "slots is '4'"),
            (lambda: HostPool(space, layout(base_bytes=-1), fd), "base_bytes is -1"),
            (
                lambda: HostPool(space, layout(slot_stride_bytes=0.5), fd),
                "slot_stride_bytes is 0.5",
            ),
            (lambda: HostPool(space, packed, -1), "fd is -1: give a whole number"),
            (lambda: HostPool(space, packed, "x"), "fd is 'x'"),
            (lambda: HostPool(space, packed, 1 << 20), "fd is 1048576: give a memfd that is open"),
            (lambda: HostPool(space, packed, read_only), "can't be shared and written"),
            (lambda: PageLayout.paged(5, 4), "namespace is 5"),
            (lambda: PageLayout.contiguous(space, "4"), "slots is '4'"),
            (lambda: pool.pages("0"), "slot is '0'"),
            (lambda: pool.view("x"), "dtype is 'x'"),
            (lambda: pool.view("u1", 7), "page_shape is 7"),
        )

    def test_of_names_and_hashes(self):
        space, tokens = namespace(), [1] * 16

        def hashed(extra, **more):
            return hashing.block_hashes(tokens, 16, extra, **more)

        keys, item = hashing.ExtraKeys, hashing.MmItem
        self.check(
            (lambda: hashed("x"), "extra is 'x': give a hashing.ExtraKeys"),
            (lambda: hashed(keys(lora="x")), "extra.lora is 'x': give a hashing.Lora"),
            (lambda: hashed(keys(mm=5)), "extra.mm is 5: give a list"),
            (lambda: hashed(keys(mm=["x"])), r"extra.mm\[0\] is 'x'"),
            (lambda: hashed(keys(mm=[item("a", "0", 1)])), r"extra.mm\[0\].offset is '0'"),
            (lambda: hashed(None, start="x"), "start is 'x'"),
            (lambda: default_socket("x"), "environment is 'x'"),
            (lambda: namespace(model=7).digest(), "model is 7: give text"),
            (lambda: namespace(layers="3").digest(), "layers is '3'"),
            (lambda: namespace(layers=1 << 32).digest(), "a number of 32 bits"),
            (lambda: namespace(tenant_salt="x").digest(), "tenant_salt is 'x': give bytes"),
            (lambda: space.key("x"), "block_hash is 'x'"),
        )

    def test_of_waiting(self):
        client = self.engine().client
        op = client.watch(1 << 40)
        self.check(
            (lambda: op.result("x"), "timeout_s is 'x': give seconds, or None"),
            (lambda: op.result(float("nan")), "timeout_s is nan"),
            (lambda: client.wait_connected("x"), "timeout_s is 'x'"),
            (lambda: client.watch([]), r"operation_id is \[\]"),
        )
        # A time that is over by now is one, and so is one without end.
        with self.assertRaises(TimedOut):
            op.result(-1)
        self.assertTrue(client.wait_connected(float("inf")))

    def test_of_hints(self):
        engine = self.engine()
        client, session = engine.client, hints.SessionTokens("s")

        def stored(directives):
            return client.store(chain(1, seed=32), engine.handle, [0], directives=directives)

        wish = hints.Wish(priority=50)
        self.check(
            (lambda: client.hint("x"), r"actions\[0\] is 'x': give an action such as hints.Pin"),
            (lambda: client.hint(hints.Action()), "hints.Action says nothing by itself"),
            (lambda: client.hint(hints.Pin("s")), "target is 's': give hints.Blocks"),
            (lambda: client.hint(hints.Pin(session, 5)), "wish is 5: give a hints.Wish"),
            (lambda: client.hint(hints.Pin(hints.SessionTokens("s", 5))), "tokens is 5"),
            (lambda: client.hint_envelope({1, 2}), "envelope is no JSON"),
            (lambda: stored(hints.Directive(wish)), "directives is Directive.*give a list"),
            (lambda: stored(["all"]), r"directives\[0\] is 'all'"),
            (lambda: stored(5), "directives is 5: give a list"),
            (lambda: hints.envelope(5, "m"), "actions is 5"),
            (lambda: hints.Blocks(b"x" * 64).payload(), "hashes is b'x.*give a list"),
            (lambda: client.hint(hints.Prefetch(None)), "target is None"),
            (lambda: client.hint(hints.SpeculativePrefill()), "target is None"),
        )

    def test_of_those_who_only_look(self):
        socket, space = self.daemon.socket, namespace()
        self.check(
            (lambda: daemon_status(socket, timeout_s=-1), "timeout_s is -1"),
            *(
                (lambda wrong=wrong: daemon_overlap(socket, b"", space, timeout_s=wrong), "timeout")
                for wrong in (-1, "x", None)
            ),
            (lambda: daemon_status(None), "socket is None"),
            (lambda: daemon_events(7), "socket is 7"),
            (lambda: daemon_events(socket, start=(1, 2, 3)), "start has 3 numbers"),
            (lambda: daemon_events(socket, start="x"), "start is 'x'"),
            (lambda: daemon_events(socket, start=7), "start is 7"),
            (lambda: daemon_block(socket, b"0" * 32), "block has 32 bytes: give its key, 16 bytes"),
            (lambda: daemon_block(socket, "no key"), "block is 'no key'"),
            (lambda: daemon_block(socket, 7), "block is 7: give its key"),
            (lambda: daemon_block(socket, b"0" * 16, namespace=space), "a hash has 32 in this"),
        )

    def test_times_are_any_kind_of_number(self):
        for time_s in (5, 2.5, np.int64(5), np.float32(2.5), Fraction(5, 2)):
            self.assertEqual(daemon_status(self.daemon.socket, timeout_s=time_s).pools, 0)
        self.check((lambda: daemon_status(self.daemon.socket, timeout_s=True), "timeout_s is True"))

    def test_a_block_goes_by_whatever_its_reader_has(self):
        engine = self.engine()
        hashes = chain(1, seed=33)
        engine.store(hashes)
        key = engine.space.key(hashes[0])
        with daemon_events(self.daemon.socket, snapshot=True) as events:
            told = (one for event in events for one in getattr(event, "blocks", ()))
            residency = next(one for one in told if one.key == key)
        found = [
            daemon_block(self.daemon.socket, key),
            daemon_block(self.daemon.socket, key.hex()),
            daemon_block(self.daemon.socket, residency),
            daemon_block(self.daemon.socket, hashes[0], namespace=engine.space),
        ]
        self.assertEqual({block.key for block in found}, {key})


if __name__ == "__main__":
    unittest.main()
