/* test_planner.c: the planner against a plain executor (plain_executor.h), on random traces and on
 * sweeps.
 *
 *   numbers     what a run saves is what executing the trace literally gives; with sharing,
 *               without, and in chunks of invokes
 *   padding     the same where a device writes behind a product's rows, and takes a GELU into the
 *               product
 *   rows        the rows that each step computes are the least that any executor must compute
 *   sweeps      the same, for the patching studies that the planner is made for; and the number of
 *               strands stays in proportion to the patches
 *   memory      every allocation of building, planning and running a trace fails once: the answer
 *               is INSET_NO_MEMORY, and nothing leaks
 *
 * test_planner [-m MODEL] [-n COUNT] [-M COUNT] [-S] [-N] [-R] [-v] [SEED]: COUNT random traces
 * from SEED on, COUNT of them again for memory; without sweeps, numbers or rows; -v shows traces. A
 * failure names model and seed. */
#include "plain_executor.h"
#include "plan/plan.h"
#include "random_traces.h"
#include "run/run.h"
#include "world.h"

typedef struct bench {
    inset_context *context;
    const char *name;
    struct inset_model *model;
    void *numbers;
} bench;

static bool bench_start(bench *b, inset_context *context, const char *name)
{
    const char *device = getenv("INSET_TEST_DEVICE");
    *b = (bench){.context = context, .name = name};
    inset_status status = tiny_model(
        context, name, device ? device : "cpu", 7, &b->model, &b->numbers);
    return CHECK(!status, "%s: %s", name, inset_message(context));
}

static void bench_end(bench *b)
{
    model_free(b->model);
    free(b->numbers);
}

/* ---- showing a trace, with -v ------------------------------------------- */

static bool verbose, skip_rows, skip_numbers;

static void show_view(const trace *t, const view *v)
{
    static const char kinds[] = "srC";
    const storage *s = &t->storages[v->storage];
    printf("#%d", v->storage);
    if (s->kind == STORAGE_VALUE) printf("=%d.%d", s->invoke, s->value);
    printf(":%s(", type_name(s->type));
    for (int d = 0; d < v->n_dimensions; d++)
        printf("%s%lld%c%s*%lld", d ? ", " : "", (long long)v->dimensions[d].extent,
            kinds[v->dimensions[d].kind], v->dimensions[d].ragged ? "~" : "",
            (long long)v->dimensions[d].stride);
    printf(" +%lld", (long long)v->column);
    for (int32_t i = 0; i < v->n_spans && i < 8; i++)
        printf(" %d[%d:%d]", v->spans[i].sequence, v->spans[i].start, v->spans[i].count);
    printf(")");
}

static void show_source(const trace *t, const source *s)
{
    if (s->view) show_view(t, s->view);
    else printf("%g", s->number);
}

static void show_trace(const trace *t)
{
    const program *g = t->program;
    for (size_t i = 0; i < g->n_steps; i++) {
        printf("step %zu kind %d value %d:", i, g->steps[i].kind, g->steps[i].value);
        for (int k = 0; k < g->steps[i].n_operands; k++)
            printf(" slot %d (value %d, column %d)", g->steps[i].operands[k],
                g->slots[g->steps[i].operands[k]].value,
                g->slots[g->steps[i].operands[k]].shape.column);
        printf("\n");
    }
    for (size_t i = 0; i < t->n_invokes; i++) {
        const invoke *v = &t->invokes[i];
        printf("invoke %zu, to event %d:", i, v->current_event);
        for (int32_t s = 0, at = 0; s < v->n_sequences; s++, printf(" |"))
            for (int32_t r = 0; r < v->lengths[s]; r++, at++)
                printf(" %lld", v->tokens ? (long long)v->tokens[at] : 0ll);
        printf("\n");
        for (size_t k = 0; k < v->n_rebindings; k++) {
            printf("  slot %d of value %d is ", v->rebindings[k].slot,
                g->slots[v->rebindings[k].slot].value);
            show_view(t, v->rebindings[k].view);
            printf("\n");
        }
        for (size_t k = 0; k < v->n_skips; k++)
            printf("  skips %s\n", g->modules[v->skips[k].module].path);
        for (size_t k = v->first_record; k < v->first_record + v->n_records; k++) {
            const trace_record *r = &t->records[k];
            printf("  event %d: ", r->event);
            show_view(t, r->target);
            printf(r->kind == TRACE_SET      ? " set "
                   : r->kind == TRACE_METRIC ? " is metric %d of "
                   : r->rows                 ? " is function %d of the rows of "
                                             : " is made by op %d of ",
                r->kind == TRACE_METRIC ? (int)t->metrics[r->metric].kind
                : r->rows               ? (int)r->rows->function
                                        : (int)r->op);
            for (int32_t i = 0; i < record_reads(r); i++) {
                if (i) printf(", ");
                show_source(t, r->rows ? &(source){record_view(r, i), 0} : i ? &r->b : &r->a);
            }
            printf("\n");
        }
    }
    for (size_t i = 0; i < t->n_saves; i++)
        for (size_t k = 0; k < t->saves[i].n_views; k++) {
            printf("save %s: ", t->saves[i].name);
            show_view(t, &t->saves[i].view[k]);
            printf("\n");
        }
}

/* ---- numbers ------------------------------------------------------------ */

/* Elements of what a run saved. */
static double *saved_numbers(run *work, size_t save, int64_t *count)
{
    inset_tensor tensor;
    if (run_saved(work, save, &tensor)) return NULL;
    *count = 1;
    for (int d = 0; d < tensor.n_dimensions; d++) *count *= tensor.shape[d];
    double *out = malloc((size_t)(*count + 1) * sizeof *out);
    for (int64_t i = 0; out && i < *count; i++)
        out[i] = element_get(
            tensor.type, (const char *)tensor.data + (size_t)i * type_size(tensor.type));
    return out;
}

/* The largest difference, as a part of the largest number; infinities and NaNs must be the same. */
static double difference(const double *got, const double *want, int64_t n)
{
    double most = 0, worst = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(want[i]) && fabs(want[i]) > most) most = fabs(want[i]);
    for (int64_t i = 0; i < n; i++) {
        if (isnan(got[i]) && isnan(want[i])) continue;
        if (got[i] == want[i]) continue;
        if (!isfinite(got[i]) || !isfinite(want[i])) return INFINITY;
        if (fabs(got[i] - want[i]) > worst) worst = fabs(got[i] - want[i]);
    }
    return worst / (most + 1e-2);
}

typedef struct outcome {
    size_t n;
    double **saved;
    int64_t *counts;
} outcome;

static void outcome_free(outcome *o)
{
    for (size_t i = 0; i < o->n; i++) free(o->saved[i]);
    free(o->saved);
    free(o->counts);
    *o = (outcome){0};
}

static outcome outcome_of_run(run *work, const plan *p)
{
    outcome o = {plan_saved_count(p), calloc(plan_saved_count(p) + 1, sizeof *o.saved),
        calloc(plan_saved_count(p) + 1, sizeof *o.counts)};
    for (size_t i = 0; i < o.n; i++) o.saved[i] = saved_numbers(work, i, &o.counts[i]);
    return o;
}

static outcome outcome_of_plain(trace *t)
{
    plain *p = plain_execute(t, false);
    outcome o = {t->n_saves, calloc(t->n_saves + 1, sizeof *o.saved),
        calloc(t->n_saves + 1, sizeof *o.counts)};
    for (size_t i = 0; i < o.n; i++) {
        plain_cell *cells = plain_saved(p, i, &o.counts[i]);
        o.saved[i] = malloc((size_t)(o.counts[i] + 1) * sizeof **o.saved);
        for (int64_t k = 0; k < o.counts[i]; k++) o.saved[i][k] = cells[k].number;
        free(cells);
    }
    plain_free(p);
    return o;
}

static void agree(const char *what, const bench *b, uint64_t seed, const trace *t,
    const outcome *got, const outcome *want, double tolerance)
{
    NEED(got->n == want->n, "%s, %s, seed %llu: %zu values saved instead of %zu", what, b->name,
        (unsigned long long)seed, got->n, want->n);
    for (size_t i = 0; i < got->n; i++) {
        NEED(got->saved[i] && got->counts[i] == want->counts[i],
            "%s, %s, seed %llu: %s has %lld elements instead of %lld", what, b->name,
            (unsigned long long)seed, t->saves[i].name, (long long)got->counts[i],
            (long long)want->counts[i]);
        double d = difference(got->saved[i], want->saved[i], got->counts[i]);
        if (d > tolerance && verbose)
            for (int64_t k = 0; k < got->counts[i]; k++)
                printf("%s[%lld] %g %g\n", t->saves[i].name, (long long)k, got->saved[i][k],
                    want->saved[i][k]);
        NEED(d <= tolerance, "%s, %s, seed %llu: %s differs by %.3g", what, b->name,
            (unsigned long long)seed, t->saves[i].name, d);
    }
}

/* Plans and runs a trace; what it saves. An empty outcome after a failure, which is reported. */
static outcome run_with(bench *b, uint64_t seed, trace *t, const plan_options *options, plan **kept)
{
    plan_options given = *options;
    given.traits = model_traits(b->model);
    plan *p = NULL;
    run *work = NULL;
    outcome o = {0};
    inset_status status = plan_create(t, &given, &p);
    if (!status) status = run_create(b->model, p, &work);
    if (!status) status = run_execute(work);
    if (CHECK(!status, "%s, seed %llu: %s", b->name, (unsigned long long)seed,
            inset_message(b->context)))
        o = outcome_of_run(work, p);
    run_free(work);
    if (kept) *kept = p;
    else plan_free(p);
    return o;
}

static outcome run_trace(bench *b, uint64_t seed, trace *t, bool no_share, plan **kept)
{
    return run_with(b, seed, t, &(plan_options){.no_share = no_share}, kept);
}

/* ---- rows --------------------------------------------------------------- */

/* A row that was converted on its way is a row of its own, though another one was converted from
 * the same: there, fewer would do. */
static bool converts(const trace *t)
{
    for (size_t i = 0; i < t->n_records; i++) {
        const trace_record *r = &t->records[i];
        inset_type type = t->storages[r->target->storage].type;
        for (int32_t k = 0; k < record_reads(r); k++)
            if (record_view(r, k) && t->storages[record_view(r, k)->storage].type != type)
                return true;
    }
    return false;
}

static void check_rows(const bench *b, const char *name, uint64_t seed, trace *t, const plan *p)
{
    const program *g = b->model->program;
    plain *symbols = plain_execute(t, true);
    int64_t *least = plain_rows_needed(symbols);
    for (size_t i = 0; i < g->n_values; i++) {
        step_kind kind = g->steps[g->values[i].step].kind;
        if (kind == STEP_TOKENS || kind == STEP_POSITIONS || kind == STEP_PAIR
            || kind == STEP_SCORES || kind == STEP_PATTERN || kind == STEP_NORM_SCALE)
            continue;
        int64_t rows = plan_rows(p, (int32_t)i);
        if (!CHECK(rows == least[i] || (rows > least[i] && converts(t)),
                "%s, %s, seed %llu: value %zu (step kind %d) has %lld rows computed, %lld would do",
                b->name, name, (unsigned long long)seed, i, kind, (long long)rows,
                (long long)least[i]))
            break;
    }
    free(least);
    plain_free(symbols);
}

/* In groups of invokes that run one after the other: the same numbers, and not a row more. */
static void check_chunks(bench *b, uint64_t seed, trace *t, const plan *whole, const outcome *want)
{
    const program *g = b->model->program;
    plan *p = NULL;
    outcome chunked = run_with(b, seed, t, &(plan_options){.chunks = 2 + (int32_t)(seed % 3)}, &p);
    if (p) agree("chunks", b, seed, t, &chunked, want, 1e-5);
    for (size_t i = 0; p && i < g->n_values; i++)
        if (!CHECK(plan_rows(p, (int32_t)i) == plan_rows(whole, (int32_t)i),
                "chunks, %s, seed %llu: value %zu has %lld rows computed, %lld without", b->name,
                (unsigned long long)seed, i, (long long)plan_rows(p, (int32_t)i),
                (long long)plan_rows(whole, (int32_t)i)))
            break;
    outcome_free(&chunked);
    plan_free(p);
}

/* ---- padding ------------------------------------------------------------ */

/* The CPU device, but its products run at fixed heights: what lies behind their rows is read, and
 * is then NaNs. A GELU may be part of them. */
static const struct inset_model *padded_model;
static const device_functions *plain_functions;
static volatile unsigned char padding_read;

/* What goes in and comes out of a matrix. */
typedef struct matrix_shape {
    const matrix *of;
    int64_t n_in, n_out;
    inset_type type;
} matrix_shape;
/* matrices that runs brought, the latest last */
static matrix_shape brought[64];
static size_t n_brought;

static matrix_shape shape_of(const matrix *m)
{
    const inset_type type = padded_model->type;
    for (size_t i = 1; i <= 64 && i <= n_brought; i++)
        if (brought[(n_brought - i) % 64].of == m) return brought[(n_brought - i) % 64];
    bool reverse;
    const head_part *part = model_part_of(padded_model, m, &reverse);
    if (part && reverse) return (matrix_shape){m, part->n_out, part->n_in, type};
    if (part) return (matrix_shape){m, part->n_in, part->n_out, type};
    size_t i = 0;
    while (padded_model->weights[i].matrix != m && padded_model->weights[i].reverse != m) i++;
    const weight *w = &padded_model->program->weights[i];
    const int64_t in = w->in_out ? w->rows : w->columns, out = w->in_out ? w->columns : w->rows;
    return padded_model->weights[i].matrix == m ? (matrix_shape){m, in, out, type}
                                                : (matrix_shape){m, out, in, type};
}

static inset_status noted_matrix(device *d, inset_type type, int64_t in, int64_t out,
    const void *weight, inset_type weight_type, bool in_out, const void *bias, inset_type bias_type,
    matrix **result)
{
    inset_status status = plain_functions->matrix_create(
        d, type, in, out, weight, weight_type, in_out, bias, bias_type, result);
    if (!status) brought[n_brought++ % 64] = (matrix_shape){*result, in, out, type};
    return status;
}

static inset_status noted_reverse(device *d, const matrix *of, matrix **result)
{
    const matrix_shape is = shape_of(of);
    inset_status status = plain_functions->matrix_reverse(d, of, result);
    if (!status) brought[n_brought++ % 64] = (matrix_shape){*result, is.n_out, is.n_in, is.type};
    return status;
}

static inset_status padded_matmul(device *d, const matrix *m, const void *x, int64_t x_stride,
    void *y, int64_t y_stride, int64_t rows)
{
    const matrix_shape is = shape_of(m);
    const int64_t size = (int64_t)type_size(is.type);
    const int64_t padded = device_padded_rows(d, is.type, is.n_in, is.n_out, rows);
    inset_status status = plain_functions->matmul(d, m, x, x_stride, y, y_stride, rows);
    for (int64_t r = rows; r < padded; r++) {
        padding_read = ((const unsigned char *)x)[(r * x_stride + is.n_in) * size - 1];
        memset((char *)y + r * y_stride * size, 0xff, (size_t)(is.n_out * size));
    }
    return status;
}

static inset_status padded_matmul_gelu(device *d, const matrix *m, const void *x, int64_t x_stride,
    void *y, int64_t y_stride, int64_t rows)
{
    const int64_t out = shape_of(m).n_out;
    const size_t bytes = (size_t)(rows * out) * type_size(padded_model->type);
    inset_status status = padded_matmul(d, m, x, x_stride, y, y_stride, rows);
    void *sums = malloc(bytes);
    if (!sums || y_stride != out) abort();
    memcpy(sums, y, bytes);
    activation_args args = {.out = y,
        .x = sums,
        .n_rows = rows,
        .width = out,
        .out_stride = out,
        .x_stride = out,
        .kind = ACTIVATION_GELU_TANH};
    if (!status)
        status = device_launch(
            d, KERNEL_ACTIVATION, padded_model->type, &args, sizeof args, rows, rows * out);
    free(sums);
    return status;
}

static outcome run_padded(bench *b, uint64_t seed, trace *t)
{
    device *d = b->model->device;
    const device real = *d;
    const bool fused = b->model->gelu_in_product;
    plain_functions = real.functions;
    padded_model = b->model;
    device_functions functions = *real.functions;
    functions.matmul = padded_matmul;
    functions.matmul_gelu = padded_matmul_gelu;
    functions.matrix_create = noted_matrix;
    functions.matrix_reverse = noted_reverse;
    d->functions = &functions;
    d->row_block = PRODUCT_TALLEST;
    b->model->gelu_in_product = true;
    n_brought = 0;
    outcome o = run_trace(b, seed, t, false, NULL);
    d->functions = real.functions;
    d->row_block = real.row_block;
    b->model->gelu_in_product = fused;
    return o;
}

static void check_trace(bench *b, uint64_t seed)
{
    trace *t = NULL;
    plan *p = NULL;
    inset_status status = random_trace(b->model, seed, &t);
    if (CHECK(!status, "%s, seed %llu: %s", b->name, (unsigned long long)seed,
            inset_message(b->context))) {
        if (verbose) show_trace(t);
        outcome want = outcome_of_plain(t), shared = run_trace(b, seed, t, false, &p),
                alone = run_trace(b, seed, t, true, NULL);
        if (p) {
            if (!skip_numbers) agree("plain", b, seed, t, &shared, &want, 1e-3);
            agree("sharing", b, seed, t, &alone, &shared, 1e-5);
            if (!b->model->device->is_cuda) {
                outcome padded = run_padded(b, seed, t);
                agree("padding", b, seed, t, &padded, &shared, 1e-5);
                outcome_free(&padded);
            }
            if (!skip_rows) check_rows(b, "random", seed, t, p);
            check_chunks(b, seed, t, p, &shared);
        }
        outcome_free(&want);
        outcome_free(&shared);
        outcome_free(&alone);
    }
    plan_free(p);
    trace_free(t);
}

/* ---- sweeps ------------------------------------------------------------- */

enum { SWEEP_LENGTH = 7 };

typedef struct sweep {
    const char *name, *site; /* site of a layer: the part behind "transformer.h[l]." */
    bool positions, heads;   /* a patch for each */
    int differ;              /* the first position where the two prompts differ */
} sweep;

static inset_status patch(
    trace *t, const operand *from, const operand *to, const sweep *s, int position, int head)
{
    index_item items[3] = {
        {.kind = INDEX_SLICE}, {.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = head}};
    operand source;
    if (s->positions) items[1] = (index_item){.kind = INDEX_INTEGER, .integer = position};
    size_t n = s->heads ? 3 : 2;
    inset_status status = trace_index(t, from, n, items, &source);
    return status ? status : trace_set(t, to, n, items, TRACE_COPY, &source);
}

static int32_t site_of(const trace *t, const sweep *s, int layer)
{
    char name[64];
    int32_t site = -1;
    snprintf(name, sizeof name, "transformer.h[%d].%s", layer, s->site);
    return program_find_site(trace_program(t), name, strlen(name), &site) ? -1 : site;
}

/* The clean prompt, and then the corrupted one with each patch in turn; the last position's logits
 * are saved. */
static inset_status build_sweep(trace *t, const sweep *s, int n_layers, int n_heads)
{
    int64_t tokens[SWEEP_LENGTH] = {3, 5, 8, 1, 9, 2, 6}, length = SWEEP_LENGTH;
    operand clean[8], value, logits;
    index_item last[] = {{.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = -1}};
    char name[32];
    int32_t output = -1;
    int n = 0;
    inset_status status = program_find_site(trace_program(t), "lm_head.output", 14, &output);
    if (!status) status = trace_invoke_tokens(t, 1, &length, tokens);
    for (int layer = 0; layer < n_layers && !status; layer++)
        status = trace_site(t, site_of(t, s, layer), &clean[layer]);
    for (int i = s->differ; i < SWEEP_LENGTH; i++) tokens[i] += 5;
    for (int layer = 0; layer < n_layers; layer++)
        for (int position = 0; position < (s->positions ? SWEEP_LENGTH : 1); position++)
            for (int head = 0; head < (s->heads ? n_heads : 1) && !status; head++) {
                snprintf(name, sizeof name, "logits%d", n++);
                status = trace_invoke_tokens(t, 1, &length, tokens);
                if (!status) status = trace_site(t, site_of(t, s, layer), &value);
                if (!status) status = patch(t, &clean[layer], &value, s, position, head);
                if (!status) status = trace_site(t, output, &logits);
                if (!status) status = trace_index(t, &logits, 2, last, &logits);
                if (!status) status = trace_save(t, name, &logits);
            }
    return status;
}

static int64_t sweep_strands(bench *b, const sweep *s, int n_layers)
{
    trace *t = NULL;
    plan *p = NULL;
    inset_status status = trace_create(b->context, b->model->program, b->model->type, &t);
    if (!status) status = build_sweep(t, s, n_layers, 3);
    outcome want = {0}, got = {0};
    int64_t strands = 0;
    if (CHECK(!status, "%s: %s", s->name, inset_message(b->context))) {
        want = outcome_of_plain(t);
        got = run_trace(b, 0, t, false, &p);
        if (p) {
            agree(s->name, b, 0, t, &got, &want, 1e-4);
            check_rows(b, s->name, 0, t, p);
            check_chunks(b, 0, t, p, &got);
            strands = plan_get_statistics(p)->strands;
        }
    }
    outcome_free(&want);
    outcome_free(&got);
    plan_free(p);
    trace_free(t);
    return strands;
}

static void check_sweeps(bench *b)
{
    static const sweep sweeps[] = {
        {"layers by positions, differing from 0", "input", true, false, 0},
        {"layers by positions, differing from the middle", "input", true, false, 3},
        {"layers by heads of z, from 0", "attn.z", false, true, 0},
        {"layers by heads of z, from the middle", "attn.z", false, true, 3},
        {"layers by positions by heads, from 0", "attn.z", true, true, 0},
        {"layers by positions by heads, from the middle", "attn.z", true, true, 3},
        {"queries, from 0", "attn.q", true, true, 0},
        {"keys, from 0", "attn.k", true, true, 0},
        {"values, from the middle", "attn.v", true, true, 3},
        {"patterns, from the middle", "attn.pattern", false, false, 3},
        {"MLP outputs, from 0", "mlp.output", true, false, 0},
    };
    for (size_t i = 0; i < sizeof sweeps / sizeof *sweeps; i++) {
        /* Patches of a layer more cost strands as those of the layer before did: none of them is
         * made again in the layers behind it. */
        int64_t one = sweep_strands(b, &sweeps[i], 1), two = sweep_strands(b, &sweeps[i], 2),
                three = sweep_strands(b, &sweeps[i], 3);
        CHECK(three - two <= two - one + 2,
            "%s: %lld, %lld, %lld strands for one, two, three layers", sweeps[i].name,
            (long long)one, (long long)two, (long long)three);
        if (verbose)
            printf("%s: %lld, %lld, %lld strands\n", sweeps[i].name, (long long)one, (long long)two,
                (long long)three);
    }
}

/* ---- single cases, which random traces meet too seldom ------------------ */

static inset_status site_named(trace *t, const char *name, operand *out)
{
    int32_t site = -1;
    inset_status status = program_find_site(trace_program(t), name, strlen(name), &site);
    return status ? status : trace_site(t, site, out);
}

static inset_status save_logits(trace *t, const char *name)
{
    operand logits;
    inset_status status = site_named(t, "lm_head.output", &logits);
    return status ? status : trace_save(t, name, &logits);
}

/* A pattern whose row is a value that its own attention makes, in an invoke before: only a later
 * pass can mix with it. */
static inset_status pattern_from_z(trace *t)
{
    const int64_t length = 4, tokens[] = {1, 2, 3, 4};
    operand z, pattern, source;
    index_item first[] = {{.kind = INDEX_INTEGER}, {.kind = INDEX_INTEGER}};
    index_item row[] = {
        {.kind = INDEX_INTEGER}, {.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = 2}};
    inset_status status = trace_invoke_tokens(t, 1, &length, tokens);
    if (!status) status = site_named(t, "transformer.h[1].attn.z", &z);
    if (!status) status = trace_index(t, &z, 2, first, &source);
    if (!status) status = trace_invoke_tokens(t, 1, &length, tokens);
    if (!status) status = site_named(t, "transformer.h[1].attn.pattern", &pattern);
    if (!status) status = trace_set(t, &pattern, 3, row, TRACE_COPY, &source);
    return status ? status : save_logits(t, "logits");
}

/* A pattern set to itself leaves everybody on the fused path, and shared. */
static inset_status pattern_to_itself(trace *t)
{
    const int64_t length = 5, tokens[] = {1, 2, 3, 4, 5};
    operand pattern;
    inset_status status = trace_invoke_tokens(t, 1, &length, tokens);
    if (!status) status = save_logits(t, "before");
    if (!status) status = trace_invoke_tokens(t, 1, &length, tokens);
    if (!status) status = site_named(t, "transformer.h[0].attn.pattern", &pattern);
    if (!status) status = trace_set(t, &pattern, 0, NULL, TRACE_COPY, &pattern);
    return status ? status : save_logits(t, "after");
}

/* An invoke whose prompt begins with a patch before block 1, and then the same prompt without it:
 * the second must not begin where the first did. */
static inset_status patch_before_block_1(trace *t)
{
    const int64_t length = 4, tokens[] = {4, 3, 2, 1};
    operand value, number = {.kind = OPERAND_FLOAT, .number = 0.5};
    index_item at[] = {{.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = 1}};
    inset_status status = INSET_OK;
    for (int i = 0; i < 3 && !status; i++) {
        char name[32];
        snprintf(name, sizeof name, "logits%d", i);
        status = trace_invoke_tokens(t, 1, &length, tokens);
        if (!status && i != 1) status = site_named(t, "transformer.h[0].mlp.output", &value);
        if (!status && i != 1) status = trace_set(t, &value, 2, at, TRACE_COPY, &number);
        if (!status) status = site_named(t, "transformer.h[2].output", &value);
        if (!status) status = trace_set(t, &value, 2, at, TRACE_COPY, &number);
        if (!status) status = save_logits(t, name);
    }
    return status;
}

/* A tensor with a row too few cannot take a place: refused, not read beyond its end. */
static inset_status ragged_for_dense(trace *t)
{
    const int64_t ragged[] = {2, 3}, dense[] = {3, 3}, tokens[] = {1, 2, 3, 4, 5, 6};
    operand value, same;
    int32_t site = -1;
    inset_status status = trace_invoke_tokens(t, 2, ragged, tokens);
    if (!status) status = site_named(t, "transformer.h[0].mlp.output", &value);
    if (!status) status = trace_invoke_tokens(t, 2, dense, tokens);
    if (!status) status = site_named(t, "transformer.h[0].mlp.output", &same);
    if (!status)
        status = program_find_site(trace_program(t), "transformer.h[0].mlp.output", 27, &site);
    if (!status
        && CHECK(trace_replace(t, site, &value) == INSET_SHAPE_ERROR,
            "a ragged tensor took a dense one's place"))
        status = trace_replace(t, site, &same);
    return status ? status : save_logits(t, "logits");
}

/* In chunks the second invoke goes on from rows that the first kept: those of one prompt, and in
 * block 2 also those of the prompt of which a query is set there, which come before them. */
static inset_status later_from_kept(trace *t)
{
    const int64_t lengths[] = {3, 3}, tokens[] = {0, 2, 2, 8, 10, 2}, other[] = {0, 2, 2, 8, 9, 2};
    operand value, number = {.kind = OPERAND_FLOAT, .number = 0.5};
    index_item at[] = {{.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = 2}};
    inset_status status = trace_invoke_tokens(t, 2, lengths, tokens);
    if (!status) status = save_logits(t, "first");
    if (!status) status = trace_invoke_tokens(t, 2, lengths, other);
    if (!status) status = site_named(t, "model.layers[2].self_attn.rot_q", &value);
    if (!status) status = trace_set(t, &value, 2, at, TRACE_COPY, &number);
    return status ? status : save_logits(t, "second");
}

/* A norm's scale and logits that are set to what they are: then they were not set, with sharing and
 * without, so that the norm is the one that everybody runs, and the metric's number a dot
 * product. */
static inset_status set_to_itself(trace *t)
{
    const int64_t length = 4, tokens[] = {4, 3, 2, 1};
    const index_item at[] = {{.kind = INDEX_SLICE}, {.kind = INDEX_INTEGER, .integer = 1}};
    const metric_request request = {.kind = INSET_LOGIT, .sets = {{1, (const int64_t[]){5}}}};
    operand value, same;
    inset_status status = INSET_OK;
    for (int i = 0; i < 2 && !status; i++) {
        status = trace_invoke_tokens(t, 1, &length, tokens);
        for (int k = 0; k < 2 && !status; k++) {
            status = site_named(t, k ? "lm_head.output" : "transformer.h[1].ln_1.scale", &value);
            if (!status) status = trace_index(t, &value, 2, at, &same);
            if (!status) status = trace_set(t, &value, 2, at, TRACE_COPY, &same);
        }
        if (!status) status = trace_metric(t, &value, &request, &same);
        if (!status) status = trace_save(t, i ? "second" : "first", &same);
    }
    return status;
}

static void check_same_bits(bench *b, const char *name, inset_status (*build)(trace *))
{
    trace *t = NULL;
    inset_status status = trace_create(b->context, b->model->program, b->model->type, &t);
    if (!status) status = build(t);
    if (CHECK(!status, "%s: %s", name, inset_message(b->context))) {
        outcome shared = run_trace(b, 0, t, false, NULL), alone = run_trace(b, 0, t, true, NULL);
        agree(name, b, 0, t, &alone, &shared, 0);
        outcome_free(&shared);
        outcome_free(&alone);
    }
    trace_free(t);
}

static void check_case(bench *b, const char *name, inset_status (*build)(trace *))
{
    trace *t = NULL;
    plan *p = NULL;
    inset_status status = trace_create(b->context, b->model->program, b->model->type, &t);
    if (!status) status = build(t);
    if (CHECK(!status, "%s: %s", name, inset_message(b->context))) {
        outcome want = outcome_of_plain(t), got = run_trace(b, 0, t, false, &p),
                alone = run_trace(b, 0, t, true, NULL);
        if (p) {
            agree(name, b, 0, t, &got, &want, 1e-4);
            agree(name, b, 0, t, &alone, &want, 1e-4);
            check_rows(b, name, 0, t, p);
            check_chunks(b, 0, t, p, &got);
        }
        outcome_free(&want);
        outcome_free(&got);
        outcome_free(&alone);
    }
    plan_free(p);
    trace_free(t);
}

static void check_cases(bench *b)
{
    check_case(b, "a pattern from its own z", pattern_from_z);
    check_case(b, "a pattern set to itself", pattern_to_itself);
    check_case(b, "a patch before block 1", patch_before_block_1);
    check_case(b, "a ragged tensor for a dense one", ragged_for_dense);
    check_same_bits(b, "values set to themselves", set_to_itself);
}

/* ---- limited memory ----------------------------------------------------- */

/* Many invokes that share nothing. */
static inset_status different_prompts(trace *t)
{
    enum { PROMPTS = 48, LENGTH = 6 };
    char name[16];
    inset_status status = INSET_OK;
    for (int64_t i = 0; i < PROMPTS && !status; i++) {
        const int64_t length = LENGTH;
        int64_t tokens[LENGTH];
        for (int64_t k = 0; k < LENGTH; k++) tokens[k] = (i * (k + 3) + k) % 17;
        snprintf(name, sizeof name, "logits%d", (int)i);
        status = trace_invoke_tokens(t, 1, &length, tokens);
        if (!status) status = save_logits(t, name);
    }
    return status;
}

/* What is left for padding counts as what a run needs: within the limit there are more chunks, or
 * none will do. */
static void padding_counts(bench *b)
{
    const plan_options padded = {.traits = {.row_block = PRODUCT_TALLEST}};
    trace *t = NULL;
    plan *bare = NULL, *whole = NULL, *cut = NULL, *none = NULL;
    inset_status status = trace_create(b->context, b->model->program, b->model->type, &t);
    if (!status) status = different_prompts(t);
    if (!status) status = plan_create(t, NULL, &bare);
    if (!status) status = plan_create(t, &padded, &whole);
    if (CHECK(!status, "%s", inset_message(b->context))) {
        const plan_statistics *a = plan_get_statistics(bare), *p = plan_get_statistics(whole);
        CHECK(p->arena_bytes > a->arena_bytes && p->launches == a->launches,
            "padding takes %lld bytes", (long long)(p->arena_bytes - a->arena_bytes));
        plan_options limited = padded;
        limited.memory_limit = (size_t)(a->arena_bytes + a->saved_bytes);
        if (CHECK(!plan_create(t, &limited, &cut), "%s", inset_message(b->context))) {
            const plan_statistics *c = plan_get_statistics(cut);
            CHECK(
                c->passes > 1 && c->arena_bytes + c->saved_bytes <= a->arena_bytes + a->saved_bytes,
                "%lld passes, %lld bytes", (long long)c->passes,
                (long long)(c->arena_bytes + c->saved_bytes));
        }
        limited.memory_limit = (size_t)a->saved_bytes + 4096;
        CHECK(plan_create(t, &limited, &none) == INSET_NO_MEMORY, "48 invokes in 4096 bytes");
    }
    plan_free(bare);
    plan_free(whole);
    plan_free(cut);
    plan_free(none);
    trace_free(t);
}

/* ---- memory ------------------------------------------------------------- */

static inset_status all_of_it(bench *b, uint64_t seed)
{
    trace *t = NULL;
    plan *p = NULL;
    run *work = NULL;
    inset_status status = random_trace(b->model, seed, &t);
    const plan_options options = {.traits = model_traits(b->model)};
    if (!status) status = plan_create(t, &options, &p);
    if (!status) status = run_create(b->model, p, &work);
    if (!status) status = run_execute(work);
    for (size_t i = 0; !status && i < plan_saved_count(p); i++) {
        inset_tensor tensor;
        status = run_saved(work, i, &tensor);
    }
    run_free(work);
    plan_free(p);
    trace_free(t);
    return status;
}

/* Blocks kept for reuse between one trace and the next are given back, so that no allocation is
 * spared its failure. */
static void drop_spare(inset_context *context)
{
    while (context->spare) {
        arena_block *next;
        memcpy(&next, context->spare, sizeof(void *)); /* a block begins with the next one */
        memory_free(context, context->spare);
        context->spare = next;
    }
    context->spare_bytes = 0;
}

static void check_memory(bench *b, failing_allocator *memory, uint64_t seed)
{
    CHECK(!all_of_it(b, seed), "%s, seed %llu: %s", b->name, (unsigned long long)seed,
        inset_message(b->context));
    inset_status status = INSET_NO_MEMORY;
    drop_spare(b->context);
    const int64_t live = b->context->live_blocks;
    for (int64_t n = 1; status == INSET_NO_MEMORY; n++) {
        memory->calls = 0;
        memory->fail_at = n;
        status = all_of_it(b, seed);
        bool failed = memory->calls >= n;
        memory->fail_at = 0;
        drop_spare(b->context);
        NEED(status == (failed ? INSET_NO_MEMORY : INSET_OK),
            "%s, seed %llu: allocation %lld fails and the answer is %s", b->name,
            (unsigned long long)seed, (long long)n, inset_status_name(status));
        NEED(b->context->live_blocks == live,
            "%s, seed %llu: allocation %lld fails and %lld blocks are left behind", b->name,
            (unsigned long long)seed, (long long)n, (long long)(b->context->live_blocks - live));
        if (verbose && !failed)
            printf("%s, seed %llu: %lld allocations\n", b->name, (unsigned long long)seed,
                (long long)n - 1);
    }
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    uint64_t first = 1, count = 40, memory = 2;
    bool sweeps = true;
    world w;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-R")) skip_rows = true;
        else if (!strcmp(argv[i], "-N")) skip_numbers = true;
        else if (!strcmp(argv[i], "-m") && i + 1 < argc) only = argv[++i];
        else if (!strcmp(argv[i], "-n") && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "-M") && i + 1 < argc) memory = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "-S")) sweeps = false;
        else if (!strcmp(argv[i], "-v")) verbose = true;
        else first = strtoull(argv[i], NULL, 10);
    }
    if (!CHECK(world_start(&w) != NULL, "no context")) return test_result();
    for (int i = 0; tiny_models[i]; i++) {
        bench b;
        if (only && strcmp(only, tiny_models[i])) continue;
        if (bench_start(&b, w.context, tiny_models[i])) {
            for (uint64_t seed = first; seed < first + count; seed++) check_trace(&b, seed);
            for (uint64_t seed = first; seed < first + memory; seed++)
                check_memory(&b, &w.memory, seed);
            if (!strcmp(tiny_models[i], "gpt2") && sweeps) {
                check_sweeps(&b);
                check_cases(&b);
                padding_counts(&b);
            }
            if (!strcmp(tiny_models[i], "phi3") && sweeps)
                check_case(&b, "contexts that go on from kept rows", later_from_kept);
        }
        bench_end(&b);
    }
    world_end(&w, "planner");
    return test_result();
}
