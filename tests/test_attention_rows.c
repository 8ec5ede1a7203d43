/* test_attention_rows.c: attention of many queries together (kernels/attention_rows.h) gives each
 * the bits of the plain kernel (attention.cu), whatever lies beside it and however the blocks are
 * cut, with each instruction set's kernels that this processor can run. */
#include "device/device.h"
#include "kernels/table.h"
#include "test.h"

void plain_baseline_fill(kernel_table *table);
void plain_avx2_fill(kernel_table *table);
void plain_avx512_fill(kernel_table *table);

enum { MOST_ROWS = 75, MOST_KEYS = 200, POOL = 300 };

typedef struct attention_world {
    uint64_t random;
    int type, rows;
    attention_args args;
    int32_t keys[MOST_ROWS * MOST_KEYS], values[MOST_ROWS * MOST_KEYS], q_rows[MOST_ROWS];
    attention_context contexts[MOST_ROWS];
    float slopes[9];
    unsigned char *q, *k, *v, *sinks, *out[2];
    size_t out_bytes;
} attention_world;

static int below(attention_world *w, int n) { return (int)(test_random(&w->random) % (uint64_t)n); }

/* Numbers of the type; where `odd` one in a hundred is infinite, NaN or zero. */
static unsigned char *numbers(attention_world *w, int64_t n, bool odd)
{
    static const float special[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e38f};
    const size_t size = type_size((inset_type)w->type);
    unsigned char *x = malloc((size_t)n * size);
    if (!x) abort();
    for (int64_t i = 0; i < n; i++)
        element_put((inset_type)w->type, x + (size_t)i * size,
            odd && !below(w, 100) ? special[below(w, 6)] : 2 * test_uniform(&w->random));
    return x;
}

/* One row after the other: a list that goes on where the last one ended, in the same place or
 * copied; a fork of it at any place; a new one. */
static void lay_contexts(attention_world *w, int longest)
{
    int32_t n = 0;
    for (int r = 0; r < w->rows; r++) {
        const attention_context before = r ? w->contexts[r - 1] : (attention_context){0};
        const int kind = r ? below(w, 8) : 7;
        int count = 1 + below(w, longest), kept = 0;
        if (kind < 5) count = before.count < longest ? before.count + 1 : before.count;
        if (kind < 3 && n == before.first + before.count) { /* the same list, one more */
            w->contexts[r] = (attention_context){before.first, count};
            if (count > before.count)
                w->keys[n] = below(w, POOL), w->values[n] = below(w, POOL), n++;
            continue;
        }
        if (kind < 5) kept = before.count;
        else if (kind < 7) kept = below(w, before.count + 1);
        if (kept > count) kept = count;
        for (int j = 0; j < count; j++) {
            w->keys[n + j] = j < kept ? w->keys[before.first + j] : below(w, POOL);
            w->values[n + j] = j < kept ? w->values[before.first + j] : below(w, POOL);
        }
        /* keys alike, one value apart */
        if (kept > 1 && !below(w, 10)) w->values[n + below(w, kept)] = below(w, POOL);
        w->contexts[r] = (attention_context){n, count};
        n += count;
    }
}

static void lay_world(attention_world *w)
{
    static const int sizes[] = {1, 3, 4, 8, 16, 33, 40, 64, 71, 80, 100, 128, 200, 256};
    const int group = 1 + below(w, 3), kv_heads = 1 + below(w, 3), heads = group * kv_heads,
              d = sizes[below(w, (int)(sizeof sizes / sizeof *sizes))];
    const bool odd = !below(w, 4);
    w->rows = below(w, 4) ? 1 + below(w, 9) : 1 + below(w, MOST_ROWS);
    lay_contexts(w, 1 + below(w, MOST_KEYS));
    const int64_t q_stride = heads * d + below(w, 3), kv_stride = kv_heads * d + below(w, 3),
                  out_stride = heads * d + below(w, 3);
    w->q = numbers(w, w->rows * q_stride, odd && !below(w, 3));
    w->k = numbers(w, POOL * kv_stride, odd);
    w->v = numbers(w, POOL * kv_stride, odd);
    w->out_bytes = (size_t)(w->rows * out_stride) * type_size((inset_type)w->type);
    for (int i = 0; i < 2; i++) {
        w->out[i] = malloc(w->out_bytes);
        memset(w->out[i], 0xcd, w->out_bytes);
    }
    for (int r = 0; r < w->rows; r++) w->q_rows[r] = below(w, w->rows);
    w->sinks = numbers(w, 9, odd);
    for (int h = 0; h < 9; h++) w->slopes[h] = exp2f(-1 - (float)h);
    w->args = (attention_args){.q = w->q,
        .slopes = below(w, 4) ? NULL : w->slopes,
        .sinks = below(w, 3) ? NULL : w->sinks,
        .k = w->k,
        .v = w->v,
        .q_rows = below(w, 2) ? w->q_rows : NULL,
        .key_rows = w->keys,
        .value_rows = below(w, 2) ? w->values : w->keys,
        .contexts = w->contexts,
        .n_rows = w->rows,
        .out_stride = out_stride,
        .q_stride = q_stride,
        .k_stride = kv_stride,
        .v_stride = kv_stride,
        .n_heads = heads,
        .n_kv_heads = kv_heads,
        .head_dim = d,
        .window = below(w, 4) ? 0 : 1 + below(w, 100),
        .scale = 1 / sqrtf((float)d),
        .softcap = below(w, 4) ? 0.0f : 20.0f};
}

/* Runs an entry over all blocks, cut anywhere. */
static void run_cut(attention_world *w, const kernel_table *table, bool records)
{
    struct {
        fused_records fused;
        attention_args args;
    } both = {{0}, w->args};
    const int64_t blocks = (int64_t)w->rows * w->args.n_heads;
    kernel_blocks *run = (kernel_blocks *)
                             table->entry[KERNEL_ATTENTION + (records ? KERNEL_COUNT : 0)][w->type];
    for (int64_t first = 0, end; first < blocks; first = end) {
        end = below(w, 2) ? blocks : first + 1 + below(w, (int)(blocks - first));
        run(records ? (const void *)&both : &w->args, first, end);
    }
}

/* The element at which the results differ, or -1. A NaN's sign and payload are the processor's
 * choice between two NaNs' and so the compiler's, who may swap what a sum adds. */
static int64_t first_apart(const attention_world *w)
{
    const size_t size = type_size((inset_type)w->type);
    for (size_t i = 0; i < w->out_bytes; i += size)
        if (memcmp(w->out[0] + i, w->out[1] + i, size) != 0
            && !(isnan(element_get((inset_type)w->type, w->out[0] + i))
                 && isnan(element_get((inset_type)w->type, w->out[1] + i))))
            return (int64_t)(i / size);
    return -1;
}

static void compare(const char *name, void (*fill)(kernel_table *), void (*plain)(kernel_table *))
{
    kernel_table tables[2];
    memset(tables, 0, sizeof tables);
    plain(&tables[0]);
    fill(&tables[1]);
    attention_world *w = malloc(sizeof *w);
    if (!w) abort();
    for (int i = 0; i < 600; i++) {
        w->random = (uint64_t)i + 1;
        w->type = i % KERNEL_TYPES;
        lay_world(w);
        for (int form = 0; form < 2; form++) {
            w->args.out = w->out[form];
            run_cut(w, &tables[form], form && i % 2);
        }
        const int64_t at = first_apart(w);
        CHECK(at < 0,
            "%s, case %d: %d rows of %d / %d heads of %d, type %d, window %d: row %d column %d has "
            "other bits than alone",
            name, i, w->rows, w->args.n_heads, w->args.n_kv_heads, w->args.head_dim, w->type,
            w->args.window, (int)(at / w->args.out_stride), (int)(at % w->args.out_stride));
        unsigned char *all[] = {w->q, w->k, w->v, w->sinks, w->out[0], w->out[1]};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) free(all[k]);
    }
    free(w);
}

int main(void)
{
    compare("baseline", kernels_baseline_fill, plain_baseline_fill);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) compare("AVX2", kernels_avx2_fill, plain_avx2_fill);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        compare("AVX-512", kernels_avx512_fill, plain_avx512_fill);
#endif
    return test_result();
}
