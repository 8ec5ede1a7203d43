/* kernels.c: every kernel that moves much, alone, beside a copy on the same card; matrix products;
 * attention of a sweep.
 *
 *     gpu_kernels DEVICE [ROWS]      ROWS (32768): rows of a launch; tables on standard output
 *
 * A time is the mean of as many launches as fill 20 ms, between two events. */
#include "gpu.h"

#include <string.h>

typedef struct bench {
    inset_context *context;
    cuda_device *d;
    cuda_event start, end;
    double copy; /* bytes a second, read and written */
    int64_t rows;
} bench;

typedef struct measured {
    kernel_id kernel;
    inset_type type;
    const void *args;
    size_t size;
    int64_t blocks;
} measured;
typedef struct product_job {
    const matrix *m;
    void *x, *y;
    int64_t in, out, rows;
} product_job;
typedef inset_status body(bench *b, const void *of);

static double time_of(bench *b, body *run, const void *of)
{
    const cuda_library *l = &b->d->library;
    float milliseconds = 0;
    for (int n = 2;; n = milliseconds < 1 ? n * 8 : (int)(n * 24 / milliseconds)) {
        gpu_good(l->cudaEventRecord(b->start, b->d->stream), "an event");
        for (int i = 0; i < n; i++) gpu_need(b->context, run(b, of));
        gpu_good(l->cudaEventRecord(b->end, b->d->stream), "an event");
        gpu_good(l->cudaEventSynchronize(b->end), "waiting");
        gpu_good(l->cudaEventElapsedTime(&milliseconds, b->start, b->end), "asking for the time");
        if (milliseconds >= 20 || n >= 4096) return 1e-3 * (double)milliseconds / n;
    }
}

static inset_status run_job(bench *b, const void *of)
{
    const measured *j = of;
    return device_launch(&b->d->base, j->kernel, j->type, j->args, j->size, j->blocks, 0);
}

static inset_status run_product(bench *b, const void *of)
{
    const product_job *j = of;
    return device_matmul(&b->d->base, j->m, j->x, j->in, j->y, j->out, j->rows);
}

static void *on_device(bench *b, size_t bytes)
{
    void *at;
    gpu_need(b->context, device_allocate(&b->d->base, bytes, &at));
    return at;
}

/* Random elements on the device: a block of them over and over. */
static void *random_rows(bench *b, inset_type type, int64_t count)
{
    enum { BLOCK = 1 << 20 };
    static char block[BLOCK * 4];
    const size_t size = type_size(type);
    char *at = on_device(b, (size_t)count * size);
    gpu_random(type, block, BLOCK, 1, 7);
    for (int64_t i = 0; i < count; i += BLOCK)
        gpu_need(b->context, device_upload(&b->d->base, at + (size_t)i * size, block,
                                 (size_t)(count - i < BLOCK ? count - i : BLOCK) * size));
    return at;
}

static void *upload(bench *b, const void *from, size_t bytes)
{
    void *at = on_device(b, bytes);
    gpu_need(b->context, device_upload(&b->d->base, at, from, bytes));
    return at;
}

/* ---- the copy ----------------------------------------------------------- */

typedef struct copy_job {
    void *to, *from;
    size_t bytes;
} copy_job;

static inset_status run_copy(bench *b, const void *of)
{
    const copy_job *c = of;
    gpu_good(b->d->library.cudaMemcpyAsync(
                 c->to, c->from, c->bytes, CUDA_DEVICE_TO_DEVICE, b->d->stream),
        "a copy");
    return INSET_OK;
}

static void measure_copy(bench *b)
{
    copy_job c = {.bytes = (size_t)b->rows * 32768};
    c.to = on_device(b, c.bytes);
    c.from = random_rows(b, INSET_F32, (int64_t)(c.bytes / 4));
    const double time = time_of(b, run_copy, &c);
    b->copy = 2 * (double)c.bytes / time;
    printf("A copy on the device of %.2f GiB: %.0f GB/s, read and written.\n",
        (double)c.bytes / (1 << 30), b->copy / 1e9);
    device_release(&b->d->base, c.to, c.bytes);
    device_release(&b->d->base, c.from, c.bytes);
}

static void measure_allocation(bench *b)
{
    static const size_t sizes[] = {1 << 20, 64 << 20, (size_t)1 << 30};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const double start = seconds();
        for (int n = 0; n < 5; n++) device_release(&b->d->base, on_device(b, sizes[i]), sizes[i]);
        printf("Allocating and releasing %zu MiB: %.0f us.\n", sizes[i] >> 20,
            (seconds() - start) / 5 * 1e6);
    }
}

/* ---- kernels that move rows --------------------------------------------- */

static void print_moved(
    bench *b, const char *name, inset_type type, int64_t width, double bytes, double time)
{
    printf("| %s | %s | %lld | %.1f | %.0f | %.0f %% |\n", name, type_name(type), (long long)width,
        time * 1e6, bytes / time / 1e9, 100 * bytes / time / b->copy);
    fflush(stdout);
}

static void measure_rows(bench *b, inset_type type, int64_t width)
{
    const int64_t n = b->rows, size = (int64_t)type_size(type);
    const double row = (double)(n * width * size);
    void *x = random_rows(b, type, n * width), *y = random_rows(b, type, n * width),
         *out = on_device(b, (size_t)(n * width * size)),
         *norm = on_device(b, (size_t)(n * width * size)), *weight = random_rows(b, type, width);
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)((i * 7919) % n);
    const int32_t *rows = upload(b, ids, (size_t)n * sizeof *ids);
    const layernorm_args ln = {out, x, NULL, weight, weight, n, width, width, width, 1, 1e-5f};
    const rmsnorm_args rms = {out, x, NULL, weight, n, width, width, width, 1, 1e-5f, 0, 0};
    const add_args add = {out, x, y, NULL, NULL, NULL, NULL, n, width, width, width, width, 0};
    const add_layernorm_args add_ln = {
        out, norm, x, y, NULL, NULL, weight, weight, n, width, width, width, width, width, 1e-5f};
    const add_rmsnorm_args add_rms = {
        out, norm, x, y, NULL, NULL, weight, n, width, width, width, width, width, 1e-5f, 0, 0};
    const activation_args gelu = {out, x, NULL, NULL, n, width, width, width, 1},
                          silu = {out, x, NULL, NULL, n, width, width, width, 3};
    const gate_args gate = {out, x, y, NULL, NULL, n, width, width, width, width};
    const scale_args scale = {out, x, NULL, n, width, width, width, 0.5f, 0};
    const gather_args gather = {out, x, rows, n, width, width, width};
    const embed_args embed = {out, x, rows, n, width, width};
    const struct {
        const char *name;
        kernel_id kernel;
        const void *args;
        size_t size;
        int passes;
    } all[] = {
        {"layernorm", KERNEL_LAYERNORM, &ln, sizeof ln, 2},
        {"rmsnorm", KERNEL_RMSNORM, &rms, sizeof rms, 2},
        {"add", KERNEL_ADD, &add, sizeof add, 3},
        {"add + layernorm", KERNEL_ADD_LAYERNORM, &add_ln, sizeof add_ln, 4},
        {"add + rmsnorm", KERNEL_ADD_RMSNORM, &add_rms, sizeof add_rms, 4},
        {"gelu", KERNEL_ACTIVATION, &gelu, sizeof gelu, 2},
        {"silu", KERNEL_ACTIVATION, &silu, sizeof silu, 2},
        {"gate", KERNEL_GATE, &gate, sizeof gate, 3},
        {"scale", KERNEL_SCALE, &scale, sizeof scale, 2},
        {"gather", KERNEL_GATHER, &gather, sizeof gather, 2},
        {"embed", KERNEL_EMBED, &embed, sizeof embed, 2},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const measured j = {all[i].kernel, type, all[i].args, all[i].size, n};
        print_moved(b, all[i].name, type, width, all[i].passes * row, time_of(b, run_job, &j));
    }
    void *buffers[] = {x, y, out, norm, weight, (void *)rows};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        device_release(&b->d->base, buffers[i], 0);
    free(ids);
}

static void measure_rope(bench *b, inset_type type, int heads, int head_dim)
{
    const int64_t n = b->rows, width = (int64_t)heads * head_dim;
    float frequencies[128];
    for (int i = 0; i < head_dim / 2; i++) frequencies[i] = 1.0f / (float)(1 + i);
    void *x = random_rows(b, type, n * width),
         *out = on_device(b, (size_t)(n * width) * type_size(type));
    int32_t *at = malloc((size_t)n * sizeof *at);
    for (int64_t i = 0; i < n; i++) at[i] = (int32_t)(i % 64);
    void *positions = upload(b, at, (size_t)n * sizeof *at),
         *angles = upload(b, frequencies, sizeof frequencies);
    const rope_args args = {
        out, x, NULL, positions, angles, n, width, width, heads, head_dim, head_dim, 1, 0, 0, 0, 0};
    const measured j = {KERNEL_ROPE, type, &args, sizeof args, n};
    print_moved(b, "rope", type, width, 2 * (double)(n * width) * (double)type_size(type),
        time_of(b, run_job, &j));
    void *buffers[] = {x, out, positions, angles};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        device_release(&b->d->base, buffers[i], 0);
    free(at);
}

/* Records that each copy `columns` columns of a row to another place, and records that add. */
static void measure_records(bench *b, inset_type type, int32_t columns, record_op op)
{
    const int64_t n = b->rows, size = (int64_t)type_size(type);
    char *x = random_rows(b, type, n * columns), *out = on_device(b, (size_t)(n * columns * size));
    record *records = calloc((size_t)n, sizeof *records);
    for (int64_t i = 0; i < n; i++)
        records[i] = (record){.out = out + i * columns * size,
            .a = x + (i * 7919 % n) * columns * size,
            .b = op == RECORD_COPY ? NULL : x + i * columns * size,
            .out_row = columns,
            .a_row = columns,
            .b_row = columns,
            .out_column = 1,
            .a_column = 1,
            .b_column = 1,
            .rows = 1,
            .columns = columns,
            .op = (uint8_t)op,
            .out_type = (uint8_t)type,
            .a_type = (uint8_t)type,
            .b_type = (uint8_t)type,
            .compute = (uint8_t)type};
    const int64_t blocks = records_number_blocks(records, n);
    void *table = upload(b, records, (size_t)n * sizeof *records);
    const records_args args = {table, n};
    const measured j = {KERNEL_RECORDS, type, &args, sizeof args, blocks};
    const double bytes = (double)n
                         * (sizeof *records
                             + (op == RECORD_COPY ? 2.0 : 3.0) * (double)(columns * size));
    print_moved(b, op == RECORD_COPY ? "records, copy" : "records, add", type, columns, bytes,
        time_of(b, run_job, &j));
    void *buffers[] = {x, out, table};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        device_release(&b->d->base, buffers[i], 0);
    free(records);
}

/* ---- products ----------------------------------------------------------- */

static void measure_product(
    bench *b, inset_type type, int64_t in, int64_t out, bool in_out, int64_t rows)
{
    const int64_t padded = device_padded_rows(&b->d->base, type, in, out, rows);
    void *weight = malloc((size_t)(in * out) * type_size(type));
    matrix *m;
    gpu_random(type, weight, in * out, 0.03f, 3);
    gpu_need(b->context, device_matrix_create(&b->d->base, type, in, out, weight, type, in_out,
                             NULL, INSET_F32, &m));
    const product_job j = {m, random_rows(b, type, padded * in),
        on_device(b, (size_t)(padded * out) * type_size(type)), in, out, rows};
    const double time = time_of(b, run_product, &j),
                 flops = 2 * (double)in * (double)out * (double)rows;
    printf("| %lld | %lld | %s | %lld | %.1f | %.1f |\n", (long long)in, (long long)out,
        type_name(type), (long long)rows, time * 1e6, flops / time / 1e12);
    fflush(stdout);
    device_release(&b->d->base, j.x, 0);
    device_release(&b->d->base, j.y, 0);
    device_matrix_free(&b->d->base, m);
    free(weight);
}

/* ---- attention of a sweep over layers and positions: patches at every position of `length`,
 * `sets` of them ---- */

typedef struct attention_shape {
    inset_type type;
    int heads, kv_heads, head_dim, length, sets;
} attention_shape;

static void measure_attention(bench *b, const attention_shape *s)
{
    const int64_t T = s->length, entries = s->sets * T * T, most = s->sets * T * (T + 1) / 2;
    int32_t *lists = malloc((size_t)entries * sizeof *lists);
    attention_context *contexts = malloc((size_t)most * sizeof *contexts);
    int64_t rows = 0, own = T, list = 0, keys = 0;
    for (int64_t set = 0; set < s->sets; set++)
        for (int64_t p = 0; p < T; p++, list += T)
            for (int64_t at = 0; at < T; at++) {
                lists[list + at] = (int32_t)(at < p ? at : own++);
                if (at < p) continue;
                contexts[rows++] = (attention_context){(int32_t)list, (int32_t)at + 1};
                keys += at + 1;
            }
    const int64_t q_width = (int64_t)s->heads * s->head_dim,
                  kv_width = (int64_t)s->kv_heads * s->head_dim;
    void *q = random_rows(b, s->type, rows * q_width), *k = random_rows(b, s->type, own * kv_width),
         *v = random_rows(b, s->type, own * kv_width),
         *out = on_device(b, (size_t)(rows * q_width) * type_size(s->type)),
         *table = upload(b, lists, (size_t)list * sizeof *lists),
         *places = upload(b, contexts, (size_t)rows * sizeof *contexts);
    const attention_args args = {out, q, k, v, NULL, table, table, places, NULL, NULL, rows,
        q_width, q_width, kv_width, kv_width, s->heads, s->kv_heads, s->head_dim, 0, 0.1f, 0};
    const measured j = {KERNEL_ATTENTION, s->type, &args, sizeof args, rows * s->heads};
    const double time = time_of(b, run_job, &j);
    printf("| %s | %d / %d of %d | %d | %lld | %.0f | %.1f |\n", type_name(s->type), s->heads,
        s->kv_heads, s->head_dim, s->length, (long long)rows, time * 1e6,
        4 * (double)keys * (double)q_width / time / 1e12);
    fflush(stdout);
    void *buffers[] = {q, k, v, out, table, places};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        device_release(&b->d->base, buffers[i], 0);
    free(lists);
    free(contexts);
}

static void measure_all(bench *b)
{
    static const int64_t gpt2[4][2] = {{768, 2304}, {768, 768}, {768, 3072}, {3072, 768}};
    static const int64_t llama[5][2] = {
        {4096, 4096}, {4096, 1024}, {4096, 14336}, {14336, 4096}, {4096, 128256}};
    static const attention_shape shapes[] = {
        {INSET_BF16, 32, 8, 128, 64, 16},
        {INSET_BF16, 32, 8, 128, 512, 1},
        {INSET_BF16, 12, 12, 64, 15, 96},
        {INSET_BF16, 12, 12, 64, 128, 8},
        {INSET_F32, 12, 12, 64, 15, 96},
        {INSET_F32, 12, 12, 64, 128, 8},
        {INSET_F16, 12, 12, 64, 128, 8},
    };
    measure_copy(b);
    measure_allocation(b);
    printf("\n| kernel | type | columns | us | GB/s | of a copy |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < 2; i++) {
        const inset_type type = i ? INSET_F32 : INSET_BF16;
        measure_rows(b, type, 4096);
        measure_rows(b, type, 768);
        measure_rope(b, type, 32, 128);
        measure_records(b, type, 4096, RECORD_COPY);
        measure_records(b, type, 768, RECORD_COPY);
        measure_records(b, type, 64, RECORD_COPY);
        measure_records(b, type, 4096, RECORD_ADD);
    }
    printf("\n| heads | heads of | T | rows | us | TFLOP/s |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) measure_attention(b, &shapes[i]);
    printf("\n| in | out | type | rows | us | TFLOP/s |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < 5; i++)
        measure_product(b, INSET_BF16, llama[i][0], llama[i][1], false, i < 4 ? b->rows : 64);
    for (int i = 0; i < 4; i++) measure_product(b, INSET_BF16, llama[i][0], llama[i][1], false, 64);
    for (int i = 0; i < 4; i++) measure_product(b, INSET_BF16, gpt2[i][0], gpt2[i][1], true, 1024);
    for (int i = 0; i < 4; i++) measure_product(b, INSET_F32, gpt2[i][0], gpt2[i][1], true, 1024);
    for (int i = 0; i < 4; i++) measure_product(b, INSET_F32, gpt2[i][0], gpt2[i][1], true, 8192);
}

int main(int count, char **arguments)
{
    bench b = {0};
    device *d;
    if (count < 2 || inset_context_create(NULL, &b.context)) return 2;
    b.rows = count > 2 ? atoll(arguments[2]) : 32768;
    gpu_need(b.context, device_open(b.context, arguments[1], &d));
    b.d = (cuda_device *)d;
    gpu_good(b.d->library.cudaEventCreateWithFlags(&b.start, 0), "an event");
    gpu_good(b.d->library.cudaEventCreateWithFlags(&b.end, 0), "an event");
    printf("%s\n\n", d->name);
    measure_all(&b);
    b.d->library.cudaEventDestroy(b.start);
    b.d->library.cudaEventDestroy(b.end);
    device_close(d);
    inset_context_free(b.context);
    return 0;
}
