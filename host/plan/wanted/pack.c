/* pack.c: rows get their place. All rows that a moment needs lie in one buffer [rows, width],
 * without padding: the step's rows first, then those made by records, then those kept from earlier
 * passes. Rows keep their order from value to value (older strands first), so that most steps read
 * row i to make row i. Buffers whose times do not meet share memory.
 *
 * A device may write padding behind the rows of a product (kernels/products.h). It lies over the
 * rows that records make, which are written after it, and where those are too few the buffer is
 * longer. Padding that is read behind an operand's rows may be anything; that it stays inside the
 * arena is emit/step.c's care. */
#include "plan/wanted/wanted.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/products.h"

typedef struct sort_key {
    int64_t major, minor;
    int32_t need;
} sort_key;

static int compare_keys(const void *a, const void *b)
{
    const sort_key *x = a, *y = b;
    if (x->major != y->major) return x->major < y->major ? -1 : 1;
    return (x->minor > y->minor) - (x->minor < y->minor);
}

static int64_t align(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

enum { MOST_COLUMNS = 512 };
/* behind all rows that a step computes otherwise; sequence by sequence */
static const int64_t WHOLE_LAST = (int64_t)1 << 39;

/* Of a vocabulary projection only the columns that records read are computed, when they are few and
 * nobody needs whole rows. */
static bool choose_columns(planner *p, moment_plan *m, int32_t width)
{
    if (!m->n_ranges || m->all_columns || m->n_computed != m->n_rows) return true;
    int64_t n = 0;
    for (int32_t i = 0; i < m->n_ranges; i++) n += m->ranges[i].c1 - m->ranges[i].c0;
    if (n > MOST_COLUMNS || n * 4 > width) return true;
    m->columns = arena_new(&p->scratch, (size_t)n * sizeof *m->columns);
    if (!m->columns) return false;
    for (int32_t i = 0; i < m->n_ranges; i++)
        for (int32_t c = m->ranges[i].c0; c < m->ranges[i].c1; c++) m->columns[m->n_columns++] = c;
    return true;
}

/* Rows of a moment's buffer whose rows this step makes: what is needed, and where it is a product
 * the padding that reaches behind them. */
static int64_t buffer_rows(const planner *p, const moment_plan *m, const step *st)
{
    const bool product = st->kind == STEP_LINEAR || st->kind == STEP_LINEAR_BACK
                         || st->kind == STEP_HEADS || st->kind == STEP_HEADS_BACK;
    if (!product || m->columns || !m->n_computed) return m->n_rows;
    int64_t padded = product_padded(p->options.traits.row_block, m->n_computed, step_widest(p, st));
    return padded > m->n_rows ? padded : m->n_rows;
}

static inset_status pack_moment(planner *p, schedule *s, int32_t at)
{
    moment_plan *m = &s->moments[at];
    int32_t n = 0;
    for (int32_t i = m->first_need; i >= 0; i = s->needs[i].next)
        n += s->needs[i].kind != NEED_JOINED;
    if (!n && !m->n_base) return INSET_OK;
    moment when = moment_of(p, at);
    const step *st = when.value >= 0 ? &p->program->steps[p->program->values[when.value].step]
                                     : NULL;
    sort_key *keys = arena_new(&p->scratch, (size_t)n * sizeof *keys);
    m->order = arena_new(&p->scratch, (size_t)n * sizeof *m->order);
    if (!keys || !m->order) return INSET_NO_MEMORY;
    for (int32_t i = m->first_need, k = 0; i >= 0; i = s->needs[i].next) {
        const need *d = &s->needs[i];
        if (d->kind == NEED_JOINED) continue;
        const strand *made = &p->strands[d->strand];
        /* rows mixed by a pattern come last: a launch of their own */
        int64_t born = ((int64_t)made->born + 1) * 2 + (made->kind == STRAND_MIX);
        keys[k++] = (sort_key){(int64_t)d->kind << 40
                                   | (d->kind == NEED_COPY    ? d->level
                                       : d->kind == NEED_FREE ? d->level
                                                              : born),
            (int64_t)d->strand << 32 | d->lo, i};
        const whole *w = d->kind == NEED_COMPUTED && st && st->kind == STEP_ATTENTION
                             ? whole_of(p, st, d->strand)
                             : NULL;
        if (w)
            keys[k - 1] = (sort_key){WHOLE_LAST | w->sequence, whole_place(w, d->strand, d->lo), i};
    }
    qsort(keys, (size_t)n, sizeof *keys, compare_keys);
    int32_t width = when.value >= 0 ? p->program->values[when.value].width : 0;
    int64_t element = when.value >= 0 ? (int64_t)type_size(strand_type(p, when.value, -1)) : 0;
    m->n_rows = m->n_computed = layout_rows(s, m->base, m->n_base);
    for (int32_t k = 0; k < n; k++) {
        need *d = &s->needs[keys[k].need];
        d->place = m->n_order;
        m->order[m->n_order++] = keys[k].need;
        int64_t rows = d->hi - d->lo;
        if (d->kind == NEED_FREE) {
            d->offset = m->free.bytes;
            m->free.bytes += align(rows * p->strands[d->strand].width
                                       * (int64_t)type_size((inset_type)p->strands[d->strand].type),
                64);
            continue;
        }
        if (d->kind == NEED_KEEP) continue; /* below, when the width is known */
        if (m->n_rows > INT32_MAX - rows)
            return error_set(p->context, INSET_NO_MEMORY, "a step would have more than 2^31 rows");
        d->first_row = m->n_rows;
        m->n_rows += (int32_t)rows;
        if (d->kind == NEED_COMPUTED) m->n_computed = m->n_rows, m->n_own++;
    }
    if (when.value >= 0 && !choose_columns(p, m, width)) return INSET_NO_MEMORY;
    int64_t row_bytes = (int64_t)(m->columns ? m->n_columns : width) * element;
    if (when.value >= 0)
        m->value.bytes = buffer_rows(p, m, &p->program->steps[p->program->values[when.value].step])
                         * row_bytes;
    for (int32_t k = 0; k < m->n_order; k++) {
        need *d = &s->needs[m->order[k]];
        if (d->kind != NEED_KEEP) continue;
        d->offset = m->kept.bytes;
        m->kept.bytes += align((d->hi - d->lo) * row_bytes, 64);
    }
    return INSET_OK;
}

/* ---- fusing ------------------------------------------------------------- */

/* Does the norm read exactly the rows that the addition makes, in their order? */
static bool same_rows(const schedule *s, const moment_plan *add, const moment_plan *norm)
{
    if (!norm->n_computed || add->n_computed != norm->n_computed
        || computed_count(add) != computed_count(norm))
        return false;
    for (int32_t k = add->base == norm->base && add->n_base == norm->n_base ? add->n_base : 0;
         k < computed_count(norm); k++) {
        const need *a = computed_need(s, add, k), *b = computed_need(s, norm, k);
        if (a->strand != b->strand || a->lo != b->lo || a->hi != b->hi) return false;
    }
    return true;
}

/* The addition of two whose sum, all of it, a norm of whole rows reads. */
static const step *addition_of(const program *g, const step *norm)
{
    if (norm->kind != STEP_LAYERNORM && (norm->kind != STEP_RMSNORM || norm->norm_groups > 1))
        return NULL;
    const slot *in = &g->slots[norm->operands[0]];
    const step *add = &g->steps[g->values[in->value].step];
    return add->kind == STEP_ADD && add->n_operands == 2
                   && g->values[norm->value].width == g->values[in->value].width
               ? add
               : NULL;
}

/* A residual addition and the norm behind it become one launch where they have the same rows: the
 * norm's buffer is then written at the addition's moment. Rows that divide by a scale of their own
 * are other rows than the addition's. */
static void fuse_norms(planner *p, schedule *s)
{
    const program *g = p->program;
    for (size_t i = 0; i < g->n_steps; i++) {
        const step *norm = &g->steps[i], *add = addition_of(g, norm);
        for (int32_t pass = 0; add && pass < s->n_passes; pass++) {
            int32_t at = moment_number(p, (moment){pass, norm->value}),
                    from = moment_number(p, (moment){pass, add->value});
            moment_plan *m = &s->moments[at], *sum = &s->moments[from];
            if (sum->norm || !same_rows(s, sum, m)) continue;
            sum->norm = at;
            m->in_addition = true;
            /* Records of the norm's rows run in that launch too. */
            buffer *written[] = {&m->value, &m->free, &m->kept};
            for (int k = 0; k < 3; k++)
                if (written[k]->bytes && from < written[k]->first_use) written[k]->first_use = from;
        }
    }
}

/* Is this a GELU of whole rows of a product, which nothing else reads? */
static const step *product_of(const program *g, const step *activated)
{
    if (activated->kind != STEP_ACTIVATION || activated->activation != ACTIVATION_GELU_TANH)
        return NULL;
    const slot *in = &g->slots[activated->operands[0]];
    const step *made = &g->steps[g->values[in->value].step];
    int32_t readers = 0;
    for (size_t i = 0; i < g->n_steps; i++)
        for (int k = 0; k < g->steps[i].n_operands; k++)
            readers += g->slots[g->steps[i].operands[k]].value == in->value;
    bool whole = in->shape.column == 0 && slot_column_end(in) == g->values[in->value].width;
    if (made->kind != STEP_LINEAR || readers != 1 || !whole) return NULL;
    const slot *x = &g->slots[made->operands[0]]; /* the product must find its rows packed */
    return x->shape.column == 0 && slot_column_end(x) == g->values[x->value].width ? made : NULL;
}

/* A product and the GELU behind it become one launch where nobody looks at what lies between them:
 * no record, save or later pass. The product's rows then have no place of their own, and its
 * padding lies behind the GELU's. */
static void fuse_gelus(planner *p, schedule *s)
{
    const program *g = p->program;
    for (size_t i = 0; i < g->n_steps && p->options.traits.gelu_in_product; i++) {
        const step *gelu = &g->steps[i], *made = product_of(g, gelu);
        for (int32_t pass = 0; made && pass < s->n_passes; pass++) {
            int32_t at = moment_number(p, (moment){pass, gelu->value}),
                    from = moment_number(p, (moment){pass, made->value});
            moment_plan *m = &s->moments[at], *product = &s->moments[from];
            if (product->read_by_records || product->n_rows != product->n_computed
                || !same_rows(s, product, m))
                continue;
            product->activation = at;
            m->in_product = true;
            if (from < m->value.first_use) m->value.first_use = from;
            product->value.bytes = 0;
            m->value.bytes = buffer_rows(p, m, made) * g->values[gelu->value].width
                             * (int64_t)type_size(strand_type(p, gelu->value, -1));
        }
    }
}

/* ---- memory ------------------------------------------------------------- */

typedef struct block {
    int64_t from, to;
    int32_t last_use;
} block;

/* First fit among the blocks still in use, which are kept in order of address. */
static int64_t place_buffer(block *blocks, size_t *n, const buffer *b)
{
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if (blocks[i].last_use >= b->first_use) blocks[kept++] = blocks[i];
    *n = kept;
    int64_t bytes = align(b->bytes, 256), at = 0;
    size_t i = 0;
    for (; i < kept && blocks[i].from < at + bytes; i++) at = blocks[i].to;
    for (size_t k = kept; k > i; k--) blocks[k] = blocks[k - 1];
    blocks[i] = (block){at, at + bytes, b->last_use};
    (*n)++;
    return at;
}

static int compare_buffers(const void *a, const void *b)
{
    const buffer *x = *(buffer *const *)a, *y = *(buffer *const *)b;
    if (x->first_use != y->first_use) return x->first_use < y->first_use ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return (x > y) - (x < y);
}

inset_status plan_pack(planner *p, schedule *s)
{
    size_t n = 0;
    for (int32_t i = s->n_moments - 1; i >= 0; i--) {
        inset_status status = pack_moment(p, s, i);
        if (status) return status;
    }
    fuse_norms(p, s);
    fuse_gelus(p, s);
    for (int32_t i = 0; i < s->n_moments; i++)
        n += (s->moments[i].value.bytes > 0) + (s->moments[i].free.bytes > 0)
             + (s->moments[i].kept.bytes > 0);
    buffer **buffers = arena_new(&p->scratch, n * sizeof *buffers);
    block *blocks = arena_new(&p->scratch, (n + 1) * sizeof *blocks);
    if (!buffers || !blocks) return INSET_NO_MEMORY;
    size_t k = 0, n_blocks = 0;
    for (int32_t i = 0; i < s->n_moments; i++) {
        if (s->moments[i].value.bytes) buffers[k++] = &s->moments[i].value;
        if (s->moments[i].free.bytes) buffers[k++] = &s->moments[i].free;
        if (s->moments[i].kept.bytes) buffers[k++] = &s->moments[i].kept;
    }
    qsort(buffers, n, sizeof *buffers, compare_buffers);
    for (size_t i = 0; i < n; i++) {
        buffers[i]->offset = place_buffer(blocks, &n_blocks, buffers[i]);
        int64_t end = buffers[i]->offset + align(buffers[i]->bytes, 256);
        if (end > s->arena_bytes) s->arena_bytes = end;
    }
    for (size_t i = 0; i < p->trace->n_storages; i++) {
        if (s->external_offset[i] < 0 || p->trace->storages[i].weight) continue;
        const storage *e = &p->trace->storages[i];
        s->external_offset[i] = s->external_bytes;
        s->external_bytes += align(e->lengths[0] * e->width * (int64_t)type_size(e->type), 64);
    }
    return INSET_OK;
}
