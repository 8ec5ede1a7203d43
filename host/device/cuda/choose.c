/* choose.c: which algorithm a weight's products run by. cuBLASLt's heuristic proposes candidates
 * for the tallest product, none that cuts sums into parts (no split-K); a probe takes the first
 * that does all heights and by which a row keeps its bits: at every height, at every place and
 * among other rows. That refuses what the wishes cannot name, kernels that split sums by where a
 * tile lies (stream-K). Layers of one shape share a choice. A fast device takes the first that does
 * all heights.
 *
 * What is best for a tall product is slow for a low one, whose few rows make few tiles. So each
 * lower height is then asked about alone: of what the heuristic proposes there, the fastest that
 * gives every row the bits of the tall product takes its place. Tiles of another size add up the
 * same numbers in the same order, as long as nothing is split; the probe finds out.
 *
 * A GELU in the epilogue is a choice of its own. It is allowed where it gives the bits of the plain
 * product with KERNEL_ACTIVATION behind it, so that looking at what lies between the two changes
 * nothing; the probe finds out. In 16-bit types it hardly does: between the two a number is
 * rounded. */
#include "device/cuda/cuda.h"

#include <string.h>

enum {
    CANDIDATES = 8,
    MANY = 331,
    FEW = 31, /* different rows of a probe: primes, so that a row lies at every place of a tile */
    EXPECTED_BYTES = 16 << 20, /* of results to compare with, from which on the few do */
    /* of rows that are looked at of a tall product, at least LEAST_GROUP together, more where they
     * have GROUP_BYTES */
    GROUPS = 6,
    LEAST_GROUP = 16,
    GROUP_BYTES = 1 << 20,
    REPEATS = 6,   /* of a product that is timed */
    GELU_TANH = 1, /* activation_args.kind */
};

/* x holds the same `period` random rows over and over. The run of a height begins at some other row
 * each time, so that a row lies at many places, among others, at many heights; the tallest run's
 * first rows are what all must agree with. Many rows are compared and not one, because 16-bit
 * results hide most differences between sums. */
typedef struct probe {
    int64_t period, group;
    char *x, *y; /* on the device, at the alignment that is asked about */
    void *x_memory, *y_memory;
    row_layouts layouts;
    size_t x_row, y_row;  /* bytes from row to row */
    char *expected, *got; /* on the host: y of the different rows, and of a group */
} probe;

static int64_t tallest_of(const matrix *m) { return product_heights[m->n_heights - 1]; }

/* ---- the probe's rows --------------------------------------------------- */

/* Values from a counter, so that every run of a program probes with the same; rows of several
 * sizes, so that an activation is seen over its range. */
static float noise(uint64_t n, int64_t row)
{
    n = (n + 1) * 0x9e3779b97f4a7c15u;
    n = (n ^ n >> 31) * 0xbf58476d1ce4e5b9u;
    return ((float)(n >> 40) * 0x1p-23f - 1) * (float)(1 << row % 4) * 0.5f;
}

static inset_status upload_rows(cuda_device *d, const matrix *m, const probe *p)
{
    const size_t size = type_size(m->type);
    const int64_t count = tallest_of(m) + p->period;
    char *rows = memory_new(d->base.context, (size_t)p->period * p->x_row);
    inset_status status = rows ? INSET_OK : INSET_NO_MEMORY;
    for (int64_t r = 0; r < p->period && !status; r++)
        for (int64_t i = 0; i < m->in; i++)
            element_put(m->type, rows + (size_t)r * p->x_row + (size_t)i * size,
                noise((uint64_t)(r * m->in + i), r));
    for (int64_t r = 0; r < count && !status; r += p->period) {
        const int64_t n = count - r < p->period ? count - r : p->period;
        status = cuda_upload(&d->base, p->x + (size_t)r * p->x_row, rows, (size_t)n * p->x_row);
    }
    memory_free(d->base.context, rows);
    return status;
}

static inset_status probe_start(cuda_device *d, const matrix *m, bool aligned, probe *p)
{
    const size_t size = type_size(m->type), shift = aligned ? 0 : size;
    const int64_t x_stride = aligned ? m->in : m->in | 1, y_stride = aligned ? m->out : m->out | 1;
    inset_status status;
    p->x_row = (size_t)x_stride * size;
    p->y_row = (size_t)y_stride * size;
    p->period = tallest_of(m) >= MANY && MANY * p->y_row <= EXPECTED_BYTES ? MANY : FEW;
    p->group = GROUP_BYTES / (int64_t)p->y_row > LEAST_GROUP ? GROUP_BYTES / (int64_t)p->y_row
                                                             : LEAST_GROUP;
    if (p->group > tallest_of(m)) p->group = tallest_of(m);
    p->expected = memory_new(d->base.context, (size_t)p->period * p->y_row);
    p->got = memory_new(d->base.context, (size_t)p->group * p->y_row);
    if (!p->expected || !p->got) return INSET_NO_MEMORY;
    int error = cuda_describe_rows(d, m, x_stride, y_stride, &p->layouts);
    if (error) return cuda_product_failed(d, m, error, "describing a matrix product");
    if ((status = cuda_allocate(
             &d->base, (size_t)(tallest_of(m) + p->period) * p->x_row + shift, &p->x_memory))
        || (status = cuda_allocate(
                &d->base, (size_t)tallest_of(m) * p->y_row + shift, &p->y_memory)))
        return status;
    p->x = (char *)p->x_memory + shift;
    p->y = (char *)p->y_memory + shift;
    return upload_rows(d, m, p);
}

static void probe_end(cuda_device *d, probe *p)
{
    cuda_destroy_rows(d, &p->layouts);
    cuda_release(&d->base, p->x_memory, 0);
    cuda_release(&d->base, p->y_memory, 0);
    memory_free(d->base.context, p->expected);
    memory_free(d->base.context, p->got);
}

/* ---- running and comparing ---------------------------------------------- */

/* Whether `count` rows of y, of which the first is to be row `first` of x, have the bits of the
 * rows that they repeat. */
static inset_status compare_group(cuda_device *d, const matrix *m, const probe *p, const char *y,
    int64_t first, int64_t count, bool *same)
{
    inset_status status = cuda_download(&d->base, p->got, y, (size_t)count * p->y_row);
    for (int64_t r = 0; r < count && !status; r++) {
        const char *expected = p->expected + (size_t)((first + r) % p->period) * p->y_row;
        if (memcmp(p->got + (size_t)r * p->y_row, expected, (size_t)m->out * type_size(m->type))
            != 0)
            *same = false;
    }
    return status;
}

/* All rows of a height, or groups of them from the first to the last. */
static inset_status compare_rows(
    cuda_device *d, const matrix *m, const probe *p, int64_t height, int64_t first, bool *same)
{
    if (height <= p->group) return compare_group(d, m, p, p->y, first, height, same);
    inset_status status = INSET_OK;
    for (int i = 0; i < GROUPS && !status; i++) {
        const int64_t at = (height - p->group) * i / (GROUPS - 1);
        status = compare_group(d, m, p, p->y + (size_t)at * p->y_row, first + at, p->group, same);
    }
    return status;
}

/* The product of a height from its row of the probe on, compared with what is expected, which the
 * tallest makes. */
static inset_status probe_height(cuda_device *d, const matrix *m, epilogue e, const probe *p,
    const cublas_algorithm *algorithm, int height, bool *works, bool *same)
{
    const bool tallest = height == m->n_heights - 1;
    const int64_t first = tallest ? 0 : (height + 1) * 53 % p->period;
    inset_status status = INSET_OK;
    int error = cuda_multiply(
        d, m, e, algorithm, &p->layouts, height, p->x + (size_t)first * p->x_row, p->y);
    *works = error != CUBLAS_INVALID_VALUE && error != CUBLAS_NOT_SUPPORTED;
    if (!*works) return INSET_OK;
    if (error) return cuda_product_failed(d, m, error, "trying a matrix product");
    if (tallest) status = cuda_download(&d->base, p->expected, p->y, (size_t)p->period * p->y_row);
    return status ? status : compare_rows(d, m, p, product_heights[height], first, same);
}

/* Whether the candidate can do every height, and whether a row then always has the same bits. From
 * the tallest down. */
static inset_status probe_candidate(cuda_device *d, const matrix *m, epilogue e, const probe *p,
    const cublas_algorithm *algorithm, bool *works, bool *steady)
{
    bool same = true;
    *works = *steady = false;
    for (int i = m->n_heights - 1; i >= 0; i--) {
        bool can;
        inset_status status = probe_height(d, m, e, p, algorithm, i, &can, &same);
        if (status || !can) return status;
    }
    *works = true;
    *steady = same;
    return INSET_OK;
}

/* Whether p->expected, what the chosen GELU gave, is what the plain product and the kernel give. */
static inset_status probe_gelu(
    cuda_device *d, const matrix *m, bool aligned, const probe *p, bool *same)
{
    const product_choice *plain = &d->choices[m->chosen[EPILOGUE_PLAIN][aligned]];
    const int height = product_next_height(m->n_heights, p->period);
    const int64_t stride = p->layouts.y_stride, rows = p->period;
    void *activated = NULL;
    *same = true;
    inset_status status = cuda_allocate(&d->base, (size_t)rows * p->y_row, &activated);
    if (!status) {
        int error = cuda_multiply(d, m, EPILOGUE_PLAIN,
            plain->pinned ? &plain->algorithms[height] : NULL, &p->layouts, height, p->x, p->y);
        if (error) status = cuda_product_failed(d, m, error, "trying a matrix product");
    }
    activation_args args = {.out = activated,
        .x = p->y,
        .n_rows = rows,
        .width = m->out,
        .out_stride = stride,
        .x_stride = stride,
        .kind = GELU_TANH};
    if (!status)
        status = cuda_launch(
            &d->base, KERNEL_ACTIVATION, m->type, &args, sizeof args, rows, rows * m->out);
    for (int64_t at = 0; at < rows && !status; at += p->group)
        status = compare_group(d, m, p, (char *)activated + (size_t)at * p->y_row, at,
            rows - at < p->group ? rows - at : p->group, same);
    cuda_release(&d->base, activated, 0);
    return status;
}

/* ---- choosing ----------------------------------------------------------- */

/* No reduction schemes: no algorithm may cut the sum over `in` into parts. */
static int set_preferences(cuda_device *d, cublas_preference preference, uint32_t alignment)
{
    cuda_library *l = &d->library;
    const uint64_t workspace = WORKSPACE_BYTES;
    const uint32_t reduction = CUBLAS_NO_REDUCTION;
    static const int attributes[] = {CUBLAS_PREFER_ALIGNMENT_A, CUBLAS_PREFER_ALIGNMENT_B,
        CUBLAS_PREFER_ALIGNMENT_C, CUBLAS_PREFER_ALIGNMENT_D};
    int error = l->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLAS_PREFER_WORKSPACE, &workspace, sizeof workspace);
    if (!error)
        error = l->cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLAS_PREFER_REDUCTION, &reduction, sizeof reduction);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes && !error; i++)
        error = l->cublasLtMatmulPreferenceSetAttribute(
            preference, attributes[i], &alignment, sizeof alignment);
    return error;
}

static inset_status propose(cuda_device *d, const matrix *m, epilogue e, bool aligned,
    const probe *p, int height, cublas_candidate *candidates, int *n)
{
    cuda_library *l = &d->library;
    const cublas_layout x = p->layouts.x[height], y = p->layouts.y[height];
    cublas_preference preference = NULL;
    int error = l->cublasLtMatmulPreferenceCreate(&preference);
    if (!error)
        error = set_preferences(
            d, preference, aligned ? PRODUCT_WIDE : (uint32_t)type_size(m->type));
    if (!error)
        error = l->cublasLtMatmulAlgoGetHeuristic(d->products, m->products[e], m->weight_layout, x,
            y, y, preference, CANDIDATES, candidates, n);
    if (preference) l->cublasLtMatmulPreferenceDestroy(preference);
    if (error == CUBLAS_NOT_SUPPORTED) *n = 0;
    else if (error) return cuda_product_failed(d, m, error, "choosing a matrix product");
    return INSET_OK;
}

static bool usable(const cublas_candidate *c)
{
    return !c->state && c->workspace <= WORKSPACE_BYTES;
}

/* *milliseconds: of REPEATS products of a height, one behind the other, after a first that loads
 * what it needs. *works: false, and no time, where the algorithm cannot do that height. */
static inset_status time_product(cuda_device *d, const matrix *m, epilogue e, const probe *p,
    const cublas_algorithm *algorithm, int height, bool *works, float *milliseconds)
{
    cuda_library *l = &d->library;
    cuda_event start = NULL, end = NULL;
    inset_status status = INSET_OK;
    int error = cuda_multiply(d, m, e, algorithm, &p->layouts, height, p->x, p->y);
    *works = error != CUBLAS_INVALID_VALUE && error != CUBLAS_NOT_SUPPORTED;
    if (!*works) return INSET_OK;
    if (error) return cuda_product_failed(d, m, error, "trying a matrix product");
    error = l->cudaEventCreateWithFlags(&start, 0);
    if (!error) error = l->cudaEventCreateWithFlags(&end, 0);
    if (!error) error = l->cudaEventRecord(start, d->stream);
    for (int i = 0; i < REPEATS && !error && !status; i++) {
        int failed = cuda_multiply(d, m, e, algorithm, &p->layouts, height, p->x, p->y);
        if (failed) status = cuda_product_failed(d, m, failed, "timing a matrix product");
    }
    if (!error && !status) error = l->cudaEventRecord(end, d->stream);
    if (!error && !status) error = l->cudaEventSynchronize(end);
    if (!error && !status) error = l->cudaEventElapsedTime(milliseconds, start, end);
    if (error && !status) status = cuda_failed(d, error, "timing a matrix product");
    if (start && l->cudaEventDestroy(start)) l->cudaGetLastError();
    if (end && l->cudaEventDestroy(end)) l->cudaGetLastError();
    return status;
}

/* Gives one height the fastest algorithm that has the bits of the tallest's (any that works, on a
 * fast device). A twentieth counts as faster. */
static inset_status refine_height(cuda_device *d, const matrix *m, bool aligned, const probe *p,
    int height, product_choice *choice)
{
    cublas_candidate candidates[CANDIDATES];
    int n = 0;
    float best = 0, time; /* 0: not known yet */
    bool works, faster = false;
    inset_status status = propose(d, m, choice->epilogue, aligned, p, height, candidates, &n);
    for (int i = 0; i < n && !status; i++) {
        const cublas_algorithm *algorithm = &candidates[i].algorithm;
        bool same = true;
        if (!usable(&candidates[i])
            || !memcmp(algorithm, &choice->algorithms[height], sizeof *algorithm))
            continue;
        if (best == 0)
            status = time_product(
                d, m, choice->epilogue, p, &choice->algorithms[height], height, &works, &best);
        if (!status)
            status = time_product(d, m, choice->epilogue, p, algorithm, height, &works, &time);
        if (status || !works || time > 0.95f * best) continue;
        /* which takes longer, so it comes last */
        status = probe_height(d, m, choice->epilogue, p, algorithm, height, &works, &same);
        if (status || !works || (!same && !d->base.fast)) continue;
        best = time;
        choice->algorithms[height] = *algorithm;
        faster = true;
    }
    choice->faster += faster;
    return status;
}

/* The first steady candidate; where there is none, or none is asked for, the first that works at
 * every height. */
static inset_status pick(cuda_device *d, const matrix *m, bool aligned, product_choice *choice)
{
    cublas_candidate candidates[CANDIDATES];
    probe p = {0};
    int n = 0;
    inset_status status = probe_start(d, m, aligned, &p);
    if (!status)
        status = propose(d, m, choice->epilogue, aligned, &p, m->n_heights - 1, candidates, &n);
    for (int i = 0; i < n && !status && !choice->steady && !(choice->pinned && d->base.fast); i++) {
        bool works, steady;
        if (!usable(&candidates[i])) continue;
        status = probe_candidate(
            d, m, choice->epilogue, &p, &candidates[i].algorithm, &works, &steady);
        if (status || !works || (choice->pinned && !steady)) continue;
        choice->pinned = true;
        choice->steady = steady;
        for (int height = 0; height < m->n_heights; height++)
            choice->algorithms[height] = candidates[i].algorithm;
    }
    if (!status && choice->epilogue == EPILOGUE_GELU && choice->steady)
        status = probe_gelu(d, m, aligned, &p, &choice->as_kernel);
    const bool serves = d->base.fast
                            ? choice->pinned
                            : choice->steady
                                  && (choice->epilogue == EPILOGUE_PLAIN || choice->as_kernel);
    for (int height = 0; height < m->n_heights - 1 && !status && serves; height++)
        status = refine_height(d, m, aligned, &p, height, choice);
    probe_end(d, &p);
    return status;
}

static bool same_product(const product_choice *a, const product_choice *b)
{
    return a->in == b->in && a->out == b->out && a->type == b->type && a->in_out == b->in_out
           && a->has_bias == b->has_bias && a->aligned == b->aligned && a->epilogue == b->epilogue;
}

inset_status cuda_choose(cuda_device *d, matrix *m, epilogue e, bool aligned)
{
    if (m->chosen[e][aligned] >= 0) return INSET_OK;
    product_choice choice = {.in = m->in,
        .out = m->out,
        .type = m->type,
        .in_out = m->in_out,
        .has_bias = m->bias,
        .aligned = aligned,
        .epilogue = e};
    for (size_t i = 0; i < d->n_choices; i++)
        if (same_product(&d->choices[i], &choice)) {
            m->chosen[e][aligned] = (int)i;
            return INSET_OK;
        }
    if (d->capturing)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "%s: a product that never ran cannot be captured", d->base.name);
    inset_status status = pick(d, m, aligned, &choice);
    if (status) return status;
    if (!array_reserve(
            d->base.context, &d->choices, &d->choices_capacity, d->n_choices + 1, sizeof choice))
        return INSET_NO_MEMORY;
    m->chosen[e][aligned] = (int)d->n_choices;
    d->choices[d->n_choices++] = choice;
    return INSET_OK;
}
