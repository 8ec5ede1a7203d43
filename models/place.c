/* place.c: weights by the names of their layers, and the modules that read them; see place.h. */
#include "models/place.h"

#include <stdio.h>
#include <string.h>

const char *place_last_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

int32_t place_weight(const place *at, weight_role role, const char *path, const char *kind,
    int32_t rows, int32_t columns)
{
    char name[128];
    if (at->layer < 0) snprintf(name, sizeof name, "%s.%s", path, kind);
    else snprintf(name, sizeof name, "%s.%d.%s.%s", at->layers, (int)at->layer, path, kind);
    return role == WEIGHT_MATRIX && at->in_out ? program_weight_in_out(at->p, name, columns, rows)
                                               : program_weight(at->p, role, name, rows, columns);
}

int32_t place_project(
    const place *at, const char *path, int32_t x, int32_t in, int32_t out, bool with_bias)
{
    int32_t matrix = place_weight(at, WEIGHT_MATRIX, path, "weight", out, in);
    int32_t bias = with_bias ? place_weight(at, WEIGHT_VECTOR, path, "bias", 1, out) : -1;
    return program_linear(at->p, x, matrix, bias);
}

int32_t place_linear(
    const place *at, const char *path, int32_t x, int32_t in, int32_t out, bool with_bias)
{
    x = program_enter(at->p, place_last_part(path), x);
    return program_leave(at->p, place_project(at, path, x, in, out, with_bias));
}

int32_t place_layernorm(const place *at, const char *path, int32_t x, int32_t width, float eps)
{
    int32_t weight = place_weight(at, WEIGHT_VECTOR, path, "weight", 1, width),
            bias = place_weight(at, WEIGHT_VECTOR, path, "bias", 1, width);
    return program_layernorm_module(at->p, place_last_part(path), x, weight, bias, eps);
}

int32_t place_dropout(const place *at, const char *name, int32_t x)
{
    return name ? program_identity_module(at->p, name, x) : x;
}

int32_t place_head(program *p, int32_t x, int32_t table, bool tied, bool with_bias)
{
    if (p->status) return -1;
    const int32_t rows = p->weights[table].rows, columns = p->weights[table].columns;
    int32_t matrix = tied ? program_weight_tied(p, "lm_head.weight", table)
                          : program_weight(p, WEIGHT_MATRIX, "lm_head.weight", rows, columns);
    int32_t bias = with_bias ? program_weight(p, WEIGHT_VECTOR, "lm_head.bias", 1, rows) : -1;
    return program_linear_module(p, "lm_head", x, matrix, bias);
}
