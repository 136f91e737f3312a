"""When the daemon hears that a request is over, and its session with it."""

import threading
import time
import unittest

from test_vllm_sides import Engine

from rig import BLOCK_TOKENS, DaemonCase, chain, until
from terrace_kv import hints
from terrace_kv.vllm.endings import Ending
from terrace_kv.vllm.hints import RequestHints
from terrace_kv.vllm.lookups import NOTHING, Question
from terrace_kv.vllm.telling import Saying, Teller

# Long enough for an end that waits for nothing to be told, in seconds.
TOLD_S = 0.3


def final(session: str) -> RequestHints:
    start, end = hints.SessionStart(session, "lead"), hints.SessionEnd(session)
    return RequestHints(session=session, before=[start], after=[end])


class EndingsTest(DaemonCase):
    def engine(self, **settings) -> Engine:
        engine = Engine(self.daemon.socket, **settings)
        self.addCleanup(engine.close)
        return engine

    def sessions(self, engine: Engine) -> set[str]:
        return {one.session for one in engine.client.sessions().sessions}

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
        until(lambda: not engine.asker.unsaid(), "the first request's end was told")
        time.sleep(TOLD_S)
        (known,) = (one for one in engine.client.sessions().sessions if one.session == "again")
        self.assertEqual(known.parent, "lead")

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
        gate.set()
        until(lambda: not any(one.unanswered for one in tracked.asked), "it is answered")
        until(lambda: engine.client.status().leases == 0, "its lease ended", patience_s=3.0)


class TellerTest(unittest.TestCase):
    def teller(self, **named) -> tuple[Teller, list[str]]:
        told: list[str] = []
        teller = Teller(lambda one: told.append(one.tell(None)) is None, lambda: True, **named)
        self.addCleanup(teller.close)
        return teller, told

    def test_an_end_waits_for_what_is_under_way_and_holds_up_nothing(self):
        teller, told = self.teller()
        under_way, question = {7, 8}, Question(0.0)
        ending = Ending(1, 0, (), [question], [7, 8], under_way)
        ending.tell = lambda _: "end"
        teller.add(ending)
        teller.add(Saying(lambda _: "other"))
        until(lambda: told == ["other"], "what is ready is told")
        for over in (lambda: under_way.discard(8), lambda: question.answered(NOTHING)):
            over()
            teller.look()
            time.sleep(0.05)
            self.assertEqual(told, ["other"])
        under_way.discard(7)
        teller.look()
        until(lambda: told == ["other", "end"], "the end is told")

    def test_no_saying_waits_for_ever(self):
        teller, told = self.teller(wait_s_max=0.1)
        ending = Ending(1, 0, (), (), [7], {7})
        ending.tell = lambda _: "end"
        teller.add(ending)
        until(lambda: told == ["end"], "it is told though its store never ends")


if __name__ == "__main__":
    unittest.main()
