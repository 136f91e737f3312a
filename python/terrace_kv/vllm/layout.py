"""Where vLLM's KV pages lie, read from the tensors it registers.

vLLM gives one tensor a layer, `[block, head, token, content]` in logical order, with whatever
strides its layout has. The daemon knows pages: page (layer, plane, slot) at
base + layer * layer_stride + plane * plane_stride + slot * slot_stride. What cannot be said so is
refused, with a line that says what would help. Knows neither torch nor vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ..pool import PageLayout


class Unsupported(ValueError):
    """This engine cannot be served. The message says why, and what to change."""


@dataclass(frozen=True)
class Tensor:
    """A layer's tensor, as far as its place goes; strides in bytes, the first axis is blocks."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    element_bytes: int


@dataclass(frozen=True)
class Memory:
    """The memory that the daemon maps as well."""

    address: int
    length: int


@dataclass(frozen=True)
class Geometry:
    """The pages of an engine's KV cache."""

    layers: int
    planes: int
    page_bytes: int
    # The order and sizes of the axes inside a block, outermost first ("H8.N16.C256").
    order: str
    layout: PageLayout
    # The layers' tensors in the daemon's order, one a layer.
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Block:
    """One layer's part of a block."""

    stride: int
    planes: int
    plane_stride: int
    page_bytes: int
    order: str


_AXES = "KHNC"


def read(tensors: Mapping[str, Tensor], blocks: int, memory: Memory) -> Geometry:
    """The pages of `tensors`, which hold `blocks` blocks each.

    Raises `Unsupported`.
    """
    if not tensors:
        raise Unsupported("this model has no KV cache: run it without a KV connector")
    # Layers that share another one's cache are the same pages.
    unique = {one.address: name for name, one in reversed(list(tensors.items()))}
    parts = {name: _block(name, tensors[name], blocks) for name in unique.values()}
    first = next(iter(parts.values()))
    for name, part in parts.items():
        if part != first:
            raise Unsupported(
                f"the KV cache of {name} is laid out as {part.order} and another layer's as "
                f"{first.order}: Terrace needs one layout for all layers"
            )
    addresses = sorted(unique)
    layout = PageLayout(
        slots=blocks,
        base_bytes=addresses[0] - memory.address,
        layer_stride_bytes=_layer_stride(addresses),
        plane_stride_bytes=first.plane_stride,
        slot_stride_bytes=first.stride,
    )
    names = tuple(unique[address] for address in addresses)
    geometry = Geometry(len(names), first.planes, first.page_bytes, first.order, layout, names)
    _check_inside(geometry, memory)
    return geometry


def _block(name: str, tensor: Tensor, blocks: int) -> _Block:
    held, rest = divmod(tensor.shape[0], blocks)
    if rest or not held:
        raise Unsupported(
            f"the KV cache of {name} has {tensor.shape[0]} blocks where vLLM says {blocks}"
        )
    # A block that the attention kernel splits is `held` kernel blocks one after the other.
    axes = [(held, tensor.strides[0]), *zip(tensor.shape[1:], tensor.strides[1:], strict=True)]
    names = _AXES if len(axes) == len(_AXES) else [f"A{at}_" for at in range(len(axes))]
    named = [(*axis, name) for axis, name in zip(axes, names, strict=True) if axis[0] > 1]
    named.sort(key=lambda one: -one[1])
    order = ".".join(f"{axis}{size}" for size, _, axis in named)
    page_bytes, outer = tensor.element_bytes, named
    while outer and outer[-1][1] == page_bytes:
        page_bytes *= outer[-1][0]
        outer = outer[:-1]
    if len(outer) > 1:
        raise Unsupported(
            f"a block of {name} is not one run of bytes, nor one a head ({order}): choose another "
            "VLLM_KV_CACHE_LAYOUT, such as LBNHC"
        )
    planes, plane_stride = (outer[0][0], outer[0][1]) if outer else (1, page_bytes)
    return _Block(tensor.strides[0] * held, planes, plane_stride, page_bytes, order)


def _layer_stride(addresses: list[int]) -> int:
    strides = {after - before for before, after in pairwise(addresses)}
    if len(strides) > 1:
        raise Unsupported(
            "the layers' KV caches do not lie evenly in memory: Terrace needs one allocation for "
            "all layers, as vLLM 0.32 makes it"
        )
    return strides.pop() if strides else 0


def _check_inside(geometry: Geometry, memory: Memory) -> None:
    layout = geometry.layout
    end = (
        layout.base_bytes
        + (geometry.layers - 1) * layout.layer_stride_bytes
        + (geometry.planes - 1) * layout.plane_stride_bytes
        + (layout.slots - 1) * layout.slot_stride_bytes
        + geometry.page_bytes
    )
    if layout.base_bytes < 0 or end > memory.length:
        raise Unsupported(
            "the KV cache does not lie in the memory that is shared with the daemon: this version "
            "of vLLM allocates it otherwise than 0.32 does"
        )
