/* random_traces.h: small models of any family with random weights, and random traces over them, for
 * tests that compare executors.
 *
 * A trace is built by trying: calls that the trace refuses (shapes that do not fit, places out of
 * order) record nothing and are passed over, so that every kind of call is tried at every kind of
 * place, and what is left is a valid trace. */
#ifndef INSET_RANDOM_TRACES_H
#define INSET_RANDOM_TRACES_H

#include "run/model.h"
#include "trace/records.h"

/* Names of the models: "gpt2", "llama", "neox" and so on; NULL behind the last. */
extern const char *const tiny_models[];

/* Builds one on the CPU device with weights from `seed`. The weights' numbers are malloc's: free
 * *numbers after the model. */
inset_status tiny_model(inset_context *context, const char *name, const char *device, uint64_t seed,
    struct inset_model **out, void **numbers);

/* Makes one random trace. Only INSET_NO_MEMORY is ever returned; the trace so far is in *out then
 * too (NULL when there is none). */
inset_status random_trace(const struct inset_model *model, uint64_t seed, trace **out);

#endif
