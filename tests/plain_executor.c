/* plain_executor.c: see plain_executor.h. Loops here are meant to be read, not to be fast. */
#include "plain_executor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of sequences one after the other. */
typedef struct tensor {
    int32_t n_sequences;
    int32_t *lengths;
    int64_t *first; /* first row of each sequence */
    int64_t width, rows;
    plain_cell *at;
} tensor;

/* What an identity stands for. An element's identity is node << COLUMN_BITS | column. The key is
 * KEY_HEAD numbers, then runs (first identity, count) of the elements it was made from. */
typedef struct node {
    int64_t *key;
    int32_t n_key;
    bool live;
} node;

enum { COLUMN_BITS = 20, KEY_HEAD = 4 };
enum tag {
    TAG_STEP,
    TAG_CONTEXT,
    TAG_UNIT,
    TAG_MIX,
    TAG_OPERATION,
    TAG_CONVERT,
    TAG_CONSTANT,
    TAG_EXTERNAL,
    TAG_METRIC,
    TAG_ROWS,
    TAG_PRODUCT
};

struct plain {
    trace *t;
    const program *g;
    bool identities;
    tensor **storages; /* of the trace; NULL until made */
    tensor **values;   /* of the invoke being run */
    tensor **all;
    size_t n_all, all_capacity; /* for freeing */
    /* per value, scores and pattern: their elements before records touched them */
    plain_cell **natural;
    node *nodes;
    int64_t n_nodes, nodes_capacity;
    int64_t *buckets;
    int64_t n_buckets;
    int64_t *key;
    int64_t n_key, key_capacity; /* being built */
};

static void *need(void *block)
{
    if (block) return block;
    fprintf(stderr, "plain_executor: out of memory\n");
    abort();
}

/* ---- tensors ------------------------------------------------------------ */

static tensor *new_tensor(plain *p, int32_t n_sequences, const int32_t *lengths, int64_t width)
{
    tensor *t = need(calloc(1, sizeof *t));
    t->n_sequences = n_sequences;
    t->width = width;
    t->lengths = need(malloc((size_t)n_sequences * sizeof *t->lengths + 1));
    t->first = need(malloc((size_t)n_sequences * sizeof *t->first + 1));
    for (int32_t i = 0; i < n_sequences; i++) {
        t->lengths[i] = lengths[i];
        t->first[i] = t->rows;
        t->rows += lengths[i];
    }
    t->at = need(calloc((size_t)(t->rows * width) + 1, sizeof *t->at));
    if (p->n_all == p->all_capacity) {
        p->all_capacity = p->all_capacity ? 2 * p->all_capacity : 64;
        p->all = need(realloc(p->all, p->all_capacity * sizeof *p->all));
    }
    return p->all[p->n_all++] = t;
}

static plain_cell *row_of(const tensor *t, int32_t sequence, int64_t row)
{
    return t->at + (t->first[sequence] + row) * t->width;
}

/* ---- identities --------------------------------------------------------- */

static void key_push(plain *p, int64_t x)
{
    if (p->n_key == p->key_capacity) {
        p->key_capacity = p->key_capacity ? 2 * p->key_capacity : 256;
        p->key = need(realloc(p->key, (size_t)p->key_capacity * sizeof *p->key));
    }
    p->key[p->n_key++] = x;
}

static void key_start(plain *p, enum tag tag, int64_t a, int64_t b, int64_t c)
{
    p->n_key = 0;
    key_push(p, tag);
    key_push(p, a);
    key_push(p, b);
    key_push(p, c);
}

static void key_identity(plain *p, int64_t identity)
{
    if (p->n_key > KEY_HEAD && p->key[p->n_key - 2] + p->key[p->n_key - 1] == identity
        && (p->key[p->n_key - 2] >> COLUMN_BITS) == (identity >> COLUMN_BITS)) {
        p->key[p->n_key - 1]++;
        return;
    }
    key_push(p, identity);
    key_push(p, 1);
}

static void key_cells(plain *p, const plain_cell *cells, int64_t n)
{
    for (int64_t i = 0; i < n; i++) key_identity(p, cells[i].identity);
}

static void grow_buckets(plain *p)
{
    p->n_buckets = p->n_buckets ? 2 * p->n_buckets : 1024;
    p->buckets = need(realloc(p->buckets, (size_t)p->n_buckets * sizeof *p->buckets));
    for (int64_t i = 0; i < p->n_buckets; i++) p->buckets[i] = -1;
    for (int64_t n = 0; n < p->n_nodes; n++) {
        uint64_t h = hash_bytes(1, p->nodes[n].key, (size_t)p->nodes[n].n_key * sizeof *p->key);
        while (p->buckets[h & (uint64_t)(p->n_buckets - 1)] >= 0) h++;
        p->buckets[h & (uint64_t)(p->n_buckets - 1)] = n;
    }
}

/* The node of the key just built. */
static int64_t key_node(plain *p)
{
    if (2 * p->n_nodes >= p->n_buckets) grow_buckets(p);
    size_t bytes = (size_t)p->n_key * sizeof *p->key;
    uint64_t h = hash_bytes(1, p->key, bytes);
    for (;; h++) {
        int64_t n = p->buckets[h & (uint64_t)(p->n_buckets - 1)];
        if (n < 0) break;
        if (p->nodes[n].n_key == p->n_key && !memcmp(p->nodes[n].key, p->key, bytes)) return n;
    }
    if (p->n_nodes == p->nodes_capacity) {
        p->nodes_capacity = p->nodes_capacity ? 2 * p->nodes_capacity : 1024;
        p->nodes = need(realloc(p->nodes, (size_t)p->nodes_capacity * sizeof *p->nodes));
    }
    int64_t made = p->n_nodes++;
    p->nodes[made] = (node){need(malloc(bytes)), (int32_t)p->n_key, false};
    memcpy(p->nodes[made].key, p->key, bytes);
    p->buckets[h & (uint64_t)(p->n_buckets - 1)] = made;
    return made;
}

static int64_t key_finish(plain *p) { return key_node(p) << COLUMN_BITS; }

static void fill_row(plain *p, plain_cell *out, int64_t width)
{
    int64_t first = key_finish(p);
    for (int64_t c = 0; c < width; c++) out[c].identity = first + c;
}

static double rounded(inset_type type, double x)
{
    unsigned char bytes[8];
    element_put(type, bytes, x);
    return element_get(type, bytes);
}

static plain_cell constant(plain *p, double x)
{
    plain_cell c = {.number = x};
    if (!p->identities) return c;
    int64_t bits = c.identity;
    key_start(p, TAG_CONSTANT, bits, 0, 0);
    c.identity = key_finish(p);
    return c;
}

/* An element in another type. */
static plain_cell converted(plain *p, plain_cell x, inset_type from, inset_type to)
{
    if (!p->identities) return (plain_cell){.number = rounded(to, x.number)};
    if (from == to) return x;
    const node *n = &p->nodes[x.identity >> COLUMN_BITS];
    if (n->key[0] == TAG_CONSTANT) {
        plain_cell number = {.identity = n->key[1]};
        return constant(p, rounded(to, number.number));
    }
    key_start(p, TAG_CONVERT, to, 0, 0);
    key_identity(p, x.identity);
    return (plain_cell){.identity = key_finish(p)};
}

/* ---- views -------------------------------------------------------------- */

static double weight_number(const plain *p, const storage *s, int64_t i)
{
    const weight *w = &p->g->weights[s->weight - 1];
    return rounded(s->type,
        element_get(w->data_type, (const char *)w->data + (size_t)i * type_size(w->data_type)));
}

static tensor *storage_of(plain *p, int32_t index)
{
    if (p->storages[index]) return p->storages[index];
    const storage *s = &p->t->storages[index];
    tensor *t = p->storages[index] = new_tensor(p, s->n_sequences, s->lengths, s->width);
    for (int64_t i = 0; i < t->rows * t->width; i++) {
        if (s->kind != STORAGE_EXTERNAL) t->at[i] = constant(p, 0);
        else if (!p->identities && s->weight) t->at[i].number = weight_number(p, s, i);
        else if (!p->identities)
            t->at[i].number = element_get(
                s->type, (const char *)s->data + (size_t)i * type_size(s->type));
        else {
            int32_t first = 0; /* literals of the same numbers are one */
            while (!storages_equal(p->t, first, index)) first++;
            key_start(p, TAG_EXTERNAL, first, i / s->width, 0);
            t->at[i].identity = key_finish(p) + i % s->width;
        }
    }
    return t;
}

/* The element of a view at a coordinate of something it broadcasts to, whose dimensions begin
 * `shift` before the view's. */
static plain_cell *element(plain *p, const view *v, const int64_t *at, int shift)
{
    tensor *t = storage_of(p, v->storage);
    int64_t span = 0, row = 0, column = v->column;
    for (int d = 0; d < v->n_dimensions; d++) {
        const dimension *dim = &v->dimensions[d];
        int64_t i = d + shift < 0 || (dim->extent == 1 && !dim->ragged) ? 0 : at[d + shift];
        if (dim->kind == DIMENSION_SEQUENCE) span = i;
        else if (dim->kind == DIMENSION_ROW) row += i * dim->stride;
        else column += i * dim->stride;
    }
    const struct span *s = &v->spans[span];
    row += s->start;
    if (s->sequence < 0 || s->sequence >= t->n_sequences || row < 0
        || row >= t->lengths[s->sequence] || column < 0 || column >= t->width) {
        fprintf(stderr,
            "plain_executor: sequence %d, row %lld, column %lld lie outside a storage\n",
            s->sequence, (long long)row, (long long)column);
        abort();
    }
    return row_of(t, s->sequence, row) + column;
}

/* Is the coordinate inside a ragged view? */
static bool is_there(const view *v, const int64_t *at)
{
    int d = v->position_dimension, s = view_sequence_dimension(v);
    if (d < 0 || !v->dimensions[d].ragged) return true;
    return at[d] < v->spans[s < 0 ? 0 : at[s]].count;
}

/* The next coordinate; false behind the last. */
static bool next(const view *v, int64_t *at)
{
    for (int d = v->n_dimensions - 1; d >= 0; d--) {
        if (++at[d] < v->dimensions[d].extent) return true;
        at[d] = 0;
    }
    return false;
}

/* ---- records ------------------------------------------------------------ */

static double calculate(trace_op op, double a, double b)
{
    switch (op) {
    case TRACE_ADD: return a + b;
    case TRACE_SUBTRACT: return a - b;
    case TRACE_MULTIPLY: return a * b;
    case TRACE_DIVIDE: return a / b;
    case TRACE_NEGATE: return -a;
    case TRACE_EXP: return exp(a);
    case TRACE_LOG: return log(a);
    case TRACE_SQRT: return sqrt(a);
    case TRACE_ABS: return fabs(a);
    case TRACE_RELU: return a < 0 ? 0 : a;
    case TRACE_SIGMOID: return 1 / (1 + exp(-a));
    case TRACE_TANH: return tanh(a);
    case TRACE_GELU: return 0.5 * a * (1 + erf(a / sqrt(2)));
    case TRACE_GELU_TANH:
        return 0.5 * a * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (a + 0.044715 * a * a * a)));
    case TRACE_SILU: return a / (1 + exp(-a));
    case TRACE_AT_LEAST: return a < b ? b : a;
    case TRACE_AT_MOST: return a > b ? b : a;
    case TRACE_EQUAL: return a == b;
    case TRACE_UNEQUAL: return a != b;
    case TRACE_LESS: return a < b;
    case TRACE_LESS_EQUAL: return a <= b;
    case TRACE_GREATER: return a > b;
    case TRACE_GREATER_EQUAL: return a >= b;
    default: return a;
    }
}

static plain_cell source_cell(
    plain *p, const source *s, const view *target, const int64_t *at, inset_type type)
{
    if (!s->view) return constant(p, rounded(type, s->number));
    plain_cell x = *element(p, s->view, at, target->n_dimensions - s->view->n_dimensions);
    return converted(p, x, p->t->storages[s->view->storage].type, type);
}

/* ---- metrics ------------------------------------------------------------ */

static double log_sum(const plain_cell *x, int64_t n)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, x[i].number);
    if (most == -INFINITY) return most;
    for (int64_t i = 0; i < n; i++) sum += exp(x[i].number - most);
    return most + log(sum);
}

static double mean_of(const plain_cell *x, const int32_t *tokens, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += x[tokens[i]].number;
    return sum / n;
}

static double metric_number(
    const trace_metric_call *c, const int32_t *tokens, const plain_cell *x, const plain_cell *y)
{
    double sum = 0, best = -INFINITY;
    switch (c->kind) {
    case INSET_LOGIT_DIFF: return mean_of(x, tokens, c->n_a) - mean_of(x, tokens + c->n_a, c->n_b);
    case INSET_LOGIT: return mean_of(x, tokens, c->n_a);
    case INSET_RANK:
        for (int32_t i = 0; i < c->n_a; i++) best = fmax(best, x[tokens[i]].number);
        for (int32_t i = 0; i < c->width; i++) sum += x[i].number > best;
        return sum;
    case INSET_KL:
        for (int32_t i = 0; i < c->width; i++) {
            double log_p = y[i].number - log_sum(y, c->width),
                   log_q = x[i].number - log_sum(x, c->width);
            if (exp(log_p) != 0) sum += exp(log_p) * (log_p - log_q);
        }
        return sum;
    default: break;
    }
    plain_cell *some = need(calloc((size_t)c->n_a, sizeof *some));
    for (int32_t i = 0; i < c->n_a; i++) some[i] = x[tokens[i]];
    double log_p = log_sum(some, c->n_a) - log_sum(x, c->width);
    free(some);
    return c->kind == INSET_LOG_PROBABILITY ? log_p : exp(log_p);
}

/* The last product of the model, and a cap on it, computed whole for these elements; then a few of
 * its columns need only what it multiplies. */
static const node *product_of(const plain *p, const plain_cell *x, int64_t n)
{
    const node *row = &p->nodes[x->identity >> COLUMN_BITS];
    for (int64_t i = 0; i < n; i++)
        if (x[i].identity != x->identity + i) return NULL;
    int64_t column = x->identity & ((1 << COLUMN_BITS) - 1);
    if (row->key[0] != TAG_STEP || column || n != p->g->values[row->key[1]].width) return NULL;
    const step *s = &p->g->steps[p->g->values[row->key[1]].step];
    if (s->kind == STEP_SOFTCAP) {
        /* of a row that was patched together */
        if (row->n_key != KEY_HEAD + 2 || row->key[KEY_HEAD + 1] != n) return NULL;
        row = &p->nodes[row->key[KEY_HEAD] >> COLUMN_BITS];
        if (row->key[0] != TAG_STEP) return NULL;
        s = &p->g->steps[p->g->values[row->key[1]].step];
    }
    for (const step *later = s + 1; later < p->g->steps + p->g->n_steps; later++)
        if (later->kind == STEP_LINEAR) return NULL;
    return s->kind == STEP_LINEAR && !p->g->weights[s->weight].in_out ? row : NULL;
}

static int64_t metric_identity(plain *p, const trace_metric_call *c, const int32_t *tokens,
    const plain_cell *x, const plain_cell *y)
{
    bool few = c->kind == INSET_LOGIT || c->kind == INSET_LOGIT_DIFF;
    const node *product = few ? product_of(p, x, c->width) : NULL;
    key_start(p, TAG_METRIC, c->kind,
        (int64_t)hash_bytes(5, tokens, (size_t)(c->n_a + c->n_b) * sizeof *tokens),
        product ? product->key[1] : -1);
    for (int32_t k = KEY_HEAD; product && k < product->n_key; k++) key_push(p, product->key[k]);
    if (!product) key_cells(p, x, c->width);
    if (c->kind == INSET_KL) key_cells(p, y, c->width);
    return key_finish(p);
}

static void read_row(plain *p, const view *v, int64_t *at, int last, int32_t width, plain_cell *out)
{
    for (at[last] = 0; at[last] < width; at[last]++)
        out[at[last]] = *element(p, v, at, last + 1 - v->n_dimensions);
}

static void apply_metric(plain *p, const trace_record *r)
{
    const trace_metric_call *c = &p->t->metrics[r->metric];
    const int32_t *tokens = p->t->answers + c->first_answer;
    int64_t at[INSET_MAX_DIMENSIONS] = {0};
    plain_cell *x = need(calloc((size_t)c->width * 2, sizeof *x)), *y = x + c->width;
    if (view_elements(r->target)) do {
            if (!is_there(r->target, at)) continue;
            read_row(p, r->a.view, at, r->target->n_dimensions, c->width, x);
            if (c->kind == INSET_KL)
                read_row(p, r->b.view, at, r->target->n_dimensions, c->width, y);
            plain_cell *out = element(p, r->target, at, 0);
            if (p->identities) out->identity = metric_identity(p, c, tokens, x, y);
            else out->number = rounded(INSET_F32, metric_number(c, tokens, x, y));
        } while (next(r->target, at));
    free(x);
}

static void apply_call(plain *p, const trace_record *r);

/* ---- functions of whole rows, products ---------------------------------- */

static bool keeps_last(trace_row_op f) { return f >= TRACE_ROW_SOFTMAX && f != TRACE_ROW_WHERE; }

/* The elements that one number, or one row of numbers, is made of: of the coordinate `at` of the
 * target, whose last dimension does not count where the function keeps it. */
static plain_cell *group_cells(plain *p, const trace_record *r, const int64_t *at, int64_t *n)
{
    const row_operation *o = r->rows;
    const int kept = r->target->n_dimensions - keeps_last(o->function);
    int64_t room = 0;
    for (int32_t k = 0; k < o->n; k++) room += o->inner > o->k ? o->inner : o->k;
    plain_cell *cells = need(calloc((size_t)room + 1, sizeof *cells));
    *n = 0;
    for (int32_t k = 0; k < o->n; k++) {
        const view *v = o->operands[k], *shape = o->shape ? o->shape : r->target;
        if (o->function == TRACE_ROW_TOPK_BACK && k) shape = o->second;
        int64_t place[INSET_MAX_DIMENSIONS] = {0};
        for (int d = 0; d < kept; d++) place[d] = at[d];
        for (bool more = true; more;) {
            cells[(*n)++] = *element(p, v, place, shape->n_dimensions - v->n_dimensions);
            more = false;
            for (int d = shape->n_dimensions - 1; d >= kept && !more; d--) {
                if (++place[d] < shape->dimensions[d].extent) more = true;
                else place[d] = 0;
            }
        }
    }
    return cells;
}

/* The place of the k-th largest, equal ones in order. */
static int64_t largest_place(const plain_cell *x, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t before = 0;
        for (int64_t j = 0; j < n; j++)
            before += x[j].number > x[i].number || (x[j].number == x[i].number && j < i);
        if (before == k) return i;
    }
    return 0;
}

static double row_number(const row_operation *o, const plain_cell *x, int64_t n, int64_t at)
{
    double sum = 0, most = -INFINITY, least = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const double v = x[i].number;
        if (o->function == TRACE_ROW_DOT) sum += i / o->inner % 2 ? 0 : v * x[i + o->inner].number;
        else sum += o->function == TRACE_ROW_NORM ? v * v : v;
        if (v > most || isnan(v)) most = v; /* and then stays one */
        if (v < least || isnan(v)) least = v;
    }
    switch (o->function) {
    case TRACE_ROW_MEAN: return sum / (double)n;
    case TRACE_ROW_AMAX: return most;
    case TRACE_ROW_AMIN: return least;
    case TRACE_ROW_NORM: return sqrt(sum);
    case TRACE_ROW_ARGMAX: return (double)largest_place(x, n, 0);
    case TRACE_ROW_TOPK: return x[largest_place(x, n, at)].number;
    case TRACE_ROW_TOPK_AT: return (double)largest_place(x, n, at);
    case TRACE_ROW_WHERE: return x[0].number != 0 ? x[1].number : x[2].number;
    case TRACE_ROW_TOPK_BACK:
        for (int32_t k = 0; k < o->k; k++)
            if (largest_place(x, o->inner, k) == at) return x[o->inner + k].number;
        return 0;
    case TRACE_ROW_SOFTMAX:
    case TRACE_ROW_LOG_SOFTMAX: {
        double all = 0;
        for (int64_t i = 0; i < n; i++) all += exp(x[i].number - most);
        return o->function == TRACE_ROW_SOFTMAX ? exp(x[at].number - most) / all
                                                : x[at].number - most - log(all);
    }
    default: return sum; /* SUM, DOT */
    }
}

static void number_rows(plain *p, const trace_record *r)
{
    const row_operation *o = r->rows;
    const int last = r->target->n_dimensions - 1;
    const inset_type type = p->t->storages[r->target->storage].type;
    int64_t at[INSET_MAX_DIMENSIONS] = {0}, n;
    do {
        if (!is_there(r->target, at)) continue;
        plain_cell *cells = group_cells(p, r, at, &n);
        element(p, r->target, at, 0)->number = rounded(
            type, row_number(o, cells, n, keeps_last(o->function) ? at[last] : 0));
        free(cells);
    } while (next(r->target, at));
}

/* A row of the result is one: what all of it is made of. */
static void identify_rows(plain *p, const trace_record *r)
{
    const row_operation *o = r->rows;
    const int last = r->target->n_dimensions - 1;
    int64_t at[INSET_MAX_DIMENSIONS] = {0}, n;
    const int64_t width = p->t->storages[r->target->storage].width;
    do {
        if (!is_there(r->target, at)) continue;
        plain_cell *row = element(p, r->target, at, 0);
        int64_t of[INSET_MAX_DIMENSIONS] = {0}, column = 0;
        if ((row - storage_of(p, r->target->storage)->at) % width) continue; /* not its first */
        key_start(p, TAG_ROWS, (int64_t)o->function * 1000 + o->k, o->inner, o->n);
        do {
            plain_cell *other = is_there(r->target, of) ? element(p, r->target, of, 0) : NULL;
            if (other != row + column) continue;
            if (!keeps_last(o->function) || !of[last]) {
                plain_cell *cells = group_cells(p, r, of, &n);
                key_cells(p, cells, (int32_t)n);
                free(cells);
            }
            column++;
        } while (column < width && next(r->target, of));
        const int64_t identity = key_finish(p);
        for (int64_t i = 0; i < width; i++) row[i] = (plain_cell){.identity = identity + i};
    } while (next(r->target, at));
}

static void apply_rows(plain *p, const trace_record *r)
{
    if (!view_elements(r->target)) return;
    if (p->identities) identify_rows(p, r);
    else number_rows(p, r);
}

static void apply_product(plain *p, const trace_record *r)
{
    const view *matrix = p->t->matrices[r->matrix];
    const int last = r->target->n_dimensions - 1;
    const int32_t in = (int32_t)matrix->dimensions[0].extent,
                  out = (int32_t)matrix->dimensions[1].extent;
    const inset_type type = p->t->storages[r->target->storage].type;
    int64_t at[INSET_MAX_DIMENSIONS] = {0};
    plain_cell *x = need(calloc((size_t)in + 1, sizeof *x));
    if (view_elements(r->target) && out) do {
            if (at[last] || !is_there(r->target, at)) continue;
            read_row(p, r->a.view, at, last, in, x);
            at[last] = 0;
            int64_t identity = 0;
            if (p->identities) {
                key_start(p, TAG_PRODUCT, r->matrix, 0, 0);
                key_cells(p, x, in);
                identity = key_finish(p);
            }
            for (int64_t o = 0; o < out; o++) {
                double sum = 0;
                for (int64_t i = 0; i < in && !p->identities; i++)
                    sum += x[i].number * element(p, matrix, (int64_t[]){i, o}, 0)->number;
                at[last] = o;
                plain_cell *to = element(p, r->target, at, 0);
                if (p->identities) to->identity = identity + o;
                else to->number = rounded(type, sum);
            }
            at[last] = 0;
        } while (next(r->target, at));
    free(x);
}

static void apply(plain *p, const trace_record *r)
{
    if (r->kind == TRACE_CALL) {
        apply_call(p, r);
        return;
    }
    if (r->kind == TRACE_ROWS || r->kind == TRACE_PRODUCT) {
        (r->kind == TRACE_ROWS ? apply_rows : apply_product)(p, r);
        return;
    }
    if (r->kind == TRACE_METRIC) {
        apply_metric(p, r);
        return;
    }
    const view *target = r->target;
    inset_type type = p->t->storages[target->storage].type;
    int64_t n = view_elements(target), at[INSET_MAX_DIMENSIONS] = {0}, i = 0;
    if (!n) return;
    plain_cell *fresh = need(calloc((size_t)n, sizeof *fresh));
    trace_op op = r->kind == TRACE_SET ? TRACE_COPY : r->op;
    bool two = trace_op_operands(op) > 1;
    inset_type read = type;
    if (trace_op_is_comparison(op))
        read = p->t->storages[(r->a.view ? r->a.view : r->b.view)->storage].type;
    do { /* the source is read before the target is written */
        if (!is_there(target, at)) continue;
        plain_cell a = source_cell(p, &r->a, target, at, read), b = {0};
        if (two) b = source_cell(p, &r->b, target, at, read);
        if (op == TRACE_COPY) fresh[i++] = a;
        else if (!p->identities)
            fresh[i++].number = rounded(type, calculate(op, a.number, b.number));
        else {
            key_start(p, TAG_OPERATION, op, type, 0);
            key_identity(p, a.identity);
            if (two) key_push(p, b.identity), key_push(p, 1);
            fresh[i++].identity = key_finish(p);
        }
    } while (next(target, at));
    i = 0;
    do {
        if (is_there(target, at)) *element(p, target, at, 0) = fresh[i++];
    } while (next(target, at));
    free(fresh);
}

/* ---- operands of steps -------------------------------------------------- */

static int64_t slot_width(const plain *p, int32_t slot_index, const invoke *v)
{
    const slot *s = &p->g->slots[slot_index];
    int64_t n = 1;
    for (int i = 0; i < s->shape.n_columns; i++) n *= s->shape.extent[i];
    return s->shape.by_keys ? (int64_t)s->shape.extent[0] * v->longest : n;
}

/* What a slot shows of one row: slot_width elements, heads one after the other. */
static void operand_row_cells(plain *p, int32_t invoke_index, int32_t slot_index, int32_t sequence,
    int32_t row, plain_cell *out)
{
    const invoke *v = &p->t->invokes[invoke_index];
    const slot *s = &p->g->slots[slot_index];
    int64_t n = slot_width(p, slot_index, v);
    if (p->g->values[s->value].per_position) sequence = 0;
    if (slot_is_plain(p->t, v, slot_index)) {
        const plain_cell *from = row_of(p->values[s->value], sequence, row);
        for (int64_t c = 0; c < n; c++) {
            int64_t inner = s->shape.n_columns == 2 && !s->shape.by_keys ? s->shape.extent[1] : n,
                    apart = s->shape.stride ? s->shape.stride : inner;
            out[c] = from[s->shape.column + c / inner * apart + c % inner];
        }
        return;
    }
    view shown;
    if (view_of_slot(p->t, invoke_index, slot_index, &shown)) abort();
    int64_t at[INSET_MAX_DIMENSIONS] = {0};
    for (int64_t c = 0; c < n; c++) {
        int d = 0;
        at[d++] = sequence;
        if (s->shape.by_keys) {
            at[d++] = c / v->longest;
            at[d++] = row;
            at[d++] = c % v->longest;
        } else {
            if (s->shape.has_position) at[d++] = row;
            if (s->shape.n_columns == 2)
                at[d++] = c / s->shape.extent[1], at[d++] = c % s->shape.extent[1];
            if (s->shape.n_columns == 1) at[d++] = c;
        }
        if (d != shown.n_dimensions) abort();
        out[c] = *element(p, &shown, at, 0);
    }
}

/* All rows of one sequence. */
static plain_cell *operand_rows_cells(
    plain *p, int32_t invoke_index, int32_t slot_index, int32_t sequence, int64_t *width)
{
    const invoke *v = &p->t->invokes[invoke_index];
    int32_t rows = p->g->values[p->g->slots[slot_index].value].per_position ? v->longest
                                                                            : v->lengths[sequence];
    *width = slot_width(p, slot_index, v);
    plain_cell *out = need(calloc((size_t)(rows * *width) + 1, sizeof *out));
    for (int32_t r = 0; r < rows; r++)
        operand_row_cells(p, invoke_index, slot_index, sequence, r, out + r * *width);
    return out;
}

/* ---- steps over numbers ------------------------------------------------- */

static double weight_at(const plain *p, int32_t index, int64_t row, int64_t column)
{
    const weight *w = &p->g->weights[index],
                 *from = w->same_as >= 0 ? &p->g->weights[w->same_as] : w;
    return element_get(
        from->data_type, (const char *)from->data
                             + (size_t)(row * from->columns + column) * type_size(from->data_type));
}

static double activated(activation kind, double x)
{
    switch (kind) {
    case ACTIVATION_GELU: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACTIVATION_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU: return x < 0 ? 0 : x;
    case ACTIVATION_SILU: return x / (1 + exp(-x));
    case ACTIVATION_TANH: return tanh(x);
    default: return 1 / (1 + exp(-x));
    }
}

static void linear(
    const plain *p, const step *s, const plain_cell *x, int64_t in, plain_cell *out, int64_t width)
{
    bool in_out = p->g->weights[s->weight].in_out;
    for (int64_t o = 0; o < width; o++) {
        double sum = s->bias >= 0 ? weight_at(p, s->bias, 0, o) : 0;
        for (int64_t i = 0; i < in; i++)
            sum += x[i].number
                   * (in_out ? weight_at(p, s->weight, i, o) : weight_at(p, s->weight, o, i));
        out[o].number = sum;
    }
}

/* What a part of a row is divided by, and its mean. */
static double part_scale(const step *s, const plain_cell *x, int64_t n, double *mean)
{
    double square = 0;
    *mean = 0;
    for (int64_t i = 0; i < n && s->norm_centred; i++) *mean += x[i].number / (double)n;
    for (int64_t i = 0; i < n; i++)
        square += (x[i].number - *mean) * (x[i].number - *mean) / (double)n;
    return sqrt(square + s->eps);
}

/* A norm; scale [groups]: what it divides by, when that is shown, else NULL. */
static void norm(const plain *p, const step *s, const plain_cell *x, const plain_cell *scale,
    plain_cell *out, int64_t width)
{
    int64_t groups = s->norm_groups > 1 ? s->norm_groups : 1, n = width / groups;
    for (int64_t g = 0; g < groups; g++) {
        double mean, own = part_scale(s, x + g * n, n, &mean);
        for (int64_t i = 0; i < n; i++)
            out[g * n + i].number = (x[g * n + i].number - mean) / (scale ? scale[g].number : own)
                                        * ((s->weight >= 0 ? weight_at(p, s->weight, 0, i) : 1)
                                            + (s->rms_weight == RMS_WEIGHT_PLUS_ONE ? 1 : 0))
                                    + (s->bias >= 0 ? weight_at(p, s->bias, 0, i) : 0);
    }
}

static void rope(const step *s, const plain_cell *x, int64_t position, plain_cell *out)
{
    int half = s->rotary_dims / 2;
    for (int h = 0; h < s->n_heads; h++, x += s->head_dim, out += s->head_dim) {
        for (int i = 0; i < s->head_dim; i++) out[i] = x[i];
        for (int i = 0; i < half; i++) {
            double angle = (double)position * s->frequencies[i],
                   c = cos(angle) * s->rope_attention_scale,
                   sn = sin(angle) * s->rope_attention_scale;
            const int at = s->rope_interleaved ? 2 * i : i,
                      other = s->rope_interleaved ? at + 1 : i + half;
            out[at].number = x[at].number * c - x[other].number * sn;
            out[other].number = x[other].number * c + x[at].number * sn;
        }
    }
}

/* Each head by its own part of the weight: columns of an input projection, or rows of an output
 * projection. */
static void heads(const plain *p, const step *s, const plain_cell *x, plain_cell *out)
{
    const weight *w = &p->g->weights[s->weight];
    for (int32_t h = 0; h < s->n_heads; h++) {
        const head_part at = program_head_part(p->g, s, h);
        for (int32_t o = 0; o < at.n_out; o++) {
            const int64_t column = at.out + o;
            double sum = s->bias >= 0 ? weight_at(p, s->bias, 0, column) : 0;
            for (int32_t i = 0; i < at.n_in; i++)
                sum += x[h * at.n_in + i].number
                       * (w->in_out ? weight_at(p, s->weight, at.in + i, column)
                                    : weight_at(p, s->weight, column, at.in + i));
            out[h * at.n_out + o].number = sum;
        }
    }
}

/* What a step with one row of each operand makes. */
static void row_step(const plain *p, const step *s, const plain_cell *const *x, int64_t in,
    int64_t position, plain_cell *out, int64_t width)
{
    switch (s->kind) {
    case STEP_EMBED:
        for (int64_t i = 0; i < width; i++)
            out[i].number = weight_at(p, s->weight,
                s->one_row       ? s->first_row
                : s->by_position ? s->first_row + position
                                 : (int64_t)x[0][0].number,
                i);
        return;
    case STEP_LINEAR: linear(p, s, x[0], in, out, width); return;
    case STEP_LAYERNORM:
    case STEP_RMSNORM: norm(p, s, x[0], x[1], out, width); return;
    case STEP_NORM_SCALE:
        for (int64_t g = 0; g < width; g++) {
            double mean;
            out[g].number = part_scale(s, x[0] + g * (in / width), in / width, &mean);
        }
        return;
    case STEP_ROPE: rope(s, x[0], position, out); return;
    case STEP_HEADS: heads(p, s, x[0], out); return;
    case STEP_SPREAD:
        for (int64_t i = 0; i < width; i++) {
            const int64_t copies = s->n_heads / s->n_kv_heads, part = i / s->head_dim / copies;
            out[i].number = x[0][part * s->head_dim + i % s->head_dim].number;
        }
        return;
    case STEP_FOLD:
        for (int64_t i = 0; i < width; i++) {
            const int64_t copies = s->n_heads / s->n_kv_heads, part = i / s->head_dim;
            double y = s->bias >= 0 ? weight_at(p, s->bias, 0, i) : 0;
            for (int64_t c = 0; c < copies; c++)
                y += x[0][(part * copies + c) * s->head_dim + i % s->head_dim].number;
            out[i].number = y;
        }
        return;
    default: break;
    }
    for (int64_t i = 0; i < width; i++) {
        double y = x[0][i].number;
        if (s->kind == STEP_ACTIVATION) y = activated(s->activation, y);
        if (s->kind == STEP_GATE) y *= x[1][i].number;
        if (s->kind == STEP_SCALE) y *= s->scale;
        if (s->kind == STEP_SOFTCAP) y = s->scale * tanh(y / s->scale);
        if (s->kind == STEP_ADD)
            for (int k = 1; k < s->n_operands; k++) y += x[k][i].number;
        out[i].number = y;
    }
}

/* What a slot shows of a module applied to a row x, which stands for the module's input. */
static plain_cell *called_cells(
    plain *p, int32_t slot_index, const slot *in_slot, const plain_cell *x)
{
    const slot *s = &p->g->slots[slot_index];
    const int64_t all = p->g->values[s->value].width, n = slot_column_end(s) - s->shape.column;
    plain_cell *row = need(calloc((size_t)all + 1, sizeof *row));
    if (s->value == in_slot->value)
        memcpy(row + in_slot->shape.column, x, (size_t)slot_columns(in_slot) * sizeof *row);
    else {
        const step *st = &p->g->steps[p->g->values[s->value].step];
        plain_cell *in[3] = {NULL, NULL, NULL};
        int64_t width[3] = {0, 0, 0};
        for (int k = 0; k < st->n_operands; k++) {
            const slot *o = &p->g->slots[st->operands[k]];
            in[k] = called_cells(p, st->operands[k], in_slot, x);
            width[k] = slot_column_end(o) - o->shape.column;
        }
        if (p->identities) {
            key_start(p, TAG_STEP, s->value, 0, 0);
            for (int k = 0; k < st->n_operands; k++) key_cells(p, in[k], width[k]);
            fill_row(p, row, all);
        } else row_step(p, st, (const plain_cell *const *)in, width[0], 0, row, all);
        for (int k = 0; k < 3; k++) free(in[k]);
    }
    memmove(row, row + s->shape.column, (size_t)n * sizeof *row);
    return row;
}

static void apply_call(plain *p, const trace_record *r)
{
    module_call call;
    if (!program_callable(p->g, r->module, &call)) abort();
    const slot *in_slot = &p->g->slots[call.in];
    const int32_t in = slot_columns(in_slot), out = slot_columns(&p->g->slots[call.out]);
    const int last = r->target->n_dimensions - 1;
    int64_t at[INSET_MAX_DIMENSIONS] = {0};
    plain_cell *x = need(calloc((size_t)in + 1, sizeof *x));
    if (view_elements(r->target)) do {
            if (at[last] || !is_there(r->target, at)) continue;
            read_row(p, r->a.view, at, last, in, x);
            plain_cell *row = called_cells(p, call.out, in_slot, x);
            for (at[last] = 0; at[last] < out; at[last]++)
                *element(p, r->target, at, 0) = row[at[last]];
            at[last] = 0;
            free(row);
        } while (next(r->target, at));
    free(x);
}

/* Scores of one query with all keys of its sequence, one head: [n_columns]. */
static void score_row(const step *s, const plain_cell *q, const plain_cell *k, int64_t k_width,
    int head, int32_t position, int32_t n_keys, int32_t n_columns, plain_cell *out)
{
    int group = head / (s->n_heads / s->n_kv_heads);
    for (int32_t j = 0; j < n_columns; j++) {
        out[j].number = -INFINITY;
        if ((j > position && !s->both_ways) || j >= n_keys
            || (s->window > 0 && j <= position - s->window))
            continue;
        double sum = 0;
        for (int c = 0; c < s->head_dim; c++)
            sum += q[head * s->head_dim + c].number
                   * k[j * k_width + group * s->head_dim + c].number;
        sum *= s->scale;
        out[j].number = s->softcap > 0 ? s->softcap * tanh(sum / s->softcap) : sum;
        if (s->slopes) out[j].number += (double)s->slopes[head] * j;
    }
}

static void softmax(const plain_cell *x, plain_cell *out, int32_t n)
{
    double most = -INFINITY, sum = 0;
    bool nan = false;
    for (int32_t j = 0; j < n; j++) {
        if (x[j].number > most) most = x[j].number;
        nan |= isnan(x[j].number);
    }
    for (int32_t j = 0; j < n; j++) sum += exp(x[j].number - most);
    for (int32_t j = 0; j < n; j++) out[j].number = nan ? NAN : exp(x[j].number - most) / sum;
}

static void mix(const step *s, const plain_cell *pattern, int32_t n_columns,
    const plain_cell *values, int64_t v_width, int32_t n_keys, bool only_seen, plain_cell *out)
{
    for (int h = 0; h < s->n_heads; h++)
        for (int c = 0; c < s->head_dim; c++) {
            double sum = 0;
            for (int32_t j = 0; j < n_keys; j++)
                if (!only_seen || pattern[h * n_columns + j].number != 0)
                    sum +=
                        pattern[h * n_columns + j].number
                        * values[j * v_width + h / (s->n_heads / s->n_kv_heads) * s->head_dim + c]
                              .number;
            out[h * s->head_dim + c].number = sum;
        }
}

/* ---- steps -------------------------------------------------------------- */

static void run_source(plain *p, const invoke *v, const step *s, tensor *t)
{
    for (int32_t q = 0, token = 0; q < t->n_sequences; q++)
        for (int32_t r = 0; r < t->lengths[q]; r++, token++) {
            plain_cell *out = row_of(t, q, r);
            if (p->identities) {
                int64_t what = s->kind == STEP_POSITIONS ? 0
                               : v->tokens
                                   ? v->tokens[token]
                                   : (int64_t)hash_bytes(5, v->rows + token * p->g->input_width,
                                       (size_t)p->g->input_width * sizeof *v->rows);
                key_start(p, TAG_STEP, s->value, r, what);
                fill_row(p, out, t->width);
            } else if (s->kind == STEP_POSITIONS) out[0].number = r;
            else if (s->kind == STEP_TOKENS) out[0].number = (double)v->tokens[token];
            else
                for (int64_t c = 0; c < t->width; c++)
                    out[c].number = v->rows[token * p->g->input_width + c];
        }
}

/* A norm's scale that is what its input gives is no operand of its row's identity. */
static bool scale_is_natural(plain *p, const step *s, const plain_cell *x, int64_t width,
    const plain_cell *scale, int64_t groups)
{
    key_start(p, TAG_STEP, p->g->slots[s->operands[1]].value, 0, 0);
    key_cells(p, x, width);
    int64_t own = key_finish(p);
    for (int64_t g = 0; g < groups; g++)
        if (scale[g].identity != own + g) return false;
    return true;
}

static void run_row_step(plain *p, int32_t invoke_index, const step *s, tensor *t)
{
    int64_t in[3] = {0, 0, 0};
    bool by_scale = (s->kind == STEP_LAYERNORM || s->kind == STEP_RMSNORM) && s->operands[1] >= 0;
    int n = s->n_operands + by_scale;
    for (int32_t q = 0; q < t->n_sequences; q++) {
        plain_cell *x[3] = {NULL, NULL, NULL};
        for (int k = 0; k < n; k++)
            x[k] = operand_rows_cells(p, invoke_index, s->operands[k], q, &in[k]);
        for (int32_t r = 0; r < t->lengths[q]; r++) {
            const plain_cell *rows[3] = {NULL, NULL, NULL};
            for (int k = 0; k < n; k++) rows[k] = x[k] + r * in[k];
            if (!p->identities) {
                row_step(p, s, rows, in[0], r, row_of(t, q, r), t->width);
                continue;
            }
            bool plain_norm = by_scale && scale_is_natural(p, s, rows[0], in[0], rows[1], in[1]);
            key_start(p, TAG_STEP, s->value, s->kind == STEP_ROPE ? r : 0, 0);
            for (int k = 0; k < (plain_norm ? 1 : n); k++) key_cells(p, rows[k], in[k]);
            fill_row(p, row_of(t, q, r), t->width);
        }
        for (int k = 0; k < 3; k++) free(x[k]);
    }
}

static const step *pair_before(const step *attention)
{
    while (attention->kind != STEP_PAIR) attention--;
    return attention;
}

/* Did records touch scores or pattern of row r of sequence q in a way that shows? */
static bool was_changed(plain *p, int32_t invoke_index, const step *attention, int32_t q, int32_t r)
{
    const step *pattern = pair_before(attention) - 1, *scores = pattern - 1;
    const step *both[2] = {scores, pattern};
    if (pattern->kind != STEP_PATTERN || scores->kind != STEP_SCORES) return false;
    const invoke *v = &p->t->invokes[invoke_index];
    bool changed = false;
    for (int k = 0; k < 2 && !changed; k++) {
        int32_t slot_index = (int32_t)p->g->n_slots - 1;
        while (p->g->slots[slot_index].value != both[k]->value) slot_index--;
        int64_t n = slot_width(p, slot_index, v);
        plain_cell *now = need(calloc((size_t)n + 1, sizeof *now));
        operand_row_cells(p, invoke_index, slot_index, q, r, now);
        const tensor *t = p->values[both[k]->value];
        changed = memcmp(now, p->natural[both[k]->value] + (t->first[q] + r) * n,
                      (size_t)n * sizeof *now)
                  != 0;
        free(now);
    }
    return changed;
}

/* The fused attention: keys that a query does not see take no part, whatever they hold. */
static void attend_number(const step *s, const plain_cell *q, const plain_cell *k,
    const plain_cell *values, int64_t k_width, int64_t v_width, int32_t row, int32_t n,
    plain_cell *out)
{
    plain_cell *scores = need(calloc((size_t)(n * s->n_heads), sizeof *scores)),
               *pattern = need(calloc((size_t)(n * s->n_heads), sizeof *pattern));
    for (int h = 0; h < s->n_heads; h++) {
        score_row(s, q, k, k_width, h, row, n, n, scores + h * n);
        softmax(scores + h * n, pattern + h * n, n);
    }
    mix(s, pattern, n, values, v_width, s->both_ways ? n : row + 1, true, out);
    free(scores);
    free(pattern);
}

static int32_t pattern_slot(const plain *p, const step *attention)
{
    int32_t slot_index = (int32_t)p->g->n_slots - 1;
    while (p->g->slots[slot_index].value != (pair_before(attention) - 1)->value) slot_index--;
    return slot_index;
}

/* Adds a row to a context; -1: it begins with it. */
static int64_t next_context(plain *p, const step *s, int64_t context, int64_t position,
    const plain_cell *k, int64_t k_width, const plain_cell *values, int64_t v_width)
{
    key_start(p, TAG_CONTEXT, s->value, 0, 0);
    if (context >= 0) key_identity(p, context);
    key_cells(p, k + position * k_width, k_width);
    key_cells(p, values + position * v_width, v_width);
    return key_finish(p);
}

static void run_attention(plain *p, int32_t invoke_index, const step *s, tensor *t)
{
    const invoke *v = &p->t->invokes[invoke_index];
    for (int32_t q = 0; q < t->n_sequences; q++) {
        int64_t width[3], n = t->lengths[q];
        plain_cell *x[3];
        for (int k = 0; k < 3; k++)
            x[k] = operand_rows_cells(p, invoke_index, s->operands[k], q, &width[k]);
        int64_t context = -1, seen = 0; /* of the first `seen` keys */
        for (int32_t r = 0; r < n; r++) {
            plain_cell *out = row_of(t, q, r);
            for (; p->identities && seen < (s->both_ways ? n : r + 1); seen++)
                context = next_context(p, s, context, seen, x[1], width[1], x[2], width[2]);
            if (was_changed(p, invoke_index, s, q, r)) {
                int32_t slot_index = pattern_slot(p, s);
                int64_t columns = slot_width(p, slot_index, v);
                plain_cell *pattern = need(calloc((size_t)columns + 1, sizeof *pattern));
                operand_row_cells(p, invoke_index, slot_index, q, r, pattern);
                if (!p->identities)
                    mix(s, pattern, v->longest, x[2], width[2], (int32_t)n, false, out);
                else {
                    key_start(p, TAG_STEP, s->value, TAG_MIX, 0);
                    key_cells(p, pattern, columns);
                    key_cells(p, x[2], n * width[2]);
                    fill_row(p, out, t->width);
                }
                free(pattern);
            } else if (!p->identities) {
                attend_number(
                    s, x[0] + r * width[0], x[1], x[2], width[1], width[2], r, (int32_t)n, out);
            } else {
                key_start(p, TAG_STEP, s->value, s->both_ways ? r : 0, 0);
                key_cells(p, x[0] + r * width[0], width[0]);
                key_identity(p, context);
                fill_row(p, out, t->width);
            }
        }
        for (int k = 0; k < 3; k++) free(x[k]);
    }
}

static void run_scores(plain *p, int32_t invoke_index, const step *s, tensor *t)
{
    const invoke *v = &p->t->invokes[invoke_index];
    for (int32_t q = 0; q < t->n_sequences; q++) {
        int64_t width[2], n = t->lengths[q], unit = 0;
        plain_cell *x[2];
        for (int k = 0; k < 2; k++)
            x[k] = operand_rows_cells(p, invoke_index, s->operands[k], q, &width[k]);
        if (p->identities) {
            key_start(p, TAG_UNIT, s->value, v->longest, 0);
            key_cells(p, x[0], n * width[0]);
            key_cells(p, x[1], n * width[1]);
            unit = key_finish(p);
        }
        for (int32_t r = 0; r < n; r++) {
            plain_cell *out = row_of(t, q, r);
            if (p->identities) {
                key_start(p, TAG_STEP, s->value, r, 0);
                key_identity(p, unit);
                fill_row(p, out, t->width);
            } else
                for (int h = 0; h < s->n_heads; h++)
                    score_row(s, x[0] + r * width[0], x[1], width[1], h, r, (int32_t)n, v->longest,
                        out + h * v->longest);
        }
        for (int k = 0; k < 2; k++) free(x[k]);
    }
}

static void run_pattern(plain *p, int32_t invoke_index, const step *s, tensor *t)
{
    const invoke *v = &p->t->invokes[invoke_index];
    plain_cell *x = need(calloc((size_t)t->width + 1, sizeof *x));
    for (int32_t q = 0; q < t->n_sequences; q++)
        for (int32_t r = 0; r < t->lengths[q]; r++) {
            plain_cell *out = row_of(t, q, r);
            operand_row_cells(p, invoke_index, s->operands[0], q, r, x);
            if (p->identities) {
                key_start(p, TAG_STEP, s->value, t->lengths[q], 0);
                key_cells(p, x, t->width);
                fill_row(p, out, t->width);
            } else
                for (int h = 0; h < s->n_heads; h++)
                    softmax(x + h * v->longest, out + h * v->longest, t->lengths[q]);
        }
    free(x);
}

static void run_step(plain *p, int32_t invoke_index, const step *s)
{
    const invoke *v = &p->t->invokes[invoke_index];
    const value *made = &p->g->values[s->value];
    bool by_keys = s->kind == STEP_SCORES || s->kind == STEP_PATTERN;
    tensor *t = new_tensor(p, made->per_position ? 1 : v->n_sequences,
        made->per_position ? &v->longest : v->lengths,
        by_keys ? (int64_t)s->n_heads * v->longest : made->width);
    p->values[s->value] = t;
    for (size_t i = 0; i < v->n_values; i++)
        if (v->values[i].value == s->value) p->storages[v->values[i].storage] = t;
    switch (s->kind) {
    case STEP_PAIR: break;
    case STEP_INPUT:
    case STEP_TOKENS:
    case STEP_POSITIONS: run_source(p, v, s, t); break;
    case STEP_ATTENTION: run_attention(p, invoke_index, s, t); break;
    case STEP_SCORES: run_scores(p, invoke_index, s, t); break;
    case STEP_PATTERN: run_pattern(p, invoke_index, s, t); break;
    default: run_row_step(p, invoke_index, s, t);
    }
    /* Stored in the model's type: what cancels there must cancel here, or a norm makes much of the
     * rest. */
    for (int64_t i = 0; !p->identities && !made->integer && i < t->rows * t->width; i++)
        t->at[i].number = rounded(p->t->model_type, t->at[i].number);
    if (!by_keys) return;
    size_t bytes = (size_t)(t->rows * t->width) * sizeof *t->at;
    free(p->natural[s->value]);
    p->natural[s->value] = need(malloc(bytes + 1));
    memcpy(p->natural[s->value], t->at, bytes);
}

/* ---- the trace ---------------------------------------------------------- */

static void run_invoke(plain *p, int32_t index)
{
    const invoke *v = &p->t->invokes[index];
    const trace_record *r = p->t->records + v->first_record, *end = r + v->n_records;
    for (; r < end && r->event < 0; r++) apply(p, r);
    for (int32_t e = 0; e <= v->current_event; e++) {
        bool skipped = false;
        for (size_t i = 0; i < v->n_skips; i++)
            skipped |= e > v->skips[i].enter && e < v->skips[i].leave;
        if (p->g->events[e].kind == EVENT_STEP && !skipped)
            run_step(p, index, &p->g->steps[p->g->events[e].index]);
        for (; r < end && r->event == e; r++) apply(p, r);
    }
    if (r != end) abort();
}

plain *plain_execute(trace *t, bool identities)
{
    plain *p = need(calloc(1, sizeof *p));
    *p = (plain){.t = t, .g = t->program, .identities = identities};
    /* Reading a slot may make a storage for its value. */
    p->storages = need(
        calloc(t->n_storages + t->n_invokes * t->program->n_values + 1, sizeof *p->storages));
    p->values = need(calloc(t->program->n_values + 1, sizeof *p->values));
    p->natural = need(calloc(t->program->n_values + 1, sizeof *p->natural));
    for (size_t i = 0; i < t->n_invokes; i++) run_invoke(p, (int32_t)i);
    return p;
}

void plain_free(plain *p)
{
    for (size_t i = 0; i < p->n_all; i++) {
        free(p->all[i]->lengths);
        free(p->all[i]->first);
        free(p->all[i]->at);
        free(p->all[i]);
    }
    for (size_t i = 0; i < p->g->n_values; i++) free(p->natural[i]);
    for (int64_t i = 0; i < p->n_nodes; i++) free(p->nodes[i].key);
    free(p->all);
    free(p->natural);
    free(p->nodes);
    free(p->buckets);
    free(p->key);
    free(p->storages);
    free(p->values);
    free(p);
}

plain_cell *plain_saved(const plain *p, size_t save, int64_t *count)
{
    const saved_value *s = &p->t->saves[save];
    int64_t each = view_elements(&s->view[0]);
    plain_cell *out = need(malloc((size_t)(each * (int64_t)s->n_views + 1) * sizeof *out));
    *count = 0;
    for (size_t k = 0; k < s->n_views && each; k++) {
        int64_t at[INSET_MAX_DIMENSIONS] = {0};
        do {
            plain_cell padding = {.number = 0};
            if (p->identities) padding.identity = -1;
            out[(*count)++] = is_there(&s->view[k], at)
                                  ? *element((plain *)(uintptr_t)p, &s->view[k], at, 0)
                                  : padding;
        } while (next(&s->view[k], at));
    }
    return out;
}

static void make_live(plain *p, int64_t *todo, int64_t *n_todo, int64_t identity)
{
    node *n = &p->nodes[identity >> COLUMN_BITS];
    if (identity < 0 || n->live) return;
    n->live = true;
    todo[(*n_todo)++] = identity >> COLUMN_BITS;
}

int64_t *plain_rows_needed(plain *p)
{
    int64_t *rows = need(calloc(p->g->n_values + 1, sizeof *rows)), *todo = NULL, n_todo = 0;
    todo = need(malloc((size_t)(p->n_nodes + 1) * sizeof *todo));
    for (size_t i = 0; i < p->t->n_saves; i++) {
        int64_t count;
        plain_cell *cells = plain_saved(p, i, &count);
        for (int64_t c = 0; c < count; c++)
            if (cells[c].identity >= 0) make_live(p, todo, &n_todo, cells[c].identity);
        free(cells);
    }
    while (n_todo) {
        const node *n = &p->nodes[todo[--n_todo]];
        if (n->key[0] == TAG_STEP) rows[n->key[1]]++;
        for (int32_t k = KEY_HEAD; k + 1 < n->n_key; k += 2) make_live(p, todo, &n_todo, n->key[k]);
    }
    free(todo);
    return rows;
}
