/* attention.c: cuDNN's backend API for the stand-in: descriptors keep what they are given, a plan
 * is its graph's operations in order, and running it is running each of them over whole tensors in
 * plain loops. It knows nothing of attention: what comes out is what the descriptors say. */
#include "device/cuda/cudnn.h"
#include "standin/inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BAD_PARAMETER = 2000,
    NOT_SUPPORTED = 3000,
    FAILED = 5000,
    MOST_TENSORS = 64,
    MOST_OPERATIONS = 16,
    MOST_ATTRIBUTES = 12,
    WORKSPACE = 256
};

typedef struct attribute {
    int name, type;
    int64_t count;
    void *elements;
} attribute;

typedef struct tensor_form {
    int type;
    int64_t dimensions[4], strides[4], id;
    bool is_virtual, by_value;
} tensor_form;
typedef struct plan_operation {
    int kind, mode, x, b, t, y;
    int64_t axis;
} plan_operation;
typedef struct plan_program {
    tensor_form tensors[MOST_TENSORS];
    int n_tensors;
    plan_operation operations[MOST_OPERATIONS];
    int n_operations;
} plan_program;

typedef struct descriptor {
    standin_handle handle;
    int kind;
    bool finalised;
    attribute attributes[MOST_ATTRIBUTES];
    int n;
    plan_program *program; /* of a plan */
} descriptor;

typedef struct cudnn_state {
    standin_handle handle;
    cuda_stream stream;
} cudnn_state;

/* ---- descriptors -------------------------------------------------------- */

static int create_handle(cudnn_handle *out)
{
    int error = standin_begin_products(FAILED);
    if (!error) *out = handle_create(HANDLE_CUDNN, sizeof(cudnn_state));
    return error;
}

static int destroy_handle(cudnn_handle h)
{
    int error = standin_begin_products(FAILED);
    handle_destroy(h, HANDLE_CUDNN, "cudnnDestroy");
    return error;
}

static int set_stream(cudnn_handle h, cuda_stream stream)
{
    int error = standin_begin_products(FAILED);
    if (error) return error;
    if (!handle_good(h, HANDLE_CUDNN, "cudnnSetStream")
        || !handle_good(stream, HANDLE_STREAM, "cudnnSetStream"))
        return BAD_PARAMETER;
    ((cudnn_state *)h)->stream = stream;
    return 0;
}

static int create(int kind, cudnn_descriptor *out)
{
    int error = standin_begin_products(FAILED);
    if (error) return error;
    descriptor *d = handle_create(HANDLE_DESCRIPTOR, sizeof *d);
    if (!d) return FAILED;
    d->kind = kind;
    *out = d;
    return 0;
}

static int destroy(cudnn_descriptor of)
{
    int error = standin_begin_products(FAILED);
    descriptor *d = of;
    if (!handle_good(d, HANDLE_DESCRIPTOR, "cudnnBackendDestroyDescriptor")) return BAD_PARAMETER;
    for (int i = 0; i < d->n; i++) free(d->attributes[i].elements);
    free(d->program);
    d->n = 0;
    d->program = NULL;
    handle_destroy(d, HANDLE_DESCRIPTOR, "cudnnBackendDestroyDescriptor");
    return error;
}

static size_t element_bytes(int type)
{
    return type == CUDNN_IS_BOOLEAN || type == CUDNN_IS_CHAR ? 1
           : type == CUDNN_IS_HANDLE || type == CUDNN_IS_INT64 || type == CUDNN_IS_POINTER
                   || type == CUDNN_IS_DESCRIPTOR
               ? 8
               : 4;
}

static int set(cudnn_descriptor of, int name, int type, int64_t count, const void *elements)
{
    int error = standin_begin_products(FAILED);
    descriptor *d = of;
    if (error) return error;
    if (!handle_good(d, HANDLE_DESCRIPTOR, "cudnnBackendSetAttribute")) return BAD_PARAMETER;
    if (d->finalised)
        return standin_problem("attribute %d of a descriptor that is finalised", name),
               BAD_PARAMETER;
    if (d->n == MOST_ATTRIBUTES) return BAD_PARAMETER;
    const descriptor *const *parts = elements;
    for (int64_t i = 0; type == CUDNN_IS_DESCRIPTOR && i < count; i++)
        if (!handle_good(parts[i], HANDLE_DESCRIPTOR, "cudnnBackendSetAttribute")
            || !parts[i]->finalised)
            return standin_problem("attribute %d is a descriptor that is not finalised", name),
                   BAD_PARAMETER;
    attribute *a = &d->attributes[d->n];
    *a = (attribute){name, type, count, malloc((size_t)count * element_bytes(type) + 1)};
    if (!a->elements) return FAILED;
    memcpy(a->elements, elements, (size_t)count * element_bytes(type));
    d->n++;
    return 0;
}

/* An attribute's elements, of which there must be `count`; NULL, and a problem unless it may be
 * missing, when it is not there. */
static const void *read_attribute(
    const descriptor *d, int name, int type, int64_t count, bool optional)
{
    for (int i = 0; i < d->n; i++)
        if (d->attributes[i].name == name && d->attributes[i].type == type
            && d->attributes[i].count == count)
            return d->attributes[i].elements;
    if (!optional)
        standin_problem("a descriptor of kind %d without attribute %d of type %d, %lld elements",
            d->kind, name, type, (long long)count);
    return NULL;
}

static int read_number(const descriptor *d, int name, int type)
{
    const int *number = read_attribute(d, name, type, 1, false);
    return number ? *number : -1;
}

static const descriptor *read_descriptor(const descriptor *d, int name, bool optional)
{
    const descriptor *const *part = read_attribute(d, name, CUDNN_IS_DESCRIPTOR, 1, optional);
    return part ? *part : NULL;
}

/* ---- plans -------------------------------------------------------------- */

/* The tensor's place in the program; -1 without one. */
static int add_tensor(plan_program *p, const descriptor *d)
{
    if (!d || p->n_tensors == MOST_TENSORS) return -1;
    tensor_form t = {.type = read_number(d, CUDNN_TENSOR_TYPE, CUDNN_IS_DATA_TYPE)};
    const int64_t *dimensions = read_attribute(
                      d, CUDNN_TENSOR_DIMENSIONS, CUDNN_IS_INT64, 4, false),
                  *strides = read_attribute(d, CUDNN_TENSOR_STRIDES, CUDNN_IS_INT64, 4, false),
                  *id = read_attribute(d, CUDNN_TENSOR_ID, CUDNN_IS_INT64, 1, false),
                  *alignment = read_attribute(d, CUDNN_TENSOR_ALIGNMENT, CUDNN_IS_INT64, 1, false);
    const bool *is_virtual = read_attribute(d, CUDNN_TENSOR_VIRTUAL, CUDNN_IS_BOOLEAN, 1, false),
               *by_value = read_attribute(d, CUDNN_TENSOR_BY_VALUE, CUDNN_IS_BOOLEAN, 1, false);
    if (!dimensions || !strides || !id || !alignment || !is_virtual || !by_value) return -1;
    memcpy(t.dimensions, dimensions, sizeof t.dimensions);
    memcpy(t.strides, strides, sizeof t.strides);
    t.id = *id, t.is_virtual = *is_virtual, t.by_value = *by_value;
    for (int i = 0; i < p->n_tensors; i++)
        if (p->tensors[i].id == t.id)
            return memcmp(&p->tensors[i], &t, sizeof t)
                   ? standin_problem("two tensors with id %lld", (long long)t.id),
                   -1 : i;
    p->tensors[p->n_tensors] = t;
    return p->n_tensors++;
}

static bool add_operation(plan_program *p, const descriptor *d)
{
    if (p->n_operations == MOST_OPERATIONS) return false;
    plan_operation *o = &p->operations[p->n_operations++];
    *o = (plan_operation){.kind = d->kind, .b = -1, .t = -1};
    if (d->kind == CUDNN_OPERATION_MATMUL) {
        o->x = add_tensor(p, read_descriptor(d, CUDNN_OP_MATMUL_A, false));
        o->b = add_tensor(p, read_descriptor(d, CUDNN_OP_MATMUL_B, false));
        o->y = add_tensor(p, read_descriptor(d, CUDNN_OP_MATMUL_C, false));
        return o->x >= 0 && o->b >= 0 && o->y >= 0 && read_descriptor(d, CUDNN_OP_MATMUL, false);
    }
    const bool pointwise = d->kind == CUDNN_OPERATION_POINTWISE;
    const descriptor *what = read_descriptor(
        d, pointwise ? CUDNN_OP_POINTWISE : CUDNN_OP_REDUCTION, false);
    if (!what || (!pointwise && d->kind != CUDNN_OPERATION_REDUCTION)) return false;
    o->mode = pointwise ? read_number(what, CUDNN_POINTWISE_MODE, CUDNN_IS_POINTWISE_MODE)
                        : read_number(what, CUDNN_REDUCTION_OPERATOR, CUDNN_IS_REDUCTION);
    const int64_t *axis = pointwise
                              ? read_attribute(what, CUDNN_POINTWISE_AXIS, CUDNN_IS_INT64, 1, true)
                              : NULL;
    o->axis = axis ? *axis : -1;
    o->x = add_tensor(
        p, read_descriptor(d, pointwise ? CUDNN_OP_POINTWISE_X : CUDNN_OP_REDUCTION_X, false));
    o->y = add_tensor(
        p, read_descriptor(d, pointwise ? CUDNN_OP_POINTWISE_Y : CUDNN_OP_REDUCTION_Y, false));
    if (pointwise) o->b = add_tensor(p, read_descriptor(d, CUDNN_OP_POINTWISE_B, true));
    if (pointwise) o->t = add_tensor(p, read_descriptor(d, CUDNN_OP_POINTWISE_T, true));
    return o->x >= 0 && o->y >= 0;
}

static const attribute *find_attribute(const descriptor *d, int name)
{
    for (int i = 0; i < d->n; i++)
        if (d->attributes[i].name == name) return &d->attributes[i];
    return NULL;
}

static int finalise_plan(descriptor *d)
{
    const descriptor *config = read_descriptor(d, CUDNN_PLAN_CONFIG, false),
                     *kernels = read_descriptor(d, CUDNN_PLAN_KERNEL_CACHE, false);
    const descriptor *graph = config ? read_descriptor(config, CUDNN_HEURISTIC_GRAPH, false) : NULL;
    const attribute *operations = graph ? find_attribute(graph, CUDNN_GRAPH_OPERATIONS) : NULL;
    const bool *dynamic = graph ? read_attribute(
                              graph, CUDNN_GRAPH_DYNAMIC, CUDNN_IS_BOOLEAN, 1, false)
                                : NULL;
    if (!operations || !kernels || !dynamic || !*dynamic) return BAD_PARAMETER;
    d->program = calloc(1, sizeof *d->program);
    if (!d->program) return FAILED;
    for (int64_t i = 0; i < operations->count; i++)
        if (!add_operation(d->program, ((const descriptor *const *)operations->elements)[i]))
            return standin_problem("operation %lld of a plan", (long long)i), BAD_PARAMETER;
    const int64_t *shape = d->program->tensors[0].dimensions;
    if (standin_now.most_sequences && shape[0] > standin_now.most_sequences) return NOT_SUPPORTED;
    if (standin_now.refused_length && shape[2] == standin_now.refused_length) return NOT_SUPPORTED;
    standin_count.attention_plans++;
    return 0;
}

static int finalise(cudnn_descriptor of)
{
    int error = standin_begin_products(FAILED);
    descriptor *d = of;
    if (error) return error;
    if (!handle_good(d, HANDLE_DESCRIPTOR, "cudnnBackendFinalize")) return BAD_PARAMETER;
    if (d->kind == CUDNN_PLAN && (error = finalise_plan(d))) return error;
    d->finalised = true;
    return 0;
}

/* The heuristic proposes two configurations, which are the graph under another name. */
static int get(
    cudnn_descriptor of, int name, int type, int64_t wanted, int64_t *found, void *elements)
{
    int error = standin_begin_products(FAILED);
    descriptor *d = of;
    if (error) return error;
    if (!handle_good(d, HANDLE_DESCRIPTOR, "cudnnBackendGetAttribute") || !d->finalised)
        return BAD_PARAMETER;
    if (d->kind == CUDNN_PLAN && name == CUDNN_PLAN_WORKSPACE && type == CUDNN_IS_INT64
        && wanted == 1) {
        *(int64_t *)elements = WORKSPACE;
        return *found = 1, 0;
    }
    if (d->kind != CUDNN_ENGINE_HEURISTIC || name != CUDNN_HEURISTIC_RESULTS) return BAD_PARAMETER;
    *found = 2;
    for (int64_t i = 0; i < wanted && i < 2; i++) {
        descriptor *config = ((descriptor **)elements)[i];
        const descriptor *graph = read_descriptor(d, CUDNN_HEURISTIC_GRAPH, false);
        if (!handle_good(config, HANDLE_DESCRIPTOR, "cudnnBackendGetAttribute")
            || set(config, CUDNN_HEURISTIC_GRAPH, CUDNN_IS_DESCRIPTOR, 1, &graph))
            return FAILED;
        config->finalised = true;
    }
    return 0;
}

/* ---- running ------------------------------------------------------------ */

/* What one execution reads: queued, so by value. */
typedef struct execution {
    descriptor *plan;
    void *pointers[MOST_TENSORS / 4];
    float numbers[MOST_TENSORS / 4];
    int64_t ids[MOST_TENSORS / 4];
    int64_t n;
} execution;

typedef struct running {
    const plan_program *program;
    const execution *given;
    float *values[MOST_TENSORS];
} running;

static int64_t count_of(const tensor_form *t)
{
    return t->dimensions[0] * t->dimensions[1] * t->dimensions[2] * t->dimensions[3];
}
static size_t bytes_of(int type)
{
    return type == CUDNN_FLOAT || type == CUDNN_INT32 ? 4 : type == CUDNN_BOOLEAN ? 1 : 2;
}

static int given_as(const execution *e, int64_t id)
{
    for (int i = 0; i < e->n; i++)
        if (e->ids[i] == id) return i;
    return -1;
}

static float rounded(int type, float x)
{
    return type == CUDNN_BFLOAT16 ? bf16_to_float(bf16_from_float(x))
           : type == CUDNN_HALF   ? f16_to_float(f16_from_float(x))
                                  : x;
}

/* Elements before the one at `at`, extents of 1 being repeated and heads shared by groups. */
static int64_t place(const tensor_form *t, const int64_t *at, const int64_t *of)
{
    int64_t offset = 0;
    for (int i = 0; i < 4; i++)
        offset += (t->dimensions[i] == of[i] ? at[i] : at[i] / (of[i] / t->dimensions[i]))
                  * t->strides[i];
    return offset;
}

/* The whole tensor as fp32, dense; made when it is first read. */
static const float *read_tensor(running *r, int index)
{
    const tensor_form *t = &r->program->tensors[index];
    if (r->values[index]) return r->values[index];
    const int64_t n = count_of(t);
    float *out = r->values[index] = malloc((size_t)n * sizeof *out);
    const int slot = given_as(r->given, t->id);
    if (!out || slot < 0) abort();
    if (t->by_value) return out[0] = r->given->numbers[slot], out;
    for (int64_t i = 0; i < n; i++) {
        const int64_t *d = t->dimensions, at[4] = {i / (d[1] * d[2] * d[3]),
                                              i / (d[2] * d[3]) % d[1], i / d[3] % d[2], i % d[3]};
        const uint16_t *from = (const uint16_t *)r->given->pointers[slot] + place(t, at, d);
        out[i] = t->type == CUDNN_BFLOAT16 ? bf16_to_float(*from) : f16_to_float(*from);
    }
    return out;
}

static void write_tensor(const running *r, const tensor_form *t, const float *values)
{
    char *to = r->given->pointers[given_as(r->given, t->id)];
    for (int64_t i = 0; i < count_of(t); i++) {
        const int64_t *d = t->dimensions,
                      at[4] = {i / (d[1] * d[2] * d[3]), i / (d[2] * d[3]) % d[1], i / d[3] % d[2],
                          i % d[3]},
                      offset = place(t, at, d);
        if (t->type == CUDNN_FLOAT) ((float *)(void *)to)[offset] = values[i];
        else
            ((uint16_t *)(void *)to)[offset] = t->type == CUDNN_BFLOAT16
                                                   ? bf16_from_float(values[i])
                                                   : f16_from_float(values[i]);
    }
}

/* The element of a dense tensor that goes with element `at` of one with extents `of`. */
static const float *element(
    const float *values, const tensor_form *t, const int64_t *at, const int64_t *of)
{
    const int64_t *d = t->dimensions;
    const tensor_form dense = {.dimensions = {d[0], d[1], d[2], d[3]},
        .strides = {d[1] * d[2] * d[3], d[2] * d[3], d[3], 1}};
    return &values[place(&dense, at, of)];
}

static float combine(int mode, float x, float b, float t)
{
    switch (mode) {
    case CUDNN_ADD: return x + b;
    case CUDNN_MULTIPLY: return x * b;
    case CUDNN_DIVIDE: return x / b;
    case CUDNN_SUBTRACT: return x - b;
    case CUDNN_EXP: return expf(x);
    case CUDNN_LOG: return logf(x);
    case CUDNN_NOT_LESS: return x >= b;
    case CUDNN_SELECT: return t != 0 ? x : b;
    default: standin_problem("pointwise mode %d", mode); return NAN;
    }
}

static float multiply(const running *r, const plan_operation *o, const int64_t *at)
{
    const tensor_form *a = &r->program->tensors[o->x], *b = &r->program->tensors[o->b],
                      *c = &r->program->tensors[o->y];
    const int64_t left[4] = {at[0], at[1], at[2], 0},
                  left_of[4] = {c->dimensions[0], c->dimensions[1], c->dimensions[2],
                      a->dimensions[3]},
                  right[4] = {at[0], at[1], 0, at[3]},
                  right_of[4] = {
                      c->dimensions[0], c->dimensions[1], b->dimensions[2], c->dimensions[3]};
    const float *row = element(r->values[o->x], a, left, left_of),
                *column = element(r->values[o->b], b, right, right_of);
    float sum = 0;
    for (int64_t k = 0; k < a->dimensions[3]; k++) sum += row[k] * column[k * b->dimensions[3]];
    return sum;
}

/* Over the last dimension, which y has not. */
static float reduce(const running *r, const plan_operation *o, const int64_t *at)
{
    const tensor_form *x = &r->program->tensors[o->x];
    float result = o->mode == CUDNN_LARGEST ? -INFINITY : 0;
    for (int64_t k = 0; k < x->dimensions[3]; k++) {
        const float value = *element(
            r->values[o->x], x, (const int64_t[4]){at[0], at[1], at[2], k}, x->dimensions);
        result = o->mode == CUDNN_LARGEST ? fmaxf(result, value) : result + value;
    }
    return result;
}

static void run_operation(running *r, const plan_operation *o)
{
    const tensor_form *tensors = r->program->tensors, *y = &tensors[o->y];
    const int64_t *d = y->dimensions, n = count_of(y);
    float *out = malloc((size_t)n * sizeof *out);
    if (!out) abort();
    const float *x = o->mode == CUDNN_INDEX ? NULL : read_tensor(r, o->x),
                *b = o->b >= 0 ? read_tensor(r, o->b) : NULL,
                *t = o->t >= 0 ? read_tensor(r, o->t) : NULL;
    for (int64_t i = 0; i < n; i++) {
        const int64_t at[4] = {
            i / (d[1] * d[2] * d[3]), i / (d[2] * d[3]) % d[1], i / d[3] % d[2], i % d[3]};
        float value;
        if (o->kind == CUDNN_OPERATION_MATMUL) value = multiply(r, o, at);
        else if (o->kind == CUDNN_OPERATION_REDUCTION) value = reduce(r, o, at);
        else if (o->mode == CUDNN_INDEX) value = (float)at[o->axis];
        else
            value = combine(o->mode, *element(x, &tensors[o->x], at, d),
                b ? *element(b, &tensors[o->b], at, d) : 0,
                t ? *element(t, &tensors[o->t], at, d) : 0);
        out[i] = rounded(y->type, value);
    }
    free(r->values[o->y]);
    r->values[o->y] = out;
    if (!y->is_virtual) write_tensor(r, y, out);
}

static void run_plan(operation *queued)
{
    execution e;
    memcpy(&e, queued->args, sizeof e);
    if (!handle_good(e.plan, HANDLE_DESCRIPTOR, "a plan that runs")) return;
    running r = {.program = e.plan->program, .given = &e};
    for (int i = 0; i < r.program->n_tensors; i++) {
        const tensor_form *t = &r.program->tensors[i];
        int64_t last = 1;
        if (t->is_virtual || t->by_value) continue;
        for (int k = 0; k < 4; k++) last += (t->dimensions[k] - 1) * t->strides[k];
        if (!device_range(e.pointers[given_as(&e, t->id)], (size_t)last * bytes_of(t->type),
                "a tensor of a plan"))
            return;
    }
    for (int i = 0; i < r.program->n_operations; i++) run_operation(&r, &r.program->operations[i]);
    for (int i = 0; i < r.program->n_tensors; i++) free(r.values[i]);
}

/* Pointers of every tensor that is not virtual, aligned where they are the device's; numbers are
 * read now, as a launch's arguments are. */
static bool read_variants(const descriptor *variants, const plan_program *p, execution *e)
{
    const attribute *ids = find_attribute(variants, CUDNN_VARIANTS_IDS);
    if (!ids || ids->count > MOST_TENSORS / 4) return false;
    void *const *pointers = read_attribute(
        variants, CUDNN_VARIANTS_POINTERS, CUDNN_IS_POINTER, ids->count, false);
    void *const *workspace = read_attribute(
        variants, CUDNN_VARIANTS_WORKSPACE, CUDNN_IS_POINTER, 1, false);
    if (!pointers || !workspace || !device_range(*workspace, WORKSPACE, "the workspace of a plan"))
        return false;
    e->n = ids->count;
    memcpy(e->ids, ids->elements, (size_t)e->n * sizeof *e->ids);
    memcpy(e->pointers, pointers, (size_t)e->n * sizeof *pointers);
    for (int i = 0; i < p->n_tensors; i++) {
        const tensor_form *t = &p->tensors[i];
        const int slot = given_as(e, t->id);
        if (t->is_virtual) continue;
        if (slot < 0) return standin_problem("no address for tensor %lld", (long long)t->id), false;
        if (t->by_value) memcpy(&e->numbers[slot], e->pointers[slot], sizeof *e->numbers);
        else if ((uintptr_t)e->pointers[slot] % 16)
            return standin_problem("tensor %lld is not aligned to 16 bytes", (long long)t->id),
                   false;
    }
    return true;
}

static int execute(cudnn_handle h, cudnn_descriptor plan, cudnn_descriptor variants)
{
    static const char call[] = "cudnnBackendExecute";
    int error = standin_begin_products(FAILED);
    if (error) return error;
    execution e = {.plan = plan};
    if (!handle_good(h, HANDLE_CUDNN, call) || !handle_good(plan, HANDLE_DESCRIPTOR, call)
        || !handle_good(variants, HANDLE_DESCRIPTOR, call) || !e.plan->finalised
        || !((descriptor *)variants)->finalised || !read_variants(variants, e.plan->program, &e))
        return BAD_PARAMETER;
    operation *o = standin_queue(((cudnn_state *)h)->stream, "attention by cuDNN", run_plan);
    if (!o) return BAD_PARAMETER;
    _Static_assert(sizeof e <= sizeof o->args, "an execution fits an operation");
    memcpy(o->args, &e, sizeof e);
    standin_count.attentions++;
    return 0;
}

static size_t version(void) { return 91900; }
static const char *error_string(int error)
{
    return error == NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_EXECUTION_FAILED";
}

bool cudnn_open(cudnn_library *l)
{
    if (standin_now.no_attention) return false;
    *l = (cudnn_library){.cudnnGetVersion = version,
        .cudnnGetErrorString = error_string,
        .cudnnCreate = create_handle,
        .cudnnDestroy = destroy_handle,
        .cudnnSetStream = set_stream,
        .cudnnBackendCreateDescriptor = create,
        .cudnnBackendDestroyDescriptor = destroy,
        .cudnnBackendFinalize = finalise,
        .cudnnBackendSetAttribute = set,
        .cudnnBackendGetAttribute = get,
        .cudnnBackendExecute = execute};
    return true;
}

void cudnn_close(cudnn_library *l) { memset(l, 0, sizeof *l); }
