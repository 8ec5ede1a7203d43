/* softmax.c: what patching one query or one key does to the metric, with attention's softmax exact
 * and all behind it linear (AtP*, section 3.1). A changed key changes one logit of each row, so the
 * row's other weights are only rescaled. Double precision: differences of weights are small. */
#include "sweep/attribution/attribute.h"

#include <math.h>

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static const float *row(const float *x, int64_t position, int64_t heads, int64_t head, int64_t d)
{
    return x + (position * heads + head) * d;
}

/* The score of the key at position j in a head, from the dot product. */
static double score_of(const step *s, int64_t head, int64_t j, double dot_product)
{
    double score = dot_product * s->scale;
    if (s->softcap > 0) score = s->softcap * tanh(score / s->softcap);
    return s->slopes ? score + (double)s->slopes[head] * (double)j : score;
}

static int64_t first_key(const step *s, int64_t position)
{
    return s->window > 0 && position + 1 > s->window ? position + 1 - s->window : 0;
}

/* Behind the last key that a query of `n` sees. */
static int64_t end_of_keys(const attention_rows *a, int64_t position)
{
    return a->attention->both_ways ? a->n : position + 1;
}

/* Largest score and sum of a query's softmax, less the key `but` (-1: none is left out). */
static void softmax_of(const attention_rows *a, const float *query, int64_t position, int64_t head,
    int64_t but, double *largest, double *sum)
{
    const step *s = a->attention;
    const int64_t group = head / (s->n_heads / s->n_kv_heads);
    *largest = a->sinks ? (double)a->sinks[head] : -INFINITY;
    *sum = a->sinks ? 1 : 0;
    for (int64_t j = first_key(s, position); j < end_of_keys(a, position); j++) {
        if (j == but) continue;
        const double score = score_of(
            s, head, j, dot(query, row(a->k, j, s->n_kv_heads, group, s->head_dim), s->head_dim));
        if (score > *largest) *sum = *sum * exp(*largest - score) + 1, *largest = score;
        else *sum += exp(score - *largest);
    }
}

/* Sum over keys of a query's weights times what comes back to each. */
static double read_through(
    const attention_rows *a, const float *query, int64_t position, int64_t head, int64_t group)
{
    const step *s = a->attention;
    const int64_t d = s->head_dim;
    double largest, sum, total = 0;
    softmax_of(a, query, position, head, -1, &largest, &sum);
    const float *back = row(a->back, position, s->n_heads, head, d);
    for (int64_t j = first_key(s, position); j < end_of_keys(a, position); j++) {
        const double score = score_of(
            s, head, j, dot(query, row(a->k, j, s->n_kv_heads, group, d), d));
        total += exp(score - largest) / sum * dot(back, row(a->v, j, s->n_kv_heads, group, d), d);
    }
    return total;
}

double query_score(const attention_rows *a, int64_t position, int64_t head)
{
    const step *s = a->attention;
    const int64_t group = head / (s->n_heads / s->n_kv_heads);
    return read_through(
               a, row(a->patched, position, s->n_heads, head, s->head_dim), position, head, group)
           - read_through(
               a, row(a->q, position, s->n_heads, head, s->head_dim), position, head, group);
}

/* One row i that attends to the key: with w its weight before and after, all other weights are
 * scaled by (1 - w') / (1 - w). */
static double row_score(
    const attention_rows *a, int64_t i, int64_t position, int64_t head, int64_t group)
{
    const step *s = a->attention;
    const int64_t d = s->head_dim;
    const float *query = row(a->q, i, s->n_heads, head, d),
                *back = row(a->back, i, s->n_heads, head, d);
    double largest, sum, others = 0;
    softmax_of(a, query, i, head, position, &largest, &sum);
    for (int64_t j = first_key(s, i); j < end_of_keys(a, i); j++) {
        if (j == position) continue;
        const double score = score_of(
            s, head, j, dot(query, row(a->k, j, s->n_kv_heads, group, d), d));
        others += exp(score - largest) * dot(back, row(a->v, j, s->n_kv_heads, group, d), d);
    }
    const double own = dot(back, row(a->v, position, s->n_kv_heads, group, d), d);
    double value[2];
    for (int k = 0; k < 2; k++) {
        const float *key = row(k ? a->patched : a->k, position, s->n_kv_heads, group, d);
        const double score = score_of(s, head, position, dot(query, key, d)),
                     most = score > largest ? score : largest, e = exp(score - most),
                     rest = sum > 0 ? exp(largest - most) : 0;
        value[k] = (e * own + rest * others) / (e + rest * sum);
    }
    return value[1] - value[0];
}

double key_score(const attention_rows *a, int64_t position, int64_t head)
{
    const step *s = a->attention;
    const int64_t shared = s->n_heads / s->n_kv_heads;
    double total = 0;
    for (int64_t i = s->both_ways ? 0 : position; i < a->n && first_key(s, i) <= position; i++)
        for (int64_t h = head * shared; h < (head + 1) * shared; h++)
            total += row_score(a, i, position, h, head);
    return total;
}
