/* test_program.c: building a program and asking it: order of events, what slots refer to, names
 * found and names not found. */
#include "base/base.h"
#include "failing_allocator.h"
#include "program/program.h"
#include "test.h"

typedef struct world {
    failing_allocator memory;
    inset_context *context;
    program *p;
} world;

static program *world_start(world *w)
{
    *w = (world){0};
    inset_context_create(failing_allocator_interface(&w->memory), &w->context);
    CHECK(program_create(w->context, "test", &w->p) == INSET_OK, "program_create");
    return w->p;
}

static void world_end(world *w, const char *name)
{
    program_free(w->p);
    inset_context_free(w->context);
    CHECK(w->memory.live == 0 && w->memory.damaged == 0, "%s: %lld blocks left, %lld damaged", name,
        (long long)w->memory.live, (long long)w->memory.damaged);
}

enum { D = 4, HEADS = 2, VOCABULARY = 7 };

static int32_t matrix(program *p, const char *name, int32_t out, int32_t in)
{
    return program_weight(p, WEIGHT_MATRIX, name, out, in);
}

/* net.wte, net.h.{0,1}.{attn.{qkv,out},mlp.{up,down}}, head: as small as a transformer gets. */
static inset_status build_transformer(program *p)
{
    const int32_t heads[2] = {HEADS, D / HEADS}, inner = 6;
    int32_t tokens = program_tokens(p),
            table = program_weight(p, WEIGHT_TABLE, "wte", VOCABULARY, D);
    program_enter(p, "net", -1);
    int32_t x = program_embed_module(p, "wte", tokens, table);
    for (int32_t layer = 0; layer < 2; layer++) {
        step like = program_like(STEP_ATTENTION);
        like.n_heads = like.n_kv_heads = HEADS;
        like.head_dim = D / HEADS;
        program_block(p, x);
        x = program_enter(p, layer ? "h.1" : "h.0", x);
        int32_t a = program_enter(p, "attn", x);
        int32_t qkv = program_linear_module(p, "qkv", a, matrix(p, "qkv", 3 * D, D), -1);
        int32_t q = program_site_view(p, "q", qkv, 0, 2, heads),
                k = program_site_view(p, "k", qkv, D, 2, heads);
        int32_t v = program_site_view(p, "v", qkv, 2 * D, 2, heads);
        a = program_enter_site(p, "out", program_attention(p, q, k, v, &like), "z", 2, heads);
        a = program_leave(p, program_linear(p, a, matrix(p, "out", D, D), -1));
        x = program_add(p, x, program_leave(p, a), -1);
        int32_t m = program_enter(p, "mlp", x);
        m = program_linear_module(p, "up", m, matrix(p, "up", inner, D), -1);
        m = program_site_view_last(p, "pre", m, 0, 1, &inner);
        m = program_enter_site(
            p, "down", program_activation_module(p, "act", m, ACTIVATION_RELU), "post", 1, &inner);
        m = program_leave(p, program_linear(p, m, matrix(p, "down", D, inner), -1));
        x = program_leave(p, program_add(p, x, program_leave(p, m), -1));
    }
    x = program_identity_module(p, "drop", x);
    program_leave(p, -1);
    program_logits(
        p, program_linear_module(p, "head", x, program_weight_tied(p, "head", table), -1));
    program_module_also(p, program_child(p, 0, "head", 4), "unembed");
    return program_finish(p);
}

static int32_t site_of(const program *p, const char *path)
{
    int32_t site = -1;
    CHECK(program_find_site(p, path, strlen(path), &site) == INSET_OK, "%s: %s", path,
        inset_message(p->context));
    return site;
}

static const slot *slot_of(const program *p, const char *path)
{
    int32_t site = site_of(p, path);
    return &p->slots[site < 0 ? 0 : p->sites[site].slot];
}

/* Sites in the order of their events; "=" in front: at the same event as the one before. */
static void order_is_execution(void)
{
    static const char *const order[] = {"net.wte.input", "net.wte.output", "net.h[0].input",
        "net.h.0.attn.input", "net.h.0.attn.qkv.input", "net.h.0.attn.qkv.output", "net.h.0.attn.q",
        "net.h.0.attn.k", "net.h.0.attn.v", "net.h.0.attn.scores", "net.h.0.attn.pattern",
        "net.h.0.attn.z", "=net.h.0.attn.out.input", "net.h.0.attn.out.output",
        "net.h.0.attn.output", "net.h.0.mlp.input", "net.h.0.mlp.up.input", "net.h.0.mlp.up.output",
        "=net.h.0.mlp.pre", "net.h.0.mlp.act.input", "net.h.0.mlp.act.output", "net.h.0.mlp.post",
        "=net.h.0.mlp.down.input", "net.h.0.mlp.down.output", "net.h.0.mlp.output",
        "net.h[0].output", "net.h[-1].inputs", "net.h[1].attn.input", "net.h[-1].output",
        "net.drop.input", "net.drop.output", "head.input", "head.output", "output.logits"};
    world w;
    program *p = world_start(&w);
    CHECK(build_transformer(p) == INSET_OK, "%s", inset_message(w.context));
    int32_t before = -1;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        bool together = order[i][0] == '=';
        int32_t site = site_of(p, order[i] + together);
        if (site < 0) continue;
        int32_t event = p->sites[site].event;
        CHECK(together ? event == before : event > before, "%s: event %d after %d", order[i],
            (int)event, (int)before);
        CHECK(p->slots[p->sites[site].slot].event == event, "%s: its slot is bound at %d", order[i],
            (int)p->slots[p->sites[site].slot].event);
        before = event;
    }
    world_end(&w, "order");
}

/* Sources come before what takes its binding from them; events know what happens at them. */
static void arrays_are_consistent(void)
{
    world w;
    program *p = world_start(&w);
    CHECK(build_transformer(p) == INSET_OK, "%s", inset_message(w.context));
    for (size_t i = 0; i < p->n_slots; i++) {
        const slot *s = &p->slots[i];
        CHECK(s->source < (int32_t)i && s->value >= 0 && (size_t)s->value < p->n_values, "slot %zu",
            i);
        if (s->source >= 0)
            CHECK(p->slots[s->source].value == s->value && p->slots[s->source].event <= s->event,
                "slot %zu", i);
    }
    for (size_t i = 0; i < p->n_steps; i++) {
        CHECK(p->events[p->steps[i].event].kind == EVENT_STEP
                  && p->events[p->steps[i].event].index == (int32_t)i,
            "step %zu", i);
        CHECK(p->values[p->steps[i].value].step == (int32_t)i, "step %zu", i);
        for (int32_t o = 0; o < p->steps[i].n_operands; o++)
            CHECK(p->slots[p->steps[i].operands[o]].event < p->steps[i].event,
                "step %zu operand %d", i, (int)o);
        if (p->steps[i].kind == STEP_ATTENTION)
            CHECK(p->steps[i - 1].kind == STEP_PAIR, "step %zu", i);
    }
    size_t grouped = 0;
    for (size_t i = 0; i < p->n_modules; i++)
        for (int32_t s = 0; s < p->modules[i].n_sites; s++, grouped++)
            CHECK(p->sites[p->module_sites[p->modules[i].first_site + s]].module == (int32_t)i,
                "module %zu", i);
    CHECK(grouped == p->n_sites, "%zu of %zu sites", grouped, p->n_sites);
    CHECK(p->n_blocks == 2 && p->modules[0].enter == 0
              && p->modules[0].leave == (int32_t)p->n_events - 1,
        "root and blocks");
    world_end(&w, "arrays");
}

static void slots_show_values(void)
{
    world w;
    program *p = world_start(&w);
    CHECK(build_transformer(p) == INSET_OK, "%s", inset_message(w.context));
    const slot *k = slot_of(p, "net.h.1.attn.k"), *qkv = slot_of(p, "net.h.1.attn.qkv.output");
    CHECK(k->value == qkv->value && k->shape.column == D && k->shape.n_columns == 2
              && k->shape.extent[0] == HEADS && k->shape.extent[1] == D / HEADS,
        "k is columns of qkv");
    const slot *z = slot_of(p, "net.h.1.attn.z"), *out = slot_of(p, "net.h.1.attn.out.input");
    CHECK(z->value == out->value && z->shape.n_columns == 2 && out->shape.n_columns == 1
              && out->shape.extent[0] == D && &p->slots[z->source] == out && z->whole
              && !out->whole,
        "z shows all of out.input");
    CHECK(slot_of(p, "net.h.1.mlp.post") == slot_of(p, "net.h.1.mlp.down.input"),
        "post and down.input are one slot");
    const slot *pre = slot_of(p, "net.h.1.mlp.pre"), *up = slot_of(p, "net.h.1.mlp.up.output");
    CHECK(pre != up && &p->slots[pre->source] == up && pre->value == up->value,
        "pre follows up.output");
    CHECK(slot_column_end(k) == 2 * D && slot_column_end(z) == D
              && slot_column_end(slot_of(p, "net.wte.input")) == 1,
        "where slots end");
    CHECK(slot_of(p, "net.h.0.output")->value == slot_of(p, "net.h.1.input")->value,
        "a block's output is the next one's input");
    CHECK(slot_of(p, "net.drop.input")->value == slot_of(p, "net.drop.output")->value,
        "an identity module");
    const slot *tokens = slot_of(p, "net.wte.input");
    CHECK(!tokens->settable && tokens->shape.n_columns == 0 && p->values[tokens->value].integer,
        "token ids");
    CHECK(slot_of(p, "output.logits")->shape.extent[0] == VOCABULARY, "logits");
    CHECK(slot_of(p, "unembed.output") == slot_of(p, "head.output"), "a module's second name");
    char name[64];
    program_site_name(p, site_of(p, "net.h[1].mlp.inputs"), name, sizeof name);
    CHECK(strcmp(name, "net.h.1.mlp.input") == 0, "%s", name);
    int32_t module = -1;
    CHECK(program_find_module(p, "net.h[1].mlp", 12, &module) == INSET_OK
              && strcmp(p->modules[module].path, "net.h.1.mlp") == 0,
        "a module");
    world_end(&w, "slots");
}

/* A norm over heads shows a number for each, also where there is one head. */
static void scales_of_heads(void)
{
    for (int32_t heads = 1; heads <= 2; heads++) {
        world w;
        program *p = world_start(&w);
        const int32_t extent[2] = {heads, 4};
        int32_t weight = program_weight(p, WEIGHT_VECTOR, "n.weight", 1, 4);
        int32_t x = program_enter(p, "a", program_input(p, heads * 4));
        x = program_rmsnorm_module(p, "n", program_site_view(p, "q", x, 0, 2, extent), weight,
            1e-5f, RMS_WEIGHT_ROUNDED, heads);
        program_leave(p, x);
        CHECK(program_finish(p) == INSET_OK, "%s", inset_message(w.context));
        const slot *scale = slot_of(p, "a.n.scale"), *out = slot_of(p, "a.n.output");
        CHECK(scale->shape.n_columns == 2 && scale->shape.extent[0] == heads
                  && scale->shape.extent[1] == 1,
            "the scale of %d heads", (int)heads);
        CHECK(out->shape.n_columns == 2 && out->shape.extent[0] == heads, "the output of %d heads",
            (int)heads);
        world_end(&w, "scales of heads");
    }
}

static void unknown_names_get_help(void)
{
    static const struct {
        const char *path, *words[2];
    } cases[] = {
        {"nett.wte.output", {"nett does not exist", "did you mean net?"}},
        {"net.wt.output", {"net.wt does not exist", "did you mean net.wte?"}},
        {"net.h[0].mpl.output", {"net.h.0.mpl does not exist", "did you mean net.h.0.mlp?"}},
        {"net.h[0].ouput", {"net.h.0.ouput does not exist", "did you mean net.h.0.output?"}},
        {"net.h[0].attn.w",
            {"net.h.0.attn.w does not exist",
                "net.h.0.attn has: qkv, out, input, q, k, v, scores, pattern, z, output"}},
        {"net.h[2].output", {"net.h[2] does not exist", "net.h has 2 modules, 0 to 1"}},
        {"net.h[-3].output", {"net.h[-3] does not exist", "0 to 1"}},
        {"net.h.2.output", {"net.h[2] does not exist", "0 to 1"}},
        {"net.h[99999999999999999999].output", {"is no path", ""}},
        {"net.h.attn.output", {"net.h.attn does not exist",
                                  "net.h is a list of 2 modules: write net.h[0] to net.h[1]"}},
        {"net.h.output", {"net.h has no .output: it is a list of modules",
                             "net.h[0].output to net.h[1].output"}},
        {"net.output", {"net has no .output: it returns no tensor", "net has: wte, h, drop"}},
        {"net[0].output", {"net is not a list of modules", "net has: wte, h, drop"}},
        {"net.h[0].mlp",
            {"net.h.0.mlp is a module, not a site", "net.h.0.mlp has: input, pre, post, output"}},
        {"head.output.x", {"head.output does not exist", "head has: input, output"}},
        {"output.logit", {"output.logit does not exist", "did you mean output.logits?"}},
        {"", {"is no path", ""}},
        {".", {"is no path", ""}},
        {"net..h", {"is no path", ""}},
        {"net.h[", {"is no path", ""}},
        {"net.h[]", {"is no path", ""}},
        {"net.h[0", {"is no path", ""}},
        {"net.h[0]x.output", {"is no path", ""}},
        {"net.h[0].output.", {"is no path", ""}},
    };
    world w;
    program *p = world_start(&w);
    CHECK(build_transformer(p) == INSET_OK, "%s", inset_message(w.context));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t site = -1;
        inset_status status = program_find_site(p, cases[i].path, strlen(cases[i].path), &site);
        CHECK(status == INSET_UNKNOWN_SITE, "%s: status %d", cases[i].path, status);
        for (int k = 0; k < 2; k++)
            CHECK(strstr(inset_message(w.context), cases[i].words[k]), "%s: \"%s\" is not in\n%s",
                cases[i].path, cases[i].words[k], inset_message(w.context));
    }
    world_end(&w, "unknown names");
}

/* ---- programs that make no sense: each builds on a slot x of 4 columns ---- */

static void twice(program *p, int32_t x)
{
    program_identity_module(p, "a", program_identity_module(p, "a", x));
}
static void no_leave(program *p, int32_t x) { program_enter(p, "a", x); }
static void no_enter(program *p, int32_t x) { program_leave(p, x); }
static void bad_name(program *p, int32_t x) { program_enter(p, "a b", x); }
static void bad_dots(program *p, int32_t x) { program_enter(p, "a..b", x); }
static void no_slot(program *p, int32_t x) { program_add(p, x, x + 100, -1); }
static void no_weight(program *p, int32_t x) { program_linear(p, x, 3, -1); }
static void wide_matrix(program *p, int32_t x)
{
    program_linear_module(p, "a", x, matrix(p, "a", 4, 5), -1);
}
static void wide_bias(program *p, int32_t x)
{
    int32_t w = matrix(p, "a", 4, 4);
    program_linear(p, x, w, program_weight(p, WEIGHT_VECTOR, "b", 1, 5));
}
static void wide_norm(program *p, int32_t x)
{
    program_layernorm(p, x, program_weight(p, WEIGHT_VECTOR, "b", 1, 5), -1, 1e-5f);
}
static void empty_weight(program *p, int32_t x) { program_linear(p, x, matrix(p, "a", 0, 4), -1); }
static void wide_view(program *p, int32_t x)
{
    const int32_t heads[2] = {2, 2};
    program_site_view(p, "q", x, 1, 2, heads);
}
static void odd_heads(program *p, int32_t x)
{
    step like = program_like(STEP_ATTENTION);
    like.n_heads = 2;
    like.n_kv_heads = 3;
    like.head_dim = 2;
    program_attention(p, x, x, x, &like);
}
static void odd_groups(program *p, int32_t x)
{
    program_rmsnorm(
        p, x, program_weight(p, WEIGHT_VECTOR, "b", 1, 1), 1e-5f, RMS_WEIGHT_ROUNDED, 3);
}
static void loose_heads(program *p, int32_t x) { program_site_heads(p, "q", x, 1, 2, 1, 3); }
static void apart_heads(program *p, int32_t x)
{
    step like = program_like(STEP_ATTENTION);
    like.n_heads = like.n_kv_heads = 2;
    like.head_dim = 1;
    x = program_site_heads(p, "q", x, 0, 2, 1, 3);
    program_attention(p, x, x, x, &like);
}
static void odd_rope(program *p, int32_t x)
{
    static const float frequencies[1];
    program_rope(p, x, 2, 2, &(rotation){1, frequencies, 1, false, false});
}

static void mistakes_are_refused(void)
{
    static const struct {
        const char *name;
        void (*make)(program *p, int32_t x);
        inset_status status;
        const char *words;
    } cases[] = {
        {"twice", twice, INSET_VALUE_ERROR, "two modules named \"a\""},
        {"no_leave", no_leave, INSET_USAGE_ERROR, "module a was entered and never left"},
        {"no_enter", no_enter, INSET_USAGE_ERROR, "without a module"},
        {"bad_name", bad_name, INSET_VALUE_ERROR, "\"a b\" is no name"},
        {"bad_dots", bad_dots, INSET_VALUE_ERROR, "\"a..b\" is no name"},
        {"no_slot", no_slot, INSET_USAGE_ERROR, "is no slot"},
        {"no_weight", no_weight, INSET_USAGE_ERROR, "is no weight"},
        {"wide_matrix", wide_matrix, INSET_SHAPE_ERROR,
            "in a: the input of a linear step is expected to be 5 wide, found 4"},
        {"wide_bias", wide_bias, INSET_SHAPE_ERROR, "bias"},
        {"wide_norm", wide_norm, INSET_SHAPE_ERROR, "norm"},
        {"empty_weight", empty_weight, INSET_SHAPE_ERROR, "weight a has the shape [0, 4]"},
        {"wide_view", wide_view, INSET_SHAPE_ERROR, "4 columns from column 1 does not fit in 4"},
        {"odd_heads", odd_heads, INSET_VALUE_ERROR, "2 heads, 3 key-value heads"},
        {"odd_groups", odd_groups, INSET_SHAPE_ERROR, "4 columns do not make 3 equal groups"},
        {"loose_heads", loose_heads, INSET_SHAPE_ERROR,
            "2 heads, 3 columns apart, do not fit in 4 columns"},
        {"apart_heads", apart_heads, INSET_SHAPE_ERROR,
            "heads that lie apart must go through a rotary step first"},
        {"odd_rope", odd_rope, INSET_VALUE_ERROR, "1 rotary dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        program *p = world_start(&w);
        cases[i].make(p, program_input(p, 4));
        inset_status status = program_finish(p);
        CHECK(status == cases[i].status, "%s: status %d, %s", cases[i].name, status,
            inset_message(w.context));
        CHECK(strstr(inset_message(w.context), cases[i].words), "%s: %s", cases[i].name,
            inset_message(w.context));
        world_end(&w, cases[i].name);
    }
    world w;
    CHECK(program_finish(world_start(&w)) == INSET_USAGE_ERROR, "a program without input");
    world_end(&w, "no input");
}

static void allocations_may_fail(void)
{
    bool done = false;
    for (int64_t n = 1; !done; n++) {
        world w;
        program *p = world_start(&w);
        w.memory.fail_at = w.memory.calls + n;
        inset_status status = build_transformer(p);
        done = status == INSET_OK;
        CHECK(
            done || status == INSET_NO_MEMORY, "allocation %lld: status %d", (long long)n, status);
        world_end(&w, "a failing allocation");
    }
}

int main(void)
{
    order_is_execution();
    arrays_are_consistent();
    slots_show_values();
    scales_of_heads();
    unknown_names_get_help();
    mistakes_are_refused();
    allocations_may_fail();
    return test_result();
}
