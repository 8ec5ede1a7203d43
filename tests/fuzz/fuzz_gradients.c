/* fuzz_gradients.c: any bytes as a trace script with gradients, for a GPT-2 of two layers: sets,
 * replacements and lists between sites that stand open or alone, backward() and .grad. What is
 * not refused is planned. */
#include "fuzz.h"
#include "models/models.h"
#include "plan/plan.h"
#include "script/script.h"
#include "trace/trace.h"

#include <string.h>

static const char *const words[] = {"with invoke([[1, 2, 3]]):\n    ",
    "with invoke([[1, 2, 4], [3, 5]]):\n    ", "x = transformer.h[0].output\n    ",
    "y = transformer.h[1].output\n    ", "transformer.h[1].attn.q_input",
    "transformer.h[0].attn.result", "transformer.h[1].attn.k_input[:, 1, 0]",
    "transformer.h[0].attn.pattern", "transformer.h[1].attn.scores", "transformer.h[0].ln_1.scale",
    "transformer.wpe.output", "transformer.h[1].attn.z", "transformer.h[1].mlp.output",
    "transformer.h[0].mlp.skip(", "m = output.logits[0, -1].logit_diff(3, 7)\n    ",
    ".probability(3)", ".kl(", ".rank(3)", "with m.backward():\n        ",
    "with (m + m * 2).backward():\n        ", "x.grad", "y.grad", ".grad.save()\n        ",
    ".grad[:, 1] = 0\n        ", "z = zeros(3, 8)\n", "z[0]", "x[:, [0, 2]]", "x[0, 1]", "[:, 1]",
    " = ", " += ", " *= ", " / ", " - ", "0.5", "\n    ", "\n        ", "\n", ".clone()", ".save()",
    "stop()", NULL};

const fuzz_hints fuzz_target = {words, NULL};

static const char model_text[] =
    "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_head\": 2, \"n_layer\": 2, "
    "\"n_positions\": 6, \"vocab_size\": 10}";

static inset_status make_model(inset_context *context, program **out)
{
    json_document *document = NULL;
    inset_status status = json_parse(context, "fuzz", model_text, strlen(model_text), &document);
    if (!status) status = models_build(context, document, false, out);
    json_close(document);
    return status;
}

static void read_script(inset_context *context, program *p, const uint8_t *data, size_t size)
{
    trace *t;
    plan *planned = NULL;
    if (trace_create(context, p, INSET_F32, &t)) return;
    const plan_options options = {.traits = {.row_block = 1}};
    inset_status status = script_read(t, "x.inset", "", (const char *)data, size);
    if (status)
        fuzz_need(!strncmp(inset_message(context), "x.inset:", 8), "a refusal without a place");
    else if ((status = plan_create(t, &options, &planned)))
        fuzz_need(*inset_message(context), "a refused plan without a message");
    plan_free(planned);
    trace_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    inset_context *context;
    program *p = NULL;
    if (inset_context_create(NULL, &context)) return 0;
    if (!make_model(context, &p)) read_script(context, p, data, size);
    program_free(p);
    inset_context_free(context);
    return 0;
}
