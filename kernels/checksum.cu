// CRC-64/NVME over blocks as their frames would have it, wherever the pages lie.
//
// A register is a polynomial over GF(2), bit-reflected: bit 63 is x^0. The sum of a page is linear
// (it starts from zero and is not inverted), so that lanes and pages are summed apart and added up;
// start and inversion come in once a block. `src/tiers/frame.rs` names the standard.
//
// Only reads what it sums.
#include "block.h"

#define POLYNOMIAL 0x9a6c9329ac4bc9b5ull
#define ONE 0x8000000000000000ull
// The most threads in a group.
#define LANES 256

HELPER u64 multiply(u64 a, u64 b)
{
    u64 product = 0;
    for (u64 bit = ONE; bit != 0; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = b & 1 ? (b >> 1) ^ POLYNOMIAL : b >> 1;
    }
    return product;
}

// What a register is multiplied with when `bytes` zero bytes follow: x^(8 * bytes).
HELPER u64 ahead_of(u64 bytes)
{
    u64 power = ONE, square = ONE >> 8;
    for (; bytes != 0; bytes >>= 1) {
        if (bytes & 1)
            power = multiply(power, square);
        square = multiply(square, square);
    }
    return power;
}

HELPER u64 load_word(u64 at)
{
    if ((at & 7) == 0)
        return *(const u64 *)at;
    u64 word = 0;
    for (u32 byte = 0; byte < 8; byte++)
        word |= (u64)((const u8 *)at)[byte] << (8 * byte);
    return word;
}

// Lane t sums words t, t + lanes, ...: neighbours read neighbouring words. `step` multiplies by
// x^(64 * lanes) byte by byte of the register.
HELPER u64 sum_lane(u64 at, u32 words, u64 step[8][256], const u64 *ahead)
{
    if (threadIdx.x >= words)
        return 0;
    u64 sum = 0;
    u32 last = threadIdx.x;
    for (u32 word = threadIdx.x; word < words; word += blockDim.x) {
        u64 next = 0;
        for (u32 byte = 0; byte < 8; byte++)
            next ^= step[byte][sum >> (8 * byte) & 255];
        sum = next ^ load_word(at + (u64)word * 8);
        last = word;
    }
    return multiply(sum, ahead[words - last - 1]);
}

// The bytes behind the last whole word.
HELPER u64 sum_tail(u64 sum, u64 at, u32 bytes)
{
    for (u32 byte = 0; byte < bytes; byte++) {
        sum ^= ((const u8 *)at)[byte];
        for (u32 bit = 0; bit < 8; bit++)
            sum = sum & 1 ? (sum >> 1) ^ POLYNOMIAL : sum >> 1;
    }
    return sum;
}

// The sum of page `page` of block `block` goes to `sums[block * pages_max + page]`. Groups have a
// power of two of threads, at most LANES.
KERNEL void terrace_sum_pages(const BlockCopy *blocks, u32 block_count, u32 pages_max, u64 *sums)
{
    __shared__ u64 step[8][256];
    // Entry d: what a word is multiplied with when d words follow it, and itself.
    __shared__ u64 ahead[LANES];
    __shared__ u64 lanes[LANES];
    u64 stride = ahead_of((u64)blockDim.x * 8);
    for (u32 entry = threadIdx.x; entry < 2048; entry += blockDim.x)
        step[entry / 256][entry % 256] = multiply(stride, (u64)(entry % 256) << (8 * (entry / 256)));
    ahead[threadIdx.x] = ahead_of((u64)(threadIdx.x + 1) * 8);
    __syncthreads();
    u64 units = (u64)block_count * pages_max;
    for (u64 unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const BlockCopy *block = &blocks[unit / pages_max];
        u32 page = (u32)(unit % pages_max);
        if (page >= pages_of(block))
            continue;
        u64 at = page_address(block, &block->from, page);
        u32 words = block->page_bytes / 8;
        lanes[threadIdx.x] = sum_lane(at, words, step, ahead);
        __syncthreads();
        for (u32 width = blockDim.x / 2; width != 0; width /= 2) {
            if (threadIdx.x < width)
                lanes[threadIdx.x] ^= lanes[threadIdx.x + width];
            __syncthreads();
        }
        if (threadIdx.x == 0)
            sums[unit] = sum_tail(lanes[0], at + (u64)words * 8, block->page_bytes % 8);
        // Nobody writes to `lanes` again before it was read.
        __syncthreads();
    }
}

// Adds up the pages of each block, one thread a block, to the checksum of its frame's payload.
KERNEL void terrace_sum_blocks(const BlockCopy *blocks, u32 block_count, u32 pages_max,
                               const u64 *sums, u64 *checksums)
{
    u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= block_count)
        return;
    const BlockCopy *block = &blocks[index];
    u64 page_ahead = ahead_of(block->page_bytes);
    u64 sum = ~0ull;
    for (u32 page = 0; page < pages_of(block); page++)
        sum = multiply(sum, page_ahead) ^ sums[(u64)index * pages_max + page];
    checksums[index] = ~sum;
}
