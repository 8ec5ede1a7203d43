/* pattern.c: which plan fits a chunk, so that chunks alike are planned once and then only given
 * other tokens.
 *
 * A plan knows no tokens, but which tokens of its prompts are equal at one position (these are one
 * row), and what the trace does. So two chunks take the same plan when these agree, their pattern,
 * a list of integers:
 *
 *     jobs, first point          what is patched, where and in which order; where there are
 *                                features, the first job: which of them change is another thing
 *                                each time
 *     for each pair              its length, that of the prompt resample takes, and for each metric
 *                                the first one in the chunk with its kind and tokens: such metrics
 *                                of equal rows are one number
 *     for each position          its tokens in the order of the chunk's prompts, numbered by first
 *                                appearance
 *
 * Numbers run over the whole chunk, because the planner finds equal tokens across its pairs: two
 * pairs that happen to begin alike are another pattern than two that do not. Patterns are compared
 * whole, so that a plan made anew would have been the same plan. The plans used last are kept. */
#include "sweep/chunks/chunk.h"

#include <string.h>

#define MOST_KEPT ((size_t)512 << 20) /* bytes of plans that are kept beside the one in use */

typedef struct list {
    int64_t *at;
    size_t n;
} list;

static void add(list *l, int64_t number) { l->at[l->n++] = number; }

/* ---- the pattern -------------------------------------------------------- */

static bool begins_pair(const run_of *r) { return r->kind == RUN_CLEAN; }

/* Runs that bring a prompt of their own; patched ones repeat their pair's. */
static bool brings_prompt(const run_of *r) { return r->kind != RUN_PATCHED; }

/* The chunk's pairs, and their metrics by their tokens: metric m of pair i is number i * n_metrics
 * + m. */
typedef struct chunk_pairs {
    int64_t *at;
    size_t n;
    table metrics;
} chunk_pairs;

/* Numbers the last pair's metrics by the first of the chunk with the same tokens. */
static bool add_answers(const sweep *s, chunk_pairs *pairs, list *out)
{
    int64_t pair = pairs->at[pairs->n - 1];
    for (size_t m = 0; m < s->n_metrics; m++) {
        const uint64_t hash = metric_hash(s, m, pair);
        size_t cursor = 0;
        int32_t first;
        while ((first = table_next(&pairs->metrics, hash, &cursor)) >= 0)
            if (metrics_alike(s, (size_t)first % s->n_metrics,
                    pairs->at[(size_t)first / s->n_metrics], m, pair))
                break;
        if (first < 0) {
            first = (int32_t)((pairs->n - 1) * s->n_metrics + m);
            if (!table_add(s->context, &pairs->metrics, hash, first)) return false;
        }
        add(out, first);
    }
    return true;
}

/* The chunk's prompts, [n], and the longest of them. */
typedef struct chunk_prompts {
    const int64_t **tokens, *lengths;
    size_t n;
    int64_t longest, total;
} chunk_prompts;

static bool list_prompts(prepared *c, chunk_prompts *out)
{
    int64_t *lengths = arena_new(&c->memory, c->n_runs * sizeof *lengths);
    *out = (chunk_prompts){
        .tokens = arena_new(&c->memory, c->n_runs * sizeof *out->tokens), .lengths = lengths};
    if (!out->tokens || !lengths) return false;
    for (size_t i = 0; i < c->n_runs; i++) {
        if (!brings_prompt(&c->runs[i])) continue;
        out->tokens[out->n] = run_prompt(c->sweep, &c->runs[i], &lengths[out->n]);
        out->total += lengths[out->n];
        if (lengths[out->n] > out->longest) out->longest = lengths[out->n];
        out->n++;
    }
    return true;
}

/* Numbers tokens by first appearance at their position. */
static bool add_equalities(prepared *c, const chunk_prompts *p, list *out)
{
    /* position + 1; 0: nowhere yet */
    typedef struct seen {
        int64_t position, number;
    } seen;
    seen *last = memory_new(
        c->sweep->context, (size_t)c->sweep->program->vocabulary * sizeof *last);
    if (!last) return false;
    for (int64_t position = 0; position < p->longest; position++) {
        int64_t numbers = 0;
        for (size_t i = 0; i < p->n; i++) {
            if (position >= p->lengths[i]) continue;
            seen *token = &last[p->tokens[i][position]];
            if (token->position != position + 1) *token = (seen){position + 1, numbers++};
            add(out, token->number);
        }
    }
    memory_free(c->sweep->context, last);
    return true;
}

static inset_status find_pattern(prepared *c, list *out)
{
    const sweep *s = c->sweep;
    chunk_prompts p;
    chunk_pairs pairs = {.at = arena_new(&c->memory, c->n_runs * sizeof *pairs.at)};
    if (!pairs.at || !list_prompts(c, &p)) return INSET_NO_MEMORY;
    size_t most = 3 + p.n * (2 + s->n_metrics) + (size_t)p.total;
    *out = (list){.at = arena_new(&c->memory, most * sizeof *out->at)};
    if (!out->at) return INSET_NO_MEMORY;
    add(out, c->count);
    add(out, c->first % s->points);
    if (sweep_has_features(s)) add(out, c->first);
    bool fine = true;
    for (size_t i = 0; i < c->n_runs && fine; i++) {
        if (!begins_pair(&c->runs[i])) continue;
        int64_t pair = c->runs[i].pair;
        add(out, s->clean.lengths[pair]);
        if (s->source == SOURCE_RESAMPLE) add(out, s->others.lengths[s->partners[pair]]);
        pairs.at[pairs.n++] = pair;
        fine = add_answers(s, &pairs, out);
    }
    table_free(s->context, &pairs.metrics);
    return fine && add_equalities(c, &p, out) ? INSET_OK : INSET_NO_MEMORY;
}

/* ---- plans that are kept ------------------------------------------------ */

static planned *find_plan(const sweep *s, const list *pattern, uint64_t hash)
{
    for (planned *p = s->plans; p; p = p->older)
        if (p->hash == hash && p->n_pattern == pattern->n
            && !memcmp(p->pattern, pattern->at, pattern->n * sizeof *pattern->at))
            return p;
    return NULL;
}

static void free_planned(sweep *s, planned *p)
{
    plan_free(p->plan);
    memory_free(s->context, p->pattern);
    memory_free(s->context, p);
}

void plans_free(sweep *s)
{
    for (planned *p = s->plans, *older; p; p = older) {
        older = p->older;
        free_planned(s, p);
    }
    s->plans = NULL;
}

/* Frees the plans used longest ago until the rest takes no more than MOST_KEPT, or all that will
 * not come again; never one that is in use. */
static void make_room(sweep *s)
{
    for (;;) {
        size_t bytes = 0;
        planned **oldest = NULL;
        for (planned **at = &s->plans; *at; at = &(*at)->older) {
            bytes += (*at)->bytes;
            bool in_use = *at == s->run_plan || (s->prepared && *at == s->prepared->plan);
            if (!in_use && (!oldest || (*at)->used < (*oldest)->used)) oldest = at;
        }
        if (!oldest || (bytes <= MOST_KEPT && !sweep_has_features(s))) return;
        planned *gone = *oldest;
        *oldest = gone->older;
        free_planned(s, gone);
    }
}

/* Takes the plan over, also on failure. */
static inset_status keep_plan(prepared *c, plan *made, const list *pattern, uint64_t hash)
{
    sweep *s = c->sweep;
    const plan_statistics *is = plan_get_statistics(made);
    planned *p = memory_new(s->context, sizeof *p);
    int64_t *numbers = p ? memory_new(s->context, pattern->n * sizeof *numbers) : NULL;
    if (!numbers) {
        memory_free(s->context, p);
        plan_free(made);
        return INSET_NO_MEMORY;
    }
    memcpy(numbers, pattern->at, pattern->n * sizeof *numbers);
    make_room(s);
    *p = (planned){.older = s->plans,
        .plan = made,
        .pattern = numbers,
        .n_pattern = pattern->n,
        .hash = hash,
        .bytes = (size_t)is->table_bytes + (size_t)is->launches * 512
                 + pattern->n * sizeof *numbers};
    s->plans = c->plan = p;
    s->progress.plans++;
    return INSET_OK;
}

inset_status pattern_plan(prepared *c, inset_status (*make)(prepared *c, plan **out))
{
    sweep *s = c->sweep;
    list pattern;
    plan *made = NULL;
    inset_status status = find_pattern(c, &pattern);
    if (status) return status;
    uint64_t hash = hash_bytes(1, pattern.at, pattern.n * sizeof *pattern.at);
    if (!(c->plan = find_plan(s, &pattern, hash)) && !(status = make(c, &made)))
        status = keep_plan(c, made, &pattern, hash);
    if (!status) c->plan->used = ++s->uses;
    return status;
}

/* The tokens of a run's metrics, in the order in which its invoke makes them: kl has none, but is
 * made there; the clean run's where its reference, the corrupt one, comes behind it, in that one's
 * invoke. */
static inset_status readout_set_tokens(const prepared *c, run *r, size_t index)
{
    const sweep *s = c->sweep;
    const run_of *of = &c->runs[index];
    const int64_t kls = s->noise || of->kind == RUN_PATCHED ? 1 : of->kind == RUN_CLEAN ? 0 : 2;
    inset_status status = INSET_OK;
    int64_t at = 0;
    for (size_t m = 0; m < s->n_metrics && !status; m++) {
        int64_t count;
        const int64_t *tokens = metric_tokens_of(s, m, of->pair, &count);
        if (count) status = run_set_answers(r, (int64_t)index, at, tokens, count);
        at += s->metrics[m].kind == INSET_KL ? kls : 1;
    }
    return status;
}

inset_status pattern_set_inputs(const prepared *c, run *r)
{
    inset_status status = INSET_OK;
    for (size_t i = 0; i < c->n_runs && !status; i++) {
        int64_t length;
        const int64_t *tokens = run_prompt(c->sweep, &c->runs[i], &length);
        status = run_set_tokens(r, (int64_t)i, tokens, length);
        if (!status && c->runs[i].kind != RUN_OTHER) status = readout_set_tokens(c, r, i);
    }
    return status;
}
