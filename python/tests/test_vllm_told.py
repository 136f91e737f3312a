"""What the connector tells routers and operators."""

import unittest

from terrace_kv.vllm.events import Announced
from terrace_kv.vllm.stats import Counts


class ToldTest(unittest.TestCase):
    def test_routers_hear_of_what_is_gone(self):
        announced = Announced(announced_max=3)
        self.assertEqual(announced.stored([b"a", b"b", b"c"]), [])
        self.assertEqual(announced.looked_up([b"a", b"b", b"x"], 1), [b"b"])
        self.assertEqual(announced.looked_up([b"a", b"b"], 1), [])
        self.assertEqual(announced.stored([b"d", b"e"]), [b"a"])

    def test_counts(self):
        counts = Counts()
        counts.add("lookups", 2)
        counts.merge({"lookups": 1, "stored_blocks": 4})
        self.assertEqual(counts.take(), {"lookups": 3, "stored_blocks": 4})
        self.assertFalse(counts.take())
        with self.assertRaises(AssertionError):
            counts.add("typo")


if __name__ == "__main__":
    unittest.main()
