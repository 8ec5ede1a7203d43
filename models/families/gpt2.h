/* gpt2.h: what GPT-2, GPT-Neo and GPT-J share: LayerNorm, an MLP of two matrices with biases, and
 * their modules' names. A family reads its config into a gpt2 and has gpt2_write write the
 * program. */
#ifndef INSET_MODELS_FAMILIES_GPT2_H
#define INSET_MODELS_FAMILIES_GPT2_H

#include "models/models.h"

typedef struct gpt2 {
    int32_t d, m; /* width, width inside the MLP */
    int32_t n_layers, n_heads, vocabulary, positions;
    float eps;
    activation act;
    bool tied, head_bias;
    /* GPT-2: q, k and v from one projection, matrices stored [in, out] (Conv1D). Otherwise a
     * projection each, without bias, and matrices stored [out, in]. */
    bool fused;
    bool output_bias;
    rotation *rotary; /* positions turn q and k; NULL: they have embeddings of their own (wpe) */
    /* MLP and attention read one norm, and (attention + mlp) + stream is next */
    bool parallel;
    /* The module inside attn that attends, NULL where that is attn itself; its last projection. */
    const char *inner, *output;
    const char *mlp_first, *mlp_last;
    float *score_scales; /* [n_layers], in the program's arena */
    int32_t *windows;    /* [n_layers] a layer's sliding window, 0 = all; the arena's */
} gpt2;

/* Room for the arrays of g->n_layers, zeros; g unchanged where the config has failed before. */
void gpt2_make_layers(config *c, program *p, gpt2 *g);
void gpt2_write(const gpt2 *g, program *p);

#endif
