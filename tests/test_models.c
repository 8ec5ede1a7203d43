/* test_models.c: what config.json files become.
 *
 * Each family's program is compared with what transformers does, as tests/make_trees.py wrote it
 * down: every module that returns a tensor, in the order it is entered and left, with the shapes
 * and with which tensors are one; and every weight with its shape. Then what is refused: configs,
 * and weights that do not fit their config. */
#include "base/base.h"
#include "failing_allocator.h"
#include "file/file.h"
#include "models/models.h"
#include "run/model.h"
#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

static const char *const trees[] = {"gpt2", "gpt2_inner", "gpt_neo", "gptj", "gpt_neox",
    "gpt_neox_serial", "llama", "llama3", "llama_linear", "mistral", "qwen2", "qwen3", "gemma2",
    "phi3", "phi3_long", "olmo2", "llama_yarn", "llama_yarn_mscale", "llama_dynamic", "gemma",
    "gemma3_text", "olmo3", "smollm3", "mixtral", "qwen3_moe", "gpt_oss", "phi", "stablelm",
    "stablelm_parallel", "starcoder2", "bloom", "granite", "olmo", "cohere", "cohere2", "opt",
    "bert", "bert_untied"};

/* A context whose blocks are counted; all must be gone, undamaged, when it is freed. */
typedef struct world {
    failing_allocator memory;
    inset_context *context;
} world;

static inset_context *world_start(world *w)
{
    *w = (world){0};
    inset_context_create(failing_allocator_interface(&w->memory), &w->context);
    return w->context;
}

static void world_end(world *w, const char *name)
{
    inset_context_free(w->context);
    CHECK(w->memory.live == 0 && w->memory.damaged == 0, "%s: %lld blocks left, %lld damaged", name,
        (long long)w->memory.live, (long long)w->memory.damaged);
}

static inset_status build(inset_context *context, const char *json, program **out)
{
    json_document *document = NULL;
    *out = NULL;
    inset_status status = json_parse(context, "config.json", json, strlen(json), &document);
    if (!status) status = models_build(context, document, false, out);
    json_close(document);
    return status;
}

/* ---- trees -------------------------------------------------------------- */

/* Appends the line that make_trees.py writes for a site, for two prompts of three tokens. Values
 * are numbered as they appear. */
static void add_line(inset_context *context, const program *p, text *lines, const char *kind,
    int32_t site, int32_t *numbers, int32_t *next)
{
    const slot *s = &p->slots[p->sites[site].slot];
    if (!numbers[s->value]) numbers[s->value] = ++*next;
    text_add(context, lines, "%s %s [%d, 3", kind, p->modules[p->sites[site].module].path,
        p->values[s->value].per_position ? 1 : 2);
    for (int i = 0; i < s->shape.n_columns; i++)
        text_add(context, lines, ", %d", (int)s->shape.extent[i]);
    text_add(context, lines, "] #%d\n", (int)numbers[s->value] - 1);
}

static void write_tree(inset_context *context, const program *p, text *lines)
{
    int32_t *numbers = calloc(p->n_values, sizeof *numbers), next = 0;
    for (size_t e = 0; numbers && e < p->n_events; e++) {
        event_kind kind = p->events[e].kind;
        if (kind != EVENT_ENTER && kind != EVENT_LEAVE) continue;
        int32_t index = p->events[e].index;
        int32_t input = program_site(p, index, "input", 5),
                output = program_site(p, index, "output", 6);
        if (input < 0 || output < 0) continue;
        int32_t site = kind == EVENT_ENTER ? input : output;
        CHECK(p->sites[site].event == (int32_t)e, "%s: the site's event", p->modules[index].path);
        add_line(context, p, lines, kind == EVENT_ENTER ? "enter" : "leave", site, numbers, &next);
    }
    free(numbers);
}

/* The first line in which two texts differ, for the message. */
static int first_difference(const char *a, const char *b)
{
    int line = 1;
    for (; *a && *a == *b; a++, b++) line += *a == '\n';
    return line;
}

static bool is_called(const program *p, const char *own, const char *name)
{
    size_t prefix = p->optional_prefix ? strlen(p->optional_prefix) : 0;
    return own
           && (strcmp(own, name) == 0
               || (prefix && strncmp(name, p->optional_prefix, prefix) == 0
                   && strcmp(own, name + prefix) == 0));
}

/* Of weights that are stacked in one tensor, the tensor. */
static bool weight_named(const program *p, const char *name, const char *shape)
{
    for (size_t i = 0; i < p->n_weights; i++) {
        const weight *w = &p->weights[i];
        const bool stacked = is_called(p, w->stacked, name);
        char own[64];
        if (stacked && w->stack[2])
            snprintf(own, sizeof own, "[%d, %d, %d]", (int)w->stack[0], (int)w->stack[1],
                (int)w->stack[2]);
        else if (stacked) snprintf(own, sizeof own, "[%d, %d]", (int)w->stack[0], (int)w->stack[1]);
        else if (w->role == WEIGHT_VECTOR) snprintf(own, sizeof own, "[%d]", (int)w->columns);
        else snprintf(own, sizeof own, "[%d, %d]", (int)w->rows, (int)w->columns);
        if (stacked || is_called(p, w->name, name) || is_called(p, w->also, name))
            return CHECK(strcmp(own, shape) == 0, "%s: %s, expected %s", name, own, shape);
    }
    return false;
}

/* Is a tensor left alone where the program's weight of that second name has its first one? */
static bool is_spare(const program *p, const char *name)
{
    for (const char *const *at = p->ignored; at && *at; at++)
        if (!strcmp(*at, name)) return true;
    return false;
}

static void compare_weights(const program *p, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "fixtures/trees/%s.weights", name);
    char *expected = test_read(path, NULL);
    NEED(expected, "%s", path);
    size_t count = 0;
    for (char *line = strtok(expected, "\n"); line; line = strtok(NULL, "\n")) {
        char *shape = strchr(line, ' ');
        *shape++ = 0;
        count += !is_spare(p, line);
        CHECK(weight_named(p, line, shape), "%s: the program lacks %s", name, line);
    }
    size_t tensors = 0; /* of a stack one */
    for (size_t i = 0; i < p->n_weights; i++)
        tensors += !i || !p->weights[i].stacked || !p->weights[i - 1].stacked
                   || strcmp(p->weights[i].stacked, p->weights[i - 1].stacked);
    CHECK(tensors == count, "%s: weights in %zu tensors, expected %zu", name, tensors, count);
    free(expected);
}

/* The rotary embedding's factor on cosine and sine, then its frequencies. */
static void compare_rope(const program *p, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "fixtures/trees/%s.rope", name);
    char *expected = test_read(path, NULL), *at = expected;
    const step *found = NULL;
    for (size_t i = 0; i < p->n_steps; i++)
        if (p->steps[i].kind == STEP_ROPE && p->steps[i].rotary_dims) found = &p->steps[i];
    CHECK(!expected == !found, "%s: a rotary embedding here and none there", name);
    if (expected && found) {
        double want = strtod(at, &at);
        CHECK(fabs(found->rope_attention_scale / want - 1) < 1e-6, "%s: factor %g, expected %g",
            name, found->rope_attention_scale, want);
        for (int32_t i = 0; i < found->rotary_dims / 2; i++) {
            want = strtod(at, &at);
            CHECK(fabs(found->frequencies[i] / want - 1) < 1e-6,
                "%s: frequency %d is %g, expected %g", name, (int)i, found->frequencies[i], want);
        }
        CHECK(strspn(at, "\n") == strlen(at), "%s: more frequencies than %d", name,
            (int)found->rotary_dims / 2);
    }
    free(expected);
}

static void tree_is_transformers(const char *name)
{
    world w;
    char path[64];
    program *p;
    text lines = {0};
    inset_context *context = world_start(&w);
    snprintf(path, sizeof path, "fixtures/trees/%s.json", name);
    char *json = test_read(path, NULL);
    snprintf(path, sizeof path, "fixtures/trees/%s.txt", name);
    char *expected = test_read(path, NULL);
    if (CHECK(json && expected, "%s: no fixture", name)
        && CHECK(build(context, json, &p) == INSET_OK, "%s: %s", name, inset_message(context))) {
        write_tree(context, p, &lines);
        bool same = CHECK(strcmp(lines.bytes ? lines.bytes : "", expected) == 0,
            "%s: tree differs in line %d", name,
            first_difference(lines.bytes ? lines.bytes : "", expected));
        if (!same) fprintf(stderr, "%s\n", lines.bytes);
        compare_weights(p, name);
        compare_rope(p, name);
        program_free(p);
    }
    free(json);
    free(expected);
    text_free(context, &lines);
    world_end(&w, name);
}

/* Files of the first BERTs: norms have a gamma and a beta, the logits' bias lies beside the
 * product. What else is in them is left alone. */
static void bert_has_older_names(void)
{
    static const char *const there[] = {"bert.embeddings.LayerNorm.gamma",
        "bert.encoder.layer.1.attention.output.LayerNorm.beta",
        "cls.predictions.transform.LayerNorm.gamma", "cls.predictions.bias"};
    world w;
    program *p;
    inset_context *context = world_start(&w);
    char *json = test_read("fixtures/trees/bert.json", NULL);
    NEED(json && !build(context, json, &p), "%s", inset_message(context));
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        CHECK(weight_named(p, there[i], i == 3 ? "[13]" : "[16]"), "there is no %s", there[i]);
    CHECK(is_spare(p, "pooler.dense.weight") && is_spare(p, "cls.seq_relationship.bias"),
        "what other heads have is asked for");
    program_free(p);
    free(json);
    world_end(&w, "older names");
}

/* ---- configs that are refused ------------------------------------------- */

static void configs_are_refused(void)
{
#define GPT2 "{\"model_type\": \"gpt2\", \"n_layer\": 2"
#define LLAMA "{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_key_value_heads\": 4"
#define LAYERS(list) "{\"model_type\": \"sequential\", \"layers\": [" list "]}"
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"[]", "must be an object"},
        {"{}", "'model_type' is missing"},
        {"{\"model_type\": 5}", "'model_type' must be"},
        {"{\"model_type\": \"mamba\"}", "'model_type' must be one of gpt2, "},
        {"{\"model_type\": \"gpt2\", \"quantization_config\": {}}", "'quantization_config'"},
        {GPT2 ", \"n_embd\": 0}", "'n_embd' must be"},
        {GPT2 ", \"n_embd\": -3}", "'n_embd' must be"},
        {GPT2 ", \"n_embd\": 1e3}", "'n_embd' must be"},
        {GPT2 ", \"n_embd\": \"768\"}", "'n_embd' must be"},
        {GPT2 ", \"n_embd\": 4294967296}", "'n_embd' must be"},
        {GPT2 ", \"n_embd\": 770}", "'n_embd' (770) must divide by 'n_head' (12)"},
        {GPT2 ", \"n_embd\": 514, \"n_head\": 2}",
            "'n_embd' / 'n_head' must be at most 256, found 257"},
        {GPT2 ", \"n_head\": 0}", "'n_head' must be"},
        {"{\"model_type\": \"gpt2\", \"n_layer\": 0}", "'n_layer' must be"},
        {"{\"model_type\": \"gpt2\", \"n_layer\": 1000000000}", "'n_layer' must be"},
        {GPT2 ", \"n_inner\": 0}", "'n_inner' must be"},
        {GPT2 ", \"n_positions\": 0}", "'n_positions' must be"},
        {GPT2 ", \"vocab_size\": 0}", "'vocab_size' must be"},
        {GPT2 ", \"layer_norm_epsilon\": -1}",
            "'layer_norm_epsilon' must be from 0 to 1, found -1"},
        {GPT2 ", \"layer_norm_epsilon\": \"small\"}", "'layer_norm_epsilon' must be"},
        {GPT2 ", \"activation_function\": \"mish\"}",
            "'activation_function' must be one of gelu, "},
        {GPT2 ", \"add_cross_attention\": true}", "'add_cross_attention' is true"},
        {GPT2 ", \"scale_attn_weights\": 1}", "'scale_attn_weights' must be"},
        {GPT2 ", \"tie_word_embeddings\": \"yes\"}", "'tie_word_embeddings' must be"},
        {LLAMA ", \"num_attention_heads\": 6}",
            "'num_attention_heads' (6) must divide by 'num_key_value_heads' (4)"},
        {LLAMA ", \"num_attention_heads\": 12}",
            "'hidden_size' (64) must divide by 'num_attention_heads' (12)"},
        {LLAMA ", \"num_attention_heads\": 128}",
            "'hidden_size' (64) must divide by 'num_attention_heads' (128)"},
        {LLAMA ", \"head_dim\": 7}", "even number of dimensions from 2 on, found 7 of 7"},
        {LLAMA ", \"head_dim\": 257}", "'head_dim' must be"},
        {LLAMA ", \"hidden_act\": \"mish\"}", "'hidden_act' must be one of"},
        {LLAMA ", \"rms_norm_eps\": -1}", "'rms_norm_eps' must be"},
        {LLAMA ", \"rope_theta\": 0}", "'rope_theta' must be"},
        {LLAMA ", \"rope_scaling\": {\"rope_type\": \"yarn\"}}", "'rope_scaling' lacks 'factor'"},
        {LLAMA ", \"rope_scaling\": {\"type\": \"spiral\", \"factor\": 2}}",
            "'rope_type' must be default, linear, dynamic, yarn, llama3 or longrope, found "
            "\"spiral\""},
        {"{\"model_type\": \"gemma3_text\", \"rope_parameters\": {\"sliding_attention\": "
         "{\"rope_type\": \"linear\"}}}",
            "'rope_scaling' lacks 'factor'"},
        {"{\"model_type\": \"gemma3_text\", \"sliding_window_pattern\": 0}",
            "'sliding_window_pattern' must be"},
        {"{\"model_type\": \"smollm3\", \"num_hidden_layers\": 3, \"no_rope_layers\": [1, 0]}",
            "'no_rope_layers' must be a list of 0 or 1 for each of the 3"},
        {"{\"model_type\": \"smollm3\", \"num_hidden_layers\": 2, \"no_rope_layers\": [1, 2]}",
            "'no_rope_layers'[1] must be 0 or 1"},
        {"{\"model_type\": \"gpt_neo\", \"num_layers\": 3}",
            "'attention_types' is for 24 layers, and 'num_layers' is 3"},
        {"{\"model_type\": \"gpt_neo\", \"num_layers\": 3, \"attention_types\": "
         "[[[\"global\", \"local\"], 1]]}",
            "'attention_types' is for 2 layers, and 'num_layers' is 3"},
        {"{\"model_type\": \"gpt_neo\", \"num_layers\": 3, \"attention_types\": "
         "[[[\"global\", \"local\"], 1000000000000]]}",
            "'attention_types' is for at least 4 layers"},
        {"{\"model_type\": \"gpt_neo\", \"num_layers\": 1, \"attention_types\": "
         "[[[\"spiral\"], 1]]}",
            "'attention_types' must name global or local layers, found \"spiral\""},
        {"{\"model_type\": \"gpt_neo\", \"attention_types\": [[\"global\"], 1]}",
            "'attention_types' must be a list of [[NAME, ...], TIMES]"},
        {"{\"model_type\": \"gpt_neo\", \"attention_types\": \"global\"}",
            "'attention_types' must be a list of [[NAME, ...], TIMES]"},
        {"{\"model_type\": \"gpt_neo\", \"hidden_size\": 10, \"num_heads\": 3}",
            "'hidden_size' (10) must"},
        {"{\"model_type\": \"gptj\", \"rotary_dim\": 7}", "'rotary_dim' must be an even number"},
        {"{\"model_type\": \"gptj\", \"rotary_dim\": null}", "'rotary_dim' must be an even number"},
        {"{\"model_type\": \"gptj\", \"n_embd\": 64}", "'rotary_dim' must be an even number"},
        {"{\"model_type\": \"phi\", \"qk_layernorm\": true}", "'qk_layernorm' is true"},
        {"{\"model_type\": \"stablelm\", \"qk_layernorm\": true}", "'qk_layernorm' is true"},
        {"{\"model_type\": \"cohere\", \"use_qk_norm\": true}", "'use_qk_norm' is true"},
        {"{\"model_type\": \"cohere2\", \"sliding_window_pattern\": 0}",
            "'sliding_window_pattern' must be"},
        {"{\"model_type\": \"olmo\", \"clip_qkv\": 8.0}", "'clip_qkv' is set"},
        {"{\"model_type\": \"granite\", \"logits_scaling\": 0}", "'logits_scaling' must be"},
        {"{\"model_type\": \"granite\", \"residual_multiplier\": -1}",
            "'residual_multiplier' must be"},
        {"{\"model_type\": \"mixtral\", \"num_local_experts\": 0}", "'num_local_experts' must be"},
        {"{\"model_type\": \"mixtral\", \"num_local_experts\": 2000}",
            "'num_local_experts' must be"},
        {"{\"model_type\": \"mixtral\", \"num_local_experts\": 1}",
            "'num_experts_per_tok' (2) must be at most 'num_local_experts' (1)"},
        {"{\"model_type\": \"qwen3_moe\", \"num_experts\": 4}",
            "'num_experts_per_tok' (8) must be at most 'num_experts' (4)"},
        {"{\"model_type\": \"qwen3_moe\", \"mlp_only_layers\": 3}",
            "'mlp_only_layers' must be a list"},
        {"{\"model_type\": \"qwen3_moe\", \"mlp_only_layers\": [\"a\"]}",
            "'mlp_only_layers' must be a list"},
        {"{\"model_type\": \"qwen3_moe\", \"decoder_sparse_step\": 0}",
            "'decoder_sparse_step' must be"},
        {"{\"model_type\": \"gpt_oss\", \"swiglu_limit\": 0}", "'swiglu_limit' must be"},
        {"{\"model_type\": \"bert\", \"is_decoder\": true}", "'is_decoder' is true"},
        {"{\"model_type\": \"bert\", \"add_cross_attention\": true}",
            "'add_cross_attention' is true"},
        {"{\"model_type\": \"bert\", \"position_embedding_type\": \"relative_key\"}",
            "'position_embedding_type' is \"relative_key\""},
        {"{\"model_type\": \"bert\", \"num_attention_heads\": 7}",
            "'hidden_size' (768) must divide by 'num_attention_heads' (7)"},
        {"{\"model_type\": \"opt\", \"do_layer_norm_before\": false}",
            "'do_layer_norm_before' is false"},
        {"{\"model_type\": \"opt\", \"enable_bias\": false}", "'enable_bias' is false"},
        {"{\"model_type\": \"opt\", \"_remove_final_layer_norm\": true}",
            "'_remove_final_layer_norm' is true"},
        {"{\"model_type\": \"opt\", \"word_embed_proj_dim\": 512}",
            "'word_embed_proj_dim' (512) must be 'hidden_size' (768)"},
        {"{\"model_type\": \"opt\", \"num_attention_heads\": 7}",
            "'hidden_size' (768) must divide by 'num_attention_heads' (7)"},
        {"{\"model_type\": \"bloom\", \"apply_residual_connection_post_layernorm\": true}",
            "'apply_residual_connection_post_layernorm' is true"},
        {"{\"model_type\": \"bloom\", \"n_head\": 7}", "'hidden_size' (64) must divide by"},
        {"{\"model_type\": \"bloom\", \"n_embed\": 60, \"num_attention_heads\": 7}",
            "'n_embed' (60) must divide by 'num_attention_heads' (7)"},
        {"{\"model_type\": \"bloom\", \"n_embed\": 514, \"n_head\": 2}",
            "'n_embed' / 'n_head' must be at most 256, found 257"},
        {"{\"model_type\": \"gemma\", \"use_bidirectional_attention\": true}",
            "'use_bidirectional_attention' is true"},
        {LLAMA ", \"rope_scaling\": {\"type\": \"linear\"}}", "'rope_scaling' lacks 'factor'"},
        {LLAMA ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
               "\"low_freq_factor\": 4, \"high_freq_factor\": 1}}",
            "'high_freq_factor' (1) must be larger"},
        {LLAMA ", \"rope_parameters\": {\"full_attention\": {}}}",
            "'rope_parameters' differ between kinds of layers"},
        {LLAMA ", \"partial_rotary_factor\": 0.5, \"rope_scaling\": {\"type\": \"linear\", "
               "\"factor\": 2}}",
            "'partial_rotary_factor' is 0.5, and whole heads turn"},
        {LLAMA ", \"rope_parameters\": 5}", "'rope_parameters' must be an object"},
        {"{\"model_type\": \"mistral\", \"sliding_window\": 0}", "'sliding_window' must be"},
        {"{\"model_type\": \"gemma2\", \"sliding_window\": 0}", "'sliding_window' must be"},
        {"{\"model_type\": \"gemma2\", \"head_dim\": 15}",
            "even number of dimensions from 2 on, found 15 of 15"},
        {"{\"model_type\": \"qwen2\", \"use_sliding_window\": true, \"sliding_window\": 0}",
            "'sliding_window' must be"},
        {"{\"model_type\": \"phi3\", \"sliding_window\": 0}", "'sliding_window' must be"},
        {"{\"model_type\": \"olmo2\", \"num_key_value_heads\": 5}",
            "'num_attention_heads' (32) must divide by 'num_key_value_heads' (5)"},
        {"{\"model_type\": \"qwen3\", \"head_dim\": 0}", "'head_dim' must be"},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 2, \"layer_types\": "
         "[\"full_attention\"]}",
            "'layer_types' must be a list of one name for each of the 2"},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 1, \"layer_types\": "
         "[\"sliding_attention\"]}",
            "'layer_types'[0] is sliding_attention, and"},
        {"{\"model_type\": \"qwen3\", \"num_hidden_layers\": 1, \"layer_types\": "
         "[\"chunked_attention\"]}",
            "found \"chunked_attention\""},
        {"{\"model_type\": \"gemma2\", \"use_bidirectional_attention\": true}",
            "'use_bidirectional_attention' is true"},
        {"{\"model_type\": \"gemma2\", \"attn_logit_softcapping\": 0}",
            "'attn_logit_softcapping' must be"},
        {"{\"model_type\": \"phi3\", \"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1]}}",
            "'short_factor' must be a list of 48 numbers"},
        {"{\"model_type\": \"gpt_neox\", \"rotary_pct\": 2}", "'rotary_pct' must be from 0 to 1"},
        {"{\"model_type\": \"gpt_neox\", \"rotary_pct\": 0.01}",
            "even number of dimensions from 2 on"},
        {"{\"model_type\": \"gpt_neox\", \"hidden_size\": 100}",
            "'hidden_size' (100) must divide by 'num_attention_heads' (64)"},
        {"{\"model_type\": \"sequential\"}", "'layers' must be a list"},
        {LAYERS(""), "'layers' must be a list"},
        {LAYERS("5"), "'layers'[0] must be an object"},
        {LAYERS("{\"type\": \"linear\", \"in\": 2, \"out\": 2}"), "'name' is missing"},
        {LAYERS("{\"name\": \"a\", \"in\": 2, \"out\": 2}"), "'type' is missing"},
        {LAYERS("{\"name\": \"a.b\", \"type\": \"linear\", \"in\": 2, \"out\": 2}"),
            "found \"a.b\""},
        {LAYERS("{\"name\": \"\", \"type\": \"linear\", \"in\": 2, \"out\": 2}"),
            "'name' must be letters"},
        {LAYERS("{\"name\": \"1\", \"type\": \"linear\", \"in\": 2, \"out\": 2}"),
            "'name' must be letters"},
        {LAYERS("{\"name\": \"a\", \"type\": \"conv\", \"in\": 2, \"out\": 2}"),
            "layer \"a\": 'type' must be linear"},
        {LAYERS("{\"name\": \"a\", \"type\": \"linear\", \"in\": 2}"), "'out' is missing"},
        {LAYERS("{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 2, \"bias\": 1}"),
            "'bias' must be"},
        {LAYERS("{\"name\": \"a\", \"type\": \"relu\"}"), "layer \"a\" is the first"},
        {LAYERS("{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 3}, {\"name\": \"b\", "
                "\"type\": \"linear\", \"in\": 2, \"out\": 2}"),
            "layer \"b\" takes 2 numbers ('in'), and the layer before it gives 3"},
        {LAYERS("{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 3}, {\"name\": \"n\", "
                "\"type\": \"layernorm\", \"in\": 2}"),
            "layer \"n\" takes 2 numbers ('in'), and the layer before it gives 3"},
        {LAYERS("{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 2}, {\"name\": \"a\", "
                "\"type\": \"relu\"}"),
            "two layers are named \"a\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        program *p;
        inset_context *context = world_start(&w);
        inset_status status = build(context, cases[i].json, &p);
        CHECK(status == INSET_FILE_ERROR && !p, "%s: status %d", cases[i].json, status);
        CHECK(strstr(inset_message(context), cases[i].words), "%s: \"%s\" is not in\n%s",
            cases[i].json, cases[i].words, inset_message(context));
        CHECK(strstr(inset_message(context), "FileError: config.json"), "%s: %s", cases[i].json,
            inset_message(context));
        program_free(p);
        world_end(&w, cases[i].json);
    }
#undef GPT2
#undef LLAMA
#undef LAYERS
}

static void allocations_may_fail(const char *json)
{
    int64_t n = 1;
    for (bool done = false; !done; n++) {
        world w;
        program *p;
        inset_context *context = world_start(&w);
        w.memory.fail_at = w.memory.calls + n;
        inset_status status = build(context, json, &p);
        done = status == INSET_OK;
        CHECK(
            done || status == INSET_NO_MEMORY, "allocation %lld: status %d", (long long)n, status);
        program_free(p);
        world_end(&w, "a failing allocation");
    }
    CHECK(n > 10, "only %lld allocations were tried", (long long)n);
}

/* ---- weights ------------------------------------------------------------ */

static char directory[] = "/tmp/inset_test_models_XXXXXX";

static const char *const two_layers =
    "{\"model_type\": \"sequential\", \"layers\": ["
    "{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 3}, {\"name\": \"b\", \"type\": "
    "\"linear\", \"in\": 3, \"out\": 1}]}";

static const float numbers[64];
#define F32(NAME, DIMENSIONS, ...)                                                           \
    {                                                                                        \
        .name = NAME, .type = INSET_F32, .n_dimensions = DIMENSIONS, .shape = {__VA_ARGS__}, \
        .data = numbers                                                                      \
    }

static void fill_bytes(file_tensor *tensors, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        tensors[i].bytes = type_size(tensors[i].type);
        for (int32_t d = 0; d < tensors[i].n_dimensions; d++)
            tensors[i].bytes *= (size_t)tensors[i].shape[d];
    }
}

/* Opens a model whose directory has this config and these tensors. */
static inset_status open_with(inset_context *context, const char *config, file_tensor *tensors,
    size_t n, inset_type type, struct inset_model **out)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(config, file) >= 0, "%s", path);
    if (file) fclose(file);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    fill_bytes(tensors, n);
    *out = NULL;
    inset_status status = safetensors_write(context, path, tensors, n, NULL);
    return status ? status : model_open(context, directory, "cpu", type, false, false, 0, out);
}

static void weights_are_refused(void)
{
    struct {
        const char *name, *words;
        size_t n;
        file_tensor tensors[6];
    } cases[] = {
        {"missing", "2 weights are missing: b.weight, b.bias", 2,
            {F32("a.weight", 2, 3, 2), F32("a.bias", 1, 3)}},
        {"one missing", "1 weight is missing: a.bias", 3,
            {F32("a.weight", 2, 3, 2), F32("b.weight", 2, 1, 3), F32("b.bias", 1, 1)}},
        {"extra", "1 tensor is no weight of this sequential model: c.weight", 5,
            {F32("a.weight", 2, 3, 2), F32("a.bias", 1, 3), F32("b.weight", 2, 1, 3),
                F32("b.bias", 1, 1), F32("c.weight", 1, 1)}},
        {"turned", "weight a.weight must have the shape [3, 2], found [2, 3]", 4,
            {F32("a.weight", 2, 2, 3), F32("a.bias", 1, 3), F32("b.weight", 2, 1, 3),
                F32("b.bias", 1, 1)}},
        {"deep", "weight b.bias must have the shape [1], found [1, 1]", 4,
            {F32("a.weight", 2, 3, 2), F32("a.bias", 1, 3), F32("b.weight", 2, 1, 3),
                F32("b.bias", 2, 1, 1)}},
        {"type", "weight b.bias must be F32, BF16, F16 or F64, found I32", 4,
            {F32("a.weight", 2, 3, 2), F32("a.bias", 1, 3), F32("b.weight", 2, 1, 3),
                {.name = "b.bias",
                    .type = INSET_I32,
                    .n_dimensions = 1,
                    .shape = {1},
                    .data = numbers}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        struct inset_model *m;
        inset_context *context = world_start(&w);
        inset_status status = open_with(
            context, two_layers, cases[i].tensors, cases[i].n, INSET_TYPE_COUNT, &m);
        CHECK(status == INSET_FILE_ERROR && !m, "%s: status %d", cases[i].name, status);
        CHECK(strstr(inset_message(context), cases[i].words), "%s: \"%s\" is not in\n%s",
            cases[i].name, cases[i].words, inset_message(context));
        CHECK(strstr(inset_message(context), directory), "%s: the directory is not in\n%s",
            cases[i].name, inset_message(context));
        model_free(m);
        world_end(&w, cases[i].name);
    }
}

/* The type a model gets from its file's types. */
static void types_are_chosen(void)
{
    static const char *const said =
        "{\"dtype\": \"float16\", \"model_type\": \"sequential\", \"layers\": ["
        "{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 3}]}";
    static const char *const silent =
        "{\"model_type\": \"sequential\", \"layers\": ["
        "{\"name\": \"a\", \"type\": \"linear\", \"in\": 2, \"out\": 3}]}";
    static const struct {
        const char *name, *config;
        inset_type weight, bias, asked, expected;
    } cases[] = {
        {"all f32", silent, INSET_F32, INSET_F32, INSET_TYPE_COUNT, INSET_F32},
        {"all bf16", silent, INSET_BF16, INSET_BF16, INSET_TYPE_COUNT, INSET_BF16},
        {"all f64", silent, INSET_F64, INSET_F64, INSET_TYPE_COUNT, INSET_F32},
        {"all bf16, config f16", said, INSET_BF16, INSET_BF16, INSET_TYPE_COUNT, INSET_BF16},
        {"mixed", silent, INSET_BF16, INSET_F32, INSET_TYPE_COUNT, INSET_BF16},
        {"mixed, config f16", said, INSET_BF16, INSET_F32, INSET_TYPE_COUNT, INSET_F16},
        {"asked", said, INSET_BF16, INSET_F32, INSET_F32, INSET_F32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        struct inset_model *m;
        inset_context *context = world_start(&w);
        file_tensor tensors[] = {F32("a.weight", 2, 3, 2), F32("a.bias", 1, 3)};
        tensors[0].type = cases[i].weight;
        tensors[1].type = cases[i].bias;
        inset_status status = open_with(context, cases[i].config, tensors, 2, cases[i].asked, &m);
        if (CHECK(status == INSET_OK, "%s: %s", cases[i].name, inset_message(context))) {
            CHECK(m->type == cases[i].expected, "%s: %s", cases[i].name, type_name(m->type));
            CHECK(m->weight_bytes == 9 * (int64_t)type_size(m->type), "%s: %lld bytes",
                cases[i].name, (long long)m->weight_bytes);
        }
        model_free(m);
        world_end(&w, cases[i].name);
    }
}

static void opening_may_run_out_of_memory(void)
{
    for (int64_t n = 1, done = 0; !done; n++) {
        world w;
        struct inset_model *m = NULL;
        inset_context *context = world_start(&w);
        w.memory.fail_at = n + w.memory.calls;
        inset_status status = model_open(context, directory, "cpu", INSET_F16, false, false, 0, &m);
        done = status == INSET_OK;
        CHECK(done || status == INSET_NO_MEMORY, "allocation %lld: %s", (long long)n,
            inset_message(context));
        if (!done && status != INSET_NO_MEMORY) return;
        model_free(m);
        world_end(&w, "a failing allocation while a model is opened");
    }
}

static void remove_directory(void)
{
    char path[512];
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

int main(void)
{
    for (size_t i = 0; i < sizeof trees / sizeof *trees; i++) tree_is_transformers(trees[i]);
    bert_has_older_names();
    configs_are_refused();
    allocations_may_fail("{\"model_type\": \"gpt2\", \"n_layer\": 3}");
    allocations_may_fail(two_layers);
    allocations_may_fail("{\"model_type\": \"gemma2\", \"num_hidden_layers\": 2}");
    allocations_may_fail("{\"model_type\": \"gpt_neox\", \"num_hidden_layers\": 2}");
    if (!CHECK(mkdtemp(directory), "%s", directory)) return test_result();
    weights_are_refused();
    types_are_chosen();
    opening_may_run_out_of_memory();
    remove_directory();
    return test_result();
}
