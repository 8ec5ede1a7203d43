/* fuzz_script.c: any bytes as a trace script, for a small model of tokens, and, when they are
 * short, as a site of the C API. A refusal of a script says where: its message begins with the
 * place. */
#include "fuzz.h"
#include "script/script.h"
#include "trace/trace.h"

#include <string.h>

enum { LONGEST_SITE = 200 };

static const char *const words[] = {"with invoke([[1, 2, 3]]):\n    ",
    "for i in range(3):\n        ", "for i in [0, 1]:\n    ", "transformer.h[1].output",
    "transformer.h.0.mlp.output", "lm_head.output", "output.logits", "transformer.h[i].input",
    "transformer.h[0].mlp.skip(", ".clone()", ".save()", ".append(", "xs = []\n", "xs", "len(xs)",
    "zeros(2, 3)", "load(\"x.npy\")", "stop()", "pass", "[:, -1]", "[..., 0]", "[[0, 1]]", "[::2]",
    "+=", "-=", "*=", "/=", "=", "//", "%", "#", "\n", "\r\n", "    ", "        ", "...", "0.5",
    "1e9", "(", ")", "i", ".", ",", ".sum(-1)", "keepdim=True", "dim=", ".mean((0, 1))",
    ".norm(dim=-1)", "softmax(", ".topk(2).values", ".topk(1)", "where(", " > ", " == ", " @ ",
    ".T", ".transpose(0, 1)", "[..., None]", ".weight", ".detach()", "transformer.h[1](",
    "lm_head(", "with edit():\n    ", "clear_edits()\n", "cache(\"*\")", "prefix=", NULL};

const fuzz_hints fuzz_target = {words, NULL};

static int32_t block(program *p, const char *name, int32_t x)
{
    program_block(p, x);
    x = program_enter(p, name, x);
    int32_t inner = program_leave(
        p, program_identity_module(p, "drop", program_enter(p, "mlp", x)));
    return program_leave(p, program_add(p, x, inner, -1));
}

/* transformer.wte, .h.0, .h.1, lm_head: 10 tokens, 5 positions, 4 numbers a row. */
static inset_status make_model(inset_context *context, program **out)
{
    inset_status status = program_create(context, "fuzz", out);
    if (status) return status;
    program *p = *out;
    p->vocabulary = 10;
    p->max_positions = 5;
    int32_t table = program_weight(p, WEIGHT_TABLE, "wte.weight", 10, 4),
            head = program_weight(p, WEIGHT_MATRIX, "lm_head.weight", 10, 4);
    int32_t tokens = program_tokens(p);
    program_enter(p, "transformer", -1);
    int32_t x = program_embed_module(p, "wte", tokens, table);
    x = block(p, "h.0", x);
    x = block(p, "h.1", x);
    program_leave(p, -1);
    program_logits(p, program_linear_module(p, "lm_head", x, head, -1));
    return program_finish(p);
}

static inset_status read_script(
    inset_context *context, program *p, const uint8_t *data, size_t size)
{
    trace *t;
    inset_status status = trace_create(context, p, INSET_F32, &t);
    if (status) return status;
    status = script_read(t, "x.inset", "", (const char *)data, size);
    if (status)
        fuzz_need(!strncmp(inset_message(context), "x.inset:", 8), "a refusal without a place");
    trace_free(t);
    return status;
}

static void read_site(inset_context *context, program *p, const uint8_t *data, size_t size)
{
    char text[LONGEST_SITE + 1] = "";
    int32_t site;
    size_t n_items;
    index_item *items;
    trace *t;
    if (size > LONGEST_SITE || trace_create(context, p, INSET_F32, &t)) return;
    memcpy(text, data, size);
    inset_status status = script_parse_site(t, text, &site, &n_items, &items);
    if (status) fuzz_need(*inset_message(context), "a refused site without a message");
    else fuzz_need(site >= 0 && (n_items == 0) == (items == NULL), "a site that is none");
    trace_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run run;
    program *p = NULL;
    inset_context *context = fuzz_start(&run);
    inset_status status = make_model(context, &p);
    fuzz_need(!status, "the model is refused");
    read_site(context, p, data, size);
    status = read_script(context, p, data, size);
    program_free(p);
    fuzz_end(&run, status);
    return 0;
}
