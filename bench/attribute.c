/* attribute.c: attribution of nodes and of edges, from options to scores, several times in one
 * process: the first time also prepares the weights for going backwards.
 *
 *     bench_attribute MODEL CLEAN CORRUPT METRIC nodes|edges STEPS SAMPLES
 *
 * Lines: "attribute WHAT first SECONDS", then one "attribute WHAT again SECONDS" a sample, and
 * "memory WHAT BYTES", the most memory that the process had. */
#include "bench.h"

#include "inset.h"

static int fail(inset_context *context)
{
    fprintf(stderr, "%s\n", inset_message(context));
    return 1;
}

static inset_status nodes(inset_model *model, inset_attribution_options *o)
{
    inset_sweep *made = NULL;
    o->sweep.patch = "resid_pre,z";
    inset_status status = inset_attribution_create(model, o, &made);
    while (!status && !inset_sweep_done(made)) status = inset_sweep_step(made);
    inset_sweep_free(made);
    return status;
}

static inset_status edges(inset_model *model, const inset_attribution_options *o)
{
    inset_edges *made = NULL;
    inset_status status = inset_edges_create(model, o, 0, &made);
    while (!status && !inset_edges_done(made)) status = inset_edges_step(made);
    inset_edges_free(made);
    return status;
}

int main(int count, char **arguments)
{
    inset_context *context = NULL;
    inset_model *model = NULL;
    inset_model_options cpu = INSET_MODEL_OPTIONS;
    inset_attribution_options o = INSET_ATTRIBUTION_OPTIONS;
    if (count != 8) return fprintf(stderr, "see the head of bench/attribute.c\n"), 2;
    const char *const metrics[] = {arguments[4], NULL}, *what = arguments[5];
    cpu.device = "auto";
    o.sweep.clean.text = arguments[2];
    o.sweep.corrupt.text = arguments[3];
    o.sweep.metrics = metrics;
    o.steps = atoi(arguments[6]);
    if (inset_context_create(NULL, &context)) return 1;
    if (inset_model_open(context, arguments[1], &cpu, &model)) return fail(context);
    for (int i = 0; i <= atoi(arguments[7]); i++) {
        const double started = seconds();
        if (!strcmp(what, "nodes") ? nodes(model, &o) : edges(model, &o)) return fail(context);
        printf("attribute %s %s %.6f\n", what, i ? "again" : "first", seconds() - started);
    }
    printf("memory %s %.0f\n", what, process_bytes("VmHWM"));
    inset_context_free(context);
    return 0;
}
