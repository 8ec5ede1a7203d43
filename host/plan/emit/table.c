/* table.c: tables of row numbers in short form. A table is runs of numbers that go on by one or
 * stay the same, so it costs as much as there are strands in it and not as there are rows; the
 * device writes the numbers out before the first run (kernels/expand.cu). */
#include "plan/emit/emit.h"

#include <string.h>

void runs_clear(run_list *list)
{
    list->n = 0;
    list->count = 0;
}

/* A run that goes on where the last one ends, or a number that goes on with its step, is joined to
 * it. */
static bool runs_join(table_run *last, int32_t first, int32_t count, int32_t step)
{
    int64_t apart = (int64_t)first - last->first - (int64_t)(last->count - 1) * last->step;
    if (last->count == 1 && (count == 1 ? apart >= INT16_MIN && apart <= INT16_MAX : apart == step))
        last->step = (int16_t)apart;
    else if (apart != last->step || (count > 1 && step != last->step)) return false;
    last->count += count;
    return true;
}

bool runs_add(emitter *e, run_list *list, int32_t first, int32_t count, int32_t step)
{
    if (count <= 0) return true;
    if (list->count > INT32_MAX - count) {
        error_set(e->p->context, INSET_NO_MEMORY, "a table would have more than 2^31 rows");
        return false;
    }
    if (!list->n || !runs_join(&list->at[list->n - 1], first, count, step)) {
        if (!array_extend(e->p->context, &list->at, &list->capacity, list->n + 1, sizeof *list->at))
            return false;
        list->at[list->n++] = (table_run){.to = (int32_t)list->count,
            .count = count,
            .first = first,
            .step = (int16_t)(count > 1 ? step : 0),
            .stride = 1,
            .kind = TABLE_COUNT};
    }
    list->count += count;
    return true;
}

bool runs_equal(const run_list *a, const run_list *b)
{
    return a->n == b->n && (!a->n || !memcmp(a->at, b->at, a->n * sizeof *a->at));
}

int32_t table_reserve(emitter *e, int64_t count)
{
    plan *out = e->out;
    if (count > INT32_MAX - out->n_tables) {
        error_set(
            e->p->context, INSET_NO_MEMORY, "the plan's tables would have more than 2^31 numbers");
        return -1;
    }
    out->n_tables += (int32_t)count;
    return out->n_tables - (int32_t)count;
}

static bool add_run(emitter *e, const table_run *run)
{
    plan *out = e->out;
    if (!array_extend(
            e->p->context, &out->runs, &out->runs_capacity, out->n_runs + 1, sizeof *out->runs))
        return false;
    out->runs[out->n_runs++] = *run;
    return true;
}

bool table_fill(emitter *e, int32_t to, int32_t count, int32_t stride, int32_t first, int32_t step)
{
    return add_run(e, &(table_run){.to = to,
                          .count = count,
                          .first = first,
                          .step = (int16_t)step,
                          .stride = (uint8_t)stride,
                          .kind = TABLE_COUNT});
}

bool table_repeat(emitter *e, int32_t to, int32_t count, int32_t from)
{
    plan *out = e->out;
    if (!array_extend(e->p->context, &out->repeats, &out->repeats_capacity, out->n_repeats + 1,
            sizeof *out->repeats))
        return false;
    out->repeats[out->n_repeats++] = (table_run){
        .to = to, .count = count, .first = from, .kind = TABLE_REPEAT};
    return true;
}

static bool is_stored(const emitter *e, const struct stored_table *t, const run_list *list)
{
    if (t->n_runs != list->n) return false;
    for (size_t i = 0; i < list->n; i++) {
        table_run run = e->out->runs[t->at + i];
        run.to -= t->to;
        if (memcmp(&run, &list->at[i], sizeof run)) return false;
    }
    return true;
}

void *emit_table(emitter *e, const run_list *list)
{
    uint64_t h = hash_bytes(3, list->at, list->n * sizeof *list->at);
    size_t cursor = 0;
    for (int32_t at; (at = table_next(&e->table_lookup, h, &cursor)) >= 0;)
        if (is_stored(e, &e->stored[at], list)) return table_address(e->stored[at].to);
    int32_t to = table_reserve(e, list->count);
    if (to < 0
        || !array_extend(
            e->p->context, &e->stored, &e->stored_capacity, e->n_stored + 1, sizeof *e->stored))
        return NULL;
    e->stored[e->n_stored] = (struct stored_table){e->out->n_runs, list->n, to};
    for (size_t i = 0; i < list->n; i++) {
        table_run run = list->at[i];
        run.to += to;
        if (!add_run(e, &run)) return NULL;
    }
    return table_add(e->p->context, &e->table_lookup, h, (int32_t)e->n_stored++) ? table_address(to)
                                                                                 : NULL;
}

/* Numbers as they are, such as frequencies bit by bit. */
void *emit_literal_table(emitter *e, const int32_t *numbers, size_t n)
{
    plan *out = e->out;
    uint64_t h = hash_bytes(5, numbers, n * sizeof *numbers);
    size_t cursor = 0;
    for (int32_t at; (at = table_next(&e->table_lookup, h, &cursor)) >= 0;) {
        const struct stored_table *t = &e->stored[at];
        const table_run *r = &out->runs[t->at];
        if (t->n_runs == 1 && r->kind == TABLE_LITERAL && (size_t)r->count == n
            && !memcmp(out->literals + r->first, numbers, n * sizeof *numbers))
            return table_address(t->to);
    }
    int32_t to = table_reserve(e, (int64_t)n);
    if (to < 0
        || !array_extend(
            e->p->context, &e->stored, &e->stored_capacity, e->n_stored + 1, sizeof *e->stored)
        || !array_extend(e->p->context, &out->literals, &out->literals_capacity,
            out->n_literals + n, sizeof *out->literals))
        return NULL;
    memcpy(out->literals + out->n_literals, numbers, n * sizeof *numbers);
    e->stored[e->n_stored] = (struct stored_table){out->n_runs, 1, to};
    if (!add_run(e, &(table_run){.to = to,
                        .count = (int32_t)n,
                        .first = (int32_t)out->n_literals,
                        .stride = 1,
                        .kind = TABLE_LITERAL}))
        return NULL;
    out->n_literals += n;
    return table_add(e->p->context, &e->table_lookup, h, (int32_t)e->n_stored++) ? table_address(to)
                                                                                 : NULL;
}
