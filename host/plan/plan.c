/* plan.c: a trace becomes a plan, in five steps:
 *
 *   rows/walk.c     which rows every value has, and which of them are the same
 *   wanted/live.c   which of those anybody needs
 *   wanted/pack.c   where they lie in memory
 *   emit/emit.c     the launches that make them
 *   emit/inputs.c   what the invokes were given, to run it again
 *
 * Planning needs no device and knows no numbers. */
#include "plan/explain.h"
#include "plan/plan.h"

#include <string.h>

#include "kernels/products.h"
#include "plan/emit/launches.h"

static void planner_free(planner *p)
{
    memory_free(p->context, p->strands);
    memory_free(p->context, p->words);
    memory_free(p->context, p->ties);
    memory_free(p->context, p->strips.pieces);
    memory_free(p->context, p->segments.at);
    memory_free(p->context, p->old_pieces.at);
    memory_free(p->context, p->new_pieces.at);
    memory_free(p->context, p->row_pieces.at);
    table_free(p->context, &p->interned);
    table_free(p->context, &p->word_table);
    table_free(p->context, &p->prompt_table);
    memory_free(p->context, p->prompts);
    memory_free(p->context, p->whole.at);
    memory_free(p->context, p->whole.answers);
    arena_free(&p->memory);
    arena_free(&p->scratch);
    arena_free(&p->passing);
}

static void schedule_free(inset_context *context, schedule *s)
{
    memory_free(context, s->needs);
    memory_free(context, s->rows);
    memory_free(context, s->layouts);
    table_free(context, &s->lookup);
}

/* What the steps up to one cost an invoke on its own: steps that make a row a token, steps that
 * make one a position, FLOPs a row, and FLOPs a pair of query and key. */
typedef struct step_costs {
    int32_t event;
    int64_t rows, positions;
    double flops_row, flops_pair;
} step_costs;

static const step_costs *costs_of_steps(planner *p)
{
    const program *g = p->program;
    step_costs *costs = arena_new(&p->scratch, (g->n_steps + 1) * sizeof *costs);
    if (!costs) return NULL;
    costs[0].event = -1;
    for (size_t i = 0; i < g->n_steps; i++) {
        const step *s = &g->steps[i];
        step_costs *c = &costs[i + 1];
        *c = costs[i];
        c->event = s->event;
        if (s->kind == STEP_PAIR || s->kind == STEP_SCORES || s->kind == STEP_PATTERN
            || s->kind == STEP_NORM_SCALE || s->kind == STEP_ZERO || s->aside
            || g->values[s->value].by_keys)
            continue;
        if (g->values[s->value].per_position) c->positions++;
        else c->rows++;
        if (s->kind == STEP_ATTENTION) c->flops_pair += 4.0 * s->n_heads * s->head_dim;
        if (s->kind == STEP_ATTENTION_BACK) c->flops_pair += 10.0 * s->n_heads * s->head_dim;
        if (s->kind == STEP_LINEAR || s->kind == STEP_LINEAR_BACK)
            c->flops_row += 2.0 * g->weights[s->weight].rows * g->weights[s->weight].columns;
        if (s->kind == STEP_EXPERTS) c->flops_row += experts_flops(s->experts, false);
        if (s->kind == STEP_EXPERTS_BACK) c->flops_row += experts_flops(s->experts, true);
    }
    return costs;
}

/* What the same trace would cost with every invoke on its own and every row of every step run, up
 * to the last event asked for. */
static inset_status count_unshared(planner *p, plan_statistics *c)
{
    const trace *t = p->trace;
    const step_costs *costs = costs_of_steps(p);
    if (!costs) return INSET_NO_MEMORY;
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        /* the last step that ran is in low .. high */
        size_t low = 0, high = p->program->n_steps;
        while (low < high) {
            size_t middle = low + (high - low + 1) / 2;
            if (costs[middle].event <= v->current_event) low = middle;
            else high = middle - 1;
        }
        /* a shadow's forward is its invoke's, counted there */
        const step_costs *from = &costs[v->reversed ? v->first_step : 0], *to = &costs[low];
        if (!v->reversed) c->sequences += v->n_sequences;
        for (int32_t s = 0; s < v->n_sequences; s++) {
            double rows = v->lengths[s];
            c->rows_unshared += (to->rows - from->rows) * v->lengths[s];
            c->flops_unshared += (to->flops_row - from->flops_row) * rows
                                 + (to->flops_pair - from->flops_pair) * 0.5 * rows * (rows + 1);
        }
        c->rows_unshared += (to->positions - from->positions) * v->longest;
    }
    return INSET_OK;
}

/* What may be asked of the plan's metrics later: other tokens. */
static inset_status keep_metrics(planner *p, plan *out)
{
    const trace *t = p->trace;
    out->n_answers = t->n_answers;
    out->n_ties = p->n_ties;
    out->answers = arena_copy(&out->memory, t->answers, t->n_answers * sizeof *t->answers);
    out->ties = arena_copy(&out->memory, p->ties, p->n_ties * sizeof *p->ties);
    out->metrics = arena_new(&out->memory, t->n_metrics * sizeof *out->metrics);
    out->invoke_metric = arena_new(&out->memory, (t->n_invokes + 1) * sizeof *out->invoke_metric);
    if (!out->answers || !out->ties || !out->metrics || !out->invoke_metric) return INSET_NO_MEMORY;
    for (size_t i = 0, k = 0; i <= t->n_invokes; i++) {
        while (k < t->n_metrics && t->metrics[k].invoke < (int32_t)i) k++;
        out->invoke_metric[i] = (int64_t)k;
    }
    for (size_t i = 0; i < t->n_metrics; i++) {
        const trace_metric_call *c = &t->metrics[i];
        out->metrics[i] = (struct asked_metric){c->first_answer, c->n_a + c->n_b, c->width};
    }
    return INSET_OK;
}

static inset_status keep_results(const schedule *s, plan *out)
{
    out->n_saved = s->n_saved;
    out->saved = arena_copy(&out->memory, s->saved, s->n_saved * sizeof *s->saved);
    if (!out->saved) return INSET_NO_MEMORY;
    for (size_t i = 0; i < s->n_saved; i++) {
        out->saved[i].name = arena_text(&out->memory, s->saved[i].name, strlen(s->saved[i].name));
        if (!out->saved[i].name) return INSET_NO_MEMORY;
        out->needs_clearing |= s->saved[i].padded;
    }
    return INSET_OK;
}

static inset_status keep_externals(planner *p, const schedule *s, plan *out)
{
    size_t n = 0;
    for (size_t i = 0; i < p->trace->n_storages; i++) n += s->external_offset[i] >= 0;
    out->externals = arena_new(&out->memory, n * sizeof *out->externals);
    out->used_weights = arena_new(&out->memory, n * sizeof *out->used_weights);
    if (!out->externals || !out->used_weights) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->trace->n_storages; i++) {
        if (s->external_offset[i] < 0) continue;
        const storage *e = &p->trace->storages[i];
        if (e->weight) {
            out->used_weights[out->n_used_weights++] = e->weight - 1;
            continue;
        }
        int64_t bytes = e->lengths[0] * e->width * (int64_t)type_size(e->type);
        void *data = e->there ? NULL : arena_copy(&out->memory, e->data, (size_t)bytes);
        if (!data && !e->there) return INSET_NO_MEMORY;
        out->externals[out->n_externals].storage = (int32_t)i;
        out->externals[out->n_externals].offset = s->external_offset[i];
        out->externals[out->n_externals].bytes = bytes;
        out->externals[out->n_externals].there = e->there;
        out->externals[out->n_externals++].data = data;
    }
    return INSET_OK;
}

/* Numbers of matrices from outside; of one tensor once. */
static inset_status keep_matrices(planner *p, plan *out)
{
    for (size_t i = 0; i < out->n_matrices; i++) {
        given_matrix *g = &out->matrices[i];
        if (!g->in || g->weight >= 0) continue;
        const storage *s = &p->trace->storages[g->storage];
        g->there = s->there;
        for (size_t k = 0; k < i && !g->data; k++)
            if (out->matrices[k].in && out->matrices[k].storage == g->storage)
                g->data = out->matrices[k].data;
        const size_t bytes = (size_t)(g->rows * g->width) * type_size(g->type);
        if (!g->data && !g->there && !(g->data = arena_copy(&out->memory, s->data, bytes)))
            return INSET_NO_MEMORY;
    }
    return INSET_OK;
}

/* Bytes of a row of what a product reads or makes, whichever is wider. */
static int64_t widest_row(const planner *p, const plan *out, const launch *l)
{
    const given_matrix *g = l->given ? &out->matrices[l->given - 1] : NULL;
    const weight *w = g ? NULL : &p->program->weights[l->weight];
    const int64_t widest = g                      ? (g->in > g->out ? g->in : g->out)
                           : l->part.n_in         ? part_widest(&l->part)
                           : w->rows > w->columns ? w->rows
                                                  : w->columns;
    return widest * (int64_t)type_size(g ? g->type : out->model_type);
}

/* What the device will launch: a product at fixed heights is one launch a block. */
static int64_t count_launches(const planner *p, const plan *out)
{
    int64_t launches = 0;
    for (size_t i = 0; i < out->n_launches; i++) {
        const launch *l = &out->launches[i];
        launches += !l->is_matmul || l->n_group ? 1
                                                : product_count_blocks(p->options.traits.row_block,
                                                    l->rows, widest_row(p, out, l));
    }
    return launches;
}

static inset_status finish_statistics(planner *p, const schedule *s, plan *out)
{
    plan_statistics *c = &out->statistics;
    const trace *t = p->trace;
    c->invokes = out->n_users;
    c->records = (int64_t)t->n_records;
    c->launches = count_launches(p, out);
    c->passes = s->n_passes;
    c->strands = (int64_t)p->n_strands;
    c->blocks_again = trace_blocks_again(t);
    c->saved_bytes = s->saved_bytes;
    c->table_bytes = out->area_bytes[AREA_TABLES] + out->area_bytes[AREA_RECORDS]
                     + out->area_bytes[AREA_METRICS] + out->area_bytes[AREA_ROW_CALLS]
                     + out->area_bytes[AREA_ROW_OPERANDS] + out->area_bytes[AREA_IDS]
                     + out->area_bytes[AREA_ANSWERS];
    c->arena_bytes = out->area_bytes[AREA_ARENA] + c->table_bytes + out->area_bytes[AREA_EXTERNAL]
                     + out->area_bytes[AREA_INPUT];
    for (size_t i = 0; i < t->program->n_weights; i++)
        if (t->program->weights[i].same_as < 0)
            c->weight_bytes += (int64_t)t->program->weights[i].rows * t->program->weights[i].columns
                               * (int64_t)type_size(t->model_type);
    return count_unshared(p, c);
}

/* What was taken for growth and is not used goes back. */
static bool trim(plan *out)
{
    inset_context *c = out->context;
    return array_trim(
               c, &out->launches, &out->launches_capacity, out->n_launches, sizeof *out->launches)
           && array_trim(c, &out->runs, &out->runs_capacity, out->n_runs, sizeof *out->runs)
           && array_trim(
               c, &out->repeats, &out->repeats_capacity, out->n_repeats, sizeof *out->repeats)
           && array_trim(
               c, &out->literals, &out->literals_capacity, out->n_literals, sizeof *out->literals)
           && array_trim(
               c, &out->records, &out->records_capacity, out->n_records, sizeof *out->records)
           && array_trim(c, &out->metric_rows, &out->metric_rows_capacity, out->n_metric_rows,
               sizeof *out->metric_rows)
           && array_trim(c, &out->answer_source, &out->answer_source_capacity, out->n_answer_source,
               sizeof *out->answer_source)
           && array_trim(
               c, &out->id_source, &out->ids_capacity, out->n_ids, sizeof *out->id_source);
}

static inset_status plan_build(planner *p, schedule *s, plan *out)
{
    inset_status status;
    if ((status = whole_begin(p)) || (status = plan_walk(p)) || (status = whole_settle(p))
        || (status = plan_live(p, s)) || (status = plan_pack(p, s))
        || (status = plan_keep_inputs(p, out)) || (status = keep_metrics(p, out))
        || (status = plan_emit(p, s, out)) || (status = keep_results(s, out))
        || (status = keep_externals(p, s, out)) || (status = keep_matrices(p, out)))
        return status;
    if (!trim(out)) return INSET_NO_MEMORY;
    if (p->options.explain && (status = plan_explain(p, s, &out->explanation))) return status;
    return finish_statistics(p, s, out);
}

/* One try with the invokes in `chunks` groups, which run one after the other. */
static inset_status plan_try(trace *t, const plan_options *options, int32_t chunks, plan **result)
{
    *result = NULL;
    plan *out = memory_new(t->context, sizeof *out);
    if (!out) return INSET_NO_MEMORY;
    out->context = t->context;
    out->model_type = t->model_type;
    out->traits = options->traits;
    arena_start(&out->memory, t->context);
    planner p = {.context = t->context,
        .trace = t,
        .program = t->program,
        .options = *options,
        .chunks = chunks};
    schedule s = {0};
    arena_start(&p.memory, t->context);
    arena_start(&p.scratch, t->context);
    arena_start(&p.passing, t->context);
    inset_status status = plan_build(&p, &s, out);
    schedule_free(t->context, &s);
    planner_free(&p);
    if (status) {
        plan_free(out);
        return status;
    }
    *result = out;
    return INSET_OK;
}

static int64_t bytes_needed(const plan *p)
{
    return p->statistics.arena_bytes + p->statistics.saved_bytes;
}

/* A trace that takes too much memory runs in chunks of invokes, which are passes: rows that they
 * share are computed by the first that needs them and put aside. Memory does not shrink in
 * proportion, so this tries finer chunks until one fits. */
inset_status plan_create(trace *t, const plan_options *options, plan **result)
{
    static const plan_options standard = {0};
    if (!options) options = &standard;
    int64_t limit = options->memory_limit && options->memory_limit < INT64_MAX
                        ? (int64_t)options->memory_limit
                        : INT64_MAX,
            needed = 0;
    int32_t chunks = options->chunks < (int32_t)t->n_invokes ? options->chunks
                                                             : (int32_t)t->n_invokes;
    for (chunks = chunks > 1 ? chunks : 1;;) {
        inset_status status = plan_try(t, options, chunks, result);
        if (status) return status;
        needed = bytes_needed(*result);
        if (needed <= limit) return INSET_OK;
        plan_free(*result);
        *result = NULL;
        if (chunks >= (int32_t)t->n_invokes) break;
        int64_t finer = (int64_t)chunks * (needed / limit + 1);
        chunks = finer < (int64_t)t->n_invokes ? (int32_t)finer : (int32_t)t->n_invokes;
    }
    return error_set(t->context, INSET_NO_MEMORY,
        "a run of this trace needs %lld bytes of device memory beside the weights, one invoke at a "
        "time; there are %lld",
        (long long)needed, (long long)limit);
}

void plan_free(plan *p)
{
    if (!p) return;
    memory_free(p->context, p->launches);
    memory_free(p->context, p->runs);
    memory_free(p->context, p->repeats);
    memory_free(p->context, p->literals);
    memory_free(p->context, p->records);
    memory_free(p->context, p->metric_rows);
    memory_free(p->context, p->row_calls);
    memory_free(p->context, p->row_operands);
    memory_free(p->context, p->answer_source);
    memory_free(p->context, p->id_source);
    memory_free(p->context, p->tokens);
    memory_free(p->context, p->token_word);
    text_free(p->context, &p->explanation);
    arena_free(&p->memory);
    memory_free(p->context, p);
}

const char *plan_explanation(const plan *p) { return p->explanation.bytes; }
const plan_statistics *plan_get_statistics(const plan *p) { return &p->statistics; }
int64_t plan_rows(const plan *p, int32_t value) { return p->rows_of_value[value]; }
size_t plan_saved_count(const plan *p) { return p->n_saved; }
const char *plan_saved_name(const plan *p, size_t index) { return p->saved[index].name; }

void plan_saved_describe(const plan *p, size_t index, inset_tensor *tensor)
{
    const saved_tensor *s = &p->saved[index];
    *tensor = (inset_tensor){.type = s->type, .n_dimensions = s->n_dimensions};
    memcpy(tensor->shape, s->shape, sizeof tensor->shape);
}
