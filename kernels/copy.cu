// Copies blocks page by page between any two of: frames in mapped host memory, engines' pools, the
// HBM tier. Gather when the pages lie apart at the source, scatter when they do at the target.
//
// Never reads or writes a byte outside the pages it was given.
#include "block.h"

// What one group of threads copies at a time, so that few large pages still keep all groups busy.
#define TILE_BYTES 32768u

HELPER void copy_bytes(u64 from, u64 to, u32 bytes)
{
    for (u32 at = threadIdx.x; at < bytes; at += blockDim.x)
        ((u8 *)to)[at] = ((const u8 *)from)[at];
}

// Four loads are under way before the first store: over PCIe each takes microseconds.
HELPER void copy_vectors(u64 source, u64 target, u32 count)
{
    const uint4 *from = (const uint4 *)source;
    uint4 *to = (uint4 *)target;
    u32 step = blockDim.x;
    u32 at = threadIdx.x;
    for (; at + 3 * step < count; at += 4 * step) {
        uint4 a = from[at];
        uint4 b = from[at + step];
        uint4 c = from[at + 2 * step];
        uint4 d = from[at + 3 * step];
        to[at] = a;
        to[at + step] = b;
        to[at + 2 * step] = c;
        to[at + 3 * step] = d;
    }
    for (; at < count; at += step)
        to[at] = from[at];
}

// By vectors of 16 bytes where both ends allow, which they do unless their addresses differ within
// 16 bytes; what is left at the edges goes byte by byte.
HELPER void copy_tile(u64 from, u64 to, u32 bytes)
{
    if (((from ^ to) & 15) != 0) {
        copy_bytes(from, to, bytes);
        return;
    }
    u32 head = (16 - (u32)(from & 15)) & 15;
    if (head > bytes)
        head = bytes;
    u32 vectors = (bytes - head) / 16;
    u32 done = head + vectors * 16;
    copy_bytes(from, to, head);
    copy_vectors(from + head, to + head, vectors);
    copy_bytes(from + done, to + done, bytes - done);
}

// `pages_max` and `page_bytes_max` are those of the largest block. Each group of threads takes every
// gridDim.x-th tile: the launch says how many groups there are, and so how many SMs it may hold.
KERNEL void terrace_copy_blocks(const BlockCopy *blocks, u32 block_count, u32 pages_max,
                                u32 page_bytes_max)
{
    u32 tiles = (page_bytes_max + TILE_BYTES - 1) / TILE_BYTES;
    u64 units = (u64)block_count * pages_max * tiles;
    for (u64 unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const BlockCopy *block = &blocks[unit / tiles / pages_max];
        u32 page = (u32)(unit / tiles % pages_max);
        u32 at = (u32)(unit % tiles) * TILE_BYTES;
        if (page >= pages_of(block) || at >= block->page_bytes)
            continue;
        u32 bytes = block->page_bytes - at < TILE_BYTES ? block->page_bytes - at : TILE_BYTES;
        copy_tile(page_address(block, &block->from, page) + at,
                  page_address(block, &block->to, page) + at, bytes);
    }
}
