/* model.c: a GGUF file as the model that it was made from: transformers' config.json and its names
 * of weights. llama.cpp's conversion (convert_hf_to_gguf.py) gone through backwards. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/gguf/gguf.h"
#include "file/json_writer.h"

bool is_gguf(const char *path)
{
    const size_t n = strlen(path);
    return n > 5 && !strcmp(path + n - 5, ".gguf");
}

/* ---- the config ---------------------------------------------------------- */

/* An architecture that is one of inset's families. */
typedef struct architecture {
    const char *name, *model_type;
    bool permuted; /* rows of q and k lie as llama.cpp's rope wants them */
} architecture;
static const architecture known[] = {{"llama", "llama", true}, {"qwen2", "qwen2", false},
    {"qwen3", "qwen3", false}, {"gemma2", "gemma2", false}, {"phi3", "phi3", false}};

static const architecture *architecture_of(const gguf *g)
{
    const char *name = "";
    gguf_text(g, "general.architecture", &name);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return &known[i];
    return NULL;
}

static bool is(const architecture *a, const char *name) { return a && !strcmp(a->name, name); }

static bool arch_number(const gguf *g, const architecture *a, const char *key, double *out)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", a->name, key);
    return gguf_number(g, full, out);
}

/* An integer that a config has under another name. */
static inset_status copy_integer(inset_context *c, writer *w, const gguf *g, const architecture *a,
    const char *key, const char *name, bool needed)
{
    double x;
    if (arch_number(g, a, key, &x) && x >= 0 && x < 1e12 && x == floor(x))
        writer_add(w, ", \"%s\": %.0f", name, x);
    else if (needed)
        return error_set(c, INSET_FILE_ERROR, "%s: its metadata has no integer %s.%s", gguf_name(g),
            a->name, key);
    return INSET_OK;
}

static void copy_number(
    writer *w, const gguf *g, const architecture *a, const char *key, const char *name)
{
    double x;
    /* a float of the file as the float that it is */
    if (arch_number(g, a, key, &x) && isfinite(x)) writer_add(w, ", \"%s\": %.9g", name, x);
}

/* Llama 3's frequencies are divided by factors of their own, which a tensor holds. */
static inset_status rope_of(inset_context *c, writer *w, const gguf *g, const architecture *a)
{
    const gguf_tensor *t = gguf_find(g, "rope_freqs.weight");
    char key[128];
    const char *scaling = "none";
    double factor = 1;
    snprintf(key, sizeof key, "%s.rope.scaling.type", a->name);
    gguf_text(g, key, &scaling);
    arch_number(g, a, "rope.scaling.factor", &factor);
    if (!strcmp(scaling, "linear"))
        writer_add(w, ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": %.9g}", factor);
    else if (strcmp(scaling, "none"))
        return error_set(c, INSET_FILE_ERROR, "%s: rope scaling of type %.40s is not known",
            gguf_name(g), scaling);
    if (!t) return INSET_OK;
    if (t->n_dimensions != 1 || t->block->type != GGUF_F32 || t->shape[0] > 4096)
        return error_set(
            c, INSET_FILE_ERROR, "%s: rope_freqs.weight is no list of floats", gguf_name(g));
    for (int pass = 0; pass < 2; pass++) {
        writer_add(w,
            pass ? "], \"short_factor\": ["
                 : ", \"rope_scaling\": {\"rope_type\": \"longrope\", \"attention_factor\": 1.0, "
                   "\"long_factor\": [");
        for (int64_t i = 0; i < t->shape[0]; i++) {
            float x;
            memcpy(&x, (const char *)t->data + (size_t)i * sizeof x, sizeof x);
            writer_add(w, "%s%.9g", i ? ", " : "", x);
        }
    }
    writer_add(w, "]}");
    double positions;
    if (arch_number(g, a, "context_length", &positions))
        writer_add(w, ", \"original_max_position_embeddings\": %.0f", positions);
    return INSET_OK;
}

/* What Gemma 2 has of its own. The factor of its scores is not in the file: it is a head's width,
 * but in the model of 46 layers, where it is the stream's width a head. */
static void add_gemma(writer *w, const gguf *g, const architecture *a)
{
    double layers = 0, head = 256, width = 0, heads = 1, window;
    writer_add(w, ", \"hidden_activation\": \"gelu_pytorch_tanh\"");
    copy_number(w, g, a, "attn_logit_softcapping", "attn_logit_softcapping");
    copy_number(w, g, a, "final_logit_softcapping", "final_logit_softcapping");
    if (arch_number(g, a, "attention.sliding_window", &window) && window >= 1 && window < 1e9)
        writer_add(w, ", \"sliding_window\": %.0f", floor(window));
    arch_number(g, a, "block_count", &layers);
    arch_number(g, a, "attention.key_length", &head);
    arch_number(g, a, "embedding_length", &width);
    arch_number(g, a, "attention.head_count", &heads);
    if (layers == 46 && heads >= 1) head = width / heads;
    writer_add(w, ", \"query_pre_attn_scalar\": %.9g", head);
}

inset_status gguf_config(inset_context *context, const gguf *g, char **out, size_t *length)
{
    const architecture *a = architecture_of(g);
    const char *name = "none";
    writer w = {.context = context};
    *out = NULL;
    *length = 0;
    gguf_text(g, "general.architecture", &name);
    if (!a)
        return error_set(context, INSET_FILE_ERROR,
            "%s: its architecture, %.40s, is not known; llama (and Mistral), qwen2, qwen3, gemma2 "
            "and phi3 "
            "are",
            gguf_name(g), name);
    const gguf_tensor *tokens = gguf_find(g, "token_embd.weight");
    if (!tokens || tokens->n_dimensions != 2)
        return error_set(
            context, INSET_FILE_ERROR, "%s: it has no token_embd.weight", gguf_name(g));
    writer_add(&w, "{\"model_type\": \"%s\", \"vocab_size\": %lld", a->model_type,
        (long long)tokens->shape[0]);
    if (is(a, "gemma2")) add_gemma(&w, g, a);
    else writer_add(&w, ", \"hidden_act\": \"silu\"");
    writer_add(
        &w, ", \"tie_word_embeddings\": %s", gguf_find(g, "output.weight") ? "false" : "true");
    if (is(a, "llama"))
        writer_add(
            &w, ", \"attention_bias\": %s", gguf_find(g, "blk.0.attn_q.bias") ? "true" : "false");
    static const struct {
        const char *key, *name;
        bool needed;
    } integers[] = {{"embedding_length", "hidden_size", true},
        {"feed_forward_length", "intermediate_size", true},
        {"block_count", "num_hidden_layers", true},
        {"attention.head_count", "num_attention_heads", true},
        {"attention.head_count_kv", "num_key_value_heads", false},
        {"attention.key_length", "head_dim", false},
        {"context_length", "max_position_embeddings", true}};
    inset_status status = INSET_OK;
    for (size_t i = 0; i < sizeof integers / sizeof *integers && !status; i++)
        status = copy_integer(
            context, &w, g, a, integers[i].key, integers[i].name, integers[i].needed);
    copy_number(&w, g, a, "attention.layer_norm_rms_epsilon", "rms_norm_eps");
    copy_number(&w, g, a, "rope.freq_base", "rope_theta");
    if (!status) status = rope_of(context, &w, g, a);
    writer_add(&w, "}");
    return writer_finish(&w, status, out, length);
}

/* ---- weights ------------------------------------------------------------- */

/* Names of a layer's weights and of the others'; an architecture's own before the usual ones. */
typedef struct part_name {
    const char *of, *name, *theirs; /* of: NULL, all */
} part_name;
static const part_name tops[] = {{NULL, "token_embd", "model.embed_tokens"},
    {NULL, "output_norm", "model.norm"}, {NULL, "output", "lm_head"}},
                       parts[] = {{"gemma2", "ffn_norm", "pre_feedforward_layernorm"},
                           {"gemma2", "post_attention_norm", "post_attention_layernorm"},
                           {"gemma2", "post_ffw_norm", "post_feedforward_layernorm"},
                           {"phi3", "attn_qkv", "self_attn.qkv_proj"},
                           {"phi3", "ffn_up", "mlp.gate_up_proj"},
                           {NULL, "attn_q", "self_attn.q_proj"},
                           {NULL, "attn_k", "self_attn.k_proj"},
                           {NULL, "attn_v", "self_attn.v_proj"},
                           {NULL, "attn_output", "self_attn.o_proj"},
                           {NULL, "attn_q_norm", "self_attn.q_norm"},
                           {NULL, "attn_k_norm", "self_attn.k_norm"},
                           {NULL, "ffn_gate", "mlp.gate_proj"}, {NULL, "ffn_up", "mlp.up_proj"},
                           {NULL, "ffn_down", "mlp.down_proj"},
                           {NULL, "attn_norm", "input_layernorm"},
                           {NULL, "ffn_norm", "post_attention_layernorm"}};

static const char *find_name(
    const part_name *names, size_t n, const architecture *a, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if ((!names[i].of || is(a, names[i].of)) && !strcmp(names[i].name, name))
            return names[i].theirs;
    return NULL;
}

/* "blk.3.attn_q.weight" as "model.layers.3.self_attn.q_proj.weight"; what has no such name keeps
 * its own, and is refused as no weight of the model. */
static const char *their_name(arena *memory, const architecture *a, const char *name)
{
    char made[256], part[64], end[16];
    const char *theirs = NULL;
    int layer, used = 0;
    if (sscanf(name, "blk.%d.%63[a-z_].%15[a-z]%n", &layer, part, end, &used) == 3 && layer >= 0
        && !name[used]) {
        theirs = find_name(parts, sizeof parts / sizeof *parts, a, part);
        snprintf(made, sizeof made, "model.layers.%d.%s.%s", layer, theirs ? theirs : "", end);
    } else if (used = 0,
        sscanf(name, "%63[a-z_].%15[a-z]%n", part, end, &used) == 2 && !name[used]) {
        theirs = find_name(tops, sizeof tops / sizeof *tops, a, part);
        snprintf(made, sizeof made, "%s.%s", theirs ? theirs : "", end);
    }
    const char *found = theirs ? made : name;
    return arena_text(memory, found, strlen(found));
}

/* How many heads' rows of a tensor are permuted; 0: none. */
static int32_t permuted_heads(const gguf *g, const architecture *a, const char *name)
{
    double heads = 0;
    const char *part = strstr(name, ".attn_");
    if (!a || !a->permuted || !part || strncmp(name, "blk.", 4)) return 0;
    if (strncmp(part, ".attn_q.", 8) && strncmp(part, ".attn_k.", 8)) return 0;
    if (part[6] == 'q' || !arch_number(g, a, "attention.head_count_kv", &heads))
        arch_number(g, a, "attention.head_count", &heads);
    return heads >= 1 && heads < 65536 ? (int32_t)heads : 0;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

inset_status gguf_weights(const gguf *g, arena *memory, file_tensor **out, size_t *count)
{
    const architecture *a = architecture_of(g);
    file_tensor *all = *out = arena_new(memory, (gguf_count(g) + 1) * sizeof *all);
    *count = 0;
    if (!all) return INSET_NO_MEMORY;
    for (size_t i = 0; i < gguf_count(g); i++) {
        const gguf_tensor *t = gguf_at(g, i);
        if (!strcmp(t->name, "rope_freqs.weight")) continue; /* the config has it */
        file_tensor *made = &all[(*count)++];
        *made = (file_tensor){.name = their_name(memory, a, t->name),
            .type = INSET_F32,
            .n_dimensions = t->n_dimensions,
            .data = t->data,
            .blocks = t->block,
            .heads = permuted_heads(g, a, t->name),
            .less_one = is(a, "gemma2") && ends_with(t->name, "norm.weight")};
        if (!made->name) return INSET_NO_MEMORY;
        made->bytes = sizeof(float);
        for (int k = 0; k < t->n_dimensions; k++)
            made->bytes *= (size_t)(made->shape[k] = t->shape[k]);
    }
    return INSET_OK;
}

void gguf_numbers(const file_tensor *t, float *out)
{
    const gguf_block *block = t->blocks;
    const int64_t columns = t->shape[t->n_dimensions - 1],
                  rows = columns ? (int64_t)(t->bytes / sizeof(float)) / columns : 0;
    const size_t row_bytes = (size_t)(columns / block->numbers) * (size_t)block->bytes;
    /* a head's rows 0, 1, 2, ... lie as 0, half, 1, half + 1, ... */
    const int64_t a_head = t->heads && rows % (2 * t->heads) == 0 ? rows / t->heads : 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t in = a_head ? r % a_head : 0,
                      lies = a_head ? r - in + in % (a_head / 2) * 2 + in / (a_head / 2) : r;
        gguf_widen(block->type, (const char *)t->data + (size_t)lies * row_bytes, columns,
            out + r * columns);
    }
    for (int64_t i = 0; t->less_one && i < rows * columns; i++) out[i] -= 1;
}
