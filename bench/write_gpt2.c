/* write_gpt2.c: a Hugging Face directory of GPT-2 small's shape with random weights, so that a
 * benchmark needs no download; or of a Llama as wide and deep, with grouped heads and GPT-2's
 * vocabulary.
 *
 *     bench_write_gpt2 DIRECTORY [llama]
 *
 * Weights are written as they are made: 498 MB in fp32 go through a small buffer. The names, shapes
 * and order are those of transformers' save_pretrained; values are uniform with the deviation that
 * GPT-2 starts from. */
#include <errno.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "bench.h"

enum {
    D = 768,
    LAYERS = 12,
    VOCABULARY = 50257,
    POSITIONS = 1024,
    BUFFER = 1 << 16,
    KV = D / 3,
    M = 2048
};

typedef struct tensor {
    char name[64];
    int64_t rows, columns; /* columns 0: a vector */
    double deviation, mean;
} tensor;

typedef struct part {
    const char *name;
    int rows, columns;
    double deviation, mean;
} part;

static int list_blocks(tensor *out, int n, const char *prefix, const part *in_block, size_t parts)
{
    for (int layer = 0; layer < LAYERS; layer++)
        for (size_t i = 0; i < parts; i++, n++) {
            out[n] = (tensor){
                "", in_block[i].rows, in_block[i].columns, in_block[i].deviation, in_block[i].mean};
            snprintf(out[n].name, sizeof out[n].name, "%s.%d.%s", prefix, layer, in_block[i].name);
        }
    return n;
}

static int list_llama(tensor *out)
{
    static const part in_block[] = {
        {"input_layernorm.weight", D, 0, 0.1, 1},
        {"self_attn.q_proj.weight", D, D, 0.02, 0},
        {"self_attn.k_proj.weight", KV, D, 0.02, 0},
        {"self_attn.v_proj.weight", KV, D, 0.02, 0},
        {"self_attn.o_proj.weight", D, D, 0.02, 0},
        {"post_attention_layernorm.weight", D, 0, 0.1, 1},
        {"mlp.gate_proj.weight", M, D, 0.02, 0},
        {"mlp.up_proj.weight", M, D, 0.02, 0},
        {"mlp.down_proj.weight", D, M, 0.02, 0},
    };
    int n = 0;
    out[n++] = (tensor){"model.embed_tokens.weight", VOCABULARY, D, 0.02, 0};
    n = list_blocks(out, n, "model.layers", in_block, sizeof in_block / sizeof in_block[0]);
    out[n++] = (tensor){"model.norm.weight", D, 0, 0.1, 1};
    return n;
}

static int list_gpt2(tensor *out)
{
    static const part in_block[] = {
        {"ln_1.weight", D, 0, 0.1, 1},
        {"ln_1.bias", D, 0, 0.02, 0},
        {"attn.c_attn.weight", D, 3 * D, 0.02, 0},
        {"attn.c_attn.bias", 3 * D, 0, 0.02, 0},
        {"attn.c_proj.weight", D, D, 0.02, 0},
        {"attn.c_proj.bias", D, 0, 0.02, 0},
        {"ln_2.weight", D, 0, 0.1, 1},
        {"ln_2.bias", D, 0, 0.02, 0},
        {"mlp.c_fc.weight", D, 4 * D, 0.02, 0},
        {"mlp.c_fc.bias", 4 * D, 0, 0.02, 0},
        {"mlp.c_proj.weight", 4 * D, D, 0.02, 0},
        {"mlp.c_proj.bias", D, 0, 0.02, 0},
    };
    int n = 0;
    out[n++] = (tensor){"transformer.wte.weight", VOCABULARY, D, 0.02, 0};
    out[n++] = (tensor){"transformer.wpe.weight", POSITIONS, D, 0.01, 0};
    n = list_blocks(out, n, "transformer.h", in_block, sizeof in_block / sizeof in_block[0]);
    out[n++] = (tensor){"transformer.ln_f.weight", D, 0, 0.1, 1};
    out[n++] = (tensor){"transformer.ln_f.bias", D, 0, 0.02, 0};
    return n;
}

static int64_t count(const tensor *t) { return t->rows * (t->columns ? t->columns : 1); }

static bool write_config(const char *directory, bool llama)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", directory);
    FILE *file = fopen(path, "w");
    if (!file) return false;
    if (llama)
        fprintf(file,
            "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], "
            "\"vocab_size\": %d, \"max_position_embeddings\": %d,\n"
            " \"hidden_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": 12, "
            "\"num_key_value_heads\": 4, \"intermediate_size\": %d,\n"
            " \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0, "
            "\"dtype\": \"float32\", \"tie_word_embeddings\": true,\n"
            " \"bos_token_id\": null, \"eos_token_id\": null}\n",
            VOCABULARY, POSITIONS, D, LAYERS, M);
    else
        fprintf(file,
            "{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2LMHeadModel\"], \"vocab_size\": "
            "%d, \"n_positions\": %d,\n"
            " \"n_embd\": %d, \"n_layer\": %d, \"n_head\": 12, \"activation_function\": "
            "\"gelu_new\", \"layer_norm_epsilon\": 1e-05,\n"
            " \"dtype\": \"float32\", \"tie_word_embeddings\": true, \"bos_token_id\": null, "
            "\"eos_token_id\": null}\n",
            VOCABULARY, POSITIONS, D, LAYERS);
    return fclose(file) == 0;
}

static bool write_header(FILE *file, const tensor *tensors, int n)
{
    static char text[1 << 17];
    int64_t offset = 0;
    int at = snprintf(text, sizeof text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        const tensor *t = &tensors[i];
        at += snprintf(text + at, sizeof text - (size_t)at,
            ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%lld", t->name, (long long)t->rows);
        if (t->columns)
            at += snprintf(text + at, sizeof text - (size_t)at, ",%lld", (long long)t->columns);
        at += snprintf(text + at, sizeof text - (size_t)at, "],\"data_offsets\":[%lld,%lld]}",
            (long long)offset, (long long)(offset + 4 * count(t)));
        offset += 4 * count(t);
    }
    at += snprintf(text + at, sizeof text - (size_t)at, "}");
    while (at % 8) text[at++] = ' ';
    uint64_t length = (uint64_t)at;
    return fwrite(&length, 8, 1, file) == 1 && fwrite(text, 1, (size_t)at, file) == (size_t)at;
}

static bool write_data(FILE *file, const tensor *tensors, int n)
{
    static float buffer[BUFFER];
    uint64_t state = 1;
    for (int i = 0; i < n; i++) {
        float scale = (float)(tensors[i].deviation * 1.7320508 * 0x1p-31),
              mean = (float)tensors[i].mean;
        for (int64_t left = count(&tensors[i]); left > 0;) {
            int64_t now = left < BUFFER ? left : BUFFER;
            for (int64_t k = 0; k < now; k++) {
                state = state * 6364136223846793005u + 1442695040888963407u;
                buffer[k] = mean + scale * (float)(int32_t)(state >> 32);
            }
            if (fwrite(buffer, sizeof *buffer, (size_t)now, file) != (size_t)now) return false;
            left -= now;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static tensor tensors[2 + LAYERS * 12 + 2];
    char path[4096];
    const bool llama = argc == 3 && !strcmp(argv[2], "llama");
    if (argc != 2 && !llama) {
        fprintf(stderr, "usage: bench_write_gpt2 DIRECTORY [llama]\n");
        return 2;
    }
    mkdir(argv[1], 0777);
    snprintf(path, sizeof path, "%s/model.safetensors", argv[1]);
    int n = llama ? list_llama(tensors) : list_gpt2(tensors);
    FILE *file = fopen(path, "wb");
    bool good = file && write_config(argv[1], llama) && write_header(file, tensors, n)
                && write_data(file, tensors, n);
    if (file && fclose(file)) good = false;
    if (!good) fprintf(stderr, "%s: %s\n", path, strerror(errno));
    return !good;
}
