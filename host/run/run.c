/* run.c: binds a plan to a device and runs it: one block of device memory, tables up once, then the
 * launches in order.
 *
 * What may be other numbers at the next run (token ids, rows, tensors from outside) lies in areas
 * side by side, with a copy of them on the host: the bytes from the first that changed to the last
 * go up in one copy before the launches.
 *
 * On a GPU a launch costs the host some microseconds, more than most of them take to run. A plan
 * that is run again is therefore captured, and from then on a run is the inputs that changed, in
 * one copy, and one replay. The first run is launched directly: most plans run once, and the device
 * makes its choices (which algorithm a product takes) while it runs. */
#include "run/run.h"
#include "run/stream.h"

#include <string.h>

#include "plan/emit/launches.h"
#include "run/matrices.h"

struct run_room {
    struct inset_model *model;
    char *memory;
    size_t bytes;
    const run *owner;                    /* whose tables are there */
    device_landing *landings[RUN_SLOTS]; /* where the device works ahead */
    const char *arrived[RUN_SLOTS];
};

struct run {
    inset_context *context;
    struct inset_model *model;
    plan *plan;
    run_room *room; /* whose `memory` is, or NULL */
    int unfinished; /* started, not yet waited for */
    char *memory;   /* all areas, one after the other */
    size_t bytes;
    char *base[AREA_COUNT];
    launch *launches; /* the plan's, with addresses */
    arena groups;     /* experts' matrices, a list a launch */
    run_matrices *matrices;
    /* the areas from AREA_FIRST_INPUT on, on the host: the device's own memory where that is the
     * host's */
    char *inputs;
    size_t changed, changed_end; /* of these bytes, what the device has not got yet */
    const void **there;          /* for each external, where the device has its numbers, or NULL */
    int64_t *tokens;             /* what the next run takes */
    float *rows;
    int32_t *answers;                             /* tokens of the trace's metrics, likewise */
    bool stale_tokens, stale_rows, stale_answers; /* they are not in `inputs` yet */
    /* on the host, when the device's memory is not the host's */
    char *saved;
    bool saved_here, has_run;
    /* the launches, captured at the second run, where the device captures */
    device_graph *graph;
    bool launched_singly;  /* it cannot capture these */
    stream_visits *visits; /* of weights that come and go; NULL: it needs none */
};

static size_t area_place(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

/* An area's bytes in the run's memory. The tables' short form stands in the arena before the first
 * launch. */
static size_t area_size(const plan *p, int a)
{
    size_t bytes = area_place((size_t)p->area_bytes[a]);
    size_t short_form = area_place(p->n_runs * sizeof *p->runs)
                        + area_place(p->n_repeats * sizeof *p->repeats)
                        + area_place(p->n_literals * sizeof *p->literals);
    return a == AREA_ARENA && short_form > bytes ? short_form : bytes;
}

/* Growing waits for the work that still uses the memory: releasing it does. */
static inset_status take_room(run_room *room, run *r)
{
    device *d = room->model->device;
    room->owner = NULL;
    if (room->bytes < r->bytes) {
        device_release(d, room->memory, room->bytes);
        room->memory = NULL;
        room->bytes = 0;
        inset_status status = device_allocate(d, r->bytes, (void **)&room->memory);
        if (status) return status;
        room->bytes = r->bytes;
    }
    room->owner = r;
    r->memory = room->memory;
    return INSET_OK;
}

static inset_status allocate_areas(run *r)
{
    for (int a = AREA_ARENA; a < AREA_WEIGHT; a++) r->bytes += area_size(r->plan, a);
    if (!r->bytes) r->bytes = 256;
    inset_status status = r->room
                              ? take_room(r->room, r)
                              : device_allocate(r->model->device, r->bytes, (void **)&r->memory);
    if (status) return status;
    size_t at = 0;
    for (int a = AREA_ARENA; a < AREA_WEIGHT; a++) {
        r->base[a] = r->memory + at;
        at += area_size(r->plan, a);
    }
    return INSET_OK;
}

static void *address(const run *r, const void *tagged)
{
    uint64_t bits = (uint64_t)(uintptr_t)tagged;
    int at = (int)(bits >> 56);
    uint64_t offset = bits & ((1ull << 56) - 1);
    if (at == AREA_NONE) return NULL;
    if (at == AREA_WEIGHT) {
        const uint64_t bytes = offset & ((1ull << WEIGHT_BITS) - 1);
        return (char *)r->model->weights[offset >> WEIGHT_BITS].data + bytes;
    }
    return r->base[at] + offset;
}

/* The matrix of a product; what goes backwards needs it the other way round. */
static inset_status bind_matrix(run *r, launch *l)
{
    if (l->given) return l->matrix = r->matrices->at[l->given - 1], INSET_OK;
    if (l->part.n_in) {
        const matrix *found = NULL;
        inset_status status = model_part(
            r->model, l->weight, l->bias, &l->part, l->reverse, &found);
        return l->matrix = found, status;
    }
    const matrix *found = NULL;
    inset_status status = model_matrix(r->model, l->weight, l->reverse, &found);
    return l->matrix = found, status;
}

/* The matrices of all experts of a product. */
static inset_status bind_group(run *r, launch *l)
{
    inset_status status = INSET_OK;
    if (!l->matrices
        && !(l->matrices = arena_new(&r->groups, (size_t)l->n_group * sizeof *l->matrices)))
        return INSET_NO_MEMORY;
    for (int32_t i = 0; i < l->n_group && !status; i++)
        status = model_matrix(r->model, l->weight + i, l->reverse, &l->matrices[i]);
    return status;
}

static inset_status bind_launches(run *r)
{
    plan *p = r->plan;
    inset_status ready = matrices_create(r->model, p, &r->matrices);
    for (size_t i = 0; i < p->n_used_weights && !ready; i++)
        ready = model_numbers(r->model, p->used_weights[i]);
    if (ready) return ready;
    r->launches = memory_new(r->context, p->n_launches * sizeof *r->launches);
    if (!r->launches) return INSET_NO_MEMORY;
    if (p->n_launches) memcpy(r->launches, p->launches, p->n_launches * sizeof *r->launches);
    for (size_t i = 0; i < p->n_launches; i++) {
        launch *l = &r->launches[i];
        if (l->is_matmul) {
            inset_status status = l->n_group ? bind_group(r, l) : bind_matrix(r, l);
            if (status) return status;
            l->offsets = address(r, l->offsets);
            l->x = address(r, l->x);
            l->y = address(r, l->y);
            continue;
        }
        if (l->kernel == KERNEL_FOLD && l->bias >= 0) {
            inset_status status = model_numbers(r->model, l->bias);
            if (status) return status;
        }
        for (const int16_t *field = launch_pointers((kernel_id)l->kernel); *field >= 0; field++) {
            void *pointer;
            memcpy(&pointer, (char *)&l->args + *field, sizeof pointer);
            pointer = address(r, pointer);
            memcpy((char *)&l->args + *field, &pointer, sizeof pointer);
        }
        l->fused.lists = address(r, l->fused.lists);
        l->fused.records = address(r, l->fused.records);
    }
    return INSET_OK;
}

/* Writes tables out on the device from their runs, `count` of them at `at`. */
static inset_status expand(run *r, const char *at, const char *literals, size_t count)
{
    plan *p = r->plan;
    expand_args args = {(int32_t *)r->base[AREA_TABLES], (const table_run *)at,
        (const int32_t *)literals, (int64_t)count};
    return device_launch(r->model->device, KERNEL_EXPAND, INSET_F32, &args, sizeof args,
        (int64_t)count, p->n_tables);
}

/* The short form of the tables goes where values will be: the first launches write over it. */
static inset_status make_tables(run *r)
{
    plan *p = r->plan;
    device *d = r->model->device;
    char *runs = r->base[AREA_ARENA], *repeats = runs + area_place(p->n_runs * sizeof *p->runs);
    char *literals = repeats + area_place(p->n_repeats * sizeof *p->repeats);
    inset_status status = device_upload(d, runs, p->runs, p->n_runs * sizeof *p->runs);
    if (!status) status = device_upload(d, repeats, p->repeats, p->n_repeats * sizeof *p->repeats);
    if (!status)
        status = device_upload(d, literals, p->literals, p->n_literals * sizeof *p->literals);
    if (!status) status = expand(r, runs, literals, p->n_runs);
    return status ? status : expand(r, repeats, literals, p->n_repeats);
}

static inset_status upload_metrics(run *r)
{
    plan *p = r->plan;
    if (!p->n_metric_rows) return INSET_OK;
    metric_row *rows = memory_new(r->context, p->n_metric_rows * sizeof *rows);
    if (!rows) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->n_metric_rows; i++) {
        rows[i] = p->metric_rows[i];
        rows[i].out = address(r, rows[i].out);
        rows[i].x = address(r, rows[i].x);
        rows[i].other = address(r, rows[i].other);
        rows[i].tokens = address(r, rows[i].tokens);
    }
    inset_status status = device_upload(
        r->model->device, r->base[AREA_METRICS], rows, p->n_metric_rows * sizeof *rows);
    memory_free(r->context, rows);
    return status;
}

static inset_status upload_row_functions(run *r)
{
    plan *p = r->plan;
    device *d = r->model->device;
    if (!p->n_row_calls) return INSET_OK;
    row_call *calls = memory_new(r->context, p->n_row_calls * sizeof *calls);
    const void **operands = memory_new(r->context, p->n_row_operands * sizeof *operands);
    inset_status status = calls && operands ? INSET_OK : INSET_NO_MEMORY;
    for (size_t i = 0; i < p->n_row_calls && !status; i++) {
        calls[i] = p->row_calls[i];
        calls[i].out = address(r, calls[i].out);
    }
    for (size_t i = 0; i < p->n_row_operands && !status; i++)
        operands[i] = address(r, p->row_operands[i]);
    if (!status)
        status = device_upload(d, r->base[AREA_ROW_CALLS], calls, p->n_row_calls * sizeof *calls);
    if (!status)
        status = device_upload(
            d, r->base[AREA_ROW_OPERANDS], operands, p->n_row_operands * sizeof *operands);
    memory_free(r->context, calls);
    memory_free(r->context, operands);
    return status;
}

static inset_status upload_tables(run *r)
{
    plan *p = r->plan;
    device *d = r->model->device;
    inset_status status = make_tables(r);
    if (!status) status = upload_metrics(r);
    if (!status) status = upload_row_functions(r);
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

/* Where an area is in `inputs`. */
static size_t input_place(const run *r, int at)
{
    return (size_t)(r->base[at] - r->base[AREA_FIRST_INPUT]);
}

static void mark_changed(run *r, size_t from, size_t bytes)
{
    if (!bytes) return;
    bool none = r->changed == r->changed_end;
    if (none || from < r->changed) r->changed = from;
    if (none || from + bytes > r->changed_end) r->changed_end = from + bytes;
}

static void put_external(run *r, const struct external *e, const void *data)
{
    size_t place = input_place(r, AREA_EXTERNAL) + (size_t)e->offset;
    if (e->bytes && data) memcpy(r->inputs + place, data, (size_t)e->bytes);
    r->there[e - r->plan->externals] = data ? NULL : e->there;
    mark_changed(r, place, (size_t)e->bytes);
}

/* After an upload: externals that the device has itself, where the upload has written over them. */
static inset_status copy_externals(run *r)
{
    const plan *p = r->plan;
    inset_status status = INSET_OK;
    for (size_t i = 0; i < p->n_externals && !status; i++) {
        const size_t place = input_place(r, AREA_EXTERNAL) + (size_t)p->externals[i].offset;
        if (r->there[i] && place < r->changed_end && place >= r->changed)
            status = device_copy(r->model->device, r->base[AREA_FIRST_INPUT] + place, r->there[i],
                (size_t)p->externals[i].bytes);
    }
    return status;
}

static inset_status copy_inputs(run *r)
{
    plan *p = r->plan;
    size_t n = (size_t)p->n_tokens;
    bool in_place = r->model->device->shares_host_memory;
    size_t bytes = (size_t)(r->memory + r->bytes - r->base[AREA_FIRST_INPUT]);
    r->inputs = in_place ? r->base[AREA_FIRST_INPUT] : memory_new(r->context, bytes);
    r->there = memory_new(r->context, p->n_externals * sizeof *r->there);
    if (!r->inputs || !r->there) return INSET_NO_MEMORY;
    for (size_t i = 0; i < p->n_externals; i++)
        put_external(r, &p->externals[i], p->externals[i].data);
    if (p->rows) {
        r->rows = memory_new(r->context, n * (size_t)p->row_width * sizeof *r->rows);
        if (!r->rows) return INSET_NO_MEMORY;
        memcpy(r->rows, p->rows, n * (size_t)p->row_width * sizeof *r->rows);
    } else {
        r->tokens = memory_new(r->context, n * sizeof *r->tokens);
        if (!r->tokens) return INSET_NO_MEMORY;
        for (int64_t v = 0; v < p->n_invokes; v++)
            memcpy(r->tokens + p->invoke_first[v], p->tokens + p->invoke_list[v],
                (size_t)(p->invoke_first[v + 1] - p->invoke_first[v]) * sizeof *r->tokens);
    }
    r->answers = memory_new(r->context, p->n_answers * sizeof *r->answers);
    if (!r->answers) return INSET_NO_MEMORY;
    if (p->n_answers) memcpy(r->answers, p->answers, p->n_answers * sizeof *r->answers);
    r->stale_answers = p->n_answer_source > 0;
    r->stale_tokens = r->tokens != NULL;
    r->stale_rows = r->rows != NULL;
    return INSET_OK;
}

/* Whether the plan left room for what this device writes behind a product's rows, and fuses nothing
 * that it does not. */
static bool plan_fits(const struct inset_model *model, const plan *p)
{
    const plan_traits is = model_traits(model);
    return (is.row_block <= 1 || p->traits.row_block == is.row_block)
           && (is.gelu_in_product || !p->traits.gelu_in_product);
}

static inset_status make_run(struct inset_model *model, run_room *room, plan *p, run **out)
{
    *out = NULL;
    if (!plan_fits(model, p))
        return error_set(model->context, INSET_USAGE_ERROR,
            "the plan was made for a device with other traits than %s", model->device->name);
    run *r = memory_new(model->context, sizeof *r);
    if (!r) return INSET_NO_MEMORY;
    r->context = model->context;
    arena_start(&r->groups, model->context);
    r->model = model;
    r->plan = p;
    r->room = room;
    inset_status status;
    if ((status = allocate_areas(r)) || (status = copy_inputs(r)) || (status = bind_launches(r))
        || (status = stream_plan(model, r->launches, p->n_launches, &r->visits))
        || (status = upload_tables(r))) {
        run_free(r);
        return status;
    }
    r->launched_singly = r->visits != NULL;
    *out = r;
    return INSET_OK;
}

inset_status run_create(struct inset_model *model, plan *p, run **out)
{
    return make_run(model, NULL, p, out);
}
inset_status run_create_in(run_room *room, plan *p, run **out)
{
    return make_run(room->model, room, p, out);
}

void run_free(run *r)
{
    if (!r) return;
    /* a graph must not go while it runs; what failed there was told or is lost */
    if (r->unfinished) device_synchronize(r->model->device);
    if (r->room && r->room->owner == r) r->room->owner = NULL;
    device_graph_free(r->model->device, r->graph);
    if (r->memory && !r->room) device_release(r->model->device, r->memory, r->bytes);
    stream_visits_free(r->visits);
    memory_free(r->context, r->launches);
    arena_free(&r->groups);
    matrices_free(r->matrices);
    if (!r->model->device->shares_host_memory) memory_free(r->context, r->inputs);
    memory_free(r->context, r->there);
    memory_free(r->context, r->tokens);
    memory_free(r->context, r->answers);
    memory_free(r->context, r->rows);
    memory_free(r->context, r->saved);
    memory_free(r->context, r);
}

/* ---- other inputs ------------------------------------------------------- */

/* Rows that the plan computes once must stand for equal tokens still. */
static inset_status check_pattern(const run *r)
{
    const plan *p = r->plan;
    for (int64_t i = 0, v = 0; i < p->n_tokens; i++) {
        while (i >= p->invoke_first[v + 1]) v++;
        int32_t word = p->token_word[p->invoke_list[v] + i - p->invoke_first[v]];
        if (word < 0) continue;
        int64_t other = p->word_source[word];
        bool same = r->tokens ? r->tokens[i] == r->tokens[other]
                              : !memcmp(r->rows + i * p->row_width, r->rows + other * p->row_width,
                                  (size_t)p->row_width * sizeof *r->rows);
        if (!same)
            return error_set(r->context, INSET_VALUE_ERROR,
                "the plan computes input %lld and input %lld as one, and now they differ: make a "
                "new plan for inputs with another pattern of equal tokens",
                (long long)other, (long long)i);
    }
    return INSET_OK;
}

/* Which of all invokes a user's is; -1 and an error when there is none. */
static int64_t find_invoke(const run *r, int64_t index)
{
    const plan *p = r->plan;
    if (index >= 0 && index < p->n_users) return p->user[index];
    error_set(r->context, INSET_INDEX_ERROR, "invoke %lld of a plan with %lld invokes",
        (long long)index, (long long)p->n_users);
    return -1;
}

/* *at: which of all invokes it is. */
static inset_status check_invoke(const run *r, int64_t invoke_index, int64_t count, int64_t *at)
{
    const plan *p = r->plan;
    const int64_t user = invoke_index;
    if ((invoke_index = find_invoke(r, user)) < 0) return INSET_INDEX_ERROR;
    *at = invoke_index;
    int64_t wanted = p->invoke_first[invoke_index + 1] - p->invoke_first[invoke_index];
    if (count != wanted)
        return error_set(r->context, INSET_SHAPE_ERROR, "invoke %lld takes %lld %s, found %lld",
            (long long)user, (long long)wanted, p->rows ? "rows" : "tokens", (long long)count);
    return INSET_OK;
}

/* Does an invoke take the input of the one at `at`: itself, or its shadow? */
static bool takes_input(const plan *p, int64_t i, int64_t at)
{
    return i == at || p->shadows[i] == at;
}

inset_status run_set_tokens(run *r, int64_t invoke_index, const int64_t *tokens, int64_t count)
{
    int64_t at;
    if (!r->tokens)
        return error_set(
            r->context, INSET_TYPE_ERROR, "this model takes rows of numbers, not token ids");
    inset_status status = check_invoke(r, invoke_index, count, &at);
    if (status) return status;
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= r->plan->vocabulary)
            return error_set(r->context, INSET_INDEX_ERROR,
                "token %lld (position %lld of the invoke) is outside the vocabulary of %d",
                (long long)tokens[i], (long long)i, r->plan->vocabulary);
    const plan *p = r->plan;
    for (int64_t i = at; i < p->n_invokes; i++)
        if (takes_input(p, i, at))
            memcpy(r->tokens + p->invoke_first[i], tokens, (size_t)count * sizeof *tokens);
    r->stale_tokens = true;
    return INSET_OK;
}

inset_status run_set_rows(run *r, int64_t invoke_index, const float *rows, int64_t count)
{
    int64_t at;
    if (!r->rows)
        return error_set(
            r->context, INSET_TYPE_ERROR, "this model takes token ids, not rows of numbers");
    inset_status status = check_invoke(r, invoke_index, count, &at);
    if (status) return status;
    const plan *p = r->plan;
    for (int64_t i = at; i < p->n_invokes; i++)
        if (takes_input(p, i, at))
            memcpy(r->rows + p->invoke_first[i] * p->row_width, rows,
                (size_t)(count * p->row_width) * sizeof *rows);
    r->stale_rows = true;
    return INSET_OK;
}

inset_status run_set_external(run *r, int32_t storage, const void *data)
{
    const plan *p = r->plan;
    inset_status status = matrices_set(r->matrices, storage, data);
    size_t low = 0, high = p->n_externals;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (p->externals[middle].storage < storage) low = middle + 1;
        else high = middle;
    }
    if (low < p->n_externals && p->externals[low].storage == storage)
        put_external(r, &p->externals[low], data);
    return status;
}

/* The metric, or an error when there is none of this number or it takes another count. */
static inset_status check_metric(const run *r, int64_t invoke_index, int64_t metric, int64_t count,
    const struct asked_metric **out)
{
    const plan *p = r->plan;
    const int64_t user = invoke_index;
    if ((invoke_index = find_invoke(r, user)) < 0) return INSET_INDEX_ERROR;
    int64_t first = p->invoke_metric[invoke_index], n = p->invoke_metric[invoke_index + 1] - first;
    if (metric < 0 || metric >= n)
        return error_set(r->context, INSET_INDEX_ERROR,
            "metric %lld of invoke %lld, which has %lld", (long long)metric, (long long)user,
            (long long)n);
    *out = &p->metrics[first + metric];
    if (count == (*out)->count) return INSET_OK;
    return error_set(r->context, INSET_SHAPE_ERROR,
        "metric %lld of invoke %lld takes %d tokens, found %lld", (long long)metric,
        (long long)user, (*out)->count, (long long)count);
}

inset_status run_set_answers(
    run *r, int64_t invoke_index, int64_t metric, const int64_t *tokens, int64_t count)
{
    const struct asked_metric *m = NULL;
    inset_status status = check_metric(r, invoke_index, metric, count, &m);
    if (status) return status;
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= m->width)
            return error_set(r->context, INSET_INDEX_ERROR,
                "token %lld is outside a row of %d logits", (long long)tokens[i], m->width);
    for (int64_t i = 0; i < count; i++) r->answers[m->first_answer + i] = (int32_t)tokens[i];
    r->stale_answers = r->plan->n_answer_source > 0;
    return INSET_OK;
}

/* ---- running ------------------------------------------------------------ */

/* Tokens of metrics into `inputs`. Metrics that the plan computes once must have equal tokens
 * still. */
static inset_status fill_answers(run *r)
{
    const plan *p = r->plan;
    if (!r->stale_answers) return INSET_OK;
    for (size_t i = 0; i < p->n_ties; i++)
        if (memcmp(r->answers + p->ties[i].first, r->answers + p->ties[i].stands,
                (size_t)p->ties[i].count * sizeof *r->answers))
            return error_set(r->context, INSET_VALUE_ERROR,
                "the plan computes two metrics as one, and now their tokens differ: make a new "
                "plan for other tokens");
    int32_t *to = (int32_t *)(void *)(r->inputs + input_place(r, AREA_ANSWERS));
    for (size_t i = 0; i < p->n_answer_source; i++) to[i] = r->answers[p->answer_source[i]];
    mark_changed(r, input_place(r, AREA_ANSWERS), p->n_answer_source * sizeof *to);
    r->stale_answers = false;
    return INSET_OK;
}

/* Tokens and rows into `inputs`. */
static inset_status fill_inputs(run *r)
{
    const plan *p = r->plan;
    if (!r->stale_tokens && !r->stale_rows) return INSET_OK;
    inset_status status = check_pattern(r);
    if (status) return status;
    if (r->stale_tokens) {
        int32_t *ids = (int32_t *)(void *)(r->inputs + input_place(r, AREA_IDS));
        for (size_t i = 0; i < p->n_ids; i++) ids[i] = (int32_t)r->tokens[p->id_source[i]];
        mark_changed(r, input_place(r, AREA_IDS), p->n_ids * sizeof *ids);
    }
    size_t bytes = (size_t)p->area_bytes[AREA_INPUT];
    if (r->stale_rows && bytes) {
        memcpy(r->inputs + input_place(r, AREA_INPUT), r->rows, bytes);
        mark_changed(r, input_place(r, AREA_INPUT), bytes);
    }
    r->stale_tokens = r->stale_rows = false;
    return INSET_OK;
}

static inset_status upload_inputs(run *r)
{
    device *d = r->model->device;
    inset_status status = fill_answers(r);
    if (!status) status = fill_inputs(r);
    if (status) return status;
    if (!d->shares_host_memory)
        status = device_upload(d, r->base[AREA_FIRST_INPUT] + r->changed, r->inputs + r->changed,
            r->changed_end - r->changed);
    if (!status) status = copy_externals(r);
    if (!status) r->changed = r->changed_end = 0;
    return status;
}

int64_t run_copies(const plan *p)
{
    int64_t inputs = 0;
    for (int a = AREA_FIRST_INPUT; a < AREA_WEIGHT; a++) inputs += p->area_bytes[a];
    return (inputs > 0) + (p->area_bytes[AREA_SAVED] > 0);
}

int64_t run_weight_copies(const struct inset_model *model, const plan *p)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < p->n_launches && model->stream; i++) {
        const launch *l = &p->launches[i];
        if (!l->is_matmul || l->given || l->part.n_in) continue;
        bool first = true;
        for (size_t k = 0; k < i && first; k++)
            first = !p->launches[k].is_matmul || p->launches[k].weight != l->weight
                    || p->launches[k].reverse != l->reverse;
        for (int32_t e = 0; e < (l->n_group ? l->n_group : 1) && first; e++) {
            const weight *w = &model->program->weights[l->weight + e];
            if (model->stream->comes[l->weight + e])
                bytes += (int64_t)w->rows * w->columns * (int64_t)type_size(model->type);
        }
    }
    return bytes;
}

int64_t run_first_copies(const plan *p)
{
    return (p->n_runs > 0) + (p->n_repeats > 0) + (p->n_literals > 0) + (p->n_records > 0)
           + (p->n_metric_rows > 0) + 2 * (p->n_row_calls > 0) + run_copies(p);
}

int64_t run_later_launches(const struct inset_model *model, const plan *p)
{
    return model->device && device_captures(model->device) && p->n_launches
               ? 1
               : p->statistics.launches;
}

/* watched: the context's watcher may stop it. */
static inset_status launch_all(run *r, bool watched)
{
    plan *p = r->plan;
    device *d = r->model->device;
    inset_status status;
    if (p->needs_clearing
        && (status = device_zero(d, r->base[AREA_SAVED], (size_t)p->area_bytes[AREA_SAVED])))
        return status;
    for (size_t i = 0; i < p->n_launches; i++) {
        const launch *l = &r->launches[i];
        const matrix *m = l->matrix;
        size_t size;
        if (watched
            && (status = context_watch(r->context, "running", (int64_t)i, (int64_t)p->n_launches)))
            return status;
        if (r->visits && (status = stream_before(r->visits, i))) return status;
        const void *arguments = launch_arguments(l, &size);
        status = l->gelu ? device_matmul_gelu(d, m, l->x, l->x_stride, l->y, l->y_stride, l->rows)
                 : l->n_group ? device_matmul_group(
                       d, l->matrices, l->n_group, l->offsets, l->x, l->y, l->rows)
                 : l->is_matmul ? device_matmul(d, m, l->x, l->x_stride, l->y, l->y_stride, l->rows)
                                : device_launch(d, launch_kernel(l), (inset_type)l->type, arguments,
                                    size, l->blocks, l->work);
        if (!status && r->visits) status = stream_after(r->visits, i);
        if (status) return status;
    }
    return INSET_OK;
}

/* Where capturing fails nothing is lost but time: the launches go singly. A device that is broken
 * says so again when they do. */
static void capture_launches(run *r)
{
    device *d = r->model->device;
    r->launched_singly = true;
    if (device_capture_begin(d)) return;
    inset_status status = launch_all(r, false);
    r->launched_singly = device_capture_end(d, status ? NULL : &r->graph) || status;
}

/* Matrices of other numbers take the place of those that a captured graph reads. */
static inset_status renew_matrices(run *r)
{
    bool renewed;
    inset_status status = matrices_renew(r->matrices, &renewed);
    if (status || !renewed) return status;
    device_graph_free(r->model->device, r->graph);
    r->graph = NULL;
    r->has_run = false; /* a product runs once before it is captured */
    for (size_t i = 0; i < r->plan->n_launches && !status; i++)
        if (r->launches[i].is_matmul && !r->launches[i].n_group)
            status = bind_matrix(r, &r->launches[i]);
    return status;
}

/* Gives the device all that a run is. */
static inset_status enqueue(run *r)
{
    device *d = r->model->device;
    inset_status status = renew_matrices(r);
    if (!status) status = upload_inputs(r);
    if (status) return status;
    r->saved_here = false;
    if (r->has_run && !r->graph && !r->launched_singly && r->plan->n_launches && device_captures(d))
        capture_launches(r);
    if (!r->graph) return launch_all(r, true);
    status = context_watch(r->context, "running", 0, (int64_t)r->plan->n_launches);
    return status ? status : device_replay(d, r->graph);
}

inset_status run_execute(run *r)
{
    inset_status status = enqueue(r);
    if (status || (status = device_synchronize(r->model->device))) return status;
    r->has_run = true;
    return INSET_OK;
}

inset_status run_saved(run *r, size_t index, inset_tensor *out)
{
    plan *p = r->plan;
    if (index >= p->n_saved)
        return error_set(r->context, INSET_INDEX_ERROR, "saved value %zu of a plan that saves %zu",
            index, p->n_saved);
    if (!r->has_run)
        return error_set(r->context, INSET_USAGE_ERROR,
            "'%s' has no value yet: the plan was not run", p->saved[index].name);
    const char *saved = r->base[AREA_SAVED];
    if (!r->model->device->shares_host_memory) {
        size_t bytes = (size_t)p->area_bytes[AREA_SAVED];
        if (!r->saved && !(r->saved = memory_new(r->context, bytes))) return INSET_NO_MEMORY;
        inset_status status = r->saved_here ? INSET_OK
                                            : device_download(r->model->device, r->saved,
                                                r->base[AREA_SAVED], bytes);
        if (status) return status;
        r->saved_here = true;
        saved = r->saved;
    }
    plan_saved_describe(p, index, out);
    out->data = saved + p->saved[index].offset;
    return INSET_OK;
}

void run_saved_there(const run *r, size_t index, inset_tensor *out)
{
    plan_saved_describe(r->plan, index, out);
    out->data = (const char *)r->base[AREA_SAVED] + r->plan->saved[index].offset;
}

inset_status run_saved_share(run *r, size_t index, inset_tensor *out, device_share *share)
{
    device *d = r->model->device;
    run_saved_there(r, index, out);
    const size_t bytes = (size_t)inset_tensor_count(out) * type_size(out->type);
    inset_status status = device_share_new(d, bytes, share);
    if (status) return status;
    if (!(status = device_copy(d, share->data, out->data, bytes))) status = device_synchronize(d);
    if (status) share->release(share->owner);
    out->data = status ? NULL : share->data;
    return status;
}

/* ---- one run behind the other ------------------------------------------- */

inset_status run_room_create(struct inset_model *model, run_room **out)
{
    *out = NULL;
    inset_status status = INSET_OK;
    run_room *room = memory_new(model->context, sizeof *room);
    if (!room) return INSET_NO_MEMORY;
    room->model = model;
    for (int i = 0; i < RUN_SLOTS && !status && device_works_ahead(model->device); i++)
        status = device_landing_create(model->device, &room->landings[i]);
    if (status) {
        run_room_free(room);
        return status;
    }
    *out = room;
    return INSET_OK;
}

void run_room_free(run_room *room)
{
    if (!room) return;
    device *d = room->model->device;
    for (int i = 0; i < RUN_SLOTS; i++) device_landing_free(d, room->landings[i]);
    device_release(d, room->memory, room->bytes);
    memory_free(room->model->context, room);
}

inset_status run_start(run *r, int slot)
{
    device *d = r->model->device;
    if (!r->room || r->room->owner != r)
        return error_set(
            r->context, INSET_USAGE_ERROR, "the room of this run was given to another");
    inset_status status = enqueue(r);
    if (status) return status;
    if (device_works_ahead(d))
        status = device_landing_start(d, r->room->landings[slot], r->base[AREA_SAVED],
            (size_t)r->plan->area_bytes[AREA_SAVED]);
    else r->room->arrived[slot] = r->base[AREA_SAVED];
    if (status) {
        device_synchronize(d); /* nobody will wait for this run */
        return status;
    }
    r->unfinished++;
    r->has_run = true;
    return INSET_OK;
}

inset_status run_finish(run *r, int slot)
{
    const void *at = r->room->arrived[slot];
    inset_status status = device_works_ahead(r->model->device)
                              ? device_landing_wait(r->model->device, r->room->landings[slot], &at)
                              : INSET_OK;
    r->unfinished--;
    r->room->arrived[slot] = at;
    return status;
}

void run_arrived(const run *r, int slot, size_t index, inset_tensor *out)
{
    plan_saved_describe(r->plan, index, out);
    out->data = r->room->arrived[slot] + r->plan->saved[index].offset;
}
