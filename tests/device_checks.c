/* device_checks.c: copies against what was sent, products against double-precision loops, kernels against another device. */
#include "device_checks.h"

#include "test.h"

static const char *name_of_type(inset_type type) { return type_name(type); }

/* ---- copies ------------------------------------------------------------------------------------------------------------------------------ */

static void copy_there_and_back(device *d, size_t bytes)
{
    unsigned char *sent = malloc(bytes + 1), *got = malloc(bytes + 1);
    void *memory = NULL;
    uint64_t seed = bytes;
    for (size_t i = 0; i < bytes; i++) sent[i] = (unsigned char)test_random(&seed);
    if (CHECK(!device_allocate(d, bytes, &memory), "%zu bytes: %s", bytes, inset_message(d->context))) {
        CHECK(!device_upload(d, memory, sent, bytes), "%zu bytes: %s", bytes, inset_message(d->context));
        unsigned char first = sent[0];
        memset(sent, 0x11, bytes);                     /* the buffer may be reused on return */
        got[bytes] = 0x77;
        CHECK(!device_download(d, got, memory, bytes), "%zu bytes: %s", bytes, inset_message(d->context));
        seed = bytes;
        size_t wrong = 0;
        for (size_t i = 0; i < bytes; i++) wrong += got[i] != (unsigned char)test_random(&seed);
        CHECK(wrong == 0, "%zu of %zu bytes came back changed (first was %d)", wrong, bytes, first);
        CHECK(got[bytes] == 0x77, "%zu bytes: written behind the buffer", bytes);
    }
    device_release(d, memory, bytes);
    free(sent);
    free(got);
}

/* Many small uploads to one place and another: the last one to each wins, whatever is still on its way. */
static void uploads_keep_order(device *d)
{
    enum { PLACES = 37, ROUNDS = 400, WIDTH = 1501 };
    static int32_t row[WIDTH], got[PLACES * WIDTH];
    void *memory = NULL;
    NEED(!device_allocate(d, sizeof got, &memory), "%s", inset_message(d->context));
    for (int n = 0; n < ROUNDS * 3; n++) {
        for (int i = 0; i < WIDTH; i++) row[i] = n * WIDTH + i;
        CHECK(!device_upload(d, (char *)memory + (size_t)(n % PLACES) * sizeof row, row, sizeof row), "%s", inset_message(d->context));
    }
    CHECK(!device_download(d, got, memory, sizeof got), "%s", inset_message(d->context));
    for (int place = 0; place < PLACES; place++) {
        int last = ROUNDS * 3 - 1;
        while (last % PLACES != place) last--;
        CHECK(got[place * WIDTH + 7] == last * WIDTH + 7 && got[(place + 1) * WIDTH - 1] == last * WIDTH + WIDTH - 1,
              "place %d holds %d, not upload %d", place, got[place * WIDTH + 7] / WIDTH, last);
    }
    device_release(d, memory, sizeof got);
}

static void zero_is_zero(device *d)
{
    unsigned char bytes[1000], got[1000];
    void *memory = NULL;
    memset(bytes, 0x5a, sizeof bytes);
    NEED(!device_allocate(d, sizeof bytes, &memory), "%s", inset_message(d->context));
    CHECK(!device_upload(d, memory, bytes, sizeof bytes), "%s", inset_message(d->context));
    CHECK(!device_zero(d, (char *)memory + 3, 500), "%s", inset_message(d->context));
    CHECK(!device_download(d, got, memory, sizeof got), "%s", inset_message(d->context));
    for (int i = 0; i < 1000; i++) CHECK(got[i] == (i >= 3 && i < 503 ? 0 : 0x5a), "byte %d is %d", i, got[i]);
    device_release(d, memory, sizeof bytes);
}

int check_copies(device *d)
{
    static const size_t sizes[] = {1, 15, 16, 17, 4096, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (13 << 20) + 5};
    int before = test_failures;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) copy_there_and_back(d, sizes[i]);
    uploads_keep_order(d);
    zero_is_zero(d);
    return test_failures - before;
}

/* ---- products ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct product_case {
    inset_type type, file_type;          /* of x and y; of weight and bias as they are handed over */
    int64_t in, out, rows, x_pad, y_pad; /* strides are in + x_pad, out + y_pad */
    bool in_out, bias;
} product_case;

static const char *name_of(const product_case *c)
{
    static char name[160];
    snprintf(name, sizeof name, "%s (file %s) [%lld, %lld] %s%s, %lld rows, strides +%lld +%lld", name_of_type(c->type),
             name_of_type(c->file_type), (long long)c->in, (long long)c->out, c->in_out ? "in_out" : "out_in", c->bias ? " + bias" : "",
             (long long)c->rows, (long long)c->x_pad, (long long)c->y_pad);
    return name;
}

/* Random elements of `type`, and what they are as doubles once they have become `as`. */
static void *random_elements(inset_type type, inset_type as, int64_t n, uint64_t seed, double *values)
{
    char *elements = malloc((size_t)(n ? n : 1) * type_size(type));
    for (int64_t i = 0; i < n; i++) {
        char *element = elements + (size_t)i * type_size(type), converted[8];
        element_put(type, element, test_uniform(&seed));
        element_put(as, converted, element_get(type, element));
        values[i] = element_get(as, converted);
    }
    return elements;
}

static double *doubles(int64_t n) { return calloc((size_t)(n ? n : 1), sizeof(double)); }

static void expect_product(const product_case *c, const double *w, const double *bias, const double *x, double *y)
{
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t o = 0; o < c->out; o++) {
            double sum = c->bias ? bias[o] : 0;
            for (int64_t i = 0; i < c->in; i++) sum += x[r * (c->in + c->x_pad) + i] * w[c->in_out ? i * c->out + o : o * c->in + i];
            y[r * c->out + o] = sum;
        }
}

enum { MARK = 0x3b };                    /* the byte y is filled with: what lies between its rows must keep it */

static void compare_product(const product_case *c, const unsigned char *y, const double *expected)
{
    const size_t size = type_size(c->type);
    const int64_t stride = c->out + c->y_pad;
    double *got = doubles(c->rows * c->out);
    int64_t touched = 0;
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t o = 0; o < stride; o++) {
            const unsigned char *element = y + (size_t)(r * stride + o) * size;
            if (o < c->out) got[r * c->out + o] = element_get(c->type, element);
            else touched += element[0] != MARK || element[size - 1] != MARK;
        }
    double error = test_relative_error(got, expected, (size_t)(c->rows * c->out));
    CHECK(error < (c->type == INSET_F32 ? 1e-5 : 1e-2), "%s: relative error %g", name_of(c), error);
    CHECK(touched == 0, "%s: %lld elements between the rows were written", name_of(c), (long long)touched);
    free(got);
}

static void check_product(device *d, const product_case *c)
{
    const size_t size = type_size(c->type), x_count = (size_t)(c->rows * (c->in + c->x_pad)), y_count = (size_t)(c->rows * (c->out + c->y_pad));
    double *w = doubles(c->in * c->out), *bias = doubles(c->out), *x = doubles((int64_t)x_count), *expected = doubles(c->rows * c->out);
    void *w_file = random_elements(c->file_type, c->type, c->in * c->out, 1, w), *bias_file = random_elements(c->file_type, c->type, c->out, 2, bias);
    void *x_bytes = random_elements(c->type, c->type, (int64_t)x_count, 3, x), *x_memory = NULL, *y_memory = NULL;
    unsigned char *y = malloc(y_count * size);
    matrix *m = NULL;
    memset(y, MARK, y_count * size);
    expect_product(c, w, bias, x, expected);
    bool ready = CHECK(!device_matrix_create(d, c->type, c->in, c->out, w_file, c->file_type, c->in_out, c->bias ? bias_file : NULL,
                                             c->file_type, &m), "%s: %s", name_of(c), inset_message(d->context))
        && CHECK(!device_allocate(d, x_count * size, &x_memory) && !device_allocate(d, y_count * size, &y_memory), "%s", inset_message(d->context));
    memset(w_file, 0, (size_t)(c->in * c->out) * type_size(c->file_type));              /* not needed after the call */
    if (ready && CHECK(!device_upload(d, x_memory, x_bytes, x_count * size) && !device_upload(d, y_memory, y, y_count * size)
                       && !device_matmul(d, m, x_memory, c->in + c->x_pad, y_memory, c->out + c->y_pad, c->rows)
                       && !device_download(d, y, y_memory, y_count * size), "%s: %s", name_of(c), inset_message(d->context)))
        compare_product(c, y, expected);
    device_matrix_free(d, m);
    device_release(d, x_memory, x_count * size);
    device_release(d, y_memory, y_count * size);
    free(w); free(bias); free(x); free(expected); free(w_file); free(bias_file); free(x_bytes); free(y);
}

int check_products(device *d)
{
    static const struct { int64_t in, out; } shapes[] = {{5, 10}, {1, 1}, {64, 48}, {33, 17}, {96, 40}};
    static const struct { int64_t rows, x_pad, y_pad; } heights[] = {{1, 0, 0}, {3, 0, 0}, {7, 3, 1}, {130, 8, 16}, {16, 1, 0}};
    int before = test_failures;
    for (int type = 0; type < 3; type++)
        for (size_t s = 0; s < 5; s++)
            for (size_t h = 0; h < 5; h++)
                check_product(d, &(product_case){(inset_type)type, (s + h) % 2 ? INSET_F32 : (inset_type)type, shapes[s].in, shapes[s].out,
                                                 heights[h].rows, heights[h].x_pad, heights[h].y_pad, (s + h) % 2, h % 3 != 0});
    check_product(d, &(product_case){INSET_BF16, INSET_F16, 24, 24, 9, 0, 0, true, true});
    check_product(d, &(product_case){INSET_F16, INSET_BF16, 24, 24, 9, 0, 0, false, true});
    check_product(d, &(product_case){INSET_F32, INSET_F64, 24, 24, 9, 0, 0, false, true});
    return test_failures - before;
}

/* The last of `rows` rows is always the same; `alone` is what it gives on its own. */
static void check_row(device *d, const matrix *m, inset_type type, int64_t in, int64_t out, int64_t rows, void *alone)
{
    const size_t size = type_size(type);
    double *ignored = doubles(rows * in);
    char *x = random_elements(type, type, rows * in, (uint64_t)rows, ignored), *row = random_elements(type, type, in, 99, ignored);
    char *y = malloc((size_t)out * size);
    void *x_memory = NULL, *y_memory = NULL;
    memcpy(x + (size_t)((rows - 1) * in) * size, row, (size_t)in * size);
    if (CHECK(!device_allocate(d, (size_t)(rows * in) * size, &x_memory) && !device_allocate(d, (size_t)(rows * out) * size, &y_memory)
              && !device_upload(d, x_memory, x, (size_t)(rows * in) * size) && !device_matmul(d, m, x_memory, in, y_memory, out, rows)
              && !device_download(d, y, (char *)y_memory + (size_t)((rows - 1) * out) * size, (size_t)out * size), "%s", inset_message(d->context))) {
        if (rows == 1) memcpy(alone, y, (size_t)out * size);
        CHECK(memcmp(alone, y, (size_t)out * size) == 0, "%s [%lld, %lld]: a row's bits differ among %lld rows", name_of_type(type), (long long)in,
              (long long)out, (long long)rows);
    }
    device_release(d, x_memory, (size_t)(rows * in) * size);
    device_release(d, y_memory, (size_t)(rows * out) * size);
    free(ignored); free(x); free(row); free(y);
}

int check_row_bits(device *d)
{
    static const int64_t heights[] = {1, 2, 5, 16, 33, 64, 65, 129, 256, 300, 515};
    static const struct { int64_t in, out; } shapes[] = {{64, 96}, {768, 40}, {33, 17}};
    int before = test_failures;
    for (int type = 0; type < 3; type++)
        for (size_t s = 0; s < 3; s++) {
            const int64_t in = shapes[s].in, out = shapes[s].out;
            double *ignored = doubles(in * out);
            void *weight = random_elements((inset_type)type, (inset_type)type, in * out, 5, ignored), *alone = malloc((size_t)out * 4);
            matrix *m = NULL;
            if (CHECK(!device_matrix_create(d, (inset_type)type, in, out, weight, (inset_type)type, true, NULL, INSET_F32, &m), "%s", inset_message(d->context)))
                for (size_t h = 0; h < sizeof heights / sizeof *heights; h++) check_row(d, m, (inset_type)type, in, out, heights[h], alone);
            device_matrix_free(d, m);
            free(ignored); free(weight); free(alone);
        }
    return test_failures - before;
}

/* ---- kernels --------------------------------------------------------------------------------------------------------------------------------- */

/* Every kernel works on one block of memory laid out alike on both devices, so that arguments are made from its address. Parts begin at odd
 * elements, so that no kernel can count on more alignment than its type's. */
enum { ROWS = 13, WIDTH = 77, STRIDE = 83, PART = 4096, PARTS = 8, TABLE_ENTRIES = 64 };

typedef struct bench {
    inset_type type;
    char *base;
    size_t size;
} bench;

enum { TABLES = PARTS * PART * 4, FLOATS = TABLES + 4 * TABLE_ENTRIES * 4, CONTEXTS = FLOATS + 512, RECORDS = CONTEXTS + 512, BENCH_BYTES = RECORDS + 2048 };

static void *part(const bench *b, int n) { return b->base + ((size_t)n * PART + 3) * b->size; }
static const int32_t *rows_table(const bench *b, int n) { return (const int32_t *)(b->base + TABLES) + n * TABLE_ENTRIES; }

typedef union any_args {
    embed_args embed; gather_args gather; layernorm_args layernorm; rmsnorm_args rmsnorm; activation_args activation; gate_args gate;
    add_args add; add_layernorm_args add_layernorm; scale_args scale; rope_args rope; attention_args attention; records_args records;
} any_args;

/* The arguments of a kernel's variant; how many blocks in *blocks. 0 when there is no such variant. */
static size_t make_args(const bench *b, kernel_id kernel, int variant, any_args *a, int64_t *blocks)
{
    const int32_t *some = variant ? rows_table(b, 0) : NULL, *others = variant ? rows_table(b, 1) : NULL;
    void *out = part(b, 0), *x = part(b, 1), *y = part(b, 2), *z = part(b, 3), *vector = part(b, 4), *vector2 = part(b, 5);
    *blocks = ROWS;
    if (variant > 1 && kernel != KERNEL_ACTIVATION) return 0;
    switch (kernel) {
    case KERNEL_EMBED:
        a->embed = (embed_args){out, x, rows_table(b, 1), ROWS, WIDTH, STRIDE};
        return variant ? 0 : sizeof a->embed;
    case KERNEL_GATHER: a->gather = (gather_args){out, x, some, ROWS, WIDTH, STRIDE, STRIDE}; return sizeof a->gather;
    case KERNEL_LAYERNORM:
        a->layernorm = (layernorm_args){out, x, some, variant ? NULL : vector, variant ? NULL : vector2, ROWS, WIDTH, STRIDE, STRIDE, 1e-5f};
        return sizeof a->layernorm;
    case KERNEL_RMSNORM: a->rmsnorm = (rmsnorm_args){out, x, some, vector, ROWS, WIDTH, STRIDE, STRIDE, variant ? 7 : 1, 1e-6f, variant}; return sizeof a->rmsnorm;
    case KERNEL_ACTIVATION:
        a->activation = (activation_args){out, x, some, variant % 2 ? vector : NULL, ROWS, WIDTH, STRIDE, STRIDE, variant};
        return variant < 6 ? sizeof a->activation : 0;
    case KERNEL_GATE: a->gate = (gate_args){out, x, y, some, others, ROWS, WIDTH, STRIDE, STRIDE, STRIDE}; return sizeof a->gate;
    case KERNEL_ADD:
        a->add = (add_args){out, x, y, variant ? z : NULL, some, others, NULL, ROWS, WIDTH, STRIDE, STRIDE, STRIDE, STRIDE};
        return sizeof a->add;
    case KERNEL_ADD_LAYERNORM:
        a->add_layernorm = (add_layernorm_args){out, part(b, 6), x, y, some, others, vector, vector2, ROWS, WIDTH, STRIDE, STRIDE, STRIDE, STRIDE, 1e-5f};
        return sizeof a->add_layernorm;
    case KERNEL_SCALE: a->scale = (scale_args){out, x, some, ROWS, WIDTH, STRIDE, STRIDE, 0.25f, variant ? 2.0f : 0.0f}; return sizeof a->scale;
    case KERNEL_ROPE:
        a->rope = (rope_args){out, x, some, rows_table(b, 2), (const float *)(b->base + FLOATS), ROWS, STRIDE, STRIDE, 7, 11, variant ? 6 : 10, 1.0f};
        return sizeof a->rope;
    case KERNEL_ATTENTION:
        a->attention = (attention_args){out, x, y, z, some, rows_table(b, 0), rows_table(b, variant), (const attention_context *)(b->base + CONTEXTS), ROWS,
                                        STRIDE, STRIDE, STRIDE, STRIDE, 6, variant ? 2 : 6, 12, variant ? 3 : 0, 0.3f, variant ? 5.0f : 0.0f};
        *blocks = ROWS * 6;
        return sizeof a->attention;
    case KERNEL_RECORDS: case KERNEL_COUNT: break;
    }
    return 0;
}

/* The same bytes for both devices: numbers in every part, row tables, frequencies and contexts. */
static char *make_bench(inset_type type)
{
    char *bytes = calloc(1, BENCH_BYTES);
    uint64_t seed = 17;
    for (int i = 0; i < PARTS * PART; i++) element_put(type, bytes + (size_t)i * type_size(type), test_uniform(&seed));
    int32_t *tables = (int32_t *)(bytes + TABLES);
    for (int i = 0; i < 4 * TABLE_ENTRIES; i++) tables[i] = (int32_t)(test_random(&seed) % ROWS);
    float *frequencies = (float *)(bytes + FLOATS);
    for (int i = 0; i < 64; i++) frequencies[i] = 1.0f / (float)(1 + i * i);
    attention_context *contexts = (attention_context *)(bytes + CONTEXTS);
    for (int i = 0; i < ROWS; i++) contexts[i] = (attention_context){i, 1 + 3 * i};
    return bytes;
}

/* Runs one kernel over a fresh copy of the bench; the whole block comes back, so that what must not be written is compared too. */
static bool run_kernel(device *d, inset_type type, kernel_id kernel, int variant, const char *bytes, char *result)
{
    void *memory = NULL;
    any_args args;
    int64_t blocks;
    bool done = !device_allocate(d, BENCH_BYTES, &memory) && !device_upload(d, memory, bytes, BENCH_BYTES);
    const bench b = {type, memory, type_size(type)};
    if (done) {
        size_t size = make_args(&b, kernel, variant, &args, &blocks);
        done = !device_launch(d, kernel, type, &args, size, blocks, ROWS * WIDTH) && !device_download(d, result, memory, BENCH_BYTES);
    }
    device_release(d, memory, BENCH_BYTES);
    return CHECK(done, "kernel %d, %s: %s", kernel, name_of_type(type), inset_message(d->context));
}

static void compare_kernel(device *d, device *reference, inset_type type, kernel_id kernel, int variant, const char *bytes)
{
    static char got[BENCH_BYTES], expected[BENCH_BYTES];
    static double a[PARTS * PART], b[PARTS * PART];
    if (!run_kernel(d, type, kernel, variant, bytes, got) || !run_kernel(reference, type, kernel, variant, bytes, expected)) return;
    size_t written = 0, beside = 0;
    for (int i = 0; i < PARTS * PART; i++) {
        const size_t at = (size_t)i * type_size(type);
        a[i] = element_get(type, got + at);
        b[i] = element_get(type, expected + at);
        written += memcmp(got + at, bytes + at, type_size(type)) != 0;
        beside += a[i] != b[i] && memcmp(expected + at, bytes + at, type_size(type)) == 0;
    }
    const double error = test_relative_error(a, b, PARTS * PART);
    CHECK(error < (type == INSET_F32 ? 1e-5 : 1e-2), "kernel %d variant %d, %s: relative error %g", kernel, variant, name_of_type(type), error);
    CHECK(written > ROWS * WIDTH / 2, "kernel %d variant %d, %s: only %zu elements were written", kernel, variant, name_of_type(type), written);
    CHECK(beside < 20, "kernel %d variant %d, %s: %zu elements were written that should not be", kernel, variant, name_of_type(type), beside);
    CHECK(memcmp(got + TABLES, bytes + TABLES, BENCH_BYTES - TABLES) == 0, "kernel %d: the tables were written", kernel);
}

/* Records are exact: copies, conversions and arithmetic rounded once, over aligned and odd places. */
static void compare_records(device *d, inset_type type)
{
    enum { N = 5 };
    static char bytes[BENCH_BYTES], got[BENCH_BYTES], expected[BENCH_BYTES];
    char *fresh = make_bench(type);
    memcpy(bytes, fresh, BENCH_BYTES);
    free(fresh);
    void *memory = NULL;
    const uint8_t t = (uint8_t)type;
    const size_t size = type_size(type);
    NEED(!device_allocate(d, BENCH_BYTES, &memory), "%s", inset_message(d->context));
    const bench there = {type, memory, size}, here = {type, expected, size};
    memcpy(expected, bytes, BENCH_BYTES);
    record *table = (record *)(bytes + RECORDS);
    const record records[N] = {
        {.out = part(&there, 0), .a = part(&there, 1), .out_row = STRIDE, .a_row = STRIDE, .out_column = 1, .a_column = 1, .rows = ROWS, .columns = WIDTH,
         .op = RECORD_COPY, .out_type = t, .a_type = t, .compute = t},
        {.out = part(&there, 2), .a = part(&there, 3), .b_constant = 0.5, .out_row = STRIDE, .a_row = STRIDE, .out_column = 2, .a_column = 1, .rows = 4, .columns = 30,
         .op = RECORD_MULTIPLY, .out_type = t, .a_type = t, .b_type = t, .compute = t},
        {.out = part(&there, 4), .a = part(&there, 5), .b = part(&there, 6), .out_row = 40, .a_row = 0, .b_row = STRIDE, .out_column = 1, .a_column = 1, .b_column = -1 + 2,
         .rows = 5, .columns = 33, .op = RECORD_ADD, .out_type = t, .a_type = t, .b_type = t, .compute = t},
        {.out = (char *)memory + 7 * PART * size + 64, .a_constant = 2.5, .out_column = 1, .rows = 1, .columns = 17, .op = RECORD_COPY, .out_type = INSET_F32, .a_type = INSET_F32,
         .compute = INSET_F32},
        {.out = part(&there, 3), .a = part(&there, 1), .out_row = 0, .a_row = 0, .out_column = 1, .a_column = STRIDE, .rows = 1, .columns = 9, .op = RECORD_NEGATE, .out_type = t,
         .a_type = t, .compute = t},
    };
    memcpy(table, records, sizeof records);
    table[1].b = NULL;
    table[4].out = (char *)part(&there, 3) + 1000 * size;                /* nothing that another record reads */
    const int64_t blocks = records_number_blocks(table, N);
    for (int r = 0; r < N; r++)
        for (int i = 0; i < table[r].rows; i++)
            for (int j = 0; j < table[r].columns; j++) {
                const record *q = &table[r];
#define HERE(pointer, row, column, type) (expected + ((const char *)(pointer) - (const char *)memory) + (size_t)((row) * i + (column) * j) * type_size((inset_type)(type)))
                double a = q->a ? element_get((inset_type)q->a_type, HERE(q->a, q->a_row, q->a_column, q->a_type)) : q->a_constant;
                double b = q->b ? element_get((inset_type)q->b_type, HERE(q->b, q->b_row, q->b_column, q->b_type)) : q->b_constant;
                double value = q->op == RECORD_COPY ? a : q->op == RECORD_ADD ? a + b : q->op == RECORD_MULTIPLY ? a * b : -a;
                element_put((inset_type)q->out_type, HERE(q->out, q->out_row, q->out_column, q->out_type), value);
#undef HERE
            }
    memcpy(expected + RECORDS, bytes + RECORDS, BENCH_BYTES - RECORDS);
    (void)here;
    const records_args args = {(const record *)((char *)memory + RECORDS), N};
    CHECK(!device_upload(d, memory, bytes, BENCH_BYTES) && !device_launch(d, KERNEL_RECORDS, type, &args, sizeof args, blocks, 4000)
          && !device_download(d, got, memory, BENCH_BYTES), "%s", inset_message(d->context));
    size_t wrong = 0;
    for (int i = 0; i < BENCH_BYTES; i++) wrong += got[i] != expected[i];
    CHECK(wrong == 0, "records, %s: %zu bytes are wrong", name_of_type(type), wrong);
    device_release(d, memory, BENCH_BYTES);
}

int check_kernels(device *d, device *reference)
{
    int before = test_failures;
    for (int type = 0; type < 3; type++) {
        char *bytes = make_bench((inset_type)type);
        for (int kernel = 0; kernel < KERNEL_RECORDS; kernel++)
            for (int variant = 0; variant < 6; variant++) {
                any_args args;
                int64_t blocks;
                const bench b = {(inset_type)type, bytes, type_size((inset_type)type)};
                if (make_args(&b, (kernel_id)kernel, variant, &args, &blocks)) compare_kernel(d, reference, (inset_type)type, (kernel_id)kernel, variant, bytes);
            }
        compare_records(d, (inset_type)type);
        free(bytes);
    }
    return test_failures - before;
}
