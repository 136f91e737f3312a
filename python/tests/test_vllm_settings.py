"""The connector's settings, and which of vLLM's it works with."""

import unittest
from types import SimpleNamespace as Bag

from terrace_kv import Namespace
from terrace_kv.vllm import layout, support
from terrace_kv.vllm.settings import Settings
from vllm_rig import BLOCKS, LAYERS, cache, memory_of


class SettingsTest(unittest.TestCase):
    def test_where_the_socket_is_said(self):
        self.assertEqual(Settings.read({}, {"TERRACE_SOCKET": "/s"}).socket, "/s")
        self.assertEqual(Settings.read({"socket": "/t"}, {"TERRACE_SOCKET": "/s"}).socket, "/t")

    def test_each_mistake_names_key_value_and_remedy(self):
        for given, says in (
            ({"sockets": "/x"}, "sockets is no setting: there are .*socket"),
            ({"socket": 3}, "socket is 3: it must be text"),
            ({"lookup_timeout_s": 0}, "lookup_timeout_s is 0"),
            ({"load_timeout_s": "fast"}, "load_timeout_s is 'fast': it must be seconds"),
            ({"ask_shared_ms": 8_001}, "0 to 8000"),
            ({"prefill_tokens_per_s": 0}, "leave it out"),
            ({"store_percent": 51}, "1 to 50"),
            ({"call_timeout_s": True}, "call_timeout_s is True"),
        ):
            with self.subTest(given), self.assertRaisesRegex(ValueError, says):
                Settings.read(given, {"TERRACE_SOCKET": "/s"})


def spec(kind: str, tokens: int = 16) -> object:
    return Bag(kv_cache_spec=type(kind, (), {"block_size": tokens})())


def layer(backend: str, isa: str | None = None) -> Bag:
    made = Bag(get_attn_backend=lambda: Bag(get_name=lambda: backend))
    if isa is not None:
        made.isa = isa
    return made


def configs(**changed) -> tuple[Bag, Bag]:
    """vLLM's configuration, as far as it is read."""
    config = Bag(
        parallel_config=Bag(
            pipeline_parallel_size=changed.get("pipeline", 1), tensor_parallel_size=2
        ),
        cache_config=Bag(
            enable_prefix_caching=changed.get("caching", True),
            prefix_caching_hash_algo=changed.get("algorithm", "sha256"), cache_dtype="auto",
        ),
        kv_transfer_config=Bag(kv_load_failure_policy=changed.get("policy", "recompute")),
        model_config=Bag(
            model="m", revision=None, dtype="torch.bfloat16", seed=7,
            quantization=changed.get("scheme") and "online",
            quantization_config=changed.get("scheme"),
            max_model_len=changed.get("length", 4096),
            original_max_model_len=changed.get("asked_length"),
            hf_config=Bag(to_dict=lambda: {"rope_parameters": changed.get("rope", 1.0)}),
        ),
        compilation_config=Bag(
            static_forward_context={
                f"layers.{at}": changed.get("layer", layer("FLASH_ATTN")) for at in range(LAYERS)
            }
        ),
        load_config=Bag(load_format=changed.get("load", "auto")),
    )  # fmt: skip
    groups = changed.get("groups", [spec("FullAttentionSpec")])
    return config, Bag(kv_cache_groups=groups, hash_block_size=changed.get("hashed"))


class SupportTest(unittest.TestCase):
    def test_an_engine_with_a_set_id_is_another_at_each_start(self):
        config, _ = configs()
        config.kv_transfer_config.engine_id = "prod-0"
        names = []
        for config.instance_id in ("17", "17", "18"):
            names.append(support.engine_name(config))
        self.assertEqual(names, ["vllm-prod-0-17", "vllm-prod-0-17", "vllm-prod-0-18"])

    def test_what_is_served(self):
        for changed in ({}, {"groups": [spec("MLAAttentionSpec")]}, {"hashed": 16}):
            support.check(*configs(**changed))

    def test_what_is_refused_says_what_to_change(self):
        hybrid = [spec("FullAttentionSpec"), spec("MambaSpec")]
        for changed, says in (
            ({"groups": hybrid}, r"2 KV cache groups \(FullAttentionSpec, MambaSpec\).*without"),
            ({"groups": [spec("SlidingWindowSpec")]}, "full attention and MLA only"),
            ({"pipeline": 2}, "pipeline_parallel_size to 1"),
            ({"caching": False}, "prefix caching is off"),
            ({"algorithm": "md5"}, "--prefix-caching-hash-algo"),
            ({"policy": "fail"}, "'recompute'"),
            ({"hashed": 8}, "--block-size"),
        ):
            with self.subTest(changed), self.assertRaisesRegex(layout.Unsupported, says):
                support.check(*configs(**changed))

    def space(self, settings=None, **changed) -> Namespace:
        logical, registered = cache("LBHNC")
        geometry = layout.read(registered, BLOCKS, memory_of(logical))
        return support.namespace_of(*configs(**changed), geometry, settings or Settings("/s"))

    def test_blocks_are_shared_only_where_they_are_the_same(self):
        first = self.space()
        self.assertEqual(first, self.space())
        self.assertEqual((first.shard_count, first.hash_bytes, first.block_tokens), (2, 32, 16))
        for other in (
            self.space(rope=2.0),
            self.space(scheme="fp8 a tensor"),
            self.space(algorithm="xxhash"),
            self.space(load="dummy"),
            self.space(Settings("/s", tenant_salt="t")),
            self.space(Settings("/s", weights="tuned")),
            self.space(Settings("/s", model="other")),
        ):
            self.assertNotEqual(first.digest(), other.digest())

    def test_what_kernels_write_alike_is_shared(self):
        def names(*layers: Bag) -> int:
            return len({self.space(layer=one).digest() for one in layers})

        plain = [layer(one) for one in ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "HPC_ATTN")]
        self.assertEqual(names(*plain), 1)
        latent = [layer(one) for one in ("CPU_MLA", "AMX_MLA", "FLASHMLA", "TRITON_MLA")]
        self.assertEqual(names(*latent), 1)
        cpus = [layer("CPU_ATTN", one) for one in ("amx", "vec", "neon", "rvv", "vsx", "vxe")]
        self.assertEqual(names(plain[0], latent[0], *cpus, layer("B12X")), 9)
        self.assertEqual(names(layer("CPU_ATTN", "vec"), layer("CPU_ATTN", "vec16")), 1)

    def test_a_kernel_that_is_not_known_is_refused(self):
        for one in (layer("CPU_ATTN"), Bag(), None):
            with self.subTest(one), self.assertRaisesRegex(layout.Unsupported, "layers.0.*0.32"):
                self.space(layer=one)

    def test_schemes_of_one_quantization_are_told_apart(self):
        names = [self.space(scheme=one).digest() for one in ("fp8 a tensor", "fp8 a block")]
        self.assertNotEqual(*names)

    def test_longrope_turns_with_how_long_requests_may_be(self):
        def names(lengths, rope, **changed) -> int:
            return len({self.space(length=n, rope=rope, **changed).digest() for n in lengths})

        rope = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
        self.assertEqual(names((4096, 4097), rope), 2)
        # Which factors there are is all that the length decides.
        self.assertEqual(names((1024, 4096), rope), 1)
        self.assertEqual(names((4097, 131_072), rope), 1)
        self.assertEqual(names((4096, 4097), {"type": "su"}), 2)
        # A layer's kind may have its own, and a part of the model.
        self.assertEqual(names((4096, 4097), {"text": [{"full": rope}]}), 2)
        # Fitted to the memory once the factors were chosen.
        self.assertEqual(names((4000, 5000), rope, asked_length=-1), 1)
        self.assertEqual(names((4096, 131_072), {"rope_type": "yarn"}), 1)


if __name__ == "__main__":
    unittest.main()
