/* place.h: what families' programs have in common: weights named by the layer they are of, and the
 * modules that read them. */
#ifndef INSET_MODELS_PLACE_H
#define INSET_MODELS_PLACE_H

#include "models/models.h"

/* Modules of layer `layer` have weights named LAYERS.LAYER.PATH, those behind the layers (-1)
 * PATH. */
typedef struct place {
    program *p;
    const void *family; /* what the family has read of its config */
    const char *layers; /* "layers", "h" */
    int32_t layer;
    bool in_out; /* matrices are stored [in, out] */
} place;

/* The weight LAYERS.LAYER.PATH.KIND, [rows, columns] where it is stored [out, in]. */
int32_t place_weight(const place *at, weight_role role, const char *path, const char *kind,
    int32_t rows, int32_t columns);
/* The linear step of the open module, whose weights are called `path`. */
int32_t place_project(
    const place *at, const char *path, int32_t x, int32_t in, int32_t out, bool with_bias);
/* The same with its module, which has the last part of `path` as its name. */
int32_t place_linear(
    const place *at, const char *path, int32_t x, int32_t in, int32_t out, bool with_bias);
/* A layer norm's module, with weight and bias [width]. */
int32_t place_layernorm(const place *at, const char *path, int32_t x, int32_t width, float eps);
/* The module lm_head on x: a product with the table of the token embeddings where it is `tied`,
 * else with a matrix of its own. Returns the slot of its `.output`. */
int32_t place_head(program *p, int32_t x, int32_t table, bool tied, bool with_bias);
/* A dropout's module, whose input and output are one value; x itself where `name` is NULL. */
int32_t place_dropout(const place *at, const char *name, int32_t x);
const char *place_last_part(const char *path); /* of "self_attn.q_proj" "q_proj" */

#endif
