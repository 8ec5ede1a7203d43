/* mixture.h: an MLP of experts: a router's product, the experts' weights by it, and the experts. */
#ifndef INSET_MODELS_MIXTURE_H
#define INSET_MODELS_MIXTURE_H

#include "models/place.h"

/* How a checkpoint has the experts of a layer. transformers 5 stacks them in tensors of three
 * dimensions in all three cases, `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`. */
typedef enum mixture_layout {
    MIXTURE_EACH,       /* mlp.experts.E.gate_proj, .up_proj, .down_proj (Qwen) */
    MIXTURE_NUMBERED,   /* block_sparse_moe.experts.E.w1, .w3, .w2 (Mixtral) */
    MIXTURE_INTERLEAVED /* stacked alone, [in, out], gates and ups in turn, biases (gpt-oss) */
} mixture_layout;

typedef struct mixture {
    int32_t n, chosen, m; /* experts; how many a row has; width inside each */
    mixture_layout layout;
    const char *router; /* its module: "gate" */
    bool over_all;      /* see experts */
    float limit, alpha; /* likewise */
    const bool *absent; /* [n_layers] layers that have another MLP; NULL: none */
} mixture;

/* The module `mlp` on x [d]: `mlp.ROUTER`, the sites `.router` (its logits [n]) and
 * `.expert_weights` [n], and `mlp.experts`. Returns the slot of its `.output`. */
int32_t place_mixture(const place *at, const mixture *of, int32_t x, int32_t d, activation act);

#endif
