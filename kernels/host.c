// Runs the kernels on a CPU: `launch_on_host` is to them what cuLaunchKernel is on a device.
//
// Finds what a device would only show now and then: a barrier that not every thread reaches is an
// error, and threads between two barriers run in another order each time. Compiled by the test
// suite alone, never into the daemon.
#define TERRACE_HOST
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "checksum.cu"
#include "copy.cu"

#define STACK_BYTES 65536

_Thread_local Index threadIdx, blockIdx, blockDim, gridDim;

typedef struct {
    ucontext_t context;
    int ended;
} Fiber;

static _Thread_local ucontext_t scheduler;
static _Thread_local Fiber *running;
static _Thread_local void (*body)(void **);
static _Thread_local void **arguments;

void __syncthreads(void)
{
    swapcontext(&running->context, &scheduler);
}

static void run_fiber(void)
{
    body(arguments);
    running->ended = 1;
}

static void prepare(Fiber *fiber, char *stack)
{
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = &scheduler;
    fiber->ended = 0;
    makecontext(&fiber->context, run_fiber, 0);
}

// Runs all fibers to their next barrier or end; gives how many ended.
static u32 run_phase(Fiber *fibers, u32 count, u32 phase)
{
    u32 ended = 0;
    for (u32 turn = 0; turn < count; turn++) {
        u32 thread = phase % 2 ? count - 1 - turn : turn;
        running = &fibers[thread];
        threadIdx.x = thread;
        swapcontext(&scheduler, &running->context);
        ended += running->ended;
    }
    return ended;
}

static int run_group(Fiber *fibers, char *stacks, u32 count)
{
    for (u32 thread = 0; thread < count; thread++)
        prepare(&fibers[thread], stacks + (size_t)thread * STACK_BYTES);
    for (u32 phase = blockIdx.x;; phase++) {
        u32 ended = run_phase(fibers, count, phase);
        if (ended != 0)
            return ended == count ? 0 : -1;
    }
}

static void copy_blocks(void **a)
{
    terrace_copy_blocks(*(const BlockCopy **)a[0], *(u32 *)a[1], *(u32 *)a[2], *(u32 *)a[3]);
}

static void sum_pages(void **a)
{
    terrace_sum_pages(*(const BlockCopy **)a[0], *(u32 *)a[1], *(u32 *)a[2], *(u64 **)a[3]);
}

static void sum_blocks(void **a)
{
    terrace_sum_blocks(*(const BlockCopy **)a[0], *(u32 *)a[1], *(u32 *)a[2],
                       *(const u64 **)a[3], *(u64 **)a[4]);
}

static const struct {
    const char *name;
    void (*body)(void **);
} KERNELS[] = {
    {"terrace_copy_blocks", copy_blocks},
    {"terrace_sum_pages", sum_pages},
    {"terrace_sum_blocks", sum_blocks},
};

// 0: the kernel ran. -1: a barrier that some threads did not reach. -2: there is no such kernel.
// -3: no memory.
int launch_on_host(const char *name, u32 groups, u32 threads, void **args)
{
    body = NULL;
    for (size_t kernel = 0; kernel < sizeof KERNELS / sizeof *KERNELS; kernel++)
        if (strcmp(KERNELS[kernel].name, name) == 0)
            body = KERNELS[kernel].body;
    if (body == NULL)
        return -2;
    arguments = args;
    gridDim = (Index){groups, 1, 1};
    blockDim = (Index){threads, 1, 1};
    Fiber *fibers = calloc(threads, sizeof *fibers);
    char *stacks = malloc((size_t)threads * STACK_BYTES);
    int failed = fibers == NULL || stacks == NULL ? -3 : 0;
    for (u32 group = 0; group < groups && failed == 0; group++) {
        blockIdx.x = group;
        failed = run_group(fibers, stacks, threads);
    }
    free(stacks);
    free(fibers);
    return failed;
}
