// CUDA's words on a CPU, for the test suite: each thread of a group is a fiber, groups run one
// after the other, and a barrier is where fibers change. `host.c` runs them.
//
// Knows no warps: a kernel that needs one to run in step is wrong here.
#pragma once
#include <stdint.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

typedef struct {
    u32 x, y, z;
} Index;

// Aligned as on the device, so that a sanitizer sees a vector that is not.
typedef struct {
    _Alignas(16) u32 x;
    u32 y, z, w;
} uint4;

extern _Thread_local Index threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads(void);

#define KERNEL
#define THREADS_AT_MOST(threads)
#define HELPER static inline
#define LOAD_ONCE(at) (*(at))
#define STORE_ONCE(at, value) (*(at) = (value))
#define UNROLLED
// One group at a time runs on an OS thread, so its fibers share what is the thread's.
#define __shared__ static _Thread_local
