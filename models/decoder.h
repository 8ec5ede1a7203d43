/* decoder.h: what most families share: a decoder of norms, rotary attention with grouped heads and
 * an MLP. What is not said is as Llama has it: RMSNorm, a gated MLP, one branch after the other.
 *
 * A family fills in a decoder (decoder_read takes the keys that all of them have, with the family's
 * own defaults), changes what differs, and has decoder_build write the program. */
#ifndef INSET_MODELS_DECODER_H
#define INSET_MODELS_DECODER_H

#include "models/mixture.h"

/* ---- rotary embedding --------------------------------------------------- */
typedef struct rope {
    int32_t dims;             /* first dimensions of a head that turn */
    const float *frequencies; /* [dims / 2], in the program's arena */
    float attention_scale;    /* factor on cos and sin */
    int32_t positions;        /* longest prompt that these frequencies serve, 0 = any */
} rope;

/* Reads rope_parameters (or rope_scaling and rope_theta, as older files have them) for heads of
 * head_dim numbers. theta_key and part_key are what the family's older files call theta and the
 * part of a head that turns; `theta` and `part` are these when nothing is said. part_key NULL:
 * whole heads turn, and a part that a config names is ignored, as transformers does (refused with a
 * scaling, which would compute its frequencies for that part). */
rope config_rope(config *c, program *p, int32_t head_dim, const char *theta_key, double theta,
    const char *part_key, double part);
/* The same where layers of two types differ: rope_parameters.TYPE, and in older files theta_key
 * and, for full_attention, rope_scaling. */
rope config_rope_of_layers(config *c, program *p, int32_t head_dim, const char *layer_type,
    const char *theta_key, double theta);

/* ---- the decoder -------------------------------------------------------- */
typedef enum qk_norm { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_WHOLE } qk_norm;

typedef enum decoder_norm {
    NORM_RMS,
    NORM_LAYER,        /* with weight and bias */
    NORM_LAYER_SCALED, /* with weight alone (Cohere) */
    NORM_LAYER_PLAIN   /* with neither (OLMo) */
} decoder_norm;

/* Attention and MLP both read the norm before attention, and what they make is added at once: in
 * floating point it matters in which order. */
typedef enum decoder_parallel {
    PARALLEL_NONE,
    PARALLEL_STREAM_FIRST, /* (stream + attention) + mlp */
    PARALLEL_STREAM_LAST   /* (attention + mlp) + stream */
} decoder_parallel;

typedef struct decoder {
    int32_t d, m; /* width, width inside the MLP */
    int32_t n_layers, n_heads, n_kv_heads, head_dim, vocabulary, positions;
    int32_t n_key_heads; /* n_kv_heads, or n_heads where the program is ungrouped */
    float eps;
    activation act;
    bool tied;
    bool qkv_bias, o_bias, mlp_bias, head_bias;
    bool sinks; /* attention has them: see step.weight */
    decoder_norm norm;
    rms_weight norm_weight; /* of NORM_RMS */
    decoder_parallel parallel;
    bool rope_round_once, rope_interleaved; /* see step */
    qk_norm qk_norm;
    /* they stand behind all three projections, not each behind its own, and behind the
     * transposition: their modules have no .input and .output ([batch, head, position, ...] in
     * transformers) */
    bool qk_norm_last;
    bool fused; /* qkv_proj and gate_up_proj are one matrix each */
    /* Names of the modules around attention and MLP; NULL where there is none. */
    const char *norm_before_attention, *norm_after_attention, *norm_before_mlp, *norm_after_mlp;
    const char *dropout_after_embedding, *dropout_after_attention, *dropout_after_mlp;
    const char *norm_before_head;
    const char *attention_output;                    /* attention's last projection */
    const char *act_name;                            /* the activation's module */
    bool mlp_in_block;                               /* the MLP has no module of its own */
    const char *mlp_first, *mlp_last;                /* an MLP of two products; NULL: a gated one */
    float score_scale, score_softcap, logit_softcap; /* softcaps: 0 = none */
    float embed_scale; /* 1 = none; inside embed_tokens, rounded to the model's type */
    /* Factors that are numbers, 1 = none: on the stream's first value, on what attention and MLP
     * add to it (one after the other; shown at the block's named sites attn_out and mlp_out), on
     * the logits. */
    float stream_scale, branch_scale, logit_scale;
    /* What holds the embeddings and layers inside `model`, "decoder"; NULL: `model` itself. */
    const char *inner;
    /* Positions have embeddings of their own, added to the tokens': its module, whose table begins
     * with this many rows for no position. NULL: none, and so heads turn. */
    const char *embed_positions;
    int32_t first_position;
    /* [n_layers] sliding window of a layer, 0 = all; in the program's arena */
    int32_t *windows;
    rope rope;
    /* layers with a window turn by frequencies of their own */
    bool has_window_rope;
    rope window_rope;
    const mixture *mixture;   /* MLPs of experts; NULL: none */
    const bool *without_rope; /* [n_layers] layers that do not turn at all; NULL: none */
} decoder;

/* What a family's keys are when a config lacks them, as transformers' config classes have it. */
typedef struct decoder_defaults {
    /* n_kv_heads 0: as many as heads */
    int32_t d, m, n_layers, n_heads, n_kv_heads, vocabulary, positions;
    int32_t head_dim; /* 0: d / n_heads */
    double eps;
    const char *eps_key; /* NULL: rms_norm_eps */
    const char *m_key;   /* NULL: intermediate_size */
    const char *act_key, *act;
    bool tied;
    double rotary_part;  /* of a head, by partial_rotary_factor; 0: the key means nothing */
    double theta;        /* 0: 10000 */
    bool ropes_by_layer; /* config_rope_of_layers: the family reads them itself */
    bool no_rope;        /* heads never turn, and no key says how */
} decoder_defaults;

/* Sizes, heads, norms' eps, activation, tie, rope; the rest as Llama has it, without windows. */
decoder decoder_read(config *c, program *p, const decoder_defaults *otherwise);
/* Every layer's window from `sliding_window` (`otherwise` when the key is absent, 0 = none; null in
 * the file is none). */
void decoder_window_everywhere(config *c, decoder *g, int32_t otherwise);
/* From layer_types; where there are none, layer i slides if slides(i, context). `window` 0: no
 * layer may slide. */
void decoder_window_by_layer(config *c, decoder *g, int32_t window,
    bool (*slides)(int32_t layer, int32_t context), int32_t context);
/* From layer_types; where there are none, all layers but every pattern-th slide. The window is
 * `sliding_window`: 4096 when the key is absent, and null in the file is as far as positions go. */
void decoder_window_but_every(config *c, decoder *g, int32_t pattern);
/* How many experts there are (by `key`, or num_experts where that is another's name for it) and how
 * many a row has, num_experts_per_tok; n and chosen when they are absent. */
void decoder_read_mixture(config *c, mixture *m, const char *key, int32_t n, int32_t chosen);
void decoder_build(const decoder *g, program *p);

#endif
