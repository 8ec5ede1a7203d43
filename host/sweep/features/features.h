/* features.h: the features of a sparse autoencoder (SAE) as a site of a sweep,
 * "features:FILE@SITE.LAYER".
 *
 * An SAE takes a row x of that site to many features of which few are not zero, and back:
 *
 *     f = activation((x - b_dec) @ W_enc + b_enc),   x^ = f @ W_dec + b_dec
 *
 * To set feature j and keep the error, x - x^, as it was, is
 *
 *     x' = x + (f'_j - f_j) * W_dec[j],
 *
 * so a patch adds one row and needs no product. f of the runs that are patched and f' of the source
 * are found first, by running their prompts once (activations.c); their differences are the changes
 * (changes.c), listed by point. A point without a change is not run: its patch would add nothing,
 * and its metric is that of the unpatched run. In a trained SAE that is nearly every point. */
#ifndef INSET_SWEEP_FEATURES_H
#define INSET_SWEEP_FEATURES_H

#include "sweep/sweep.h"

/* ---- sae.c: an SAE from a file ---- */
typedef enum sae_kind {
    SAE_RELU,
    SAE_JUMP_RELU, /* relu(v) where v > threshold, else 0 */
    SAE_TOP_K,     /* relu of the k largest, else 0 */
    SAE_GATED      /* relu(v * exp(r_mag) + b_mag) where v + b_gate > 0, else 0 */
} sae_kind;

/* All lies in the sweep's memory. v is what the encoder's product gives. */
typedef struct sae {
    const char *path;
    sae_kind kind;
    int64_t width, count; /* numbers a row of the site, features */
    int64_t k;            /* of SAE_TOP_K */
    bool subtracts_bias;  /* the encoder reads x - decoder_bias, else x */
    float *encoder;       /* [width, count] */
    float *bias;          /* [count]; of SAE_GATED b_mag */
    float *decoder;       /* [count, width] */
    float *decoder_bias;  /* [width] */
    float *threshold;     /* [count], of SAE_JUMP_RELU */
    float *gate_bias;     /* [count], of SAE_GATED */
    float *gate_scale;    /* [count], of SAE_GATED: exp(r_mag) */
} sae;

/* Reads FILE.safetensors in SAELens's names (W_enc, b_enc, W_dec, b_dec; threshold; b_gate, r_mag,
 * b_mag) or in those of sparsify and dictionary_learning (encoder.weight, encoder.bias,
 * decoder.weight or W_dec, bias or b_dec), and cfg.json beside it where there is one. FILE_ERROR:
 * a tensor that is not there, what cfg.json says and is not supported; SHAPE_ERROR, also where the
 * SAE's rows are not `width` wide; TYPE_ERROR. `site` names what it is for. */
inset_status sae_read(sweep *s, const char *path, const char *site, int64_t width, sae *out);
/* From one row v [count] to the row of features, in its place. scratch: [count]. */
void sae_activate(const sae *e, float *v, float *scratch);

/* ---- activations.c: the features of prompts ---- */
typedef struct feature_value {
    int32_t position, feature; /* feature: among those chosen */
    float value;
} feature_value;

/* The features that are not zero: of prompt i at[starts[i]] to before at[starts[i + 1]], by
 * position and then by feature. Freed with feature_list_free. */
typedef struct feature_list {
    int64_t *starts; /* [prompts + 1] */
    feature_value *at;
    size_t n, capacity;
} feature_list;
void feature_list_free(inset_context *context, feature_list *list);

struct feature_site;
/* Runs the prompts. */
inset_status features_of_prompts(
    sweep *s, const struct feature_site *site, const prompts *p, feature_list *out);
/* The mean of each chosen feature at each position, over the prompts that have it: *out
 * [p->longest, chosen], in the sweep's memory. */
inset_status features_mean(
    sweep *s, const struct feature_site *site, const prompts *p, float **out);

/* ---- changes.c: what patches add ---- */
typedef struct feature_change {
    int64_t point;             /* of its site */
    int32_t position, feature; /* feature: among those chosen */
    float by;                  /* f' - f */
} feature_change;

/* What a sweep_site of features has beside the rest of it. Changes of pair i are at[starts[i]] to
 * before at[starts[i + 1]], by point, then position, then feature. */
typedef struct feature_site {
    sae sae;
    const sweep_site *site;
    int32_t place;         /* the program's site */
    int64_t first, chosen; /* the features chosen: first + i * the range's step */
    int64_t *labels;       /* [chosen] */
    int64_t *starts;       /* [pairs + 1] */
    feature_change *at;
    size_t n, capacity;
} feature_site;

/* The decoder's row of a chosen feature. */
const float *feature_direction(const feature_site *f, int64_t feature);

#endif
