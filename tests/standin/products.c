/* products.c: cuBLASLt's part of the stand-in: matrices by columns with leading dimensions,
 * transposition, epilogues, and algorithms that hold only for what they were proposed for. Sums are
 * fp32, the bias is added in fp32, and a GELU taken in fp32, before the one rounding.
 *
 * Products at fixed heights read and write padding. It is checked as all else is: B and D must be
 * whole in live memory; columns of B that lie in D, which are being written while they are read,
 * make columns of NaNs, and nobody may mind. */
#include "standin/inside.h"

#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 8, MARK = 0x1a2b3c, INTERNAL_ERROR = 14 };

/* What an algorithm is: the words of cublas_algorithm. */
enum { WORD_MARK, WORD_PROBLEM, WORD_ALIGNMENT, WORD_KIND, WORD_QUICK };
typedef enum algorithm_kind { STEADY, TALL_ONLY, UNSTEADY, UNEVEN, SPLIT } algorithm_kind;
enum { TALL_ENOUGH = 64, UNEVEN_FROM = 1024 };

typedef struct product {
    standin_handle handle;
    int32_t operation_a, operation_b;
    uint32_t epilogue;
    const void *bias;
} product;

typedef struct layout {
    standin_handle handle;
    int32_t type;
    uint64_t rows, columns;
    int64_t stride;
    int32_t count; /* matrices, `step` elements apart */
    int64_t step;
} layout;

typedef struct preference {
    standin_handle handle;
    uint64_t workspace;
    uint32_t reduction, a, b, c, d;
} preference;

/* A product as it is when it is queued: descriptors may change afterwards. */
typedef struct queued_product {
    const void *a, *b, *bias;
    void *d;
    layout a_layout, b_layout, d_layout;
    uint64_t m, n, k;
    bool transposed, gelu;
    algorithm_kind kind;
    int gelu_rounds; /* standin_gelu_rounding */
} queued_product;

static size_t size_of(int type) { return type == CUDA_TYPE_F32 ? 4 : 2; }

static float get(int type, const void *from, uint64_t i)
{
    float x;
    uint16_t half;
    if (type == CUDA_TYPE_F32) return memcpy(&x, (const char *)from + 4 * i, 4), x;
    memcpy(&half, (const char *)from + 2 * i, 2);
    return type == CUDA_TYPE_BF16 ? bf16_to_float(half) : f16_to_float(half);
}

static void put(int type, void *to, uint64_t i, float x)
{
    uint16_t half = type == CUDA_TYPE_BF16 ? bf16_from_float(x) : f16_from_float(x);
    if (type == CUDA_TYPE_F32) memcpy((char *)to + 4 * i, &x, 4);
    else memcpy((char *)to + 2 * i, &half, 2);
}

/* ---- handles ------------------------------------------------------------ */

static int create(void *out, handle_kind kind, size_t size)
{
    int error = standin_begin_products(CUBLAS_ALLOC_FAILED);
    if (error) return error;
    void *handle = handle_create(kind, size);
    memcpy(out, &handle, sizeof handle);
    return handle ? 0 : CUBLAS_ALLOC_FAILED;
}

static int destroy(void *handle, handle_kind kind, const char *call)
{
    int error = standin_begin_products(INTERNAL_ERROR);
    handle_destroy(handle, kind, call);
    return error;
}

static int create_cublas(cublas_handle *out)
{
    return create(out, HANDLE_CUBLAS, sizeof(standin_handle));
}
static int destroy_cublas(cublas_handle h) { return destroy(h, HANDLE_CUBLAS, "cublasLtDestroy"); }
static int destroy_product(cublas_product p)
{
    return destroy(p, HANDLE_PRODUCT, "cublasLtMatmulDescDestroy");
}
static int destroy_layout(cublas_layout l)
{
    return destroy(l, HANDLE_LAYOUT, "cublasLtMatrixLayoutDestroy");
}
static int destroy_preference(cublas_preference p)
{
    return destroy(p, HANDLE_PREFERENCE, "cublasLtMatmulPreferenceDestroy");
}

/* TF32 products are computed as fp32 ones are. */
static int create_product(cublas_product *out, int compute, int scale_type)
{
    if ((compute != CUBLAS_COMPUTE_F32 && compute != CUBLAS_COMPUTE_TF32)
        || scale_type != CUDA_TYPE_F32) {
        standin_problem(
            "cublasLtMatmulDescCreate: compute type %d, scale type %d", compute, scale_type);
        return CUBLAS_INVALID_VALUE;
    }
    int error = create(out, HANDLE_PRODUCT, sizeof(product));
    if (!error) ((product *)*out)->epilogue = CUBLAS_EPILOGUE_NONE;
    return error;
}

static int create_layout(
    cublas_layout *out, int type, uint64_t rows, uint64_t columns, int64_t stride)
{
    int error = create(out, HANDLE_LAYOUT, sizeof(layout));
    if (error) return error;
    standin_count.descriptor_writes++;
    layout *l = (layout *)*out;
    l->type = type;
    l->rows = rows;
    l->columns = columns;
    l->stride = stride;
    l->count = 1;
    return 0;
}

/* The defaults are NVIDIA's. */
static int create_preference(cublas_preference *out)
{
    int error = create(out, HANDLE_PREFERENCE, sizeof(preference));
    if (error) return error;
    preference *p = (preference *)*out;
    p->reduction = 7;
    p->a = p->b = p->c = p->d = 256;
    return 0;
}

/* ---- attributes --------------------------------------------------------- */

typedef struct attribute {
    int number;
    void *to;
    size_t bytes;
} attribute;

static int set(
    const attribute *known, size_t n, const char *call, int number, const void *value, size_t bytes)
{
    for (size_t i = 0; i < n; i++)
        if (known[i].number == number && known[i].bytes == bytes) {
            memcpy(known[i].to, value, bytes);
            return 0;
        }
    standin_problem("%s: attribute %d of %zu bytes", call, number, bytes);
    return CUBLAS_INVALID_VALUE;
}

static int set_product(cublas_product handle, int number, const void *value, size_t bytes)
{
    static const char call[] = "cublasLtMatmulDescSetAttribute";
    int error = standin_begin_products(CUBLAS_INVALID_VALUE);
    if (error) return error;
    standin_count.descriptor_writes++;
    if (!handle_good(handle, HANDLE_PRODUCT, call)) return CUBLAS_INVALID_VALUE;
    product *p = (product *)handle;
    const attribute known[] = {{CUBLAS_PRODUCT_TRANS_A, &p->operation_a, 4},
        {CUBLAS_PRODUCT_TRANS_B, &p->operation_b, 4}, {CUBLAS_PRODUCT_EPILOGUE, &p->epilogue, 4},
        {CUBLAS_PRODUCT_BIAS, &p->bias, sizeof p->bias}};
    return set(known, 4, call, number, value, bytes);
}

static int set_layout(cublas_layout handle, int number, const void *value, size_t bytes)
{
    static const char call[] = "cublasLtMatrixLayoutSetAttribute";
    int error = standin_begin_products(CUBLAS_INVALID_VALUE);
    if (error) return error;
    standin_count.descriptor_writes++;
    if (!handle_good(handle, HANDLE_LAYOUT, call)) return CUBLAS_INVALID_VALUE;
    layout *l = (layout *)handle;
    const attribute known[] = {{CUBLAS_LAYOUT_COLUMNS, &l->columns, 8},
        {CUBLAS_LAYOUT_STRIDE, &l->stride, 8}, {CUBLAS_LAYOUT_BATCH, &l->count, 4},
        {CUBLAS_LAYOUT_STEP, &l->step, 8}};
    return set(known, 4, call, number, value, bytes);
}

static int set_preference(cublas_preference handle, int number, const void *value, size_t bytes)
{
    static const char call[] = "cublasLtMatmulPreferenceSetAttribute";
    int error = standin_begin_products(CUBLAS_INVALID_VALUE);
    if (error) return error;
    if (!handle_good(handle, HANDLE_PREFERENCE, call)) return CUBLAS_INVALID_VALUE;
    preference *p = (preference *)handle;
    const attribute known[] = {{CUBLAS_PREFER_WORKSPACE, &p->workspace, 8},
        {CUBLAS_PREFER_REDUCTION, &p->reduction, 4}, {CUBLAS_PREFER_ALIGNMENT_A, &p->a, 4},
        {CUBLAS_PREFER_ALIGNMENT_B, &p->b, 4}, {CUBLAS_PREFER_ALIGNMENT_C, &p->c, 4},
        {CUBLAS_PREFER_ALIGNMENT_D, &p->d, 4}};
    return set(known, 6, call, number, value, bytes);
}

/* ---- algorithms --------------------------------------------------------- */

static bool adds_bias(const product *p)
{
    return p->epilogue == CUBLAS_EPILOGUE_ADD_BIAS || p->epilogue == CUBLAS_EPILOGUE_GELU_BIAS;
}

/* Whether the four operands make one product; notes a problem otherwise. */
static bool shapes_fit(
    const product *p, const layout *a, const layout *b, const layout *c, const layout *d)
{
    const bool transposed = p->operation_a == CUBLAS_TRANSPOSED;
    const uint64_t m = transposed ? a->columns : a->rows, k = transposed ? a->rows : a->columns;
    const layout *all[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (all[i]->count != a->count || all[i]->count < 1)
            return standin_problem("a product of different numbers of matrices"), false;
        if (all[i]->type != a->type) return standin_problem("a product of different types"), false;
        if (all[i]->stride < (int64_t)all[i]->rows || all[i]->rows == 0 || all[i]->columns == 0)
            return standin_problem("matrix %c of a product: %llu x %llu with columns %lld apart",
                       "ABCD"[i], (unsigned long long)all[i] -> rows,
                       (unsigned long long)all[i] -> columns, (long long)all[i] -> stride),
                   false;
    }
    if (p->operation_b != CUBLAS_PLAIN)
        return standin_problem("a product with B transposed, which nothing here needs"), false;
    if (b->rows != k || d->rows != m || d->columns != b->columns || c->rows != d->rows
        || c->columns != d->columns || c->stride != d->stride)
        return standin_problem("a product whose shapes do not fit"), false;
    if (p->epilogue != CUBLAS_EPILOGUE_NONE && p->epilogue != CUBLAS_EPILOGUE_GELU_ONLY
        && !adds_bias(p))
        return standin_problem("epilogue %u", p->epilogue), false;
    if (adds_bias(p) && !p->bias) return standin_problem("a bias epilogue without a bias"), false;
    return true;
}

/* What an algorithm was chosen for; the number of columns is not part of it. */
static uint64_t problem_of(const product *p, const layout *a, const layout *d)
{
    const uint64_t words[] = {(uint64_t)p->operation_a, p->epilogue, (uint64_t)a->type, a->rows,
        a->columns, (uint64_t)a->stride, d->rows};
    return hash_bytes(7, words, sizeof words);
}

static algorithm_kind kind_of(int candidate, bool may_split)
{
    if (may_split) return SPLIT;
    const struct {
        int count;
        algorithm_kind kind;
    } order[] = {{standin_now.refused, STEADY}, {standin_now.tall_only, TALL_ONLY},
        {standin_now.unsteady, UNSTEADY}, {standin_now.uneven, UNEVEN}};
    for (size_t i = 0; i < sizeof order / sizeof *order; candidate -= order[i++].count)
        if (candidate < order[i].count) return order[i].kind;
    return STEADY;
}

static int heuristic(cublas_handle handle, cublas_product p, cublas_layout a, cublas_layout b,
    cublas_layout c, cublas_layout d, cublas_preference wishes, int wanted,
    cublas_candidate *candidates, int *found)
{
    static const char call[] = "cublasLtMatmulAlgoGetHeuristic";
    int error = standin_begin_products(INTERNAL_ERROR);
    *found = 0;
    if (error) return error;
    if (!handle_good(handle, HANDLE_CUBLAS, call) || !handle_good(p, HANDLE_PRODUCT, call)
        || !handle_good(a, HANDLE_LAYOUT, call) || !handle_good(b, HANDLE_LAYOUT, call)
        || !handle_good(c, HANDLE_LAYOUT, call) || !handle_good(d, HANDLE_LAYOUT, call)
        || !handle_good(wishes, HANDLE_PREFERENCE, call)
        || !shapes_fit((product *)p, (layout *)a, (layout *)b, (layout *)c, (layout *)d))
        return CUBLAS_INVALID_VALUE;
    const preference *w = (preference *)wishes;
    const uint32_t least = w->b < w->c ? w->b : w->c, alignment = least < w->d ? least : w->d;
    standin_count.heuristics++;
    for (; *found < wanted && *found < CANDIDATES; ++*found) {
        cublas_candidate *out = &candidates[*found];
        memset(out, 0, sizeof *out);
        out->state = *found < standin_now.refused ? CUBLAS_NOT_SUPPORTED : 0;
        out->algorithm.data[WORD_MARK] = MARK;
        out->algorithm.data[WORD_PROBLEM] = problem_of((product *)p, (layout *)a, (layout *)d);
        out->algorithm.data[WORD_ALIGNMENT] = alignment;
        out->algorithm.data[WORD_QUICK] = *found >= standin_now.quick_first
                                          && *found < standin_now.quick_first
                                                          + standin_now.quick_count;
        out->algorithm.data[WORD_KIND] = kind_of(*found, w->reduction != CUBLAS_NO_REDUCTION);
    }
    return 0;
}

/* ---- products ----------------------------------------------------------- */

/* sums[i] += op(A)[i, k] b[k] over k in [from, to). A transposed A has its rows in one piece each:
 * they are summed over lanes, which are added in a fixed order. */
static void add_each_row(const queued_product *q, const float *a, const float *b, uint64_t from,
    uint64_t to, float *sums)
{
    enum { LANES = 16 };
    for (uint64_t i = 0; i < q->m; i++) {
        const float *row = a + i * (uint64_t)q->a_layout.stride;
        float lanes[LANES] = {0};
        uint64_t k = from;
        for (; k + LANES <= to; k += LANES)
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane] += row[k + (uint64_t)lane] * b[k + (uint64_t)lane];
        for (int lane = 0; k < to; k++, lane++) lanes[lane] += row[k] * b[k];
        for (int lane = 0; lane < LANES; lane++) sums[i] += lanes[lane];
    }
}

static void add_products(const queued_product *q, const float *a, const float *b, uint64_t from,
    uint64_t to, float *sums)
{
    if (q->transposed) {
        add_each_row(q, a, b, from, to, sums);
        return;
    }
    for (uint64_t k = from; k < to; k++) {
        const float *column = a + k * (uint64_t)q->a_layout.stride;
        for (uint64_t i = 0; i < q->m; i++) sums[i] += column[i] * b[k];
    }
}

static float rounded(int type, float x)
{
    char bytes[4];
    put(type, bytes, 0, x);
    return get(type, bytes, 0);
}

/* The GELU of m sums: the activation kernel's of unrounded fp32, or of sums that were rounded
 * first, or one that nobody else has. */
static void take_gelu(const queued_product *q, float *sums)
{
    typedef void kernel_blocks(const void *args, int64_t first, int64_t end);
    kernel_table table;
    kernels_baseline_fill(&table);
    float *activated = malloc(q->m * sizeof *activated);
    if (!activated) abort();
    for (uint64_t i = 0; q->gelu_rounds == GELU_AS_KERNEL && i < q->m; i++)
        sums[i] = rounded(q->d_layout.type, sums[i]);
    activation_args args = {
        .out = activated, .x = sums, .n_rows = 1, .width = (int64_t)q->m, .kind = 1};
    ((kernel_blocks *)table.entry[KERNEL_ACTIVATION][INSET_F32])(&args, 0, 1);
    for (uint64_t i = 0; q->gelu_rounds == GELU_OTHERWISE && i < q->m; i++) activated[i] *= 1.01f;
    memcpy(sums, activated, q->m * sizeof *sums);
    free(activated);
}

/* One column of D; `halves` sums the two halves of k apart, as other kernels would. sums: room for
 * 2 m numbers. */
static void column(
    const queued_product *q, const float *a, const float *b, uint64_t j, bool halves, float *sums)
{
    const int type = q->d_layout.type;
    memset(sums, 0, 2 * q->m * sizeof *sums);
    add_products(q, a, b, halves ? q->k / 2 : 0, q->k, sums);
    if (halves) add_products(q, a, b, 0, q->k / 2, sums + q->m);
    for (uint64_t i = 0; i < q->m; i++) {
        const float sum = halves ? sums[i] + sums[q->m + i] : sums[i];
        sums[i] = q->bias ? sum + get(type, q->bias, i) : sum;
    }
    if (q->gelu) take_gelu(q, sums);
    for (uint64_t i = 0; i < q->m; i++)
        put(type, q->d, j * (uint64_t)q->d_layout.stride + i, sums[i]);
}

static size_t bytes_of(const layout *l)
{
    return ((size_t)(l->columns - 1) * (size_t)l->stride + (size_t)l->rows) * size_of(l->type);
}

static float *widened(const layout *l, const void *from)
{
    const uint64_t n = bytes_of(l) / size_of(l->type);
    float *to = malloc(n * sizeof *to);
    for (uint64_t i = 0; to && i < n; i++) to[i] = get(l->type, from, i);
    return to;
}

static bool operands_live(const queued_product *q)
{
    return device_range(q->a, bytes_of(&q->a_layout), "matrix A of a product")
           && device_range(q->b, bytes_of(&q->b_layout), "matrix B of a product")
           && device_range(q->d, bytes_of(&q->d_layout), "matrix D of a product")
           && (!q->bias
               || device_range(q->bias, q->m * size_of(q->d_layout.type), "the bias of a product"));
}

static bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    return (const char *)a < (const char *)b + b_bytes
           && (const char *)b < (const char *)a + a_bytes;
}

/* Columns that were computed, to be copied where the same numbers come again: padding and probes
 * are full of such. */
typedef struct seen_column {
    uint64_t hash, j;
    bool halves, used;
} seen_column;

static seen_column *find_column(
    seen_column *seen, uint64_t n, const queued_product *q, const float *b, uint64_t j, bool halves)
{
    const size_t stride = (size_t)q->b_layout.stride;
    const uint64_t hash = hash_bytes(halves, b + j * stride, q->k * sizeof *b);
    uint64_t at = hash % n;
    for (; seen[at].used; at = (at + 1) % n)
        if (seen[at].hash == hash && seen[at].halves == halves
            && !memcmp(b + seen[at].j * stride, b + j * stride, q->k * sizeof *b))
            return &seen[at];
    seen[at] = (seen_column){hash, j, halves, false};
    return &seen[at];
}

/* Columns of B that D lies over: what they were is gone while they are read. */
static bool written_over(const queued_product *q, uint64_t j)
{
    const size_t size = size_of(q->b_layout.type);
    return overlap((const char *)q->b + j * (size_t)q->b_layout.stride * size, q->k * size, q->d,
        bytes_of(&q->d_layout));
}

static void run_columns(
    const queued_product *q, const float *a, const float *b, seen_column *seen, float *sums)
{
    const size_t stride = (size_t)q->d_layout.stride, size = size_of(q->d_layout.type);
    for (uint64_t j = 0; j < q->n; j++) {
        const bool halves = (q->kind == UNSTEADY && j / 64 % 2)
                            || (q->kind == UNEVEN && q->n >= UNEVEN_FROM)
                            || (q->kind == SPLIT && q->n > 8);
        char *out = (char *)q->d + j * stride * size;
        seen_column *s = find_column(seen, 2 * q->n, q, b, j, halves);
        if (written_over(q, j)) memset(out, 0xff, q->m * size);
        else if (s->used) memcpy(out, (char *)q->d + s->j * stride * size, q->m * size);
        else {
            column(q, a, b + j * (uint64_t)q->b_layout.stride, j, halves, sums);
            s->used = true;
        }
    }
}

static void run_product(operation *o)
{
    queued_product q;
    memcpy(&q, o->args, sizeof q);
    if (!operands_live(&q)) return;
    float *a = widened(&q.a_layout, q.a), *b = widened(&q.b_layout, q.b);
    float *sums = malloc(2 * q.m * sizeof *sums);
    seen_column *seen = calloc(2 * q.n, sizeof *seen);
    if (!a || !b || !sums || !seen) abort();
    run_columns(&q, a, b, seen, sums);
    free(a);
    free(b);
    free(sums);
    free(seen);
}

/* Whether the algorithm may be used for this; what a real library answers otherwise. */
static int algorithm_fits(
    const cublas_algorithm *algorithm, const product *p, const queued_product *q)
{
    if (!algorithm) return 0; /* the library chooses */
    if (algorithm->data[WORD_MARK] != MARK)
        return standin_problem("a product with what is no algorithm"), CUBLAS_INVALID_VALUE;
    if (algorithm->data[WORD_PROBLEM] != problem_of(p, &q->a_layout, &q->d_layout))
        return standin_problem("a product with the algorithm of another product"),
               CUBLAS_INVALID_VALUE;
    const uint64_t alignment = algorithm->data[WORD_ALIGNMENT], size = size_of(q->d_layout.type);
    if ((uintptr_t)q->b % alignment || (uintptr_t)q->d % alignment
        || (uint64_t)q->b_layout.stride * size % alignment
        || (uint64_t)q->d_layout.stride * size % alignment)
        return standin_problem(
                   "a product whose rows are not aligned to the %llu bytes its algorithm needs",
                   (unsigned long long)alignment),
               CUBLAS_INVALID_VALUE;
    return algorithm->data[WORD_KIND] == TALL_ONLY && q->n < TALL_ENOUGH ? CUBLAS_NOT_SUPPORTED : 0;
}

static const void *behind(const void *first, const layout *l, int32_t i)
{
    return (const char *)first + i * l->step * (int64_t)size_of(l->type);
}

/* The product, and those of the batch behind it. */
static int queue_batch(const queued_product *first, cuda_stream stream)
{
    for (int32_t i = 0; i < first->d_layout.count; i++) {
        queued_product q = *first;
        q.a = behind(first->a, &first->a_layout, i);
        q.b = behind(first->b, &first->b_layout, i);
        q.d = (void *)behind(first->d, &first->d_layout, i);
        if (!operands_live(&q)) return CUBLAS_INVALID_VALUE;
        operation *o = standin_queue(stream, "a matrix product", run_product);
        if (!o) return CUBLAS_INVALID_VALUE;
        _Static_assert(sizeof q <= sizeof o->args, "a product fits an operation");
        memcpy(o->args, &q, sizeof q);
    }
    return 0;
}

static int multiply(cublas_handle handle, cublas_product descriptor, const void *alpha,
    const void *a, cublas_layout a_layout, const void *b, cublas_layout b_layout, const void *beta,
    const void *c, cublas_layout c_layout, void *d, cublas_layout d_layout,
    const cublas_algorithm *algorithm, void *workspace, size_t workspace_bytes, cuda_stream stream)
{
    static const char call[] = "cublasLtMatmul";
    float one = 0, none = 1;
    int error = standin_begin_products(INTERNAL_ERROR);
    if (error) return error;
    if (!handle_good(handle, HANDLE_CUBLAS, call) || !handle_good(descriptor, HANDLE_PRODUCT, call)
        || !handle_good(a_layout, HANDLE_LAYOUT, call)
        || !handle_good(b_layout, HANDLE_LAYOUT, call)
        || !handle_good(c_layout, HANDLE_LAYOUT, call)
        || !handle_good(d_layout, HANDLE_LAYOUT, call))
        return CUBLAS_INVALID_VALUE;
    const product *p = (product *)descriptor;
    const bool transposed = p->operation_a == CUBLAS_TRANSPOSED;
    queued_product q = {.a = a,
        .b = b,
        .d = d,
        .bias = adds_bias(p) ? p->bias : NULL,
        .a_layout = *(layout *)a_layout,
        .b_layout = *(layout *)b_layout,
        .d_layout = *(layout *)d_layout,
        .transposed = transposed,
        .gelu_rounds = standin_now.gelu_rounds,
        .gelu = p->epilogue == CUBLAS_EPILOGUE_GELU_ONLY
                || p->epilogue == CUBLAS_EPILOGUE_GELU_BIAS,
        .kind = algorithm ? (algorithm_kind)algorithm->data[WORD_KIND] : SPLIT};
    q.m = transposed ? q.a_layout.columns : q.a_layout.rows;
    q.k = transposed ? q.a_layout.rows : q.a_layout.columns;
    q.n = q.b_layout.columns;
    memcpy(&one, alpha, sizeof one);
    memcpy(&none, beta, sizeof none);
    if (!shapes_fit(p, &q.a_layout, &q.b_layout, (layout *)c_layout, &q.d_layout)
        || !operands_live(&q))
        return CUBLAS_INVALID_VALUE;
    if (one != 1 || none != 0 || c != d)
        return standin_problem("a product that is scaled or added to something"),
               CUBLAS_INVALID_VALUE;
    if (!device_range(workspace, workspace_bytes, "the workspace of a product"))
        return CUBLAS_INVALID_VALUE;
    if (overlap(d, bytes_of(&q.d_layout), a, bytes_of(&q.a_layout)) || d == b)
        return standin_problem("a product that is written over its operands"), CUBLAS_INVALID_VALUE;
    if ((error = algorithm_fits(algorithm, p, &q)) || (error = queue_batch(&q, stream)))
        return error;
    if (algorithm && algorithm->data[WORD_QUICK]) standin_time--;
    standin_count.products++;
    standin_count.gelu_products += q.gelu;
    standin_count.product_rows += (int64_t)q.n;
    standin_count.unpinned += !algorithm;
    return 0;
}

static size_t version(void) { return 130100; }

static const char *status_string(int status)
{
    return status == CUBLAS_ALLOC_FAILED    ? "CUBLAS_STATUS_ALLOC_FAILED"
           : status == CUBLAS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
           : status == CUBLAS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                            : "CUBLAS_STATUS_INTERNAL_ERROR";
}

void standin_fill_products(cuda_library *l)
{
    l->cublasLtGetVersion = version;
    l->cublasLtGetStatusString = status_string;
    l->cublasLtCreate = create_cublas;
    l->cublasLtDestroy = destroy_cublas;
    l->cublasLtMatmulDescCreate = create_product;
    l->cublasLtMatmulDescDestroy = destroy_product;
    l->cublasLtMatmulDescSetAttribute = set_product;
    l->cublasLtMatrixLayoutCreate = create_layout;
    l->cublasLtMatrixLayoutDestroy = destroy_layout;
    l->cublasLtMatrixLayoutSetAttribute = set_layout;
    l->cublasLtMatmulPreferenceCreate = create_preference;
    l->cublasLtMatmulPreferenceDestroy = destroy_preference;
    l->cublasLtMatmulPreferenceSetAttribute = set_preference;
    l->cublasLtMatmulAlgoGetHeuristic = heuristic;
    l->cublasLtMatmul = multiply;
}
