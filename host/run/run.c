/* run.c: binds a plan to a device and runs it: one block of device memory, tables up once, then the launches in order.
 *
 * On a GPU a launch costs the host some microseconds, more than most of them take to run. A plan that is run again is therefore captured, and
 * from then on a run is the inputs that changed, in one copy, and one replay. The first run is launched directly: most plans run once, and the
 * device makes its choices (which algorithm a product takes) while it runs. */
#include "run/run.h"

#include <string.h>

#include "plan/launches.h"

struct run {
    inset_context *context;
    struct inset_model *model;
    plan *plan;
    char *memory;                        /* all areas, one after the other */
    size_t bytes;
    char *base[AREA_COUNT];
    launch *launches;                    /* the plan's, with addresses */
    int32_t *ids;                        /* token ids in the order of AREA_IDS */
    int64_t *tokens;                     /* what the next run takes */
    float *rows;
    bool stale_ids, stale_rows;
    char *saved;                         /* on the host, when the device's memory is not the host's */
    bool saved_here, has_run;
    device_graph *graph;                 /* the launches, captured at the second run, where the device captures */
    bool launched_singly;                /* it cannot capture these */
};

static size_t area_place(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

static inset_status allocate_areas(run *r)
{
    for (int a = AREA_ARENA; a < AREA_WEIGHT; a++) r->bytes += area_place((size_t)r->plan->area_bytes[a]);
    if (!r->bytes) r->bytes = 256;
    inset_status status = device_allocate(r->model->device, r->bytes, (void **)&r->memory);
    if (status) return status;
    size_t at = 0;
    for (int a = AREA_ARENA; a < AREA_WEIGHT; a++) {
        r->base[a] = r->memory + at;
        at += area_place((size_t)r->plan->area_bytes[a]);
    }
    return INSET_OK;
}

static void *address(const run *r, const void *tagged)
{
    uint64_t bits = (uint64_t)(uintptr_t)tagged;
    int at = (int)(bits >> 56);
    uint64_t offset = bits & ((1ull << 56) - 1);
    if (at == AREA_NONE) return NULL;
    if (at == AREA_WEIGHT) return r->model->weights[offset].data;
    return r->base[at] + offset;
}

static inset_status bind_launches(run *r)
{
    plan *p = r->plan;
    r->launches = memory_new(r->context, p->n_launches * sizeof *r->launches);
    if (!r->launches) return INSET_NO_MEMORY;
    if (p->n_launches) memcpy(r->launches, p->launches, p->n_launches * sizeof *r->launches);
    for (size_t i = 0; i < p->n_launches; i++) {
        launch *l = &r->launches[i];
        if (l->is_matmul) {
            l->x = address(r, l->x);
            l->y = address(r, l->y);
            continue;
        }
        for (const int16_t *field = launch_pointers((kernel_id)l->kernel); *field >= 0; field++) {
            void *pointer;
            memcpy(&pointer, (char *)&l->args + *field, sizeof pointer);
            pointer = address(r, pointer);
            memcpy((char *)&l->args + *field, &pointer, sizeof pointer);
        }
    }
    return INSET_OK;
}

/* Writes tables out on the device from their runs, `count` of them; what the device was given for it is released again. */
static inset_status expand(run *r, const table_run *runs, size_t count)
{
    plan *p = r->plan;
    device *d = r->model->device;
    size_t bytes = area_place(count * sizeof *runs), literals = p->n_literals * sizeof *p->literals;
    char *short_form = NULL;
    if (!count) return INSET_OK;
    inset_status status = device_allocate(d, bytes + area_place(literals), (void **)&short_form);
    if (!status) status = device_upload(d, short_form, runs, count * sizeof *runs);
    if (!status) status = device_upload(d, short_form + bytes, p->literals, literals);
    expand_args args = {(int32_t *)r->base[AREA_TABLES], (const table_run *)short_form, (const int32_t *)(short_form + bytes), (int64_t)count};
    if (!status) status = device_launch(d, KERNEL_EXPAND, INSET_F32, &args, sizeof args, (int64_t)count, p->n_tables);
    if (!status) status = device_synchronize(d);
    if (short_form) device_release(d, short_form, bytes + area_place(literals));
    return status;
}

static inset_status upload_tables(run *r)
{
    plan *p = r->plan;
    device *d = r->model->device;
    inset_status status = expand(r, p->runs, p->n_runs);
    if (!status) status = expand(r, p->repeats, p->n_repeats);
    for (size_t i = 0; i < p->n_externals && !status; i++)
        status = device_upload(d, r->base[AREA_EXTERNAL] + p->externals[i].offset, p->externals[i].data, (size_t)p->externals[i].bytes);
    if (status || !p->n_records) return status;
    record *records = memory_new(r->context, p->n_records * sizeof *records);
    if (!records) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->n_records; i++) {
        records[i] = p->records[i];
        records[i].out = address(r, records[i].out);
        records[i].a = address(r, records[i].a);
        records[i].b = address(r, records[i].b);
    }
    status = device_upload(d, r->base[AREA_RECORDS], records, p->n_records * sizeof *records);
    memory_free(r->context, records);
    return status;
}

static inset_status copy_inputs(run *r)
{
    plan *p = r->plan;
    size_t n = (size_t)p->n_tokens;
    r->ids = memory_new(r->context, p->n_ids * sizeof *r->ids);
    if (!r->ids) return INSET_NO_MEMORY;
    if (p->rows) {
        r->rows = memory_new(r->context, n * (size_t)p->row_width * sizeof *r->rows);
        if (!r->rows) return INSET_NO_MEMORY;
        memcpy(r->rows, p->rows, n * (size_t)p->row_width * sizeof *r->rows);
    } else {
        r->tokens = memory_new(r->context, n * sizeof *r->tokens);
        if (!r->tokens) return INSET_NO_MEMORY;
        if (n) memcpy(r->tokens, p->tokens, n * sizeof *r->tokens);
    }
    r->stale_ids = p->n_ids > 0;
    r->stale_rows = p->area_bytes[AREA_INPUT] > 0;
    return INSET_OK;
}

/* Whether the plan left room for what this device writes behind a product's rows, and fuses nothing that it does not. */
static bool plan_fits(const struct inset_model *model, const plan *p)
{
    const plan_traits is = model_traits(model);
    return (is.row_block <= 1 || p->traits.row_block == is.row_block) && (is.gelu_in_product || !p->traits.gelu_in_product);
}

inset_status run_create(struct inset_model *model, plan *p, run **out)
{
    *out = NULL;
    if (!plan_fits(model, p))
        return error_set(model->context, INSET_USAGE_ERROR, "the plan was made for a device with other traits than %s", model->device->name);
    run *r = memory_new(model->context, sizeof *r);
    if (!r) return INSET_NO_MEMORY;
    r->context = model->context;
    r->model = model;
    r->plan = p;
    inset_status status;
    if ((status = allocate_areas(r)) || (status = copy_inputs(r)) || (status = bind_launches(r)) || (status = upload_tables(r))) {
        run_free(r);
        return status;
    }
    *out = r;
    return INSET_OK;
}

void run_free(run *r)
{
    if (!r) return;
    device_graph_free(r->model->device, r->graph);
    if (r->memory) device_release(r->model->device, r->memory, r->bytes);
    memory_free(r->context, r->launches);
    memory_free(r->context, r->ids);
    memory_free(r->context, r->tokens);
    memory_free(r->context, r->rows);
    memory_free(r->context, r->saved);
    memory_free(r->context, r);
}

/* ---- other inputs ---------------------------------------------------------------------------------------------------------------------------- */

/* Rows that the plan computes once must stand for equal tokens still. */
static inset_status check_pattern(const run *r)
{
    const plan *p = r->plan;
    for (int64_t i = 0; i < p->n_tokens; i++) {
        if (p->token_word[i] < 0) continue;
        int64_t other = p->word_source[p->token_word[i]];
        bool same = r->tokens ? r->tokens[i] == r->tokens[other]
                              : !memcmp(r->rows + i * p->row_width, r->rows + other * p->row_width, (size_t)p->row_width * sizeof *r->rows);
        if (!same)
            return error_set(r->context, INSET_VALUE_ERROR,
                             "the plan computes input %lld and input %lld as one, and now they differ: make a new plan for inputs with another pattern of equal tokens",
                             (long long)other, (long long)i);
    }
    return INSET_OK;
}

static inset_status check_invoke(const run *r, int64_t invoke_index, int64_t count, int64_t *first)
{
    const plan *p = r->plan;
    if (invoke_index < 0 || invoke_index >= p->n_invokes)
        return error_set(r->context, INSET_INDEX_ERROR, "invoke %lld of a plan with %lld invokes", (long long)invoke_index, (long long)p->n_invokes);
    *first = p->invoke_first[invoke_index];
    int64_t wanted = p->invoke_first[invoke_index + 1] - *first;
    if (count != wanted)
        return error_set(r->context, INSET_SHAPE_ERROR, "invoke %lld takes %lld %s, found %lld", (long long)invoke_index, (long long)wanted,
                         p->rows ? "rows" : "tokens", (long long)count);
    return INSET_OK;
}

inset_status run_set_tokens(run *r, int64_t invoke_index, const int64_t *tokens, int64_t count)
{
    int64_t first;
    if (!r->tokens) return error_set(r->context, INSET_TYPE_ERROR, "this model takes rows of numbers, not token ids");
    inset_status status = check_invoke(r, invoke_index, count, &first);
    if (status) return status;
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= r->plan->vocabulary)
            return error_set(r->context, INSET_INDEX_ERROR, "token %lld (position %lld of the invoke) is outside the vocabulary of %d", (long long)tokens[i],
                             (long long)i, r->plan->vocabulary);
    memcpy(r->tokens + first, tokens, (size_t)count * sizeof *tokens);
    r->stale_ids = true;
    return INSET_OK;
}

inset_status run_set_rows(run *r, int64_t invoke_index, const float *rows, int64_t count)
{
    int64_t first;
    if (!r->rows) return error_set(r->context, INSET_TYPE_ERROR, "this model takes token ids, not rows of numbers");
    inset_status status = check_invoke(r, invoke_index, count, &first);
    if (status) return status;
    memcpy(r->rows + first * r->plan->row_width, rows, (size_t)(count * r->plan->row_width) * sizeof *rows);
    r->stale_rows = true;
    return INSET_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------------------------------------------ */

static inset_status upload_inputs(run *r)
{
    plan *p = r->plan;
    device *d = r->model->device;
    if (!r->stale_ids && !r->stale_rows) return INSET_OK;
    inset_status status = check_pattern(r);
    if (status) return status;
    if (r->stale_ids) {
        for (size_t i = 0; i < p->n_ids; i++) r->ids[i] = (int32_t)r->tokens[p->id_source[i]];
        if ((status = device_upload(d, r->base[AREA_IDS], r->ids, p->n_ids * sizeof *r->ids))) return status;
    }
    if (r->stale_rows && (status = device_upload(d, r->base[AREA_INPUT], r->rows, (size_t)p->area_bytes[AREA_INPUT]))) return status;
    r->stale_ids = r->stale_rows = false;
    return INSET_OK;
}

int64_t run_copies(const plan *p)
{
    return (p->n_ids > 0) + (p->area_bytes[AREA_INPUT] > 0) + (p->area_bytes[AREA_SAVED] > 0);
}

int64_t run_first_copies(const plan *p)
{
    int64_t expanded = (p->n_runs > 0) + (p->n_repeats > 0), copies = expanded + (p->n_literals ? expanded : 0) + (p->n_records > 0);
    for (size_t i = 0; i < p->n_externals; i++) copies += p->externals[i].bytes > 0;
    return copies + run_copies(p);
}

int64_t run_later_launches(const struct inset_model *model, const plan *p)
{
    return model->device && device_captures(model->device) && p->n_launches ? 1 : p->statistics.launches;
}

static inset_status launch_all(run *r)
{
    plan *p = r->plan;
    device *d = r->model->device;
    inset_status status;
    if (p->needs_clearing && (status = device_zero(d, r->base[AREA_SAVED], (size_t)p->area_bytes[AREA_SAVED]))) return status;
    for (size_t i = 0; i < p->n_launches; i++) {
        const launch *l = &r->launches[i];
        const matrix *m = l->is_matmul ? r->model->weights[l->weight].matrix : NULL;
        status = l->gelu        ? device_matmul_gelu(d, m, l->x, l->x_stride, l->y, l->y_stride, l->rows)
                 : l->is_matmul ? device_matmul(d, m, l->x, l->x_stride, l->y, l->y_stride, l->rows)
                                : device_launch(d, (kernel_id)l->kernel, (inset_type)l->type, &l->args, (size_t)l->args_size, l->blocks, l->work);
        if (status) return status;
    }
    return INSET_OK;
}

/* Where capturing fails nothing is lost but time: the launches go singly. A device that is broken says so again when they do. */
static void capture_launches(run *r)
{
    device *d = r->model->device;
    r->launched_singly = true;
    if (device_capture_begin(d)) return;
    inset_status status = launch_all(r);
    r->launched_singly = device_capture_end(d, status ? NULL : &r->graph) || status;
}

inset_status run_execute(run *r)
{
    device *d = r->model->device;
    inset_status status = upload_inputs(r);
    if (status) return status;
    r->saved_here = false;
    if (r->has_run && !r->graph && !r->launched_singly && r->plan->n_launches && device_captures(d)) capture_launches(r);
    status = r->graph ? device_replay(d, r->graph) : launch_all(r);
    if (status || (status = device_synchronize(d))) return status;
    r->has_run = true;
    return INSET_OK;
}

inset_status run_saved(run *r, size_t index, inset_tensor *out)
{
    plan *p = r->plan;
    if (index >= p->n_saved) return error_set(r->context, INSET_INDEX_ERROR, "saved value %zu of a plan that saves %zu", index, p->n_saved);
    if (!r->has_run) return error_set(r->context, INSET_USAGE_ERROR, "'%s' has no value yet: the plan was not run", p->saved[index].name);
    const char *saved = r->base[AREA_SAVED];
    if (!r->model->device->shares_host_memory) {
        size_t bytes = (size_t)p->area_bytes[AREA_SAVED];
        if (!r->saved && !(r->saved = memory_new(r->context, bytes))) return INSET_NO_MEMORY;
        inset_status status = r->saved_here ? INSET_OK : device_download(r->model->device, r->saved, r->base[AREA_SAVED], bytes);
        if (status) return status;
        r->saved_here = true;
        saved = r->saved;
    }
    plan_saved_describe(p, index, out);
    out->data = saved + p->saved[index].offset;
    return INSET_OK;
}
