// Copies blocks page by page between any two of: frames in mapped host memory, engines' pools, the
// HBM tier. Gather when the pages lie apart at the source, scatter when they do at the target.
//
// Never reads or writes a byte outside the pages it was given.
#include "block.h"

// What one warp copies at a time, so that few large pages still keep all groups busy, and small ones
// all warps of a group.
#define TILE_BYTES 8192u
#define WARP 32u
// The most blocks in a launch.
#define BLOCKS_MAX 256u
// Loads that a thread has under way before its first store: over PCIe each takes microseconds.
#define LOADS 8u

HELPER void copy_bytes(u64 from, u64 to, u32 bytes, u32 lane)
{
    for (u32 at = lane; at < bytes; at += WARP)
        ((u8 *)to)[at] = ((const u8 *)from)[at];
}

HELPER void copy_vectors(u64 source, u64 target, u32 count, u32 lane)
{
    const uint4 *from = (const uint4 *)source;
    uint4 *to = (uint4 *)target;
    u32 at = lane;
    for (; at + (LOADS - 1) * WARP < count; at += LOADS * WARP) {
        uint4 loaded[LOADS];
        UNROLLED
        for (u32 load = 0; load < LOADS; load++)
            loaded[load] = LOAD_ONCE(&from[at + load * WARP]);
        UNROLLED
        for (u32 load = 0; load < LOADS; load++)
            STORE_ONCE(&to[at + load * WARP], loaded[load]);
    }
    for (; at < count; at += WARP)
        STORE_ONCE(&to[at], LOAD_ONCE(&from[at]));
}

// By vectors of 16 bytes where both ends allow, which they do unless their addresses differ within
// 16 bytes; what is left at the edges goes byte by byte.
HELPER void copy_tile(u64 from, u64 to, u32 bytes, u32 lane)
{
    if (((from ^ to) & 15) != 0) {
        copy_bytes(from, to, bytes, lane);
        return;
    }
    u32 head = (16 - (u32)(from & 15)) & 15;
    if (head > bytes)
        head = bytes;
    u32 vectors = (bytes - head) / 16;
    u32 done = head + vectors * 16;
    copy_bytes(from, to, head, lane);
    copy_vectors(from + head, to + head, vectors, lane);
    copy_bytes(from + done, to + done, bytes - done, lane);
}

// `block_count` is at most BLOCKS_MAX, `pages_max` and `page_bytes_max` are those of the largest
// block. Groups are whole warps, and each takes one stretch of all tiles, its warps in turns: the
// launch says how many groups there are, and so how many SMs it may hold.
KERNEL THREADS_AT_MOST(1024) void terrace_copy_blocks(const BlockCopy *blocks, u32 block_count,
                                                      u32 pages_max, u32 page_bytes_max)
{
    u32 tiles = (page_bytes_max + TILE_BYTES - 1) / TILE_BYTES;
    u64 of_block = (u64)pages_max * tiles;
    u64 begin = block_count * of_block * blockIdx.x / gridDim.x;
    u64 end = block_count * of_block * (blockIdx.x + 1) / gridDim.x;
    // Those of its stretch, which every thread agrees on.
    u32 first = begin < end ? (u32)(begin / of_block) : 0;
    u32 count = begin < end ? (u32)((end - 1) / of_block) - first + 1 : 0;
    // The descriptors lie in this machine's memory: each group reads its own, once.
    __shared__ BlockCopy table[BLOCKS_MAX];
    u32 words = count * (u32)(sizeof(BlockCopy) / 8);
    for (u32 word = threadIdx.x; word < words; word += blockDim.x)
        ((u64 *)table)[word] = ((const u64 *)&blocks[first])[word];
    __syncthreads();
    u32 lane = threadIdx.x % WARP;
    for (u64 unit = begin + threadIdx.x / WARP; unit < end; unit += blockDim.x / WARP) {
        const BlockCopy *block = &table[unit / of_block - first];
        u32 page = (u32)(unit / tiles % pages_max);
        u32 at = (u32)(unit % tiles) * TILE_BYTES;
        if (page >= pages_of(block) || at >= block->page_bytes)
            continue;
        u32 bytes = block->page_bytes - at < TILE_BYTES ? block->page_bytes - at : TILE_BYTES;
        copy_tile(page_address(block, &block->from, page) + at,
                  page_address(block, &block->to, page) + at, bytes, lane);
    }
}
