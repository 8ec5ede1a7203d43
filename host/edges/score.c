/* score.c: scores of edges from what a run saved. One pair at a time: the differences of all
 * writers, then a layer's readers, whose gradients are made, multiplied with the differences of all
 * writers before them, and forgotten.
 *
 * A head's difference is its z's through its rows of the output projection. What comes back to a
 * head's q is taken through that head's columns of the product and back through the norm before it,
 * for this head alone (formulas: kernels/back.cu). Rows before the first token that differs have no
 * difference and are left out. */
#include <math.h>
#include <string.h>

#include "edges/edges.h"
#include "run/run.h"

typedef struct scorer {
    edges *e;
    run *r;
    const edge_saved *saved;
    int64_t pair, first, rows; /* positions first .. first + rows */
    float *deltas;             /* [n_writers, rows, width] */
    float *readers, *part;     /* [heads of q, k and v and the MLP, rows, width]; of one run */
    float *scores;             /* [n_writers, readers of a layer] */
    float *hats;               /* [rows, width] of a norm's input */
    host_operands *products;   /* [n_heads] */
} scorer;

/* ---- what was saved ----------------------------------------------------- */

/* Rows of a saved value from the first that counts on, `width` numbers each. */
static inset_status rows_of(const scorer *c, int32_t index, int64_t width, const float **out)
{
    inset_tensor x;
    inset_status status = run_saved(c->r, (size_t)index, &x);
    if (!status) *out = (const float *)x.data + c->first * width;
    return status;
}

static const int32_t *deltas_at(const scorer *c)
{
    return c->saved->deltas + (c->pair - c->saved->first) * c->e->s->n_layers * PLACE_COUNT;
}

static const int32_t *gradients_at(const scorer *c, size_t metric, int32_t run_index)
{
    const int64_t pair = (int64_t)metric * c->saved->count + (c->pair - c->saved->first);
    return c->saved->gradients
           + (pair * c->saved->runs + run_index) * c->e->s->n_layers * PLACE_COUNT;
}

/* ---- norms -------------------------------------------------------------- */

/* A norm at one row: x^ = (x - mean) / s, and its weight. */
typedef struct norm_at {
    const step *norm;
    const float *weight; /* NULL: none */
    float mean, inverse;
} norm_at;

static void norm_settle(norm_at *n, const float *x, int64_t d)
{
    double sum = 0, square = 0;
    for (int64_t i = 0; i < d && n->norm->norm_centred; i++) sum += x[i];
    n->mean = (float)(sum / (double)d);
    for (int64_t i = 0; i < d; i++) {
        const double apart = (double)x[i] - n->mean;
        square += apart * apart;
    }
    n->inverse = (float)(1 / sqrt(square / (double)d + n->norm->eps));
}

static void times_weight(const norm_at *n, float *v, int64_t d)
{
    const float one = n->norm->rms_weight == RMS_WEIGHT_PLUS_ONE ? 1 : 0;
    for (int64_t i = 0; i < d && n->weight; i++) v[i] *= n->weight[i] + one;
}

enum { LANES = 8 };

/* Sums of v and of v * hat, in an order of their own that several are added up in at once. */
static void two_sums(const float *v, const float *hat, int64_t d, double *sum, double *along)
{
    double s[LANES] = {0}, a[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES)
        for (int k = 0; k < LANES; k++) {
            s[k] += v[i + k];
            a[k] += (double)v[i + k] * hat[i + k];
        }
    for (; i < d; i++) s[0] += v[i], a[0] += (double)v[i] * hat[i];
    for (int k = 1; k < LANES; k++) s[0] += s[k], a[0] += a[k];
    *sum = s[0], *along = a[0];
}

/* v less its mean (where the norm is centred) and less its part along x^ (`hat`), over s. */
static void norm_project(
    const norm_at *n, const float *hat, float *v, int64_t d, bool constant_scale)
{
    double sum, along;
    two_sums(v, hat, d, &sum, &along);
    const float mean = n->norm->norm_centred ? (float)(sum / (double)d) : 0,
                share = constant_scale ? 0 : (float)(along / (double)d), inverse = n->inverse;
    for (int64_t i = 0; i < d; i++) v[i] = (v[i] - mean - hat[i] * share) * inverse;
}

/* Rows [heads, rows, d] back through the norm, or (forward) a difference through it. */
static inset_status through_norm(
    scorer *c, int32_t norm, const float *x, float *v, int64_t heads, bool forward)
{
    const int64_t d = c->e->width;
    norm_at n = {.norm = &c->e->s->program->steps[norm]};
    const bool constant = (c->e->s->method.rules & RULE_LN) && !forward;
    inset_status status = n.norm->weight < 0
                              ? INSET_OK
                              : model_weights_get(c->e->weights, n.norm->weight, 3, &n.weight);
    if (status) return status;
#ifdef _OPENMP
#pragma omp parallel for if (c->rows * heads * d > 65536)
#endif
    for (int64_t r = 0; r < c->rows; r++) {
        norm_at here = n;
        float *hat = c->hats + r * d;
        norm_settle(&here, x + r * d, d);
        for (int64_t i = 0; i < d; i++) hat[i] = (x[r * d + i] - here.mean) * here.inverse;
        for (int64_t h = 0; h < heads; h++) {
            float *row = v + (h * c->rows + r) * d;
            if (!forward) times_weight(&here, row, d);
            norm_project(&here, hat, row, d, constant);
            if (forward) times_weight(&here, row, d);
        }
    }
    return INSET_OK;
}

/* ---- differences -------------------------------------------------------- */

static inset_status head_deltas(scorer *c, int32_t layer, float *to)
{
    const edges *e = c->e;
    const edge_layer *at = &e->layers[layer];
    const weight *w = &e->s->program->weights[e->s->program->steps[at->out].weight];
    const int64_t wide = (int64_t)e->n_heads * e->head_dim, d = e->width;
    const int32_t *saved = deltas_at(c) + layer * PLACE_COUNT;
    const float *z = NULL, *matrix = NULL, *x = NULL;
    inset_status status = rows_of(c, saved[PLACE_Z], wide, &z);
    if (!status)
        status = model_weights_get(e->weights, e->s->program->steps[at->out].weight, 0, &matrix);
    for (int32_t h = 0; h < e->n_heads && !status; h++)
        c->products[h] = (host_operands){.out = to + h * c->rows * d,
            .a = z + (int64_t)h * e->head_dim,
            .b = matrix + (int64_t)h * e->head_dim * (w->in_out ? d : 1),
            .rows = c->rows,
            .columns = d,
            .inner = e->head_dim,
            .out_stride = d,
            .a_stride = wide,
            .b_stride = w->in_out ? d : wide,
            .b_across = !w->in_out};
    if (!status) status = host_products(e->s->context, c->products, e->n_heads);
    if (status || at->out_norm < 0) return status;
    status = rows_of(c, saved[PLACE_OUT], d, &x);
    return status ? status : through_norm(c, at->out_norm, x, to, e->n_heads, true);
}

static inset_status copy_rows(scorer *c, int32_t index, float *to)
{
    const float *from = NULL;
    inset_status status = rows_of(c, index, c->e->width, &from);
    if (!status) memcpy(to, from, (size_t)(c->rows * c->e->width) * sizeof *to);
    return status;
}

static inset_status all_deltas(scorer *c)
{
    const edges *e = c->e;
    const int64_t one = c->rows * e->width;
    const int32_t *saved = deltas_at(c);
    inset_status status = copy_rows(c, saved[PLACE_STREAM], c->deltas);
    for (int32_t l = 0; l < e->s->n_layers && !status; l++) {
        float *at = c->deltas + (1 + (int64_t)l * (e->n_heads + 1)) * one;
        status = head_deltas(c, l, at);
        if (!status)
            status = copy_rows(c, saved[l * PLACE_COUNT + PLACE_MLP_OUT], at + e->n_heads * one);
    }
    return status;
}

/* ---- gradients of readers ----------------------------------------------- */

static int32_t heads_of(const edges *e, int k) { return k ? e->n_kv_heads : e->n_heads; }

/* What comes back to each head's q (k = 0), k or v, in `to` [heads, rows, width]. */
static inset_status head_gradients(scorer *c, int32_t layer, int k, const int32_t *saved, float *to)
{
    const edges *e = c->e;
    const program *p = e->s->program;
    const edge_layer *at = &e->layers[layer];
    const weight *w = &p->weights[p->steps[at->linear[k]].weight];
    const int64_t d = e->width, wide = (int64_t)heads_of(e, k) * e->head_dim;
    const float *back = NULL, *matrix = NULL, *x = NULL;
    inset_status status = rows_of(c, saved[PLACE_Q + k], wide, &back);
    if (!status) status = model_weights_get(e->weights, p->steps[at->linear[k]].weight, k, &matrix);
    for (int32_t h = 0; h < heads_of(e, k) && !status; h++) {
        const int64_t column = program_head_part(p, &p->steps[at->heads[k]], h).out;
        c->products[h] = (host_operands){.out = to + h * c->rows * d,
            .a = back + (int64_t)h * e->head_dim,
            .b = matrix + column * (w->in_out ? 1 : d),
            .rows = c->rows,
            .columns = d,
            .inner = e->head_dim,
            .out_stride = d,
            .a_stride = wide,
            .b_stride = w->in_out ? w->columns : d,
            .b_across = w->in_out};
    }
    if (!status) status = host_products(e->s->context, c->products, heads_of(e, k));
    if (status || at->norm < 0) return status;
    status = rows_of(c, saved[PLACE_NORM_INPUT], d, &x);
    return status ? status : through_norm(c, at->norm, x, to, heads_of(e, k), false);
}

static int64_t layer_readers(const edges *e) { return e->n_heads + 2 * e->n_kv_heads + 1; }

static void add_rows(float *to, const float *from, int64_t n, float share, bool first)
{
    if (first)
        for (int64_t i = 0; i < n; i++) to[i] = from[i] * share;
    else
        for (int64_t i = 0; i < n; i++) to[i] += from[i] * share;
}

/* The mean over the runs of what comes back to a layer's readers; `layer` of the number of layers:
 * to the logits alone. */
static inset_status readers_of(scorer *c, size_t metric, int32_t layer)
{
    const edges *e = c->e;
    const int64_t one = c->rows * e->width;
    const float share = 1.0f / (float)c->saved->runs;
    for (int32_t r = 0; r < c->saved->runs; r++) {
        const bool last = layer == e->s->n_layers;
        const int32_t *saved = gradients_at(c, metric, r) + (last ? 0 : layer * PLACE_COUNT);
        float *part = c->saved->runs > 1 ? c->part : c->readers;
        int64_t at = 0;
        inset_status status = INSET_OK;
        for (int k = 0; k < 3 && !last && !status; at += heads_of(e, k++) * one)
            status = head_gradients(c, layer, k, saved, part + at);
        if (!status) status = copy_rows(c, saved[last ? PLACE_LAST : PLACE_MLP_INPUT], part + at);
        if (status) return status;
        if (c->saved->runs > 1) add_rows(c->readers, c->part, at + one, share, r == 0);
    }
    return INSET_OK;
}

/* ---- products ----------------------------------------------------------- */

/* One part of `parts` parts of the rows. */
static inset_status multiply_part(scorer *c, size_t metric, int64_t part, int64_t parts,
    int64_t writers, int64_t of, int64_t readers, int64_t column)
{
    const edges *e = c->e;
    const int64_t n = c->rows * e->width, inner = n / parts,
                  one_matrix = e->n_writers * e->n_readers, all = e->n_positions * one_matrix,
                  matrix = e->n_positions > 1 ? (c->first + part) * one_matrix : 0;
    inset_status status = host_products(e->s->context,
        &(host_operands){.out = c->scores,
            .a = c->deltas + part * inner,
            .b = c->readers + of * n + part * inner,
            .rows = writers,
            .columns = readers,
            .inner = inner,
            .out_stride = readers,
            .a_stride = n,
            .b_stride = n,
            .b_across = true},
        1);
    double *sums = e->sums + (int64_t)metric * all + matrix;
    float *own = e->per_pair;
    if (own) own += ((int64_t)metric * e->s->pairs + c->pair) * all + matrix;
    for (int64_t u = 0; u < writers && !status; u++)
        for (int64_t v = 0; v < readers; v++) {
            const float score = c->scores[u * readers + v];
            sums[u * e->n_readers + column + v] += score;
            if (own) own[u * e->n_readers + column + v] = score;
        }
    return status;
}

/* Scores of `readers` readers, which begin at `of` among those made and at `column` among all, and
 * the writers before them. */
static inset_status multiply(
    scorer *c, size_t metric, int64_t writers, int64_t of, int64_t readers, int64_t column)
{
    /* all positions at once, or one after the other */
    const int64_t parts = c->e->n_positions > 1 ? c->rows : 1;
    inset_status status = INSET_OK;
    for (int64_t i = 0; i < parts && !status; i++)
        status = multiply_part(c, metric, i, parts, writers, of, readers, column);
    return status;
}

static inset_status score_layer(scorer *c, size_t metric, int32_t layer)
{
    const edges *e = c->e;
    const int64_t heads = layer_readers(e) - 1, column = (int64_t)layer * layer_readers(e),
                  before = 1 + (int64_t)layer * (e->n_heads + 1);
    inset_status status = readers_of(c, metric, layer);
    if (status) return status;
    if (layer == e->s->n_layers) return multiply(c, metric, before, 0, 1, column);
    const int64_t own = e->layers[layer].parallel ? 0 : e->n_heads;
    status = multiply(c, metric, before, 0, heads, column);
    return status ? status : multiply(c, metric, before + own, heads, 1, column + heads);
}

static inset_status score_pair(scorer *c)
{
    const edges *e = c->e;
    c->first = attribute_first_difference(e->s, c->pair);
    c->rows = e->s->clean.lengths[c->pair] - c->first;
    inset_status status = c->rows ? all_deltas(c) : INSET_OK;
    for (size_t m = 0; m < e->s->n_metrics && c->rows; m++)
        for (int32_t l = 0; l <= e->s->n_layers && !status; l++) status = score_layer(c, m, l);
    return status;
}

static inset_status keep_metrics(const scorer *c)
{
    sweep *s = c->e->s;
    for (size_t m = 0; m < s->n_metrics; m++) {
        inset_tensor x;
        inset_status status = run_saved(c->r, (size_t)c->saved->metrics + m, &x);
        if (status) return status;
        const float *value = x.data;
        for (int64_t pair = c->saved->first; pair < c->saved->first + c->saved->count; pair++) {
            s->clean_values[(int64_t)m * s->pairs + pair] = *value++;
            s->corrupt_values[(int64_t)m * s->pairs + pair] = *value++;
        }
    }
    return INSET_OK;
}

inset_status edges_add_scores(edges *e, run *r, const edge_saved *saved)
{
    inset_context *context = e->s->context;
    const size_t one = (size_t)(e->s->clean.longest * e->width) * sizeof(float),
                 readers = (size_t)layer_readers(e);
    scorer c = {.e = e, .r = r, .saved = saved};
    c.deltas = memory_new(context, (size_t)e->n_writers * one);
    c.readers = memory_new(context, readers * one);
    c.part = memory_new(context, readers * one);
    c.scores = memory_new(context, (size_t)e->n_writers * readers * sizeof *c.scores);
    c.products = memory_new(context, (size_t)e->n_heads * sizeof *c.products);
    c.hats = memory_new(context, one);
    inset_status status = c.deltas && c.readers && c.part && c.scores && c.products && c.hats
                              ? keep_metrics(&c)
                              : INSET_NO_MEMORY;
    for (c.pair = saved->first; c.pair < saved->first + saved->count && !status; c.pair++)
        status = score_pair(&c);
    memory_free(context, c.deltas);
    memory_free(context, c.readers);
    memory_free(context, c.part);
    memory_free(context, c.scores);
    memory_free(context, c.products);
    memory_free(context, c.hats);
    return status;
}
