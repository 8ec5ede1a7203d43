/* stream.c: which matrices come and go, and their visits. */
#include "run/stream.h"

#include <string.h>

#include "plan/emit/launches.h"

enum { ALIGNED = 64 };

static int64_t padded(int64_t bytes) { return (bytes + ALIGNED - 1) / ALIGNED * ALIGNED; }

/* ---- which --------------------------------------------------------------- */

/* The last product, a language model's head, is a table too (model.c) and stays. */
static bool is_last(const program *p, const step *s)
{
    for (const step *later = s + 1; later < p->steps + p->n_steps; later++)
        if (later->kind == STEP_LINEAR) return false;
    return s->kind == STEP_LINEAR;
}

/* Steps whose matrices may come and go, each weight once, in order: the first one that has it.
 * Experts are of one step alone. */
static bool is_candidate(const program *p, const step *s)
{
    if (!program_products(s) || s->aside || s->of >= 0 || is_last(p, s)) return false;
    for (const step *before = p->steps; before < s && s->kind == STEP_LINEAR; before++)
        if (before->kind == STEP_LINEAR && before->weight == s->weight) return false;
    return true;
}

/* The matrices that a product wants at once: a linear step's one, one of every expert. */
static int32_t matrices_at_once(const step *s) { return s->experts ? s->experts->n : 1; }

/* The weight of a step's product. */
static int32_t weight_of(const step *s, int32_t product)
{
    int32_t index, bias;
    program_product(s, product, &index, &bias);
    return index;
}

static int64_t bytes_of(const program *p, int32_t weight_index, inset_type type, bool widened)
{
    const weight *w = &p->weights[weight_index];
    const int64_t size = widened ? (int64_t)sizeof(float) : (int64_t)type_size(type);
    return padded((int64_t)w->rows * w->columns * size);
}

stream_sizes stream_measure(const program *p, inset_type type, bool widened)
{
    stream_sizes out = {0};
    int64_t all = 0;
    for (size_t i = 0; i < p->n_weights; i++)
        if (p->weights[i].same_as < 0) all += bytes_of(p, (int32_t)i, type, false);
    for (const step *s = p->steps; s < p->steps + p->n_steps; s++) {
        if (!is_candidate(p, s)) continue;
        for (int32_t k = 0; k < program_products(s); k++) {
            const int64_t bytes = bytes_of(p, weight_of(s, k), type, widened),
                          together = bytes * matrices_at_once(s);
            all -= bytes_of(p, weight_of(s, k), type, false);
            out.matrices += bytes;
            if (together > out.largest) out.largest = together;
        }
    }
    out.tables = all;
    return out;
}

/* Spreads `stays` bytes of matrices evenly; the others come. */
static void spread(
    const program *p, inset_type type, bool widened, int64_t matrices, int64_t stays, bool *comes)
{
    double passed = 0, kept = 0;
    for (const step *s = p->steps; s < p->steps + p->n_steps; s++) {
        if (!is_candidate(p, s)) continue;
        for (int32_t k = 0; k < program_products(s); k++) {
            const double bytes = (double)bytes_of(p, weight_of(s, k), type, widened);
            passed += bytes;
            const bool keep = kept + bytes <= passed * (double)stays / (double)matrices;
            if (keep) kept += bytes;
            comes[weight_of(s, k)] = !keep;
        }
    }
}

bool stream_choose(const program *p, inset_type type, bool widened, int64_t limit, bool *comes,
    int64_t *slot, int64_t *least)
{
    const stream_sizes is = stream_measure(p, type, widened);
    memset(comes, 0, p->n_weights * sizeof *comes);
    *slot = 0;
    *least = is.tables + STREAM_SLOTS * is.largest;
    if (is.tables + is.matrices <= limit) return true;
    if (*least > limit) return false;
    *slot = is.largest;
    spread(p, type, widened, is.matrices, limit - is.tables - STREAM_SLOTS * is.largest, comes);
    return true;
}

inset_status stream_make(
    struct inset_model *m, bool widened, int64_t limit, bool *fits, int64_t *least)
{
    int64_t slot;
    struct weight_stream *s = m->stream = memory_new(m->context, sizeof *s);
    if (!s || !(s->comes = memory_new(m->context, m->program->n_weights + 1)))
        return INSET_NO_MEMORY;
    *fits = stream_choose(m->program, m->type, widened, limit, s->comes, &slot, least);
    s->slot_bytes = (size_t)slot;
    return INSET_OK;
}

int64_t stream_bytes(const program *p, inset_type type, bool widened, const bool *comes)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < p->n_weights; i++)
        if (comes[i]) bytes += bytes_of(p, (int32_t)i, type, widened);
    return bytes;
}

/* ---- slots --------------------------------------------------------------- */

inset_status stream_reverse(struct inset_model *m, int32_t index, matrix **out)
{
    const weight *w = &m->program->weights[index];
    const int64_t in = w->in_out ? w->rows : w->columns, wide = w->in_out ? w->columns : w->rows;
    return device_matrix_empty(
        m->device, m->type, wide, in, !w->in_out, NULL, INSET_F32, m->weights[index].matrix, out);
}

/* A device's layout may pad, either way round. together: so many such are there at once. */
static inset_status fit_slot(struct inset_model *m, int32_t index, int32_t together)
{
    matrix *reverse = NULL;
    inset_status status = stream_reverse(m, index, &reverse);
    if (status) return status;
    const int64_t rooms[2] = {device_matrix_room(m->device, m->weights[index].matrix),
        device_matrix_room(m->device, reverse)};
    for (int k = 0; k < 2; k++)
        if (together * padded(rooms[k]) > (int64_t)m->stream->slot_bytes)
            m->stream->slot_bytes = (size_t)(together * padded(rooms[k]));
    device_matrix_free(m->device, reverse);
    return INSET_OK;
}

inset_status stream_open(struct inset_model *m)
{
    struct weight_stream *s = m->stream;
    inset_status status = model_weights_open(m, &s->numbers);
    const program *p = m->program;
    for (const step *at = p->steps; at < p->steps + p->n_steps; at++)
        for (int32_t k = 0; is_candidate(p, at) && k < program_products(at) && !status; k++) {
            const int32_t i = weight_of(at, k);
            if (!s->comes[i]) continue;
            s->bytes += device_matrix_room(m->device, m->weights[i].matrix);
            status = fit_slot(m, i, matrices_at_once(at));
        }
    for (int k = 0; k < STREAM_SLOTS && !status; k++)
        status = device_slot_create(m->device, s->slot_bytes, &s->slots[k]);
    return status;
}

void stream_close(struct inset_model *m)
{
    struct weight_stream *s = m->stream;
    if (!s) return;
    for (int k = 0; k < STREAM_SLOTS; k++) device_slot_free(m->device, s->slots[k]);
    model_weights_close(s->numbers);
    memory_free(m->context, s->comes);
    memory_free(m->context, s);
    m->stream = NULL;
}

/* ---- visits -------------------------------------------------------------- */

/* A matrix that a visit has in its slot. */
typedef struct coming {
    matrix *matrix;
    int32_t weight;
    size_t offset;
} coming;

/* Launches first .. end, whose matrices are coming[from .. to). */
typedef struct visit {
    size_t first, end, from, to;
} visit;

struct stream_visits {
    struct inset_model *model;
    visit *at;
    coming *coming;
    size_t n, n_coming, capacity, coming_capacity;
    size_t now; /* the visit that launches are of */
};

/* Which weight a matrix is of, if it comes and goes; -1. likely: the launch's, or -1. Scripts may
 * multiply by a layer's matrix too (l->given), so it is looked for. */
static int32_t coming_weight(const struct inset_model *m, const matrix *of, int32_t likely)
{
    const device_weight *w = likely < 0 ? NULL : &m->weights[likely];
    if (w && (w->matrix == of || w->reverse == of)) return m->stream->comes[likely] ? likely : -1;
    for (size_t i = 0; i < m->program->n_weights; i++)
        if (m->stream->comes[i] && (m->weights[i].matrix == of || m->weights[i].reverse == of))
            return (int32_t)i;
    return -1;
}

static bool is_there(const stream_visits *v, const visit *in, const matrix *m)
{
    for (size_t i = in->from; i < v->n_coming; i++)
        if (v->coming[i].matrix == m) return true;
    return false;
}

static bool add_visit(stream_visits *v, size_t first)
{
    if (!array_reserve(v->model->context, &v->at, &v->capacity, v->n + 1, sizeof *v->at))
        return false;
    v->at[v->n++] = (visit){.first = first, .from = v->n_coming};
    return true;
}

/* A matrix that joins the last visit. */
static bool add_matrix(stream_visits *v, matrix *m, int32_t weight_index, size_t *used)
{
    if (is_there(v, &v->at[v->n - 1], m)) return true;
    if (!array_reserve(
            v->model->context, &v->coming, &v->coming_capacity, v->n_coming + 1, sizeof *v->coming))
        return false;
    v->coming[v->n_coming++] = (coming){m, weight_index, *used};
    *used += (size_t)padded(device_matrix_room(v->model->device, m));
    return true;
}

/* The matrices of a launch, which all must be there at once: they join the last visit, or begin one
 * where that has no room for them. */
static bool add_launch(stream_visits *v, const launch *l, size_t index, size_t *used)
{
    const struct inset_model *model = v->model;
    const int32_t n = l->n_group ? l->n_group : 1;
    size_t bytes = 0;
    for (int32_t k = 0; k < n; k++) {
        matrix *m = (matrix *)(uintptr_t)(l->n_group ? l->matrices[k] : l->matrix);
        if (coming_weight(model, m, l->weight + k) < 0) continue;
        if (!v->n || !is_there(v, &v->at[v->n - 1], m))
            bytes += (size_t)padded(device_matrix_room(model->device, m));
    }
    if (!bytes) return true;
    if (!v->n || *used + bytes > model->stream->slot_bytes) {
        if (!add_visit(v, v->n ? index : 0)) return false;
        *used = 0;
    }
    for (int32_t k = 0; k < n; k++) {
        matrix *m = (matrix *)(uintptr_t)(l->n_group ? l->matrices[k] : l->matrix);
        const int32_t weight_index = coming_weight(model, m, l->weight + k);
        if (weight_index >= 0 && !add_matrix(v, m, weight_index, used)) return false;
    }
    return true;
}

inset_status stream_plan(
    struct inset_model *m, const launch *launches, size_t n, stream_visits **out)
{
    size_t used = 0;
    *out = NULL;
    if (!m->stream) return INSET_OK;
    stream_visits *v = memory_new(m->context, sizeof *v);
    if (!v) return INSET_NO_MEMORY;
    v->model = m;
    for (size_t i = 0; i < n; i++) {
        if (!launches[i].is_matmul || add_launch(v, &launches[i], i, &used)) continue;
        stream_visits_free(v);
        return INSET_NO_MEMORY;
    }
    for (size_t i = 0; i < v->n; i++) {
        v->at[i].end = i + 1 < v->n ? v->at[i + 1].first : n;
        v->at[i].to = i + 1 < v->n ? v->at[i + 1].from : v->n_coming;
    }
    if (v->n) *out = v;
    else stream_visits_free(v);
    return INSET_OK;
}

void stream_visits_free(stream_visits *v)
{
    if (!v) return;
    memory_free(v->model->context, v->at);
    memory_free(v->model->context, v->coming);
    memory_free(v->model->context, v);
}

/* ---- running ------------------------------------------------------------- */

static device_slot *slot_of(const stream_visits *v, size_t i)
{
    return v->model->stream->slots[i % STREAM_SLOTS];
}

static inset_status put(stream_visits *v, size_t index)
{
    struct inset_model *m = v->model;
    const visit *at = &v->at[index];
    inset_status status = INSET_OK;
    m->stream->visits++;
    for (size_t i = at->from; i < at->to && !status; i++) {
        const coming *c = &v->coming[i];
        const void *numbers;
        inset_type type;
        status = model_weights_raw(m->stream->numbers, c->weight, &numbers, &type);
        if (!status)
            status = device_matrix_put(
                m->device, c->matrix, slot_of(v, index), c->offset, numbers, type);
        m->stream->copied += device_matrix_room(m->device, c->matrix);
    }
    return status;
}

inset_status stream_before(stream_visits *v, size_t launch_index)
{
    if (!launch_index) {
        v->now = 0;
        inset_status status = put(v, 0);
        return status ? status : device_slot_arrive(v->model->device, slot_of(v, 0));
    }
    if (launch_index != v->at[v->now].end) return INSET_OK;
    v->now++;
    return device_slot_arrive(v->model->device, slot_of(v, v->now));
}

/* The next visit's numbers are copied while the device does what it was given of this one. */
inset_status stream_after(stream_visits *v, size_t launch_index)
{
    if (launch_index + 1 != v->at[v->now].end) return INSET_OK;
    inset_status status = device_slot_used(v->model->device, slot_of(v, v->now));
    return status || v->now + 1 == v->n ? status : put(v, v->now + 1);
}
