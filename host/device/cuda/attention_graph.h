/* attention_graph.h: causal attention of whole sequences as a graph of cuDNN's operations, and the
 * plan that runs it. */
#ifndef INSET_CUDA_ATTENTION_GRAPH_H
#define INSET_CUDA_ATTENTION_GRAPH_H

#include "device/cuda/cudnn.h"

/* What a plan is for. Strides count elements from row to row; rows of a sequence follow each other,
 * and sequences too. */
typedef struct attention_shape {
    int32_t type; /* inset_type: INSET_BF16 or INSET_F16 */
    int32_t n_heads, n_kv_heads, head_dim;
    int64_t n_sequences, length;
    int64_t q_stride, k_stride, v_stride, out_stride;
} attention_shape;

/* The tensors that a run gives addresses for. SCALE and MASKED are numbers in host memory (fp32):
 * what scores are multiplied by, and -infinity, which they are where a key is later than the query.
 * STATISTICS: fp32 [sequence, head, position], the logarithm of the sum that softmax divides by,
 * which a backward pass starts from. */
enum {
    ATTENTION_Q = 1,
    ATTENTION_K,
    ATTENTION_V,
    ATTENTION_OUT,
    ATTENTION_STATISTICS,
    ATTENTION_SCALE,
    ATTENTION_MASKED,
    ATTENTION_IDS = 7
};

enum { ATTENTION_DESCRIPTORS = 96 };

typedef struct attention_plan {
    attention_shape shape;
    /* everything the plan is made of, freed with it */
    cudnn_descriptor all[ATTENTION_DESCRIPTORS];
    int n;
    cudnn_descriptor plan; /* one of them; NULL: cuDNN refuses this shape */
    int64_t workspace;     /* bytes a run needs */
} attention_plan;

/* Where plans are made for: a device that is there, by its handle, or one that is described
 * (CUDNN_DEVICE); the other is NULL. *kernels: a CUDNN_KERNEL_CACHE that all plans of one type and
 * heads share, so that only the first of them compiles kernels; NULL before the first, then the
 * caller's to free. */
typedef struct attention_target {
    cudnn_handle handle;
    cudnn_descriptor device, *kernels;
} attention_target;

/* Makes out's plan for out->shape from nothing else. False: cuDNN has none, and out holds
 * nothing. */
bool attention_plan_make(
    const cudnn_library *library, const attention_target *target, attention_plan *out);
void attention_plan_free(const cudnn_library *library, attention_plan *p);

#endif
