/* gpu.h: what the programs of a GPU day share: models of a shape with weights from a seed, and
 * device time. */
#ifndef INSET_BENCH_GPU_H
#define INSET_BENCH_GPU_H

#include "api/api.h"
#include "bench.h"
#include "device/cuda/cuda.h"

/* A model of the shape that DIRECTORY/config.json has, without a file of weights: every weight is a
 * piece of one list of random numbers, at a place of its own, so that 8 billion of them take a
 * second to make and nothing to carry. *numbers is to be freed behind the model. */
inset_status gpu_model(inset_context *context, const char *directory, inset_type type,
    const inset_model_options *options, void **numbers, inset_model **out);

/* Uniform in -scale .. scale, `count` elements of a float type. */
void gpu_random(inset_type type, void *at, int64_t count, float scale, uint64_t seed);

/* Prints "gpu: MESSAGE" and ends the program when status is not 0. */
void gpu_need(inset_context *context, inset_status status);
/* The same for what the runtime's own functions return. */
void gpu_good(int error, const char *doing);

#endif
