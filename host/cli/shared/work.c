/* work.c: sweeps and edges as work. */
#include "cli/shared/work.h"

static int64_t sweep_take(void *of) { return inset_sweep_take(of); }
static void sweep_give_back(void *of, int64_t chunk) { inset_sweep_give_back(of, chunk); }
static inset_status sweep_put(void *of, const void *bytes, size_t size)
{
    return inset_sweep_put(of, bytes, size);
}
static bool sweep_done(const void *of) { return inset_sweep_done(of); }
static inset_status sweep_step(void *of) { return inset_sweep_step(of); }
static void sweep_progress(const void *of, inset_sweep_progress *out)
{
    inset_sweep_progress_of(of, out);
}
static inset_status sweep_cut(const void *of, inset_cut *out) { return inset_sweep_cut(of, out); }
static inset_status sweep_cut_as(void *of, const inset_cut *cut)
{
    return inset_sweep_cut_as(of, cut);
}
static inset_status sweep_run(
    void *of, int64_t chunk, int64_t ahead, const void **bytes, size_t *size)
{
    return inset_sweep_run_chunk(of, chunk, ahead, bytes, size);
}

work work_of_sweep(inset_context *context, inset_model *model, inset_sweep *sweep)
{
    static const work_kind kind = {"patches", sweep_take, sweep_give_back, sweep_put, sweep_done,
        sweep_step, sweep_progress, sweep_cut, sweep_cut_as, sweep_run, true};
    return (work){sweep ? &kind : NULL, sweep, context, model};
}

static int64_t edges_take(void *of) { return inset_edges_take(of); }
static void edges_give_back(void *of, int64_t chunk) { inset_edges_give_back(of, chunk); }
static inset_status edges_put(void *of, const void *bytes, size_t size)
{
    return inset_edges_put(of, bytes, size);
}
static bool edges_done(const void *of) { return inset_edges_done(of); }
static inset_status edges_step(void *of) { return inset_edges_step(of); }
static void edges_progress(const void *of, inset_sweep_progress *out)
{
    inset_edges_progress_of(of, out);
}
static inset_status edges_cut(const void *of, inset_cut *out) { return inset_edges_cut(of, out); }
static inset_status edges_cut_as(void *of, const inset_cut *cut)
{
    return inset_edges_cut_as(of, cut);
}
static inset_status edges_run(
    void *of, int64_t chunk, int64_t ahead, const void **bytes, size_t *size)
{
    (void)ahead;
    return inset_edges_run_chunk(of, chunk, bytes, size);
}

work work_of_edges(inset_context *context, inset_model *model, inset_edges *edges)
{
    static const work_kind kind = {"pairs", edges_take, edges_give_back, edges_put, edges_done,
        edges_step, edges_progress, edges_cut, edges_cut_as, edges_run, false};
    return (work){edges ? &kind : NULL, edges, context, model};
}
