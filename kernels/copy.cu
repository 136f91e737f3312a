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

HELPER void copy_bytes(u64 from, u64 to, u32 bytes, u32 lane)
{
    for (u32 at = lane; at < bytes; at += WARP)
        ((u8 *)to)[at] = ((const u8 *)from)[at];
}

// Four loads are under way before the first store: over PCIe each takes microseconds.
HELPER void copy_vectors(u64 source, u64 target, u32 count, u32 lane)
{
    const uint4 *from = (const uint4 *)source;
    uint4 *to = (uint4 *)target;
    u32 at = lane;
    for (; at + 3 * WARP < count; at += 4 * WARP) {
        uint4 a = from[at];
        uint4 b = from[at + WARP];
        uint4 c = from[at + 2 * WARP];
        uint4 d = from[at + 3 * WARP];
        to[at] = a;
        to[at + WARP] = b;
        to[at + 2 * WARP] = c;
        to[at + 3 * WARP] = d;
    }
    for (; at < count; at += WARP)
        to[at] = from[at];
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
// block. Groups are whole warps, and each warp takes every so many-th tile, those of one group far
// apart: the launch says how many groups there are, and so how many SMs it may hold.
KERNEL THREADS_AT_MOST(1024) void terrace_copy_blocks(const BlockCopy *blocks, u32 block_count,
                                                      u32 pages_max, u32 page_bytes_max)
{
    // The table lies in this machine's memory: read once a group, not once a tile.
    __shared__ BlockCopy table[BLOCKS_MAX];
    u32 words = block_count * (u32)(sizeof(BlockCopy) / 8);
    for (u32 word = threadIdx.x; word < words; word += blockDim.x)
        ((u64 *)table)[word] = ((const u64 *)blocks)[word];
    __syncthreads();
    u32 tiles = (page_bytes_max + TILE_BYTES - 1) / TILE_BYTES;
    u64 units = (u64)block_count * pages_max * tiles;
    u64 warps = (u64)gridDim.x * (blockDim.x / WARP);
    u32 lane = threadIdx.x % WARP;
    for (u64 unit = threadIdx.x / WARP * gridDim.x + blockIdx.x; unit < units; unit += warps) {
        const BlockCopy *block = &table[unit / tiles / pages_max];
        u32 page = (u32)(unit / tiles % pages_max);
        u32 at = (u32)(unit % tiles) * TILE_BYTES;
        if (page >= pages_of(block) || at >= block->page_bytes)
            continue;
        u32 bytes = block->page_bytes - at < TILE_BYTES ? block->page_bytes - at : TILE_BYTES;
        copy_tile(page_address(block, &block->from, page) + at,
                  page_address(block, &block->to, page) + at, bytes, lane);
    }
}
