"""Block hashes are vLLM's, bit by bit.

The chains with extra keys were made by vLLM 0.32.0's own `generate_block_hash_extra_keys` and
`sha256_cbor` (with cbor2); the root and the first plain block are those of every vLLM that seeds
its root with "vllm-none-hash".
"""

import hashlib
import unittest

import numpy as np

from terrace_kv import Invalid, hashing
from terrace_kv.hashing import ExtraKeys, Lora, MmItem

TOKENS = [(i * 7) % 990 + 3 for i in range(96)]
ADAPTER = Lora("sql", "/adapters/sql")
IMAGES = (MmItem("img-a", 20, 30), MmItem("img-b", 50, 10), MmItem("img-c", 90, 100))

GOLDEN = {
    "plain": (
        None,
        "26fd762fcc9c1c60a889fa04daefe5d24f2ca82ba308091b2004f9731e875ade",
        "3efb956c76d5f817e593cfc181f07852a7009b09ab579e84154291ed99357868",
        "2ff479e19af0c52120b465e0e752852f05278fcceee4a0a1b5ac3d1a76086c05",
    ),
    "lora": (
        ExtraKeys(lora=ADAPTER),
        "82ded347d839bab5044d89553a7d939890738dc401d4f526b71e133537eee8f7",
        "8bc051662c3054623aafe6c9c0c2802fc4fe5dcd0db881a04bbe026646eb6182",
        "10fbc2de6409ffa8e191389c2965a0c8b9dee1e8030a75050ef8ee81ed94185f",
    ),
    "cache_salt": (
        ExtraKeys(cache_salt="tenant-a"),
        "0f763cd119f4c7fac0dfb7a4a93dcf7315a71f43af91511234c5a9c296c73881",
        "3a04fa50cdd93d6478a65ea2b5269f4e654c06c5b057c5be7d057be30d78ae29",
        "3aa59c6307d706d9bd77ee4b6f3254da1a2d2bf1090eb25e59aad4552a666d45",
    ),
    "multimodal": (
        ExtraKeys(mm=IMAGES),
        "30e1078b6e4e4c973907d0c74b3b3aabef39d4adc2d827696db1dc7affd4a2f4",
        "2c3c8880cb462727962eed063fbd2d814a6524a62d9d46eab51a6488c5d1b310",
        "7c1793f65dc88ea144c2c1260345ce9ccb57f932842eab9333f5f39192bb91cf",
    ),
    "all": (
        ExtraKeys(lora=ADAPTER, mm=IMAGES[:1], cache_salt="tenänt"),
        "85d5fab950b3680d5ec8aadb91e03e83ab90689a94c98fd5bf5f7339a34ec554",
        "ee57ba7d6bfa0d53d36c5876437915af3106f3a9fe2cd343d4505bc99649e839",
        "5144836d6a3d5edc02c219ca956ac89390cdebb228af1fc49a7597a1795ad415",
    ),
}


class HashingTest(unittest.TestCase):
    def test_the_root_is_vllms(self):
        expected = "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0"
        self.assertEqual(hashing.root().hex(), expected)

    def test_chains_are_vllms(self):
        for name, (extra, *expected) in GOLDEN.items():
            with self.subTest(name):
                made = hashing.block_hashes(TOKENS, 32, extra)
                self.assertEqual([one.hex() for one in made], expected)

    def test_another_seed_is_another_root(self):
        # As PYTHONHASHSEED=0 in the engine's environment.
        expected = "3aafb1a139e9a3603a3bf912fd19bd8bf0a64302394a2ee4ac6824287dbeaee2"
        self.assertEqual(hashing.block_hashes(TOKENS, 32, seed="0")[0].hex(), expected)

    def test_tokens_of_every_width(self):
        tokens = [0, 23, 24, 255, 256, 65535, 65536, 151935, 2**31 - 1, 2**32, 2**40]
        expected = "1916d6005cbf7c6ef984ff9f16729a5c1b9eee89872075ef5fd5546145e097cd"
        made = hashing.block_hashes([*tokens, 7, 8, 9, 10, 11], 16)
        self.assertEqual(made[0].hex(), expected)

    def test_arrays_are_as_lists(self):
        made = hashing.block_hashes(np.array(TOKENS, dtype=np.int32), 32)
        self.assertEqual(made, hashing.block_hashes(TOKENS, 32))

    def test_a_chain_goes_on(self):
        for extra in (None, ExtraKeys(mm=IMAGES, cache_salt="s", lora=ADAPTER)):
            whole = hashing.block_hashes(TOKENS, 32, extra)
            head = hashing.block_hashes(TOKENS[:32], 32, extra)
            tail = hashing.block_hashes(TOKENS[32:], 32, extra, parent=head[-1], start=32)
            self.assertEqual(head + tail, whole)

    def test_only_whole_blocks(self):
        self.assertEqual(len(hashing.block_hashes(TOKENS[:95], 32)), 2)
        self.assertEqual(hashing.block_hashes(TOKENS[:31], 32), [])
        self.assertEqual(hashing.block_hashes([], 32), [])

    def test_cbor_is_that_of_the_rfc(self):
        # RFC 8949, appendix A.
        cases = {
            0: "00", 23: "17", 24: "1818", 100: "1864", 1000: "1903e8", 1000000: "1a000f4240",
            1000000000000: "1b000000e8d4a51000", 18446744073709551615: "1bffffffffffffffff",
            -1: "20", -10: "29", -100: "3863", -1000: "3903e7", None: "f6", b"": "40",
            b"\1\2\3\4": "4401020304", "": "60", "IETF": "6449455446", "ü": "62c3bc",
            (): "80", (1, (2, 3), (4, 5)): "8301820203820405",
        }  # fmt: skip
        for value, expected in cases.items():
            with self.subTest(repr(value)):
                self.assertEqual(hashing.cbor(value).hex(), expected)

    def test_tokens_out_of_range_are_refused(self):
        with self.assertRaisesRegex(ValueError, "token -1 is none"):
            hashing.block_hashes([5, -1], 2)

    def test_what_is_no_part_of_a_hash_is_refused(self):
        for value in (True, 1.5, {}, 1 << 64, -(1 << 64) - 1):
            with self.subTest(repr(value)), self.assertRaises(Invalid):
                hashing.cbor(value)
        # Where what equals them was hashed before, too.
        hashing.block_hashes([0, 1, 2], 1)
        for tokens in ("abc", b"ab", 7, [1.5, 2.5], [1.0, 2.0], np.array([1.0, 2.0]), [True, False],
                       [1 << 70, 1], [None, 1], [[1, 2], [1, 2]]):  # fmt: skip
            with self.subTest(repr(tokens)):
                with self.assertRaises(Invalid):
                    hashing.block_hashes(tokens, 1)
                with self.assertRaises(Invalid):
                    hashing.block_hash(hashing.root(), tokens)
        for size in (0, "2", 2.0, None):
            with self.assertRaisesRegex(Invalid, "block_tokens is "):
                hashing.block_hashes(TOKENS, size)
        for wrong in ({"start": 32}, {"parent": hashing.root()}, {"parent": b"x", "start": 7},
                      {"parent": hashing.root().hex(), "start": 32}):  # fmt: skip
            with self.assertRaises(Invalid):
                hashing.block_hashes(TOKENS, 32, **wrong)

    def test_numbers_of_any_kind_of_integer(self):
        # None of them has been hashed before.
        numbers = [987_601, 987_602]
        for of_numpy in (np.int64, np.uint32):
            made = hashing.block_hashes([*map(of_numpy, numbers)], 2)
            self.assertEqual(made, hashing.block_hashes(np.array(numbers, of_numpy), 2))
        self.assertEqual(made, hashing.block_hashes(numbers, 2))

    def test_the_definition(self):
        body = hashing.cbor((hashing.root(), tuple(TOKENS[:32]), None))
        made = hashing.block_hash(hashing.root(), TOKENS[:32])
        self.assertEqual(made, hashlib.sha256(body).digest())


if __name__ == "__main__":
    unittest.main()
