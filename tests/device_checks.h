/* device_checks.h: what the CUDA device must do beyond what every device must: copies through
 * staging memory against what was sent, and a product's rows against themselves. test_cuda.c runs
 * them on a GPU, test_cuda_standin.c on the stand-in; products and kernels against double-precision
 * loops are test_matmul.c and test_kernels.c, which run on both too. */
#ifndef INSET_DEVICE_CHECKS_H
#define INSET_DEVICE_CHECKS_H

#include "device/device.h"
#include "test.h"

/* A check of calls to a device: the context's message says what went wrong. */
#define WORKS(context, ...) CHECK((__VA_ARGS__), "%s", inset_message(context))

/* ---- copies ------------------------------------------------------------- */

static void copy_there_and_back(device *d, size_t bytes)
{
    unsigned char *sent = malloc(bytes + 1), *got = malloc(bytes + 1);
    void *memory = NULL;
    uint64_t seed = bytes;
    for (size_t i = 0; i < bytes; i++) sent[i] = (unsigned char)test_random(&seed);
    if (CHECK(!device_allocate(d, bytes, &memory), "%zu bytes: %s", bytes,
            inset_message(d->context))) {
        CHECK(!device_upload(d, memory, sent, bytes), "%zu bytes: %s", bytes,
            inset_message(d->context));
        unsigned char first = sent[0];
        memset(sent, 0x11, bytes); /* the buffer may be reused on return */
        got[bytes] = 0x77;
        CHECK(!device_download(d, got, memory, bytes), "%zu bytes: %s", bytes,
            inset_message(d->context));
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

/* Many small uploads to one place and another: the last one to each wins, whatever is still on its
 * way. */
static void uploads_keep_order(device *d)
{
    enum { PLACES = 37, ROUNDS = 400, WIDTH = 1501 };
    static int32_t row[WIDTH], got[PLACES * WIDTH];
    void *memory = NULL;
    NEED(!device_allocate(d, sizeof got, &memory), "%s", inset_message(d->context));
    for (int n = 0; n < ROUNDS * 3; n++) {
        for (int i = 0; i < WIDTH; i++) row[i] = n * WIDTH + i;
        WORKS(d->context,
            !device_upload(d, (char *)memory + (size_t)(n % PLACES) * sizeof row, row, sizeof row));
    }
    WORKS(d->context, !device_download(d, got, memory, sizeof got));
    for (int place = 0; place < PLACES; place++) {
        int last = ROUNDS * 3 - 1;
        while (last % PLACES != place) last--;
        CHECK(got[place * WIDTH + 7] == last * WIDTH + 7
                  && got[(place + 1) * WIDTH - 1] == last * WIDTH + WIDTH - 1,
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
    WORKS(d->context, !device_upload(d, memory, bytes, sizeof bytes));
    WORKS(d->context, !device_zero(d, (char *)memory + 3, 500));
    WORKS(d->context, !device_download(d, got, memory, sizeof got));
    for (int i = 0; i < 1000; i++)
        CHECK(got[i] == (i >= 3 && i < 503 ? 0 : 0x5a), "byte %d is %d", i, got[i]);
    device_release(d, memory, sizeof bytes);
}

static void check_copies(device *d)
{
    static const size_t sizes[] = {
        1, 15, 16, 17, 4096, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (13 << 20) + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) copy_there_and_back(d, sizes[i]);
    uploads_keep_order(d);
    zero_is_zero(d);
}

/* ---- a row's bits ------------------------------------------------------- */

/* Random elements, to be freed. */
static void *random_elements(inset_type type, int64_t n, uint64_t seed)
{
    char *elements = malloc((size_t)n * type_size(type));
    for (int64_t i = 0; i < n; i++)
        element_put(type, elements + (size_t)i * type_size(type), test_uniform(&seed));
    return elements;
}

/* The last of `rows` rows is always the same; `alone` is what it gives on its own. */
static void check_row(
    device *d, const matrix *m, inset_type type, int64_t in, int64_t out, int64_t rows, void *alone)
{
    const size_t size = type_size(type);
    const int64_t padded = device_padded_rows(d, type, in, out, rows);
    char *x = random_elements(type, rows * in, (uint64_t)rows),
         *row = random_elements(type, in, 99);
    char *y = malloc((size_t)out * size);
    void *x_memory = NULL, *y_memory = NULL;
    memcpy(x + (size_t)((rows - 1) * in) * size, row, (size_t)in * size);
    if (WORKS(d->context,
            !device_allocate(d, (size_t)(padded * in) * size, &x_memory)
                && !device_allocate(d, (size_t)(padded * out) * size, &y_memory)
                && !device_upload(d, x_memory, x, (size_t)(rows * in) * size)
                && !device_matmul(d, m, x_memory, in, y_memory, out, rows)
                && !device_download(d, y, (char *)y_memory + (size_t)((rows - 1) * out) * size,
                    (size_t)out * size))) {
        if (rows == 1) memcpy(alone, y, (size_t)out * size);
        CHECK(memcmp(alone, y, (size_t)out * size) == 0,
            "%s [%lld, %lld]: a row's bits differ among %lld rows", type_name(type), (long long)in,
            (long long)out, (long long)rows);
    }
    device_release(d, x_memory, (size_t)(padded * in) * size);
    device_release(d, y_memory, (size_t)(padded * out) * size);
    free(x);
    free(row);
    free(y);
}

/* A product's row has the same bits alone and among others, at every height. */
static void check_row_bits(device *d)
{
    static const int64_t heights[] = {1, 2, 5, 32, 33, 64, 65, 129, 256, 300, 515, 1100, 3000};
    static const struct {
        int64_t in, out;
    } shapes[] = {{64, 96}, {768, 40}, {33, 17}};
    for (int type = 0; type < 3; type++)
        for (size_t s = 0; s < 3; s++) {
            const int64_t in = shapes[s].in, out = shapes[s].out;
            void *weight = random_elements((inset_type)type, in * out, 5),
                 *alone = malloc((size_t)out * 4);
            matrix *m = NULL;
            if (WORKS(d->context, !device_matrix_create(d, (inset_type)type, in, out, weight,
                                      (inset_type)type, true, NULL, INSET_F32, &m)))
                for (size_t h = 0; h < sizeof heights / sizeof *heights; h++)
                    check_row(d, m, (inset_type)type, in, out, heights[h], alone);
            device_matrix_free(d, m);
            free(weight);
            free(alone);
        }
}

#endif
