"""What the connector serves, and the names under which blocks are shared.

Reads vLLM's configuration by its fields, without importing vLLM, so that every refusal is tested
where there is none. A refusal happens at the start of the engine and says what to change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..namespace import Namespace
from .layout import Geometry, Unsupported
from .settings import Settings

# vLLM's hash algorithms, and the bytes of their hashes.
HASH_BYTES = {"sha256": 32, "sha256_cbor": 32, "xxhash": 16, "xxhash_cbor": 16}
# Whose blocks hold all tokens of a prefix from its start on.
_SPECS = ("FullAttentionSpec", "MLAAttentionSpec", "UniformTypeKVCacheSpecs")
# What a page's content is, by the attention kernels that write it alike: keys and values of a token
# one after the other, or MLA's latent and its rotated part.
_FORMATS = {
    "kv": {
        "FLASH_ATTN", "FLASH_ATTN_DIFFKV", "FLASHINFER", "FLEX_ATTENTION", "HPC_ATTN",
        "TRITON_ATTN", "TRITON_ATTN_DIFFKV",
    },
    "mla": {
        "AMX_MLA", "CPU_MLA", "CUTLASS_MLA", "FLASH_ATTN_MLA", "FLASHINFER_MLA", "FLASHMLA",
        "TOKENSPEED_MLA", "TRITON_MLA",
    },
}  # fmt: skip
# Of a model's own configuration: what says nothing of its weights or its KV.
_PASSING = ("_name_or_path", "transformers_version", "architectures", "torch_dtype")


def check(config: Any, cache: Any) -> None:
    """Refuses what cannot be served. `config` is a VllmConfig, `cache` a KVCacheConfig.

    Raises `Unsupported`.
    """
    _check_groups(cache)
    _check_parallel(config.parallel_config)
    if not config.cache_config.enable_prefix_caching:
        raise Unsupported("prefix caching is off, and with it block hashes: start vLLM with it")
    algorithm = config.cache_config.prefix_caching_hash_algo
    if algorithm not in HASH_BYTES:
        raise Unsupported(
            f"block hashes of the kind {algorithm} are not known here: choose one of "
            f"{', '.join(HASH_BYTES)} with --prefix-caching-hash-algo"
        )
    policy = config.kv_transfer_config.kv_load_failure_policy
    if policy != "recompute":
        raise Unsupported(
            f"kv_load_failure_policy is {policy!r}: set it to 'recompute', so that a block that "
            "cannot be loaded is computed and no request fails"
        )
    block_tokens = block_tokens_of(cache)
    hashed = getattr(cache, "hash_block_size", None)
    if hashed is not None and hashed != block_tokens:
        raise Unsupported(
            f"vLLM hashes runs of {hashed} tokens and caches blocks of {block_tokens}: set "
            "--block-size so that they are the same"
        )


def _check_groups(cache: Any) -> None:
    groups = cache.kv_cache_groups
    kinds = sorted({type(group.kv_cache_spec).__name__ for group in groups})
    if len(groups) != 1:
        raise Unsupported(
            f"this model has {len(groups)} KV cache groups ({', '.join(kinds)}): Terrace serves "
            "models with one. Try --disable-hybrid-kv-cache-manager, or run without the connector"
        )
    if kinds[0] not in _SPECS:
        raise Unsupported(
            f"this model's KV cache is of the kind {kinds[0]}, which forgets tokens or holds "
            "states: Terrace serves full attention and MLA only"
        )


def _check_parallel(parallel: Any) -> None:
    for name, flag in (
        ("pipeline_parallel_size", "pipeline"),
        ("decode_context_parallel_size", "decode context"),
        ("prefill_context_parallel_size", "prefill context"),
    ):
        if getattr(parallel, name, 1) > 1:
            raise Unsupported(
                f"{flag} parallelism is not served: set {name} to 1 and use tensor parallelism"
            )


def engine_name(config: Any) -> str:
    """The same for the scheduler and the ranks of one engine, and another at each of its starts:
    the numbers of requests begin anew."""
    start = getattr(config, "instance_id", "")
    return f"vllm-{config.kv_transfer_config.engine_id}-{start}"


def block_tokens_of(cache: Any) -> int:
    """Tokens of a block."""
    return int(cache.kv_cache_groups[0].kv_cache_spec.block_size)


def namespace_of(config: Any, cache: Any, geometry: Geometry, settings: Settings) -> Namespace:
    """What blocks are shared under: all that makes two engines' blocks interchangeable."""
    model = config.model_config
    algorithm = config.cache_config.prefix_caching_hash_algo
    return Namespace(
        model=(settings.model or str(model.model))[:256],
        revision=f"{model.revision or ''}#{weights_digest(config, settings)}",
        dtype=f"{str(model.dtype).removeprefix('torch.')}/{config.cache_config.cache_dtype}",
        layout=f"{geometry.order}/{page_format(config, geometry.names)}",
        layers=geometry.layers,
        planes=geometry.planes,
        page_bytes=geometry.page_bytes,
        block_tokens=block_tokens_of(cache),
        shard_count=config.parallel_config.tensor_parallel_size,
        hash_scheme=f"vllm-{algorithm}",
        hash_bytes=HASH_BYTES[algorithm],
        tenant_salt=settings.tenant_salt.encode(),
    )


def page_format(config: Any, names: Iterable[str]) -> str:
    """What the attention kernels of these layers write into a page, which its shape does not say.

    Raises `Unsupported`.
    """
    layers = config.compilation_config.static_forward_context
    return "+".join(dict.fromkeys(_layer_format(name, layers.get(name)) for name in names))


def _layer_format(name: str, layer: Any) -> str:
    try:
        backend = layer.get_attn_backend().get_name()
        # Set with the kernel that was chosen for this CPU: tiles for AMX, rows for others.
        isa = layer.isa if backend == "CPU_ATTN" else None
    except AttributeError as error:
        raise Unsupported(
            f"vLLM does not say how the KV cache of {name} is written ({error}): this version of "
            "it says so otherwise than 0.32, the one that is served"
        ) from None
    if isa is not None:
        # They differ in how they compute only.
        return f"{backend}.{'vec' if isa == 'vec16' else isa}"
    return next((one for one, names in _FORMATS.items() if backend in names), backend)


def weights_digest(config: Any, settings: Settings) -> str:
    """Of what determines the KV of given tokens and is not the model's name: its own configuration
    with all overrides, quantization, LongRoPE's factors, and what the operator says of the weights.
    """
    model, load = config.model_config, config.load_config
    own = {key: value for key, value in model.hf_config.to_dict().items() if key not in _PASSING}
    random = str(load.load_format) == "dummy"
    facts = [
        own,
        str(model.quantization),
        # Random weights are those of their seed.
        ["dummy", model.seed] if random else None,
        settings.weights,
    ]
    scheme = getattr(model, "quantization_config", None)
    if scheme is not None:
        # What it is called is "online", whichever it is.
        facts.append(["scheme", repr(scheme)])
    factors = [_long_factors(model, one) for one in _longropes(own)]
    if factors:
        facts.append(["longrope", factors])
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _longropes(value: Any) -> Iterator[Mapping[str, Any]]:
    """The parameters of LongRoPE, wherever the model's configuration has them."""
    if isinstance(value, Mapping):
        if value.get("rope_type", value.get("type")) in ("longrope", "su"):
            yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _longropes(one)


def _long_factors(model: Any, rope: Mapping[str, Any]) -> Any:
    """How vLLM chose between LongRoPE's two sets of factors: for all positions alike, by how long
    requests may be."""
    if getattr(model, "original_max_model_len", None) == -1:
        # The choice came before the length was fitted to the memory.
        return "auto"
    original = rope.get("original_max_position_embeddings")
    return model.max_model_len if original is None else model.max_model_len > original
