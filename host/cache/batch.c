/* batch.c: one batch: its trace, its plan, its run, and its rows on their way to the writer.
 *
 * Prompts of one length are one invoke, so that a saved tensor has no padding and its positions are
 * the same for all. Where prompts of a batch begin alike for a good part, their common rows are
 * computed once, and the plan is for these tokens alone. Else nothing is shared, and the plan is
 * kept for the next batch of the same lengths. */
#include "cache/cache.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "plan/plan.h"
#include "run/run.h"

enum { MOST_PLANS = 32, SHARED_PART = 16 /* of the tokens: one in so many */ };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the trace ---------------------------------------------------------- */

static inset_status add_invoke(const cache *c, trace *t, const work *w, const group *g)
{
    const prompts *p = &c->prompts;
    int64_t *lengths = memory_new(c->context, (size_t)g->count * sizeof *lengths),
            *tokens = memory_new(c->context, (size_t)(g->count * g->length) * sizeof *tokens);
    inset_status status = lengths && tokens ? INSET_OK : INSET_NO_MEMORY;
    for (int64_t i = 0; i < g->count && !status; i++) {
        lengths[i] = g->length;
        memcpy(tokens + i * g->length, p->tokens + p->starts[w->prompts[g->first + i]],
            (size_t)g->length * sizeof *tokens);
    }
    if (!status) status = trace_invoke_tokens(t, g->count, lengths, tokens);
    memory_free(c->context, lengths);
    memory_free(c->context, tokens);
    return status;
}

/* [batch, position]: a slice where the positions are one, else a list. */
static void items_of(const int64_t *positions, int64_t n, index_item items[2])
{
    const int64_t step = n > 1 ? positions[1] - positions[0] : 1;
    bool slice = true;
    for (int64_t i = 1; i < n; i++) slice = slice && positions[i] - positions[i - 1] == step;
    items[0] = (index_item){.kind = INDEX_SLICE};
    items[1] = (index_item){.kind = slice ? INDEX_SLICE : INDEX_LIST,
        .has_start = true,
        .start = positions[0],
        .has_stop = true,
        .stop = positions[n - 1] + 1,
        .has_step = true,
        .step = step,
        .list = positions,
        .list_length = (size_t)n};
}

static inset_status save_tap(const cache *c, trace *t, size_t tap, const group *g,
    int64_t group_index, const index_item items[2])
{
    operand x, part;
    char name[64];
    inset_status status = trace_site(t, c->taps[tap].place, &x);
    if (!status && g->positions < g->length) {
        status = trace_index(t, &x, 2, items, &part);
        x = part;
    }
    if (!status && c->type != c->model->type) {
        status = trace_cast(t, &x, c->type, &part);
        x = part;
    }
    snprintf(name, sizeof name, "%lld.%zu", (long long)group_index, tap);
    return status ? status : trace_save(t, name, &x);
}

static inset_status record_groups(const cache *c, trace *t, const work *w)
{
    inset_status status = INSET_OK;
    int64_t *positions = memory_new(
        c->context, (size_t)(c->prompts.longest + 1) * sizeof *positions);
    if (!positions) return INSET_NO_MEMORY;
    for (int64_t i = 0; i < w->n_groups && !status; i++) {
        const group *g = &w->groups[i];
        index_item items[2];
        positions_of(c, g->length, positions);
        items_of(positions, g->positions, items);
        status = add_invoke(c, t, w, g);
        for (size_t k = 0; k < c->n_taps && !status; k++) status = save_tap(c, t, k, g, i, items);
    }
    trace_end_invoke(t);
    memory_free(c->context, positions);
    return status;
}

static inset_status make_plan(const cache *c, const work *w, bool share, struct plan **out)
{
    trace *t = NULL;
    plan_options options = {
        .no_share = !share, .memory_limit = c->memory_limit, .traits = sweep_traits(&c->reader)};
    inset_status status = trace_create(c->context, c->program, c->model->type, &t);
    if (!status) status = record_groups(c, t, w);
    if (!status) status = plan_create(t, &options, out);
    trace_free(t);
    return status;
}

/* ---- plans -------------------------------------------------------------- */

static void free_plan(cache *c, cache_plan *p)
{
    if (!p) return;
    plan_free(p->plan);
    memory_free(c->context, p->key);
    memory_free(c->context, p);
}

void plans_drop(cache *c)
{
    for (cache_plan *p = c->plans, *older; p; p = older) {
        older = p->older;
        free_plan(c, p);
    }
    c->plans = NULL;
    c->n_plans = 0;
}

/* Frees the one used longest ago, never one that is in use. */
static void make_room(cache *c)
{
    cache_plan **oldest = NULL;
    if (c->n_plans < MOST_PLANS) return;
    for (cache_plan **at = &c->plans; *at; at = &(*at)->older) {
        const bool in_use = *at == c->run_plan || (c->now && c->now->plan == *at)
                            || (c->following && c->following->plan == *at);
        if (!in_use && (!oldest || (*at)->used < (*oldest)->used)) oldest = at;
    }
    if (!oldest) return;
    cache_plan *gone = *oldest;
    *oldest = gone->older;
    free_plan(c, gone);
    c->n_plans--;
}

static bool fits(const cache_plan *p, const work *w)
{
    if (p->n_key != 2 * w->n_groups) return false;
    for (int64_t i = 0; i < w->n_groups; i++)
        if (p->key[2 * i] != w->groups[i].length || p->key[2 * i + 1] != w->groups[i].count)
            return false;
    return true;
}

static inset_status new_plan(cache *c, work *w, bool share)
{
    cache_plan *p = memory_new(c->context, sizeof *p);
    int64_t *key = memory_new(c->context, (size_t)(2 * w->n_groups) * sizeof *key);
    inset_status status = p && key ? make_plan(c, w, share, &p->plan) : INSET_NO_MEMORY;
    if (status) {
        memory_free(c->context, p);
        memory_free(c->context, key);
        return status;
    }
    for (int64_t i = 0; i < w->n_groups; i++) {
        key[2 * i] = w->groups[i].length;
        key[2 * i + 1] = w->groups[i].count;
    }
    p->key = key;
    p->n_key = 2 * w->n_groups;
    p->kept = !share;
    c->progress.plans++;
    if (p->kept) {
        make_room(c);
        p->older = c->plans;
        c->plans = p;
        c->n_plans++;
    }
    w->plan = p;
    return INSET_OK;
}

/* Do enough of the work's prompts begin alike? */
static inset_status worth_sharing(const cache *c, const work *w, bool *out)
{
    int64_t tokens = 0;
    int64_t *sorted = memory_new(c->context, (size_t)w->n * sizeof *sorted);
    if (!sorted) return INSET_NO_MEMORY;
    memcpy(sorted, w->prompts, (size_t)w->n * sizeof *sorted);
    for (int64_t i = 0; i < w->n; i++) tokens += c->prompts.lengths[sorted[i]];
    *out = !c->no_share && pack_shared(c, w->n, sorted) * SHARED_PART >= tokens;
    memory_free(c->context, sorted);
    return INSET_OK;
}

static inset_status find_plan(cache *c, work *w)
{
    bool share;
    inset_status status = worth_sharing(c, w, &share);
    if (status) return status;
    for (cache_plan *p = share ? NULL : c->plans; p && !w->plan; p = p->older)
        if (fits(p, w)) w->plan = p;
    if (!w->plan) status = new_plan(c, w, share);
    if (!status) w->plan->used = ++c->uses;
    return status;
}

/* ---- the next work ------------------------------------------------------ */

/* Groups of the work's first n prompts, which are in the order of their lengths. */
static void find_groups(const cache *c, work *w)
{
    w->n_groups = 0;
    for (int64_t i = 0; i < w->n; i++) {
        const int64_t length = c->prompts.lengths[w->prompts[i]];
        group *g = w->n_groups ? &w->groups[w->n_groups - 1] : NULL;
        if (g && g->length == length) g->count++;
        else
            w->groups[w->n_groups++] = (group){
                .length = length, .first = i, .count = 1, .positions = c->rows_a_length[length]};
    }
}

static bool is_to_do(const cache *c, int64_t shard)
{
    return !c->done[shard] && shard_is_mine(c, shard);
}

/* To the next shard that is not done; false behind the last. */
static inset_status find_batch(cache *c, bool *found)
{
    *found = false;
    while (c->shard < c->n_shards) {
        if (is_to_do(c, c->shard) && c->batch < 0) {
            inset_status status = pack_shard(c, c->shard);
            if (status) return status;
            c->batch = c->offset = 0;
        }
        if (is_to_do(c, c->shard) && c->batch < c->n_batches) {
            *found = true;
            return INSET_OK;
        }
        c->shard++;
        c->batch = -1;
    }
    return INSET_OK;
}

static inset_status new_work(cache *c, work **out)
{
    const batch_span *b = &c->batches[c->batch];
    const size_t n = (size_t)(b->count - c->offset);
    work *w = memory_new(c->context, sizeof *w);
    *out = w;
    if (!w) return INSET_NO_MEMORY;
    *w = (work){.shard = c->shard, .batch = c->batch, .offset = c->offset, .n = (int64_t)n};
    w->prompts = memory_new(c->context, n * sizeof *w->prompts);
    w->groups = memory_new(c->context, n * sizeof *w->groups);
    if (!w->prompts || !w->groups) return INSET_NO_MEMORY;
    memcpy(w->prompts, c->order + b->first + c->offset, n * sizeof *w->prompts);
    return INSET_OK;
}

/* What does not fit in memory together goes in parts. */
static inset_status plan_what_fits(cache *c, work *w)
{
    for (;;) {
        find_groups(c, w);
        inset_status status = find_plan(c, w);
        if (status != INSET_NO_MEMORY || w->n == 1) return status;
        w->n /= 2;
    }
}

inset_status work_next(cache *c, work **out)
{
    bool found;
    const double start = now();
    work *w = NULL;
    *out = NULL;
    inset_status status = find_batch(c, &found);
    if (status || !found) return status;
    status = new_work(c, &w);
    if (!status) status = plan_what_fits(c, w);
    if (status) {
        work_free(c, w);
        return status;
    }
    c->offset += w->n;
    if (c->offset == c->batches[c->batch].count) {
        c->offset = 0;
        c->batch++;
    }
    w->last = c->batch == c->n_batches;
    c->progress.planning += now() - start;
    *out = w;
    return INSET_OK;
}

/* Is this run the other work's too, or the next one's? */
static bool run_in_use(const cache *c, const work *besides, const struct run *r)
{
    return r == c->run || (c->now && c->now != besides && c->now->run == r)
           || (c->following && c->following != besides && c->following->run == r);
}

void work_free(cache *c, work *w)
{
    if (!w) return;
    if (w->started) run_finish(w->run, w->slot); /* given up: its numbers are nobody's */
    cache_plan *own = w->plan && !w->plan->kept ? w->plan : NULL;
    if (own && c->run_plan == own) {
        c->run = NULL;
        c->run_plan = NULL;
    }
    if (w->run && !run_in_use(c, w, w->run)) run_free(w->run);
    free_plan(c, own);
    memory_free(c->context, w->prompts);
    memory_free(c->context, w->groups);
    memory_free(c->context, w);
}

/* ---- the run ------------------------------------------------------------ */

/* The run of the work's plan: the one there is, or a new one in the same room. The one before stays
 * while a work that is not finished has it. */
static inset_status find_run(cache *c, work *w)
{
    struct run *before = c->run;
    if (!before || c->run_plan != w->plan) {
        c->run = NULL;
        c->run_plan = NULL;
        if (before && !run_in_use(c, NULL, before)) run_free(before);
        inset_status status = run_create_in(c->room, w->plan->plan, &c->run);
        if (status) return status;
        c->run_plan = w->plan;
    }
    w->run = c->run;
    return INSET_OK;
}

static inset_status set_tokens(const cache *c, const work *w)
{
    const prompts *p = &c->prompts;
    inset_status status = INSET_OK;
    for (int64_t i = 0; i < w->n_groups && !status; i++) {
        const group *g = &w->groups[i];
        const int64_t count = g->count * g->length;
        int64_t *tokens = memory_new(c->context, (size_t)count * sizeof *tokens);
        if (!tokens) return INSET_NO_MEMORY;
        for (int64_t k = 0; k < g->count; k++)
            memcpy(tokens + k * g->length, p->tokens + p->starts[w->prompts[g->first + k]],
                (size_t)g->length * sizeof *tokens);
        status = run_set_tokens(w->run, i, tokens, count);
        memory_free(c->context, tokens);
    }
    return status;
}

inset_status work_start(cache *c, work *w)
{
    const double start = now();
    inset_status status = c->room ? INSET_OK : run_room_create(c->model, &c->room);
    if (!status) status = find_run(c, w);
    if (!status) status = set_tokens(c, w);
    if (status) return status;
    w->slot = c->slot;
    c->slot = (c->slot + 1) % RUN_SLOTS;
    status = run_start(w->run, w->slot);
    c->progress.running += now() - start;
    w->started = !status;
    return status;
}

void works_leave_device(cache *c)
{
    work_free(c, c->now);
    c->now = NULL;
    work_free(c, c->following);
    c->following = NULL;
    run_free(c->run);
    run_room_free(c->room);
    c->run = NULL;
    c->run_plan = NULL;
    c->room = NULL;
}

/* ---- its rows ----------------------------------------------------------- */

/* Where the prompt's rows begin in their tensors. */
static int64_t first_row(const cache *c, const work *w, int64_t prompt)
{
    return c->row_starts[prompt - c->first_prompt[w->shard]];
}

/* `prompt`, `position` or `token` of the group's rows. */
static bool add_index(
    cache *c, packet *k, const work *w, const group *g, const int64_t *positions, int which)
{
    bool good = true;
    for (int64_t i = 0; i < g->count && good; i++) {
        const int64_t prompt = w->prompts[g->first + i], row = first_row(c, w, prompt),
                      *tokens = c->prompts.tokens + c->prompts.starts[prompt];
        for (int64_t r = 0; r < g->positions && good; r++) {
            const int64_t number = which == INDEX_PROMPT     ? prompt
                                   : which == INDEX_POSITION ? positions[r]
                                                             : tokens[positions[r]];
            good = packet_add(c->context, k,
                c->offsets[c->n_taps + (size_t)which] + (uint64_t)(row + r) * sizeof number,
                &number, sizeof number);
        }
    }
    return good;
}

static bool add_rows(cache *c, packet *k, const work *w, int64_t group_index)
{
    bool good = true;
    const group *g = &w->groups[group_index];
    for (size_t t = 0; t < c->n_taps && good; t++) {
        inset_tensor saved;
        run_arrived(w->run, w->slot, (size_t)group_index * c->n_taps + t, &saved);
        const size_t row = c->taps[t].row_bytes, bytes = (size_t)g->positions * row;
        for (int64_t i = 0; i < g->count && good; i++) {
            const int64_t at = first_row(c, w, w->prompts[g->first + i]);
            good = packet_add(c->context, k, c->offsets[t] + (uint64_t)at * row,
                (const char *)saved.data + (size_t)i * bytes, bytes);
        }
    }
    return good;
}

/* The header goes first, and with it the file is made. */
static inset_status begin_shard(cache *c, const work *w, packet *k)
{
    char *header;
    size_t header_size;
    const int64_t from = c->first_prompt[w->shard], n = c->first_prompt[w->shard + 1] - from;
    if (!array_extend(
            c->context, &c->row_starts, &c->row_starts_capacity, (size_t)n, sizeof *c->row_starts))
        return INSET_NO_MEMORY;
    for (int64_t i = 0, row = 0; i < n; row += prompt_rows(c, from + i++)) c->row_starts[i] = row;
    inset_status status = index_shard_layout(c, w->shard, &header, &header_size, &k->file_size);
    if (status) return status;
    k->begins = true;
    const bool good = packet_add(c->context, k, 0, header, header_size);
    memory_free(c->context, header);
    return good ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status fill_packet(cache *c, const work *w, packet *k)
{
    size_t rows = 0;
    k->shard = w->shard;
    inset_status status = c->open_shard == w->shard ? INSET_OK : begin_shard(c, w, k);
    for (int64_t i = 0; i < w->n_groups; i++)
        rows += (size_t)(w->groups[i].count * w->groups[i].positions);
    /* its room at once, where growing would take twice as much */
    if (!status
        && !array_extend(
            c->context, &k->bytes, &k->bytes_capacity, k->n_bytes + rows * c->row_bytes, 1))
        return INSET_NO_MEMORY;
    int64_t *positions = memory_new(
        c->context, (size_t)(c->prompts.longest + 1) * sizeof *positions);
    if (!positions) return INSET_NO_MEMORY;
    bool good = !status;
    for (int64_t i = 0; i < w->n_groups && good; i++) {
        positions_of(c, w->groups[i].length, positions);
        good = add_rows(c, k, w, i);
        for (int which = 0; which < INDEX_TENSORS && good; which++)
            good = add_index(c, k, w, &w->groups[i], positions, which);
    }
    memory_free(c->context, positions);
    k->index_name = c->index_name;
    if (good && w->last) good = (k->index = index_text(c, w->shard)) != NULL;
    k->ends = w->last;
    return status || good ? status : error_no_memory(c->context);
}

inset_status work_finish(cache *c, work *w)
{
    double start = now();
    packet *k;
    inset_status status = run_finish(w->run, w->slot);
    w->started = false;
    c->progress.running += now() - start;
    if (status) return status;
    start = now();
    status = shard_packet(c->writer, &k);
    c->progress.waiting += now() - start;
    if (status || (status = fill_packet(c, w, k))) return status;
    c->progress.bytes += (int64_t)k->n_bytes;
    shard_submit(c->writer, k);
    c->open_shard = w->last ? -1 : w->shard;
    c->done[w->shard] = w->last;
    c->progress.done += w->n;
    c->progress.batches++;
    return INSET_OK;
}
