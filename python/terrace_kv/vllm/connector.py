"""`TerraceConnector`: vLLM's hooks, handed to the scheduler's and the workers' side.

The only module that knows vLLM. Refuses at the start what it cannot serve; once the engine runs,
no hook waits for the daemon and none raises: the engine serves on without it.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from vllm.distributed.kv_events import MEDIUM_CPU, BlockRemoved, BlockStored, KVCacheEvent
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.platforms import current_platform
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from ..answers import Tier
from ..cuda import CudaPool
from ..namespace import Namespace
from ..pool import HostPool
from . import hints, layout, support
from .events import Announced
from .jobs import Report, Step
from .lookups import Asker
from .memory import SharedAllocation, SharedMemory
from .scheduler import Offer, SchedulerSide, Tracked, summary
from .settings import Settings
from .stats import Counts
from .worker import WorkerSide, open_client

_log = logging.getLogger("terrace_kv.vllm")

_Hook = TypeVar("_Hook", bound=Callable[..., Any])

_SOURCES = {
    Tier.HBM: CacheHitSource.HOST,
    Tier.DRAM: CacheHitSource.HOST,
    Tier.NVME: CacheHitSource.DISK,
    Tier.OBJECT: CacheHitSource.EXTERNAL_UNSPECIFIED,
}


@dataclass
class TerraceHandshake(KVConnectorHandshakeMetadata):
    """What a worker found its KV cache to be: the scheduler looks up in the same namespace."""

    namespace: Namespace


@dataclass
class TerraceMetadata(KVConnectorMetadata):
    """The jobs of one step."""

    step: Step


@dataclass
class TerraceReport(KVConnectorWorkerMetadata):
    """What workers tell the scheduler."""

    report: Report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> TerraceReport:
        assert isinstance(other, TerraceReport)
        return TerraceReport(self.report.merge(other.report))


class TerraceStats(KVConnectorStats):
    """Counts since the last report (docs/engines.md names them)."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        merged = Counts(self.data)
        merged.merge(other.data)
        self.data = merged
        return self

    def reduce(self) -> dict[str, int | float]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not self.data


def safely(default: Callable[[], Any]) -> Callable[[_Hook], _Hook]:
    """A defect of the connector's must not end the engine: it is logged, and the hook answers as
    if there were no connector."""

    def wrap(hook: _Hook) -> _Hook:
        @functools.wraps(hook)
        def guarded(*args: Any, **named: Any) -> Any:
            try:
                return hook(*args, **named)
            except Exception:
                _log.exception("%s failed: serving on without it", hook.__name__)
                return default()

        return cast(_Hook, guarded)

    return wrap


def _nothing() -> None:
    return None


class TerraceConnector(KVConnectorBase_V1):
    """Keeps vLLM's KV cache blocks in a Terrace daemon."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        support.check(vllm_config, kv_cache_config)
        given = self._kv_transfer_config.kv_connector_extra_config
        self._settings = Settings.read(given, os.environ)
        self._engine = support.engine_name(vllm_config)
        self._shared: SharedMemory | None = None
        self._lent: CudaPool | None = None
        self._namespace: Namespace | None = None
        self._worker: WorkerSide | None = None
        self._scheduler: SchedulerSide | None = None
        self._asker: Asker | None = None
        self._block_pool: Any = None
        self._failed_slots: set[int] = set()
        self._announced = Announced()
        self._events: list[KVCacheEvent] = []
        events = vllm_config.kv_events_config
        self._wants_events = bool(events and events.enable_kv_cache_events)

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # ---- the workers ----

    def get_mem_pool_context(self) -> Any:
        if current_platform.is_cuda():
            # Memory of the driver's own is lent by CUDA IPC as it is.
            return None

        def made(shared: SharedMemory) -> None:
            self._shared = shared

        return SharedAllocation(made)

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        tensors = {name: _facts(one) for name, one in kv_caches.items()}
        blocks = self._kv_cache_config.num_blocks
        geometry = layout.read(tensors, blocks, self._memory(kv_caches))
        config, settings = self._vllm_config, self._settings
        space = support.namespace_of(config, self._kv_cache_config, geometry, settings)
        rank = get_tensor_model_parallel_rank()
        client = open_client(settings, space, self._engine, f"rank-{rank}")
        pool = self._pool(space, geometry, kv_caches)
        self._worker = WorkerSide(client, pool, rank, settings, self._record)
        self._namespace = space
        _log.info("rank %d: %d blocks of %s", rank, blocks, geometry)

    def _memory(self, kv_caches: dict[str, torch.Tensor]) -> layout.Memory:
        """The memory that the daemon maps as well, or will."""
        one = next(iter(kv_caches.values()))
        if one.device.type == "cuda":
            storage = one.untyped_storage()
            return layout.Memory(storage.data_ptr(), storage.nbytes())
        if one.device.type != "cpu":
            raise layout.Unsupported(
                f"the KV cache lies on {one.device}: CPUs and NVIDIA GPUs are served"
            )
        if self._shared is None:
            raise layout.Unsupported(
                "vLLM did not make its KV cache in shared memory: this version of it allocates "
                "otherwise than 0.32, the one that is served"
            )
        return self._shared.memory

    def _pool(
        self, space: Namespace, geometry: layout.Geometry, kv_caches: dict[str, torch.Tensor]
    ) -> HostPool | CudaPool:
        if self._shared is not None:
            return HostPool(space, geometry.layout, self._shared.fd)
        tensors = [kv_caches[name] for name in geometry.names]
        self._lent = CudaPool(space, geometry.layout, tensors, tensors[0].device.index or 0)
        return self._lent

    def _record(self) -> None:
        """The daemon's copies wait for what was queued so far; this process does not."""
        if self._lent is not None:
            self._lent.record(torch.cuda.current_stream().cuda_stream)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return None if self._namespace is None else TerraceHandshake(self._namespace)

    @safely(_nothing)
    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        loads = self._jobs().loads
        if loads and self._worker is not None:
            self._worker.begin(Step(loads=loads))

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads end between steps: no layer waits."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Blocks are stored whole, once the step has computed all layers."""

    @safely(_nothing)
    def wait_for_save(self) -> None:
        """The step's blocks are computed: their stores begin. Their slots are held meanwhile, so
        nothing waits here."""
        stores = self._jobs().stores
        if stores and self._worker is not None:
            self._worker.begin(Step(stores=stores))

    @safely(lambda: (None, None))
    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        if self._worker is None:
            return None, None
        finished, failed = self._worker.take_finished()
        self._failed_slots |= failed
        return None, finished or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        failed, self._failed_slots = self._failed_slots, set()
        return failed

    @safely(_nothing)
    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        report = self._worker.take_report() if self._worker is not None else None
        return TerraceReport(report) if report else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._asker is not None:
            self._asker.close()

    # ---- the scheduler ----

    def set_xfer_handshake_metadata(
        self, metadata: dict[int, KVConnectorHandshakeMetadata]
    ) -> None:
        handshake = next(iter(metadata.values()))
        if not isinstance(handshake, TerraceHandshake):
            raise layout.Unsupported(
                "vLLM passes on what another connector's workers say at the start in place of "
                f"this one's ({type(handshake).__name__}): take that one out of MultiConnector"
            )
        space, settings = handshake.namespace, self._settings
        client = open_client(settings, space, self._engine, "scheduler")
        self._asker = Asker(client, settings)
        self._scheduler = SchedulerSide(
            self._asker,
            settings,
            block_tokens=space.block_tokens,
            blocks=self._kv_cache_config.num_blocks,
            ranks=space.shard_count,
            loads=self._kv_transfer_config.is_kv_consumer,
            alone=self._vllm_config.parallel_config.data_parallel_size == 1,
        )
        self._scheduler.holds.pool = self._block_pool
        if self._wants_events:
            self._scheduler.on_stored = self._stored
            self._scheduler.on_looked_up = self._looked_up

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self._block_pool = gpu_block_pool
        if self._scheduler is not None:
            self._scheduler.holds.pool = gpu_block_pool

    @safely(_nothing)
    def on_new_request(self, request: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.arrived(request, hints.of(request))

    @safely(lambda: (0, False))
    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self._scheduler is None:
            return 0, False
        tokens = self._scheduler.matched(request, num_computed_tokens)
        return tokens, bool(tokens)

    @safely(_nothing)
    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            ids = blocks.get_block_ids()[0] if num_external_tokens else ()
            self._scheduler.allocated(request, ids, num_external_tokens)

    @safely(dict)
    def get_external_cache_hit_sources(
        self, request: Any, num_external_tokens: int
    ) -> dict[CacheHitSource, int]:
        sources: dict[CacheHitSource, int] = {}
        if self._scheduler is not None:
            for tier, tokens in self._scheduler.sources(request, num_external_tokens).items():
                source = _SOURCES[tier]
                sources[source] = sources.get(source, 0) + tokens
        return sources

    @safely(lambda: TerraceMetadata(Step()))
    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        if self._scheduler is None:
            return TerraceMetadata(Step())
        if self._kv_transfer_config.is_kv_producer:
            state = scheduler_output.kv_connector_block_state

            def block_ids(request_id: str) -> Sequence[int] | None:
                ids = state.get_block_ids(request_id)
                return None if ids is None else ids[0]

            for request_id, tokens in _computed(scheduler_output):
                self._scheduler.computed(request_id, tokens, block_ids)
        return TerraceMetadata(self._scheduler.take_step())

    @safely(_nothing)
    def update_connector_output(self, connector_output: Any) -> None:
        if self._scheduler is None:
            return
        meta = connector_output.kv_connector_worker_meta
        if isinstance(meta, TerraceReport):
            self._scheduler.heard(meta.report)
        self._scheduler.loaded(connector_output.finished_recving or ())

    @safely(lambda: (False, None))
    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self._scheduler is None:
            return False, None
        # What a step under way computes does not count: its tokens may yet be dropped.
        computed = request.num_computed_tokens - getattr(request, "num_in_flight_tokens", 0)
        offered = block_ids if self._kv_transfer_config.is_kv_producer else ()
        tracked = self._scheduler.finished(request, computed, offered)
        if tracked is None:
            return False, None
        return False, {"terrace": summary(tracked, self._scheduler.block_tokens)}

    @safely(bool)
    def has_pending_block_frees(self) -> bool:
        return self._scheduler is not None and self._scheduler.holds.may_free_soon()

    @safely(bool)
    def has_pending_push_work(self) -> bool:
        return self._scheduler is not None and self._scheduler.holds.worth_stepping()

    @safely(bool)
    def reset_cache(self) -> bool | None:
        if self._scheduler is None:
            return None
        self._scheduler.reset()
        self._removed(self._announced.forget())
        _log.info("caches were reset: what the daemon has by now is asked for no more")
        return True

    def take_events(self) -> Iterable[KVCacheEvent]:
        events, self._events = self._events, []
        return events

    @safely(_nothing)
    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        side = self._worker if self.role is KVConnectorRole.WORKER else self._scheduler
        counts = side.take_counts() if side is not None else None
        return TerraceStats(data=counts) if counts else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats:
        return TerraceStats(data=data or {})

    # ---- helpers ----

    def _jobs(self) -> Step:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, TerraceMetadata)
        return metadata.step

    def _stored(self, offer: Offer, kept_blocks: int) -> None:
        if not kept_blocks:
            return
        request, first = offer.tracked.request, offer.first_block
        size = self._scheduler.block_tokens if self._scheduler is not None else 0
        hashes = request.block_hashes[first : first + kept_blocks]
        lora = request.lora_request
        event = BlockStored(
            block_hashes=[maybe_convert_block_hash(one) for one in hashes],
            parent_block_hash=(
                maybe_convert_block_hash(request.block_hashes[first - 1]) if first else None
            ),
            token_ids=list(request.all_token_ids[first * size : (first + kept_blocks) * size]),
            block_size=size,
            lora_id=lora.adapter_id if lora else None,
            medium=MEDIUM_CPU,
            lora_name=lora.name if lora else None,
        )
        self._events.append(event)
        self._removed(self._announced.stored(hashes))

    def _looked_up(self, tracked: Tracked, found_blocks: int) -> None:
        self._removed(self._announced.looked_up(tracked.request.block_hashes, found_blocks))

    def _removed(self, hashes: Sequence[bytes]) -> None:
        if hashes:
            gone = [maybe_convert_block_hash(one) for one in hashes]
            self._events.append(BlockRemoved(block_hashes=gone, medium=MEDIUM_CPU))


def _computed(scheduler_output: Any) -> Iterable[tuple[str, int]]:
    """The requests of this step, and how many of their tokens are computed when it ends."""
    scheduled = scheduler_output.num_scheduled_tokens
    for new in scheduler_output.scheduled_new_reqs:
        yield new.req_id, new.num_computed_tokens + scheduled.get(new.req_id, 0)
    cached = scheduler_output.scheduled_cached_reqs
    for request_id, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
        yield request_id, computed + scheduled.get(request_id, 0)


def _facts(tensor: torch.Tensor) -> layout.Tensor:
    size = tensor.element_size()
    strides = tuple(stride * size for stride in tensor.stride())
    return layout.Tensor(tensor.data_ptr(), tuple(tensor.shape), strides, size)
