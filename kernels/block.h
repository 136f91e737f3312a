// What a kernel is told of a block: where its pages lie at both ends.
//
// `src/tiers/hbm/cuda/kernels.rs` has the same structures. The kernels are written in what C and
// CUDA C++ share: NVRTC makes PTX of them, and the test suite compiles them with the C compiler
// under `host.h`.
#pragma once

#ifdef TERRACE_HOST
#include "host.h"
#else
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__
#define THREADS_AT_MOST(threads) __launch_bounds__(threads)
#define HELPER static __device__ __forceinline__
// What passes through once need not push anything else out of the caches.
#define LOAD_ONCE(at) __ldcs(at)
#define STORE_ONCE(at, value) __stcs(at, value)
#define UNROLLED _Pragma("unroll")
#endif

// Addresses of one block's pages: page (shard, layer, plane) starts at
// `start + shard * shard_stride + layer * layer_stride + plane * plane_stride`. When `layers` is not
// zero it is the address of a table with one start a layer, and `layer_stride` is not used.
typedef struct {
    u64 start, shard_stride, layer_stride, plane_stride, layers;
} PageMap;

// One block to copy. Pages are counted shard-major, then layer, then plane.
typedef struct {
    PageMap from, to;
    u32 shards, layers, planes, page_bytes;
} BlockCopy;

HELPER u32 pages_of(const BlockCopy *block)
{
    return block->shards * block->layers * block->planes;
}

HELPER u64 page_address(const BlockCopy *block, const PageMap *map, u32 page)
{
    u32 plane = page % block->planes;
    u32 layer = page / block->planes % block->layers;
    u32 shard = page / block->planes / block->layers;
    u64 of_layer = map->layers != 0 ? ((const u64 *)map->layers)[layer] : layer * map->layer_stride;
    return map->start + of_layer + shard * map->shard_stride + plane * map->plane_stride;
}
