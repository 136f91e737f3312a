"""Arguments that make no sense: refused by name with what they take, before anything is sent."""

import unittest
from fractions import Fraction

import numpy as np

from rig import DaemonCase, chain, namespace
from terrace_kv import (
    Client,
    HostPool,
    Invalid,
    daemon_block,
    daemon_events,
    daemon_overlap,
    daemon_status,
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
