/* prompt_runs.c: the prompts that a mean is taken over, run some at a time. */
#include "sweep/prompt_runs.h"

#include "plan/plan.h"
#include "run/run.h"

enum { MOST_ROWS = 2048 }; /* prompt positions that are run at once */

inset_status prompts_for_mean(sweep *s, const char *text, prompts *out)
{
    const inset_prompts given = {.text = text};
    inset_status status = prompts_read(s, "mean", &given, out);
    if (status || out->longest >= s->clean.longest) return status;
    return error_set(s->context, INSET_VALUE_ERROR,
        "mean: the longest of these prompts has %lld tokens, the longest pair %lld",
        (long long)out->longest, (long long)s->clean.longest);
}

void cost_add_plan(inset_cost *cost, const plan *planned)
{
    const plan_statistics *is = plan_get_statistics(planned);
    const int64_t bytes = is->arena_bytes + is->saved_bytes;
    cost->rows += is->rows;
    cost->flops += is->flops;
    if (bytes > cost->device_bytes) cost->device_bytes = bytes;
    cost->weight_bytes = is->weight_bytes;
}

static inset_status take(sweep *s, plan *planned, const prompts *p, int64_t first, int64_t count,
    const prompt_reader *reader)
{
    int64_t longest = 0;
    run *r = NULL;
    for (int64_t k = first; k < first + count; k++)
        if (p->lengths[k] > longest) longest = p->lengths[k];
    inset_status status = run_create(s->model, planned, &r);
    if (!status) status = run_execute(r);
    if (!status) status = reader->take(reader->of, r, p, first, count, longest);
    run_free(r);
    return status;
}

static inset_status run_together(sweep *s, const prompts *p, int64_t first, int64_t count,
    const prompt_reader *reader, inset_cost *cost)
{
    trace *t = NULL;
    plan *planned = NULL;
    const plan_options options = {.memory_limit = s->memory_limit, .traits = sweep_traits(s)};
    inset_status status = trace_create(s->context, s->program, s->model->type, &t);
    if (!status)
        status = trace_invoke_tokens(t, count, p->lengths + first, p->tokens + p->starts[first]);
    if (!status) status = reader->record(reader->of, t);
    if (!status) status = plan_create(t, &options, &planned);
    if (!status && cost) cost_add_plan(cost, planned);
    else if (!status) status = take(s, planned, p, first, count, reader);
    plan_free(planned);
    trace_free(t);
    return status;
}

inset_status prompts_run(sweep *s, const prompts *p, const prompt_reader *reader, inset_cost *cost)
{
    const bool fewer = reader->most_rows && reader->most_rows < MOST_ROWS;
    const int64_t most = fewer ? reader->most_rows : MOST_ROWS;
    inset_status status = INSET_OK;
    for (int64_t first = 0, count; first < p->count && !status; first += count) {
        int64_t rows = p->lengths[first];
        for (count = 1; first + count < p->count && rows + p->lengths[first + count] <= most;
             count++)
            rows += p->lengths[first + count];
        status = run_together(s, p, first, count, reader, cost);
    }
    return status;
}
