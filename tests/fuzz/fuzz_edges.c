/* fuzz_edges.c: any bytes as the text of edges and paths, for the graph of a small GPT-2: what is
 * taken is a path whose steps are nodes of the graph, in order. */
#include "fuzz.h"
#include "models/models.h"

#include <string.h>

#include "edges/path.h"

static const char *const words[] = {"input", "logits", "a0", "a1", "a1.h0", "a0.h1", "a1.h1<q>",
    "a1.h0<k>", "a*.h1<v>", "m0", "m1", "m*", "*", "0", "1", "->", "->logits", "+", ",", "\n", " ",
    "a0.h0->a1.h1<k>->m1->logits", "<q>", ".h", "999999999999", NULL};

const fuzz_hints fuzz_target = {words, NULL};

static const char model_text[] =
    "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_head\": 2, \"n_layer\": 2, "
    "\"n_positions\": 6, \"vocab_size\": 10}";

static inset_status make_edges(inset_context *context, struct inset_model *model, edges **out)
{
    static const char *const metrics[] = {"logit_diff:3,7", NULL};
    json_document *document = NULL;
    inset_sweep_options o = INSET_SWEEP_OPTIONS;
    const attribution_method method = {0};
    o.clean.text = "[[1,2,3]]", o.corrupt.text = "[[1,4,3]]", o.metrics = metrics;
    inset_status status = json_parse(context, "fuzz", model_text, strlen(model_text), &document);
    if (!status) status = models_build(context, document, false, &model->program);
    json_close(document);
    return status ? status : edges_create(model, &o, &method, false, out);
}

static void check_paths(edges *e, const edge_paths *paths)
{
    for (size_t i = 0; i < paths->n; i++) {
        const edge_path *p = &paths->at[i];
        fuzz_need(
            p->n >= 2 && p->n <= MOST_PATH_STEPS && p->name && *p->name, "a path of no steps");
        for (int32_t k = 0; k < p->n; k++)
            for (int32_t j = 0; j < p->steps[k].n; j++) {
                const int64_t node = p->steps[k].nodes[j];
                fuzz_need(node >= 0 && node < (k ? e->n_readers : e->n_writers), "a node of none");
            }
        fuzz_need(
            edge_exists(e, p->steps[0].nodes[0], p->steps[1].nodes[0]), "an edge that is none");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    inset_context *context;
    edges *e = NULL;
    if (inset_context_create(NULL, &context)) return 0;
    struct inset_model model = {.context = context, .type = INSET_F32};
    char *text = memory_new(context, size + 1);
    if (text && !make_edges(context, &model, &e)) {
        edge_paths paths;
        memcpy(text, data, size);
        if (!edges_read_paths(e, text, &paths)) check_paths(e, &paths);
        else fuzz_need(*inset_message(context), "refused paths without a message");
        edge_paths_free(e, &paths);
    }
    edges_free(e);
    memory_free(context, text);
    program_free(model.program);
    inset_context_free(context);
    return 0;
}
