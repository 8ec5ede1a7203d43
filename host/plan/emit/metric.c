/* metric.c: metrics of rows that are there at a moment: one table and one launch for all of them of
 * a type. */
#include "plan/emit/emit.h"

/* Where a metric's tokens are among the answers; those of one metric lie there once. */
static bool answers_place(emitter *e, int32_t first_answer, int32_t count, int64_t *out)
{
    plan *made = e->out;
    if (e->answer_place[first_answer] < 0) {
        size_t n = made->n_answer_source + (size_t)count;
        if (!array_extend(e->p->context, &made->answer_source, &made->answer_source_capacity, n,
                sizeof *made->answer_source))
            return false;
        e->answer_place[first_answer] = (int32_t)made->n_answer_source;
        for (int32_t i = 0; i < count; i++)
            made->answer_source[made->n_answer_source++] = first_answer + i;
    }
    *out = e->answer_place[first_answer];
    return true;
}

/* Rows lo .. of a piece, side by side: the first, and bytes to the next. */
static const void *rows_at(const emitter *e, const piece *from, int32_t lo, int64_t *step)
{
    record r = {0};
    emit_record_operand(
        e, from, lo, from->c0, &r.a, &r.a_constant, &r.a_row, &r.a_column, &r.a_type, INSET_F32);
    *step = r.a_row * (int64_t)type_size((inset_type)r.a_type);
    return r.a;
}

static inset_type rows_type(const emitter *e, const strand *t)
{
    const piece *from = metric_rows(t, 0);
    return strand_type(e->p, from->domain, from->strand);
}

/* The numbers of one need, a line of the table each. */
static bool add_rows(emitter *e, const need *n, metrics_args *args, int64_t *work)
{
    plan *out = e->out;
    const strand *t = &e->p->strands[n->strand];
    piece operand = *metric_rows(t, 0);
    int64_t rows = n->hi - n->lo, x_step = 0, other_step = 0, place = 0;
    metric_row one = {.kind = t->op};
    metric_behind behind;
    const step *product = metric_product(e->p, t, &operand, &behind);
    const piece *reference = metric_rows(t, 1);
    metric_counts(t, &one.n_a, &one.n_b);
    one.width = operand.c1 - operand.c0;
    one.product = product != NULL;
    one.softcap = behind.softcap;
    one.scale = behind.scale;
    const bool reads = metric_reads_rows(t);
    if (reads) one.x = rows_at(e, &operand, n->lo, &x_step);
    if (reads && reference) one.other = rows_at(e, reference, n->lo, &other_step);
    if (one.n_a && !answers_place(e, t->start, one.n_a + one.n_b, &place)) return false;
    if (one.n_a) one.tokens = tagged(AREA_ANSWERS, place * (int64_t)sizeof(int32_t));
    if (product) {
        args->weight = emit_weight(product->weight);
        args->bias = emit_weight(product->bias);
        out->statistics.flops += 2.0 * (double)rows * one.width * (one.n_a + one.n_b);
    }
    if (!array_extend(e->p->context, &out->metric_rows, &out->metric_rows_capacity,
            out->n_metric_rows + (size_t)rows, sizeof one))
        return false;
    char *to = emit_row_address(e, DOMAIN_FREE, n->strand, n->lo);
    for (int64_t i = 0; i < rows; i++) {
        metric_row *line = &out->metric_rows[out->n_metric_rows++];
        *line = one;
        line->out = (float *)(void *)(to + i * t->width * (int64_t)sizeof(float));
        if (reads) line->x = (const char *)one.x + i * x_step;
        if (one.other) line->other = (const char *)one.other + i * other_step;
    }
    *work += rows * one.width * (product ? one.n_a + one.n_b : 8);
    return true;
}

static inset_status emit_metrics_of(emitter *e, int32_t level, inset_type type)
{
    const moment_plan *m = &e->s->moments[e->now];
    size_t first = e->out->n_metric_rows;
    metrics_args args = {.rows = tagged(AREA_METRICS, (int64_t)(first * sizeof(metric_row)))};
    int64_t work = 0;
    for (int32_t i = 0; i < m->n_order; i++) {
        const need *n = &e->s->needs[m->order[i]];
        const strand *t = &e->p->strands[n->strand];
        if (n->kind != NEED_FREE || n->level != level || t->kind != STRAND_METRIC
            || rows_type(e, t) != type)
            continue;
        if (!add_rows(e, n, &args, &work)) return INSET_NO_MEMORY;
    }
    args.n_rows = (int64_t)(e->out->n_metric_rows - first);
    if (!args.n_rows) return INSET_OK;
    launch *l = emit_kernel(e, KERNEL_METRICS, sizeof args, args.n_rows, work);
    if (!l) return INSET_NO_MEMORY;
    l->type = (uint8_t)type;
    l->args.metrics = args;
    return INSET_OK;
}

inset_status emit_metrics(emitter *e, int32_t level)
{
    static const inset_type types[] = {INSET_F32, INSET_BF16, INSET_F16};
    inset_status status = INSET_OK;
    for (size_t i = 0; i < sizeof types / sizeof *types && !status; i++)
        status = emit_metrics_of(e, level, types[i]);
    return status;
}
