"""When the daemon hears that a request is over, and its session with it."""

import threading
import time
import unittest
from types import SimpleNamespace as Bag

from rig import BLOCK_TOKENS, DaemonCase, chain, until
from terrace_kv import hints
from terrace_kv.vllm.endings import Ending, Sessions
from terrace_kv.vllm.hints import RequestHints
from terrace_kv.vllm.lookups import NOTHING, Question
from terrace_kv.vllm.telling import Saying
from vllm_engine import Engine, EngineCase
from vllm_rig import teller_of

# Long enough for an end that waits for nothing to be told, in seconds.
TOLD_S = 0.3


def final(session: str) -> RequestHints:
    start = hints.SessionStart(session, "lead")
    return RequestHints(session=session, before=[start], final=True)


class EndingsTest(EngineCase, DaemonCase):
    def sessions(self, engine: Engine) -> dict[str, str]:
        """Those that the daemon knows, and their parents."""
        return {one.session: one.parent for one in engine.client.sessions().sessions}

    def finished_with_stores(self, engine: Engine, hashes, said: RequestHints) -> None:
        """A request that is over, and of which two blocks have still to be stored."""
        request = engine.request(hashes, said)
        engine.matched(request)
        engine.compute(request, range(8))
        self.assertEqual(len(engine.blocks.held()), 6)
        engine.settle()
        engine.side.finished(request, 8 * BLOCK_TOKENS, range(8))

    def test_a_session_ends_after_its_last_stores(self):
        engine, hashes = self.engine(store_percent=10), chain(8, seed=1)
        self.finished_with_stores(engine, hashes, final("child"))
        time.sleep(TOLD_S)
        self.assertIn("child", self.sessions(engine))
        engine.worker.begin(engine.side.take_step())
        engine.settle()
        until(lambda: "child" not in self.sessions(engine), "the session ended")
        self.assertTrue(all(engine.client.inspect(one).dead for one in hashes))

    def test_a_session_ends_after_the_stores_of_its_other_requests(self):
        engine, hashes = self.engine(store_percent=10), chain(8, seed=2)
        self.finished_with_stores(engine, hashes, RequestHints(session="twice"))
        other = engine.request(chain(1, seed=3), final("twice"))
        engine.matched(other)
        engine.side.finished(other, 0, ())
        time.sleep(TOLD_S)
        self.assertIn("twice", self.sessions(engine))
        engine.worker.begin(engine.side.take_step())
        engine.settle()
        until(lambda: "twice" not in self.sessions(engine), "the session ended")

    def test_a_session_that_a_later_request_takes_up_goes_on(self):
        engine, hashes = self.engine(store_percent=10), chain(8, seed=4)
        self.finished_with_stores(engine, hashes, final("again"))
        later = engine.request(hashes[:6], RequestHints(session="again"))
        self.assertEqual(engine.matched(later), 6 * BLOCK_TOKENS)
        engine.worker.begin(engine.side.take_step())
        engine.settle()
        until(lambda: not engine.unsaid(), "the first request's end was told")
        time.sleep(TOLD_S)
        self.assertEqual(self.sessions(engine)["again"], "lead")

    def test_a_session_ends_with_the_last_of_its_requests_that_run(self):
        for name, said in (("both", final("both")), ("first", RequestHints(session="first"))):
            with self.subTest(f"{name} final"):
                engine, seed = self.engine(), 20 + len(name)
                one = engine.request(chain(4, seed=seed), final(name))
                other = engine.request(chain(8, seed=seed + 10), said)
                for request in (one, other):
                    engine.matched(request)
                    engine.compute(request, range(4))
                    engine.settle()
                engine.finish(one, range(4))
                until(lambda engine=engine: not engine.unsaid(), "the first's end is told")
                self.assertEqual(self.sessions(engine)[name], "lead")
                engine.compute(other, range(8))
                engine.settle()
                engine.finish(other, range(8))
                until(
                    lambda engine=engine, name=name: name not in self.sessions(engine),
                    "the session ends with the other",
                )

    def test_a_session_that_was_taken_up_while_others_ran_goes_on(self):
        engine = self.engine()
        one, other = (engine.request(chain(2, seed=n), final("goes on")) for n in (41, 42))
        engine.matched(one)
        engine.matched(other)
        engine.finish(one)
        engine.request(chain(2, seed=43), RequestHints(session="goes on"))
        engine.finish(other)
        until(lambda: not engine.unsaid(), "both ends are told")
        self.assertIn("goes on", self.sessions(engine))

    def test_a_session_ends_after_the_answers_to_its_requests_that_were_aborted(self):
        engine = self.engine()
        gate, lookup = threading.Event(), engine.client.lookup
        aborted_hashes = chain(4, seed=51)

        def slow(hashes, **named):
            if hashes == b"".join(aborted_hashes):
                gate.wait()
            return lookup(hashes, **named)

        engine.client.lookup = slow
        one = engine.request(chain(4, seed=50), final("aborted"))
        engine.matched(one)
        aborted = engine.request(aborted_hashes, RequestHints(session="aborted"))
        engine.side.finished(aborted, 0, ())
        engine.finish(one)
        time.sleep(TOLD_S)
        self.assertIn("aborted", self.sessions(engine))
        gate.set()
        until(lambda: not engine.unsaid(), "both ends are told")
        self.assertNotIn("aborted", self.sessions(engine))

    def test_an_end_comes_after_the_answer_of_a_slow_lookup(self):
        engine, hashes = self.engine(), chain(4, seed=5)
        first = engine.request(hashes)
        engine.matched(first)
        engine.compute(first, range(4))
        engine.settle()
        engine.finish(first, range(4))
        gate, lookup = threading.Event(), engine.client.lookup

        def slow(*given, **named):
            gate.wait()
            return lookup(*given, **named)

        engine.client.lookup = slow
        aborted = engine.request(hashes, RequestHints(session="slow"))
        # The scheduler gives the question up, and is to compute the request, before it is aborted.
        engine.side.allocated(aborted, (), engine.matched(aborted))
        tracked = engine.side.finished(aborted, 0, ())
        time.sleep(TOLD_S)
        self.assertFalse(tracked.open.is_quiet())
        gate.set()
        until(tracked.open.is_quiet, "it is answered")
        until(lambda: engine.client.status().leases == 0, "its lease ended", patience_s=3.0)


class TellerTest(unittest.TestCase):
    def ending(self, *pending) -> Ending:
        request = Sessions().open(1, RequestHints())
        for one in pending:
            request.began(one)
        ending = Ending(request, 0, (), BLOCK_TOKENS)
        ending.tell = lambda _: "end"
        return ending

    def test_an_end_waits_for_what_is_under_way_and_holds_up_nothing(self):
        teller, told = teller_of(self)
        question, store = Question(0.0), Bag(over=False)
        teller.add(self.ending(store, question))
        teller.add(Saying(lambda _: "other"))
        until(lambda: told == ["other"], "what is ready is told")
        question.answered(NOTHING)
        teller.look()
        time.sleep(0.05)
        self.assertEqual(told, ["other"])
        store.over = True
        teller.look()
        until(lambda: told == ["other", "end"], "the end is told")

    def test_no_saying_waits_for_ever(self):
        teller, told = teller_of(self, wait_s_max=0.1)
        teller.add(self.ending(Bag(over=False)))
        until(lambda: told == ["end"], "it is told though its store never ends")


if __name__ == "__main__":
    unittest.main()
