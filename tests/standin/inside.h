/* inside.h: what standin.c (memory, streams, queue), products.c (cuBLASLt) and attention.c (cuDNN)
 * share. */
#ifndef INSET_STANDIN_INSIDE_H
#define INSET_STANDIN_INSIDE_H

#include "device/cuda/library.h"
#include "standin/standin.h"

/* Handles are remembered after they are freed, so that using one is noticed. Every kind begins with
 * this. */
typedef enum handle_kind {
    HANDLE_STREAM,
    HANDLE_EVENT,
    HANDLE_CUBLAS,
    HANDLE_PRODUCT,
    HANDLE_LAYOUT,
    HANDLE_PREFERENCE,
    HANDLE_GRAPH,
    HANDLE_GRAPH_EXEC,
    HANDLE_CUDNN,
    HANDLE_DESCRIPTOR
} handle_kind;
typedef struct standin_handle {
    struct standin_handle *next;
    handle_kind kind;
    bool live;
} standin_handle;

/* zeroed behind the header; NULL when memory is out */
void *handle_create(handle_kind kind, size_t size);
/* notes a problem otherwise */
bool handle_good(const void *handle, handle_kind kind, const char *call);
void handle_destroy(void *handle, handle_kind kind, const char *call);

void standin_problem(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Counts a call; what it has to answer instead of doing its work, or 0. */
int standin_begin(int error_when_made_to_fail);
/* for cuBLASLt, whose failures are no sticky errors of the runtime */
int standin_begin_products(int error_when_made_to_fail);

/* Whether [at, at + bytes) is inside one live device allocation; notes a problem otherwise. */
bool device_range(const void *at, size_t bytes, const char *what);

/* One queued operation; `run` is called with the memory open. */
typedef struct operation {
    void (*run)(struct operation *o); /* NULL: it only waits */
    cuda_stream stream;
    uint64_t at; /* operations queued before it since the start */
    bool done;
    /* of another stream, what was queued before `wait_before` must have run; NULL: nothing */
    cuda_stream wait_stream;
    uint64_t wait_before;
    const char *name;
    void *to;
    const void *from;
    size_t bytes;
    uint64_t hash;
    int value;
    kernel_entry kernel;
    unsigned blocks;
    uint64_t args[160];
} operation;

/* Appends a zeroed operation to the queue, or to the graph that the stream captures into. */
operation *standin_queue(cuda_stream stream, const char *name, void (*run)(operation *o));

/* Half microseconds that queued work would have taken: 2 an operation, 1 a product by a quick
 * algorithm. */
extern int64_t standin_time;

typedef struct standin_settings {
    int quick_first, quick_count; /* candidates that are quick */
    int shared_bytes;             /* that a block may ask for */
    int devices, major, minor, count_error, driver;
    int64_t bytes;
    bool no_products;
    int64_t fail_call, fail_allocation, break_at;
    bool broken;
    int refused, tall_only, unsteady, uneven, gelu_rounds;
    bool no_attention, eager;
    int64_t most_sequences, refused_length;
} standin_settings;

extern standin_settings standin_now;
extern standin_counts standin_count;

void standin_fill_products(cuda_library *library); /* products.c */

#endif
