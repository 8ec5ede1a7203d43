/* scores.h: what a planned chunk of an attribution saves, and the scores that are made of it. */
#ifndef INSET_SWEEP_SCORES_H
#define INSET_SWEEP_SCORES_H

#include "sweep/attribution/attribute.h"

/* What one saved tensor is. */
typedef enum product_kind {
    PRODUCT_SCORES,  /* (source - u) * g, element by element; of features g */
    PRODUCT_QUERIES, /* then the five of an attention: q, k, v, other, back */
    PRODUCT_KEYS
} product_kind;
typedef struct product {
    product_kind kind;
    int64_t pair;
    size_t metric, tap, saved; /* saved: the first of its tensors */
} product;

struct attribution {
    bool *wanted;    /* [program sites] taken in every run */
    int32_t *places; /* those, in execution order */
    size_t n_places;
    int32_t embedding;   /* the site of the token embeddings */
    int32_t *stream;     /* [2 * layers] sites of attn_out and mlp_out, where graddrop */
    int32_t *order;      /* [n_taps] taps from the last to the first, as gradients come */
    int32_t *attention;  /* [chosen layers] attention steps */
    const float **sinks; /* [chosen layers] of those attentions; NULL: none */
    int32_t (*heads)[4]; /* [chosen layers] sites of q, k, v as attention reads them, and z */
    /* of the chunk that is planned */
    int64_t first, count;
    plan *plan;
    product *products;
    size_t n_products, capacity, n_saved;
};

struct run;
/* Adds the scores of the chunk that ran to the sweep's values, and its metrics. NO_MEMORY. */
inset_status scores_keep(sweep *s, struct run *r);

#endif
