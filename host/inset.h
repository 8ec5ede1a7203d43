/* inset.h: set values inside a running transformer, on a GPU or on the CPU.
 *
 * A complete program: take the residual stream of one prompt at layer 5, position 2, put it into another prompt's run, and read
 * the logits that come out.
 *
 *     #include <inset.h>
 *     #include <stdio.h>
 *
 *     int main(void)
 *     {
 *         inset_context *context = NULL;
 *         inset_model *model = NULL;
 *         inset_trace *trace = NULL;
 *         inset_plan *plan = NULL;
 *         inset_value *source = NULL, *logits = NULL;
 *         inset_tensor out;
 *         const int64_t clean[] = {464, 412, 733}, corrupt[] = {464, 999, 733};
 *         inset_status status = inset_context_create(NULL, &context);
 *         if (!status) status = inset_model_open(context, "gpt2", NULL, &model);
 *         if (!status) status = inset_trace_create(model, &trace);
 *         if (!status) status = inset_invoke_tokens(trace, 1, (int64_t[]){3}, clean);
 *         if (!status) status = inset_get(trace, "transformer.h[5].output[:, 2]", &source);
 *         if (!status) status = inset_invoke_tokens(trace, 1, (int64_t[]){3}, corrupt);
 *         if (!status) status = inset_set(trace, "transformer.h[5].output[:, 2]", source);
 *         if (!status) status = inset_get(trace, "output.logits[:, -1]", &logits);
 *         if (!status) status = inset_save(trace, "logits", logits);
 *         if (!status) status = inset_plan_create(trace, NULL, &plan);
 *         if (!status) status = inset_run(plan);
 *         if (!status) status = inset_saved(plan, "logits", &out);
 *         if (status) fprintf(stderr, "%s\n", inset_message(context));
 *         else printf("logit of token 11: %g\n", ((const float *)out.data)[11]);
 *         inset_context_free(context);
 *         return status != INSET_OK;
 *     }
 *
 * Rules that hold throughout. Every call that can fail returns an inset_status, and the context then holds a message for the user.
 * Every handle belongs to one context and is freed by its own _free call or, at the latest, with its context; a handle must not be used after the one it was
 * made from is freed (context > model > trace > plan). One thread at a time may use a context and what belongs to it; different contexts are
 * independent. The library has no global state, never prints, exits or aborts. On failure nothing is launched and nothing
 * that existed before the call has changed, except where a call says otherwise. */
#ifndef INSET_H
#define INSET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define INSET_API __attribute__((visibility("default")))
#else
#define INSET_API
#endif

#define INSET_VERSION "0.1.0"

/* ---- status ------------------------------------------------------------------------------------------------------------------------ */
typedef enum inset_status {
    INSET_OK = 0,
    INSET_NO_MEMORY,             /* MemoryError: the host or the device has too little; the message has both figures where known */
    INSET_SYNTAX_ERROR,          /* SyntaxError */
    INSET_NAME_ERROR,            /* NameError */
    INSET_UNKNOWN_SITE,          /* UnknownSiteError */
    INSET_OUT_OF_ORDER,          /* OutOfOrderError */
    INSET_MISSED_PROVIDER,       /* MissedProviderError */
    INSET_INDEX_ERROR,           /* IndexError */
    INSET_VALUE_ERROR,           /* ValueError */
    INSET_SHAPE_ERROR,           /* ShapeError */
    INSET_TYPE_ERROR,            /* TypeError */
    INSET_FILE_ERROR,            /* FileError */
    INSET_DEVICE_ERROR,          /* DeviceError */
    INSET_USAGE_ERROR            /* UsageError: a call that makes no sense (a NULL handle, an unknown option) */
} inset_status;

/* "OutOfOrderError" and so on; "OK" for INSET_OK. Never NULL. */
INSET_API const char *inset_status_name(inset_status status);
INSET_API const char *inset_version(void);

/* ---- context ------------------------------------------------------------------------------------------------------------------------- */
typedef struct inset_context inset_context;

/* Where the library's host memory comes from. resize(user, NULL, n) allocates, resize(user, p, 0) frees and returns NULL. */
typedef struct inset_allocator {
    void *(*resize)(void *user, void *block, size_t size);
    void *user;
} inset_allocator;

/* Creates a context. allocator: copied, or NULL for realloc and free. INSET_NO_MEMORY is the only failure. */
INSET_API inset_status inset_context_create(const inset_allocator *allocator, inset_context **out);
/* Frees the context and everything that still belongs to it. Takes NULL. */
INSET_API void inset_context_free(inset_context *context);
/* The last failure's message, several lines, the last of them "NAME: what is wrong"; "" when nothing failed. Holds until the next call. */
INSET_API const char *inset_message(inset_context *context);

/* ---- tensors --------------------------------------------------------------------------------------------------------------------------- */
typedef enum inset_type {
    INSET_F32, INSET_BF16, INSET_F16, INSET_F64, INSET_I64, INSET_I32, INSET_I16, INSET_I8, INSET_U8, INSET_BOOL,
    INSET_TYPE_COUNT
} inset_type;

enum { INSET_MAX_DIMENSIONS = 8 };

/* A dense row-major tensor in host memory. */
typedef struct inset_tensor {
    const void *data;
    inset_type type;
    int32_t n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS];
} inset_tensor;

/* (The rest of the API: model, trace, plan, run, saved, sites; see host/api.) */

#ifdef __cplusplus
}
#endif
#endif
