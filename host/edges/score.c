/* score.c: scores of edges from what a run saved, on the device, where it lies. Some rows of one
 * pair at a time: the differences of all writers, then a layer's readers, whose gradients are made,
 * multiplied with the differences of all writers before them, and forgotten. A layer's scores come
 * to the host and are added up there, in double, in the order of pairs and rows: a chunk's sums.
 *
 * A head's difference is its z's through its rows of the output projection. What comes back to a
 * head's q is taken through that head's columns of the product and back through the norm before it,
 * for this head alone (formulas: kernels/edges.cu). Rows before the first token that differs have
 * no difference and are left out. */
#include <string.h>

#include "edges/edges.h"
#include "run/run.h"

enum {
    MOST_ROOM = 1 << 30, /* bytes of differences and gradients that are there at once */
    HEADS_A_BLOCK = 4    /* of KERNEL_THROUGH_NORM on a GPU */
};

/* What is made of some rows, on the device. */
typedef struct edge_room {
    float *deltas;         /* [n_writers, rows, width] */
    float *readers, *part; /* [readers of a layer, rows, width]; of one run */
    float *scores;         /* [parts, n_writers, heads of a layer], then its MLP's [.., 1] */
    float *weight;         /* a matrix as fp32, where the device has it in 16 bits */
    void *all;
    size_t bytes;
} edge_room;

typedef struct scorer {
    edges *e;
    run *r;
    device *d;
    const edge_saved *saved;
    int64_t pair, first, rows; /* positions first .. first + rows */
    int32_t widened;           /* the weight in room.weight, or -1 */
    edge_room room;
    float *scores;           /* room.scores, on the host */
    float_product *products; /* [n_heads] */
} scorer;

/* ---- room --------------------------------------------------------------- */

static int64_t layer_readers(const edges *e) { return e->n_heads + 2 * e->n_kv_heads + 1; }

/* Scores are made of all rows together, or of each alone. */
static int64_t parts_of(const edges *e, int64_t rows) { return e->n_positions > 1 ? rows : 1; }

static int64_t row_bytes(const edges *e)
{
    return 4 * e->width * (e->n_writers + 2 * layer_readers(e));
}

/* Rows that go through together: as many as there is room for. */
int64_t edges_rows_at_once(const edges *e)
{
    const size_t limit = e->s->memory_limit; /* 0: none is known */
    const int64_t eighth = limit ? (int64_t)(limit / 8) : MOST_ROOM,
                  room = eighth < MOST_ROOM ? eighth : MOST_ROOM, fit = room / row_bytes(e);
    return fit < 1 ? 1 : fit < e->s->clean.longest ? fit : e->s->clean.longest;
}

/* Numbers of the largest matrix that is widened; 0 where products read weights as they are. */
static int64_t widest_weight(const edges *e)
{
    const struct inset_model *m = e->s->model;
    const program *p = e->s->program;
    int64_t most = 0;
    if ((m->type == INSET_F32 && !m->stream) || (m->device && m->device->shares_host_memory))
        return 0;
    for (int32_t l = 0; l < e->s->n_layers; l++)
        for (int k = 0; k < 4; k++) {
            const int32_t step = k < 3 ? e->layers[l].linear[k] : e->layers[l].out;
            const weight *w = &p->weights[p->steps[step].weight];
            if ((int64_t)w->rows * w->columns > most) most = (int64_t)w->rows * w->columns;
        }
    return most;
}

static int64_t score_numbers(const edges *e, int64_t rows)
{
    return parts_of(e, rows) * e->n_writers * layer_readers(e);
}

int64_t edges_room_bytes(const edges *e)
{
    const int64_t rows = edges_rows_at_once(e);
    return rows * row_bytes(e) + 4 * (score_numbers(e, rows) + widest_weight(e));
}

static inset_status room_open(scorer *c)
{
    const edges *e = c->e;
    const int64_t rows = edges_rows_at_once(e), one = rows * e->width;
    edge_room *room = &c->room;
    room->bytes = (size_t)edges_room_bytes(e);
    inset_status status = device_allocate(c->d, room->bytes, &room->all);
    if (status) return status;
    room->deltas = room->all;
    room->readers = room->deltas + e->n_writers * one;
    room->part = room->readers + layer_readers(e) * one;
    room->scores = room->part + layer_readers(e) * one;
    room->weight = room->scores + score_numbers(e, rows);
    c->scores = memory_new(e->s->context, (size_t)score_numbers(e, rows) * sizeof *c->scores);
    c->products = memory_new(
        e->s->context, (size_t)(e->n_heads > parts_of(e, rows) ? e->n_heads : parts_of(e, rows))
                           * sizeof *c->products);
    return c->scores && c->products ? INSET_OK : INSET_NO_MEMORY;
}

static void room_close(scorer *c)
{
    device_release(c->d, c->room.all, c->room.bytes);
    memory_free(c->e->s->context, c->scores);
    memory_free(c->e->s->context, c->products);
}

/* ---- what was saved ----------------------------------------------------- */

/* Rows of a saved value from the first that counts on, `width` numbers each. */
static const float *rows_of(const scorer *c, int32_t index, int64_t width)
{
    inset_tensor x;
    run_saved_there(c->r, (size_t)index, &x);
    return (const float *)x.data + c->first * width;
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

/* ---- weights and norms -------------------------------------------------- */

/* One that does not stay on the device, rounded as its products have it. */
static inset_status bring(scorer *c, int32_t weight_index, int place)
{
    const struct inset_model *m = c->e->s->model;
    const weight *w = &m->program->weights[weight_index];
    const int64_t count = (int64_t)w->rows * w->columns;
    const float *numbers;
    inset_status status = model_weights_get(c->e->weights, weight_index, place, &numbers);
    if (status) return status;
    char *rounded = memory_new(m->context, (size_t)count * type_size(m->type));
    float *wide = memory_new(m->context, (size_t)count * sizeof *wide);
    if (rounded && wide) {
        elements_convert(m->type, rounded, INSET_F32, numbers, count);
        elements_convert(INSET_F32, wide, m->type, rounded, count);
        status = device_upload(c->d, c->room.weight, wide, (size_t)count * sizeof *wide);
    } else status = INSET_NO_MEMORY;
    memory_free(m->context, rounded);
    memory_free(m->context, wide);
    return status;
}

/* A weight matrix as fp32, where products read it; until the next call with the same place. */
static inset_status matrix_of(scorer *c, int32_t step, int place, const float **out)
{
    const struct inset_model *m = c->e->s->model;
    const int32_t weight_index = m->program->steps[step].weight;
    if (c->d->shares_host_memory) return model_weights_get(c->e->weights, weight_index, place, out);
    const void *numbers = device_matrix_numbers(c->d, m->weights[weight_index].matrix);
    if (!numbers) {
        *out = c->room.weight;
        inset_status status = c->widened == weight_index ? INSET_OK : bring(c, weight_index, place);
        c->widened = weight_index;
        return status;
    }
    *out = m->type == INSET_F32 ? numbers : c->room.weight;
    if (m->type == INSET_F32 || c->widened == weight_index) return INSET_OK;
    const weight *w = &m->program->weights[weight_index];
    const widen_args args = {c->room.weight, numbers, (int64_t)w->rows * w->columns};
    c->widened = weight_index;
    return device_launch(c->d, KERNEL_WIDEN, m->type, &args, sizeof args,
        (args.count + WIDEN_A_BLOCK - 1) / WIDEN_A_BLOCK, args.count);
}

/* Heads' rows v [heads, rows, width] through a norm (`norm` a step; -1: none) at its input x, or
 * back through it, into `out` or (add) on top of what is there. */
static inset_status through_norm(scorer *c, int32_t norm, const float *x, const float *v,
    int64_t heads, float share, bool forward, bool add, float *out)
{
    const edges *e = c->e;
    const struct inset_model *m = e->s->model;
    const step *is = norm < 0 ? NULL : &e->s->program->steps[norm];
    const int32_t most = c->d->shares_host_memory ? (int32_t)heads : HEADS_A_BLOCK;
    through_norm_args args = {.out = out,
        .v = v,
        .n_rows = c->rows,
        .width = e->width,
        .n_heads = (int32_t)heads,
        .heads_a_block = most < heads ? most : (int32_t)heads,
        .share = share,
        .add = add};
    if (is) {
        args.x = x;
        args.weight = is->weight < 0 ? NULL : m->weights[is->weight].data;
        args.eps = is->eps;
        args.centred = is->kind == STEP_LAYERNORM;
        args.plus_one = is->rms_weight == RMS_WEIGHT_PLUS_ONE;
        args.constant_scale = (e->s->method.rules & RULE_LN) && !forward;
        args.forward = forward;
    }
    const int64_t groups = (heads + args.heads_a_block - 1) / args.heads_a_block;
    return device_launch(c->d, KERNEL_THROUGH_NORM, m->type, &args, sizeof args, c->rows * groups,
        c->rows * heads * e->width);
}

static inset_status copy_rows(scorer *c, int32_t index, float share, bool add, float *to)
{
    const float *from = rows_of(c, index, c->e->width);
    return through_norm(c, -1, NULL, from, 1, share, false, add, to);
}

/* ---- differences -------------------------------------------------------- */

static inset_status head_deltas(scorer *c, int32_t layer, float *to)
{
    const edges *e = c->e;
    const edge_layer *at = &e->layers[layer];
    const weight *w = &e->s->program->weights[e->s->program->steps[at->out].weight];
    const int64_t wide = (int64_t)e->n_heads * e->head_dim, d = e->width;
    const int32_t *saved = deltas_at(c) + layer * PLACE_COUNT;
    const float *z = rows_of(c, saved[PLACE_Z], wide), *matrix;
    inset_status status = matrix_of(c, at->out, 0, &matrix);
    if (status) return status;
    for (int32_t h = 0; h < e->n_heads; h++)
        c->products[h] = (float_product){.out = to + h * c->rows * d,
            .a = z + (int64_t)h * e->head_dim,
            .b = matrix + (int64_t)h * e->head_dim * (w->in_out ? d : 1),
            .rows = c->rows,
            .columns = d,
            .inner = e->head_dim,
            .out_stride = d,
            .a_stride = wide,
            .b_stride = w->in_out ? d : wide,
            .b_across = !w->in_out};
    status = device_float_products(c->d, c->products, e->n_heads);
    if (status || (at->out_norm < 0 && at->out_scale == 1)) return status;
    if (at->out_norm < 0)
        return through_norm(c, -1, NULL, to, e->n_heads, at->out_scale, false, false, to);
    const float *x = rows_of(c, saved[PLACE_OUT], d);
    return through_norm(c, at->out_norm, x, to, e->n_heads, 1, true, false, to);
}

static inset_status all_deltas(scorer *c)
{
    const edges *e = c->e;
    const int64_t one = c->rows * e->width;
    const int32_t *saved = deltas_at(c);
    inset_status status = copy_rows(c, saved[PLACE_STREAM], 1, false, c->room.deltas);
    for (int32_t l = 0; l < e->s->n_layers && !status; l++) {
        float *at = c->room.deltas + (1 + (int64_t)l * (e->n_heads + 1)) * one;
        status = head_deltas(c, l, at);
        if (!status)
            status = copy_rows(
                c, saved[l * PLACE_COUNT + PLACE_MLP_OUT], 1, false, at + e->n_heads * one);
    }
    return status;
}

/* ---- gradients of readers ----------------------------------------------- */

static int32_t heads_of(const edges *e, int k) { return k ? e->n_kv_heads : e->n_heads; }

/* Adds to `to` [heads, rows, width], or begins it with, a share of what comes back to each head's q
 * (k = 0), k or v in one run. */
static inset_status head_gradients(
    scorer *c, int32_t layer, int k, const int32_t *saved, float share, bool add, float *to)
{
    const edges *e = c->e;
    const program *p = e->s->program;
    const edge_layer *at = &e->layers[layer];
    const weight *w = &p->weights[p->steps[at->linear[k]].weight];
    const int64_t d = e->width, wide = (int64_t)heads_of(e, k) * e->head_dim;
    const float *back = rows_of(c, saved[PLACE_Q + k], wide), *matrix;
    inset_status status = matrix_of(c, at->linear[k], k, &matrix);
    if (status) return status;
    for (int32_t h = 0; h < heads_of(e, k); h++) {
        const int64_t column = program_head_part(p, &p->steps[at->heads[k]], h).out;
        c->products[h] = (float_product){.out = c->room.part + h * c->rows * d,
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
    if ((status = device_float_products(c->d, c->products, heads_of(e, k)))) return status;
    const float *x = at->norm < 0 ? NULL : rows_of(c, saved[PLACE_NORM_INPUT], d);
    return through_norm(c, at->norm, x, c->room.part, heads_of(e, k), share, false, add, to);
}

/* The same of what comes back to its MLP: to the stream, through a norm that attention shares. */
static inset_status mlp_gradient(
    scorer *c, int32_t layer, const int32_t *saved, float share, bool add, float *to)
{
    const edge_layer *at = &c->e->layers[layer];
    const edge_place read = edges_mlp_reads(at);
    if (read == PLACE_MLP_INPUT) return copy_rows(c, saved[read], share, add, to);
    const int64_t d = c->e->width;
    return through_norm(c, at->norm, rows_of(c, saved[PLACE_NORM_INPUT], d),
        rows_of(c, saved[read], d), 1, share, false, add, to);
}

/* The mean over the runs of what comes back to a layer's readers; `layer` of the number of layers:
 * to the logits alone. Run by run for each matrix, which may have to be widened. */
static inset_status readers_of(scorer *c, size_t metric, int32_t layer)
{
    const edges *e = c->e;
    const int64_t one = c->rows * e->width;
    const bool last = layer == e->s->n_layers;
    const int32_t offset = last ? 0 : layer * PLACE_COUNT, runs = c->saved->runs;
    const float share = 1.0f / (float)runs;
    float *to = c->room.readers;
    inset_status status = INSET_OK;
    for (int k = 0; k < 3 && !last; to += heads_of(e, k++) * one)
        for (int32_t r = 0; r < runs && !status; r++)
            status = head_gradients(
                c, layer, k, gradients_at(c, metric, r) + offset, share, r > 0, to);
    for (int32_t r = 0; r < runs && !status; r++) {
        const int32_t *saved = gradients_at(c, metric, r) + offset;
        status = last ? copy_rows(c, saved[PLACE_LAST], share, r > 0, to)
                      : mlp_gradient(c, layer, saved, share, r > 0, to);
    }
    return status;
}

/* ---- products ----------------------------------------------------------- */

/* `readers` of those made, from `of` on, times the first writers: to [parts, writers, readers]. */
static inset_status multiply(scorer *c, int64_t writers, int64_t of, int64_t readers, float *to)
{
    const int64_t n = c->rows * c->e->width, parts = parts_of(c->e, c->rows), inner = n / parts;
    for (int64_t i = 0; i < parts; i++)
        c->products[i] = (float_product){.out = to + i * writers * readers,
            .a = c->room.deltas + i * inner,
            .b = c->room.readers + of * n + i * inner,
            .rows = writers,
            .columns = readers,
            .inner = inner,
            .out_stride = readers,
            .a_stride = n,
            .b_stride = n,
            .b_across = true};
    return device_float_products(c->d, c->products, parts);
}

/* Adds scores [parts, writers, readers] to the chunk's sums, at `column` of all readers. */
static void add_up(
    scorer *c, size_t metric, const float *scores, int64_t writers, int64_t readers, int64_t column)
{
    const edges *e = c->e;
    const int64_t one = e->n_writers * e->n_readers, all = e->n_positions * one;
    for (int64_t part = 0; part < parts_of(e, c->rows); part++) {
        const int64_t matrix = e->n_positions > 1 ? (c->first + part) * one : 0;
        double *sums = e->chunk_sums + (int64_t)metric * all + matrix;
        float *own = e->per_pair;
        if (own) own += ((int64_t)metric * e->s->pairs + c->pair) * all + matrix;
        for (int64_t u = 0; u < writers; u++)
            for (int64_t v = 0; v < readers; v++) {
                const float score = *scores++;
                sums[u * e->n_readers + column + v] += score;
                if (own) own[u * e->n_readers + column + v] += score;
            }
    }
}

/* A layer's heads with the writers before them, and its MLP with those before it; of the number of
 * layers: the logits. */
static inset_status score_layer(scorer *c, size_t metric, int32_t layer)
{
    const edges *e = c->e;
    const bool last = layer == e->s->n_layers;
    const int64_t heads = last ? 0 : layer_readers(e) - 1, column = layer * layer_readers(e),
                  before = 1 + (int64_t)layer * (e->n_heads + 1),
                  own = last || e->layers[layer].parallel ? 0 : e->n_heads,
                  parts = parts_of(e, c->rows), of_heads = parts * before * heads,
                  of_mlp = parts * (before + own);
    inset_status status = readers_of(c, metric, layer);
    if (!status && heads) status = multiply(c, before, 0, heads, c->room.scores);
    if (!status) status = multiply(c, before + own, heads, 1, c->room.scores + of_heads);
    if (!status)
        status = device_download(
            c->d, c->scores, c->room.scores, (size_t)(of_heads + of_mlp) * sizeof *c->scores);
    if (status) return status;
    if (heads) add_up(c, metric, c->scores, before, heads, column);
    add_up(c, metric, c->scores + of_heads, before + own, 1, column + heads);
    return INSET_OK;
}

static inset_status score_pair(scorer *c)
{
    const edges *e = c->e;
    const int64_t end = e->s->clean.lengths[c->pair], most = edges_rows_at_once(e);
    inset_status status = INSET_OK;
    c->first = attribute_first_difference(e->s, c->pair);
    for (; c->first < end && !status; c->first += c->rows) {
        c->rows = end - c->first < most ? end - c->first : most;
        status = all_deltas(c);
        for (size_t m = 0; m < e->s->n_metrics; m++)
            for (int32_t l = 0; l <= e->s->n_layers && !status; l++) status = score_layer(c, m, l);
    }
    return status;
}

static inset_status keep_metrics(const scorer *c)
{
    sweep *s = c->e->s;
    const size_t n = 2 * (size_t)c->saved->count;
    inset_status status = INSET_OK;
    float *values = memory_new(s->context, n * sizeof *values);
    if (!values) return INSET_NO_MEMORY;
    for (size_t m = 0; m < s->n_metrics && !status; m++) {
        inset_tensor x;
        run_saved_there(c->r, (size_t)c->saved->metrics + m, &x);
        if ((status = device_download(c->d, values, x.data, n * sizeof *values))) break;
        for (int64_t k = 0; k < c->saved->count; k++) {
            const int64_t at = (int64_t)m * s->pairs + c->saved->first + k;
            s->clean_values[at] = values[2 * k];
            s->corrupt_values[at] = values[2 * k + 1];
        }
    }
    memory_free(s->context, values);
    return status;
}

inset_status edges_add_scores(edges *e, run *r, const edge_saved *saved)
{
    scorer c = {.e = e, .r = r, .d = e->s->model->device, .saved = saved, .widened = -1};
    inset_status status = room_open(&c);
    if (!status) status = keep_metrics(&c);
    for (c.pair = saved->first; c.pair < saved->first + saved->count && !status; c.pair++)
        status = score_pair(&c);
    room_close(&c);
    return status;
}
