/* test_matmul.c: matrix products against double-precision loops, on the device named by the
 * argument or INSET_TEST_DEVICE ("cpu" without one): all types, both layouts of the weights,
 * weights at odd addresses, rows with strides, heights on both sides of every bound in
 * cpu/matmul.c. */
#include "kernel_cases.h"

typedef struct product_case {
    int64_t in, out;
    int weight_type;
    bool in_out, bias;
    int64_t gap, skip;
} product_case;

/* Rows of doubles, rounded to the type, as bytes of the type `skip` bytes off alignment, as in a
 * mapped file. */
static unsigned char *as_file(
    const double *values, int64_t n, int type, size_t skip, unsigned char **start)
{
    unsigned char *bytes = malloc((size_t)n * type_sizes[type] + skip);
    *start = bytes + skip;
    for (int64_t i = 0; i < n; i++) {
        unsigned char element[8];
        element_put((inset_type)type, element, values[i]);
        memcpy(*start + (size_t)i * type_sizes[type], element, type_sizes[type]);
    }
    return bytes;
}

static double *random_values(subject *s, int type, int64_t n, double size)
{
    double *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = as_type(type, size * test_uniform(&s->random));
    return values;
}

static matrix *make_matrix(
    subject *s, int type, const product_case *c, const double *weight, const double *bias)
{
    unsigned char *weight_at, *bias_at,
        *weight_file = as_file(weight, c->in * c->out, c->weight_type, (size_t)c->skip, &weight_at);
    unsigned char *bias_file = as_file(bias, c->out, c->weight_type, (size_t)c->skip, &bias_at);
    matrix *m = NULL;
    inset_status status = device_matrix_create(s->device, (inset_type)type, c->in, c->out,
        weight_at, (inset_type)c->weight_type, c->in_out, c->bias ? bias_at : NULL,
        (inset_type)c->weight_type, &m);
    CHECK(status == INSET_OK, "%s: a %s matrix [%d, %d]: %s", s->name, type_names[type], (int)c->in,
        (int)c->out, inset_message(s->device->context));
    free(weight_file);
    free(bias_file);
    return m;
}

static void check_product(subject *s, int type, const product_case *c, const matrix *m,
    const double *weight, const double *bias, int64_t rows)
{
    const int64_t x_stride = c->in + c->gap, y_stride = c->out + c->gap,
                  padded = device_padded_rows(s->device, (inset_type)type, c->in, c->out, rows);
    buffer x = buffer_random(s, type, padded * x_stride, c->gap ? 1 : 0, 1),
           y = buffer_result(s, type, padded * y_stride, c->gap ? 1 : 0);
    double *want = malloc((size_t)(rows * c->out) * sizeof *want);
    for (int64_t r = 0; r < rows; r++) {
        double *row = want + r * c->out;
        for (int64_t o = 0; o < c->out; o++) row[o] = c->bias ? as_type(type, bias[o]) : 0;
        for (int64_t i = 0; i < c->in; i++)
            for (int64_t o = 0; o < c->out; o++)
                row[o] += x.values[r * x_stride + i]
                          * as_type(type, weight[c->in_out ? i * c->out + o : o * c->in + i]);
    }
    inset_status status = device_matmul(
        s->device, m, buffer_at(&x, 0), x_stride, buffer_at(&y, 0), y_stride, rows);
    CHECK(status == INSET_OK, "%s: product of %d rows: %s", s->name, (int)rows,
        inset_message(s->device->context));
    char what[96];
    snprintf(what, sizeof what, "product by [%d, %d]%s%s", (int)c->in, (int)c->out,
        c->in_out ? "" : " turned", c->bias ? " + bias" : "");
    check_rows(s, what, &y, rows, c->out, y_stride, want, 1.1, 2e-6 * sqrt((double)c->in));
    buffer_free(&x);
    buffer_free(&y);
    free(want);
}

static void test_products(subject *s)
{
    static const product_case cases[] = {
        {5, 10, INSET_F32, true, true, 0, 0},
        {10, 2, INSET_F32, false, true, 3, 1},
        {32, 32, INSET_F16, false, false, 0, 0},
        {33, 40, INSET_F32, true, true, 5, 0},
        {64, 192, INSET_F32, true, true, 0, 0},
        {100, 77, INSET_F32, false, false, 7, 2},
        {96, 130, INSET_BF16, false, true, 1, 0},
        {129, 64, INSET_F16, true, true, 0, 0},
        {70, 66, INSET_BF16, true, false, 0, 1},
        {1, 2000, INSET_F32, true, true, 0, 0},
        {2000, 1, INSET_F32, true, true, 0, 0},
        {64, 1001, INSET_F32, false, false, 0, 3},
    };
    static const int64_t heights[] = {1, 2, 3, 8, 15, 16, 17, 33, 64, 255, 256, 257, 300, 520};
    for (int type = 0; type < KERNEL_TYPES; type++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const product_case *c = &cases[i];
            double *weight = random_values(s, c->weight_type, c->in * c->out, 1),
                   *bias = random_values(s, c->weight_type, c->out, 1);
            matrix *m = make_matrix(s, type, c, weight, bias);
            for (size_t h = 0; m && h < sizeof heights / sizeof *heights; h++)
                if (c->in * c->out < 5000 || h % 3 == i % 3)
                    check_product(s, type, c, m, weight, bias, heights[h]);
            device_matrix_free(s->device, m);
            free(weight);
            free(bias);
        }
}

/* More rows than the tallest block has, so that several products make one, and what is left behind
 * them. */
static void test_blocks(subject *s)
{
    static const product_case cases[] = {
        {8, 12, INSET_F32, true, true, 0, 0}, {7, 5, INSET_F32, false, true, 2, 0}};
    for (int type = 0; type < KERNEL_TYPES; type++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const product_case *c = &cases[i];
            double *weight = random_values(s, c->weight_type, c->in * c->out, 1),
                   *bias = random_values(s, c->weight_type, c->out, 1);
            matrix *m = make_matrix(s, type, c, weight, bias);
            for (int64_t rows = 4095; m && rows <= 4097; rows++)
                check_product(s, type, c, m, weight, bias, rows);
            if (m) check_product(s, type, c, m, weight, bias, 2 * 4096 + 1500);
            device_matrix_free(s->device, m);
            free(weight);
            free(bias);
        }
}

/* Whether a row's bits are the same at every height, and in every place of the call: computed and
 * printed, not demanded, for oneDNN promises nothing; what it found is written at the head of
 * cpu/matmul.c. The tiny loop does promise. */
static void probe_heights(subject *s, int type, int64_t in, int64_t out)
{
    enum { MOST = 300 };
    static const int64_t heights[] = {
        1, 2, 3, 4, 5, 8, 15, 16, 17, 24, 31, 32, 48, 64, 100, 128, 200, 255, 256, 257, MOST};
    const product_case c = {in, out, INSET_F32, true, true, 0, 0};
    double *weight = random_values(s, INSET_F32, in * out, 1),
           *bias = random_values(s, INSET_F32, out, 1);
    matrix *m = make_matrix(s, type, &c, weight, bias);
    const int64_t padded = device_padded_rows(s->device, (inset_type)type, in, out, MOST);
    buffer x = buffer_random(s, type, (MOST + padded) * in, 0, 1),
           y = buffer_result(s, type, padded * out, 0);
    double *first = malloc((size_t)(MOST * out) * sizeof *first);
    int64_t differ = 0;
    if (m
        && device_matmul(s->device, m, buffer_at(&x, 0), in, buffer_at(&y, 0), out, MOST)
               == INSET_OK) {
        buffer_fetch(&y);
        memcpy(first, y.values, (size_t)(MOST * out) * sizeof *first);
        for (size_t h = 0; h < sizeof heights / sizeof *heights; h++) {
            /* the last rows, so that their places change too */
            const int64_t rows = heights[h], start = MOST - rows;
            if (device_matmul(
                    s->device, m, buffer_at(&x, start * in), in, buffer_at(&y, 0), out, rows))
                abort();
            buffer_fetch(&y);
            if (memcmp(y.values, first + start * out, (size_t)(rows * out) * sizeof *first) != 0)
                differ++;
        }
    }
    printf("%s: %s [%d, %d]: a row's bits %s\n", s->name, type_names[type], (int)in, (int)out,
        differ ? "depend on the number of rows" : "are the same at every height tried");
    if (in * out <= 1024)
        CHECK(differ == 0, "%s: [%d, %d]: bits depend on the number of rows", s->name, (int)in,
            (int)out);
    device_matrix_free(s->device, m);
    buffer_free(&x);
    buffer_free(&y);
    free(weight);
    free(bias);
    free(first);
}

/* n products of one shape into one buffer, evenly apart or anywhere among the operands' numbers;
 * the first may be repeated all along (a step of 0). */
static void case_float_products(subject *s, int64_t n, const float_product *like, int spread)
{
    const int64_t a_size = like->rows * like->a_stride, out_rows = n * like->rows,
                  b_size = (like->b_across ? like->columns : like->inner) * like->b_stride;
    buffer a = buffer_random(s, INSET_F32, n * a_size, 1, 1),
           b = buffer_random(s, INSET_F32, n * b_size, 3, 1),
           out = buffer_result(s, INSET_F32, out_rows * like->out_stride, 2);
    float_product *x = calloc((size_t)n, sizeof *x);
    double *want = malloc((size_t)(out_rows * like->columns) * sizeof *want);
    for (int64_t i = 0; i < n; i++) {
        const int64_t a_at = spread == 2 ? (int64_t)(test_random(&s->random) % (uint64_t)n) : i,
                      b_at = spread == 1 ? 0 : a_at;
        x[i] = *like;
        x[i].a = buffer_at(&a, a_at * a_size), x[i].b = buffer_at(&b, b_at * b_size);
        x[i].out = buffer_at(&out, i * like->rows * like->out_stride);
        for (int64_t r = 0; r < like->rows; r++)
            for (int64_t c = 0; c < like->columns; c++) {
                double *to = &want[(i * like->rows + r) * like->columns + c];
                *to = 0;
                for (int64_t k = 0; k < like->inner; k++)
                    *to += a.values[a_at * a_size + r * like->a_stride + k]
                           * b.values[b_at * b_size
                                      + (like->b_across ? c * like->b_stride + k
                                                        : k * like->b_stride + c)];
            }
    }
    inset_status status = device_float_products(s->device, x, n);
    CHECK(!status, "%s: %d float products: %s", s->name, (int)n, inset_message(s->device->context));
    check_rows(s, "float products", &out, out_rows, like->columns, like->out_stride, want, 1.1,
        2e-6 * sqrt((double)like->inner));
    buffer_free(&a);
    buffer_free(&b);
    buffer_free(&out);
    free(x);
    free(want);
}

static void test_float_products(subject *s)
{
    for (int i = 0; i < 120; i++) {
        const int64_t rows = 1 + (int64_t)(test_random(&s->random) % 40),
                      columns = 1 + (int64_t)(test_random(&s->random) % 40),
                      inner = 1 + (int64_t)(test_random(&s->random) % (i % 5 ? 60 : 3000)),
                      gap = i % 3 ? 0 : 5;
        const bool across = i & 1;
        const float_product like = {.rows = rows,
            .columns = columns,
            .inner = inner,
            .out_stride = columns + gap,
            .a_stride = inner + gap,
            .b_stride = (across ? inner : columns) + gap,
            .b_across = across};
        case_float_products(s, 1 + i % 7, &like, i / 2 % 3);
    }
    CHECK(!device_float_products(s->device, NULL, 0), "%s: no float products", s->name);
}

/* A weight's numbers lie on a GPU as the file has them. */
static void test_numbers(subject *s)
{
    const product_case c = {12, 7, INSET_F32, false, true, 0, 1};
    for (int type = 0; type < KERNEL_TYPES; type++) {
        double *weight = random_values(s, INSET_F32, c.in * c.out, 1),
               *bias = random_values(s, INSET_F32, c.out, 1);
        matrix *m = make_matrix(s, type, &c, weight, bias);
        const void *at = device_matrix_numbers(s->device, m);
        unsigned char found[12 * 7 * 4];
        CHECK(!at == s->device->shares_host_memory, "%s: a matrix's numbers", s->name);
        if (at && device_download(s->device, found, at, (size_t)(c.in * c.out) * type_sizes[type]))
            abort();
        for (int64_t i = 0; at && i < c.in * c.out; i++)
            CHECK(element_get((inset_type)type, found + (size_t)i * type_sizes[type])
                      == as_type(type, weight[i]),
                "%s: number %d of a %s matrix", s->name, (int)i, type_names[type]);
        device_matrix_free(s->device, m);
        free(weight);
        free(bias);
    }
}

int main(int count, char **arguments)
{
    const char *name = count > 1                     ? arguments[1]
                       : getenv("INSET_TEST_DEVICE") ? getenv("INSET_TEST_DEVICE")
                                                     : "cpu";
    inset_context *context;
    device *d;
    if (inset_context_create(NULL, &context)) abort();
    inset_status status = device_open(context, name, &d);
    if (status == INSET_DEVICE_ERROR && strcmp(name, "cpu")) {
        printf("skipped: %s\n", inset_message(context));
        inset_context_free(context);
        return TEST_SKIP;
    }
    if (CHECK(status == INSET_OK, "opening %s: %s", name, inset_message(context))) {
        subject s = {d, name, false, 7, false};
        test_products(&s);
        test_blocks(&s);
        test_float_products(&s);
        test_numbers(&s);
        for (int type = 0; type < KERNEL_TYPES; type++) {
            probe_heights(&s, type, 5, 10);
            probe_heights(&s, type, 96, 160);
            probe_heights(&s, type, 768, 768);
        }
        device_close(d);
    }
    inset_context_free(context);
    return test_result();
}
