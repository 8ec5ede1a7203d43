/* whole.c: attention of sequences that the device takes whole. Their rows of z lie in order
 * (pack.c); those of queries, keys and values do where nothing was patched, and are gathered
 * otherwise. */
#include "plan/emit/emit.h"

/* Rows of queries (k = 0), keys or values of the whole sequence, in order of position. */
static inset_status whole_operand(
    emitter *e, const step *st, const whole *w, int k, operand_ref *out)
{
    planner *p = e->p;
    const segment *last = &w->rows->at[w->rows->n - 1];
    bool fine = true, apart = false;
    runs_clear(&e->rows);
    if (k == 0) {
        for (int32_t i = 0; i < w->rows->n && fine; i++) {
            const segment *s = &w->rows->at[i];
            fine = emit_gather_queries(e, st, s->strand, s->first, s->first + s->count);
        }
        return fine ? emit_finish_operand(e, st->operands[0], out) : INSET_NO_MEMORY;
    }
    operand_row node = attention_part(p, st, last->strand, 1);
    fine = emit_gather_context(
        e, st, k - 1, node.strand, last->first + last->count + node.shift, &e->rows, &apart);
    return fine ? emit_finish_operand(e, pair_step(p, st)->operands[k - 1], out) : INSET_NO_MEMORY;
}

/* Bytes behind all buffers, for this launch; *used counts them. */
static void *take_scratch(emitter *e, int64_t *used, int64_t bytes)
{
    void *at = tagged(AREA_ARENA, e->s->arena_bytes + *used);
    *used += (bytes + 255) & ~(int64_t)255;
    if (*used > e->scratch_bytes) e->scratch_bytes = *used;
    return at;
}

/* Puts rows that are not in order into scratch memory. */
static inset_status put_in_order(
    emitter *e, operand_ref *x, int64_t rows, int64_t width, int64_t *used)
{
    if (!x->rows) return INSET_OK;
    void *scratch = take_scratch(e, used, rows * width * (int64_t)type_size(e->out->model_type));
    launch *l = emit_kernel(e, KERNEL_GATHER, sizeof(gather_args), rows, rows * width);
    if (!l) return INSET_NO_MEMORY;
    l->args.gather = (gather_args){.out = scratch,
        .x = x->at,
        .x_rows = x->rows,
        .n_rows = rows,
        .width = width,
        .out_stride = width,
        .x_stride = x->stride};
    *x = (operand_ref){scratch, NULL, width};
    return INSET_OK;
}

/* Whether `next` goes on where `a` ends, so that one launch can do both. */
static bool goes_on(
    const whole_attention_args *a, const whole_attention_args *next, int64_t element)
{
    const int64_t rows = a->n_sequences * a->length * element;
    return a->length == next->length && a->q_stride == next->q_stride
           && a->k_stride == next->k_stride && a->v_stride == next->v_stride
           && (const char *)a->q + rows * a->q_stride == next->q
           && (const char *)a->k + rows * a->k_stride == next->k
           && (const char *)a->v + rows * a->v_stride == next->v
           && (char *)a->out + rows * a->out_stride == next->out;
}

/* One sequence. *before: the launch that it may join, -1: none; then the launch that the next one
 * may. How many sequences are in a launch may show in their bits, so they join only where that is
 * allowed. */
static inset_status emit_sequence(
    emitter *e, const step *st, const whole *w, void *out, int64_t *before)
{
    const int64_t length = w->rows->rows, element = (int64_t)type_size(e->out->model_type),
                  heads = (int64_t)st->n_heads * st->head_dim,
                  kv_heads = (int64_t)st->n_kv_heads * st->head_dim,
                  statistics = length * st->n_heads * (int64_t)sizeof(float);
    const size_t n_launches = e->out->n_launches;
    whole_attention_args args,
        *joined = *before >= 0 ? &e->out->launches[*before].args.whole_attention : NULL;
    operand_ref in[3];
    int64_t used = joined ? joined->n_sequences * statistics : 0;
    whole_shape(e->p, st, length, &args);
    take_scratch(e, &used, statistics); /* behind those of the launch that it may join */
    for (int k = 0; k < 3; k++) {
        inset_status status = whole_operand(e, st, w, k, &in[k]);
        if (!status) status = put_in_order(e, &in[k], length, k ? kv_heads : heads, &used);
        if (status) return status;
    }
    args.out = out;
    args.statistics = tagged(AREA_ARENA, e->s->arena_bytes);
    args.q = in[0].at, args.q_stride = in[0].stride;
    args.k = in[1].at, args.k_stride = in[1].stride;
    args.v = in[2].at, args.v_stride = in[2].stride;
    e->out->statistics.flops += 2.0 * (double)length * (double)(length + 1) * (double)heads;
    const bool gathered = e->out->n_launches > n_launches;
    if (joined && !gathered && goes_on(joined, &args, element)) {
        joined->n_sequences++;
        return INSET_OK;
    }
    launch *l = emit_kernel(e, KERNEL_WHOLE_ATTENTION, sizeof args, 1, length * length * heads);
    if (!l) return INSET_NO_MEMORY;
    l->args.whole_attention = args;
    *before = e->p->options.traits.fast && !gathered ? (int64_t)e->out->n_launches - 1 : -1;
    return INSET_OK;
}

inset_status emit_whole(emitter *e, const step *st, const moment_plan *m, void *out, int64_t width)
{
    int32_t sequence = -1;
    int64_t before = -1;
    for (int32_t i = 0; i < computed_count(m); i++) {
        const need *n = computed_need(e->s, m, i);
        const whole *w = whole_of(e->p, st, n->strand);
        if (!w || w->sequence == sequence) continue;
        sequence = w->sequence;
        inset_status status = emit_sequence(e, st, w,
            moved(out, n->first_row * width * (int64_t)type_size(e->out->model_type)), &before);
        if (status) return status;
        e->out->statistics.whole_sequences += !e->whole_seen[sequence];
        e->whole_seen[sequence] = true;
    }
    return INSET_OK;
}
