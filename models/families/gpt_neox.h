/* gpt_neox.h: what GPT-NeoX and BLOOM share: LayerNorm, a projection whose columns go by head (q, k
 * and v of head 0, then of head 1, and so on), and an MLP of two matrices with biases. A family
 * reads its config into a neox and has neox_write write the program. */
#ifndef INSET_MODELS_FAMILIES_GPT_NEOX_H
#define INSET_MODELS_FAMILIES_GPT_NEOX_H

#include "models/decoder.h"

typedef struct neox {
    int32_t d, m; /* width, width inside the MLP */
    int32_t n_layers, n_heads, head_dim, vocabulary, positions;
    float eps;
    activation act;
    bool attention_bias, tied;
    /* Attention and MLP on the same stream; else one after the other, each with the stream given to
     * it and added inside its module (`adds_inside`) or outside. */
    bool parallel, adds_inside;
    rope rope;           /* of no dims: heads do not turn */
    const float *slopes; /* see step.slopes */
    /* Names: what holds all, the embeddings, the norm behind them (or NULL), what holds the layers,
     * a layer's attention, its MLP's activation, the norm before the head. */
    const char *root, *embedding, *embedding_norm, *layers, *attention, *act_name, *last_norm;
    /* Dropouts behind the embeddings, attention and the MLP; NULL: no modules. */
    const char *embedding_dropout, *attention_dropout, *mlp_dropout;
    const char *head_also; /* the head's other name, or NULL */
} neox;

void neox_write(const neox *g, program *p);

#endif
