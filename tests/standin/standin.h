/* standin.h: a stand-in for the CUDA runtime, cuBLASLt and cuDNN on host memory, so that the CUDA
 * device (host/device/cuda) runs in tests on machines without a GPU. It answers cuda_library_open
 * and cudnn_open; link its objects before the library.
 *
 * It is stricter than a GPU. Work is queued and runs only when somebody waits for it, in order.
 * Device memory is out of the host's reach except while queued work runs, begins as NaNs, and lies
 * against pages that cannot be touched; freed memory stays untouchable. Async copies take pinned
 * memory only. What a GPU would let pass or answer with garbage is noted as a problem:
 *     copies that leave an allocation, touch freed memory or name the wrong direction; a host
 *     buffer changed after its copy was queued and before it ran; a freed or wrong handle; a launch
 *     with the wrong size of arguments or block; a product whose layouts, types, pointers or
 *     algorithm do not fit together; a wait, a copy or an allocation while a stream captures; an
 *     error that nobody took back with cudaGetLastError; and at the end, whatever was not freed.
 * A kernel or a host function that touches memory it may not touch ends the program with a message
 * that names the work being done.
 *
 * A program that ends with problems or leaks ends with exit status 1 and prints them, so nothing
 * needs to be called in tests that only want to run on the stand-in. */
#ifndef INSET_STANDIN_H
#define INSET_STANDIN_H

#include <stdbool.h>
#include <stdint.h>
#include "kernels/kernels.h"

typedef struct standin_counts {
    int64_t calls;                           /* of functions that can fail */
    int64_t launches, kernels[KERNEL_COUNT]; /* in all, and per kernel, with records or without */
    /* of the launches: kernels that apply records to their rows */
    int64_t with_records;
    /* unpinned: of the products, those without an algorithm */
    int64_t products, unpinned, heuristics;
    /* of the products, those with a GELU behind them; rows of all products, padding too */
    int64_t gelu_products, product_rows;
    /* layouts made, and attributes of layouts and products set */
    int64_t descriptor_writes;
    int64_t copies_up, bytes_up, copies_down, bytes_down, fills;
    /* graphs captured, graphs launched, and the operations in those. Launches, products and fills
     * count what the host asked for one by one, captured or not */
    int64_t captures, replays, replayed;
    int64_t waits;                       /* for the stream or an event */
    int64_t allocations;                 /* of device memory */
    int64_t attentions, attention_plans; /* cuDNN's: executions, and plans that were made */
} standin_counts;

/* Since the start or the last standin_reset. */
standin_counts standin_counted(void);

/* Allocations and handles that are not yet freed. */
int64_t standin_live(void);
/* Operations that were queued and that nobody has waited for. */
int64_t standin_waiting(void);

/* What went wrong, a line each; "" when nothing did. Also looks whether somebody wrote beside an
 * allocation. */
const char *standin_problems(void);

/* Forgets problems, counts, settings and what was freed. What is live stays. */
void standin_reset(void);

/* The machine: devices of a compute capability with so many bytes. error: what cudaGetDeviceCount
 * answers (35: the driver is too old), or 0. driver: the version of CUDA it is for, 0 when there is
 * none. */
void standin_machine(int devices, int major, int minor, int64_t bytes, int error, int driver);
/* the most shared memory that a block may ask for; 227 KiB until then */
void standin_shared(int bytes);
void standin_without_products(bool missing); /* cuBLASLt cannot be opened */

/* cuDNN cannot be opened; it has no plan for more sequences than these in one launch (0: any), and
 * none for this length (0: all have one). */
void standin_attention(bool missing, int64_t most_sequences, int64_t refused_length);

/* The n-th call from now on fails, as calls of its kind fail (1: the next; 0: none). Calls that
 * free do their work all the same. */
void standin_fail_call(int64_t n);
/* The n-th allocation of device memory from now on fails. */
void standin_fail_allocation(int64_t n);
/* The n-th queued operation from now on that runs fails as an illegal access does: from then on
 * every call answers 700. */
void standin_break(int64_t n);
/* Mends that; on a GPU nothing but a new process does. */
void standin_mend(void);

/* Whether streams beside the first run as early as they may, or (as at the start) as late. */
void standin_eager(bool eager);

/* What cuBLASLt's heuristic proposes, in this order: candidates marked unsupported, candidates that
 * refuse fewer than 64 rows, candidates whose sums depend on where a row lies, candidates whose
 * sums depend on the height, then good ones, eight in all. */
void standin_candidates(int refused, int tall_only, int unsteady, int uneven);
/* Of these candidates, `count` from `first` on take half the time of the others. */
void standin_quick(int first, int count);
/* How the GELU epilogue rounds: once, at the end (as a library does: in fp32 the bits of
 * KERNEL_ACTIVATION behind the product, in 16-bit types others); before it too (the kernel's bits
 * in all types); or otherwise (in none). */
typedef enum standin_gelu { GELU_ONCE, GELU_AS_KERNEL, GELU_OTHERWISE } standin_gelu;
void standin_gelu_rounding(standin_gelu how);
/* Bytes that were copied up into device memory that is live. */
int64_t standin_bytes_in_use(void);

/* Bytes of live device memory, for tests that look at what a device function left there without
 * using the device; run what is queued first. */
void standin_peek(void *to, const void *device_memory, int64_t bytes);

#endif
