/* attention_graph.c: the operations of causal attention as cuDNN's engines know them, in the order
 * in which they look for them:
 *
 *     scores = q k^T;  x scale;  -infinity where the key's index is larger than the query's
 *     largest, x - largest, exp, sum;  statistics = largest + log(sum);  pattern = exp / sum, in
 *                                      the storage type
 *     out = pattern v
 *
 * What lies between the inputs and the outputs is virtual: it exists in the engine's registers
 * only. The graph is declared to be of dynamic shape, so that plans for other lengths take the
 * kernels that the first one compiled: half a second once, then less than a millisecond. */
#include "device/cuda/attention_graph.h"

#include <string.h>

typedef struct builder {
    const cudnn_library *library;
    attention_plan *out;
    cudnn_descriptor operations[16];
    int n_operations;
    int64_t next_id; /* of a virtual tensor */
    bool failed;     /* the first failure sticks */
} builder;

/* ---- descriptors -------------------------------------------------------- */

static cudnn_descriptor begin(builder *b, int kind)
{
    attention_plan *p = b->out;
    if (b->failed || p->n == ATTENTION_DESCRIPTORS) return b->failed = true, NULL;
    b->failed = b->library->cudnnBackendCreateDescriptor(kind, &p->all[p->n]) != 0;
    return b->failed ? NULL : p->all[p->n++];
}

static void set(
    builder *b, cudnn_descriptor d, int name, int type, int64_t count, const void *elements)
{
    if (!b->failed)
        b->failed = b->library->cudnnBackendSetAttribute(d, name, type, count, elements) != 0;
}

static void set_number(builder *b, cudnn_descriptor d, int name, int type, int number)
{
    set(b, d, name, type, 1, &number);
}

static void set_descriptor(builder *b, cudnn_descriptor d, int name, cudnn_descriptor other)
{
    if (other) set(b, d, name, CUDNN_IS_DESCRIPTOR, 1, &other);
}

static void finish(builder *b, cudnn_descriptor d)
{
    if (!b->failed) b->failed = b->library->cudnnBackendFinalize(d) != 0;
}

/* ---- tensors: [sequence, head, ., .] ------------------------------------ */

typedef struct extent {
    int64_t dimensions[4], strides[4];
} extent;

static cudnn_descriptor tensor(builder *b, int type, const extent *e, int64_t id, bool by_value)
{
    const int64_t alignment = 16, number = id ? id : b->next_id++;
    const bool is_virtual = !id;
    cudnn_descriptor d = begin(b, CUDNN_TENSOR);
    set_number(b, d, CUDNN_TENSOR_TYPE, CUDNN_IS_DATA_TYPE, type);
    set(b, d, CUDNN_TENSOR_DIMENSIONS, CUDNN_IS_INT64, 4, e->dimensions);
    set(b, d, CUDNN_TENSOR_STRIDES, CUDNN_IS_INT64, 4, e->strides);
    set(b, d, CUDNN_TENSOR_ID, CUDNN_IS_INT64, 1, &number);
    set(b, d, CUDNN_TENSOR_ALIGNMENT, CUDNN_IS_INT64, 1, &alignment);
    set(b, d, CUDNN_TENSOR_VIRTUAL, CUDNN_IS_BOOLEAN, 1, &is_virtual);
    set(b, d, CUDNN_TENSOR_BY_VALUE, CUDNN_IS_BOOLEAN, 1, &by_value);
    finish(b, d);
    return d;
}

/* Rows of a buffer: heads lie side by side in a row. */
static extent rows_extent(const attention_shape *s, int64_t heads, int64_t stride)
{
    return (extent){{s->n_sequences, heads, s->length, s->head_dim},
        {s->length * stride, s->head_dim, stride, 1}};
}

static extent transposed(extent e)
{
    return (extent){{e.dimensions[0], e.dimensions[1], e.dimensions[3], e.dimensions[2]},
        {e.strides[0], e.strides[1], e.strides[3], e.strides[2]}};
}

static extent dense(int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (extent){{a, b, c, d}, {b * c * d, c * d, d, 1}};
}

/* ---- operations --------------------------------------------------------- */

static void add_operation(builder *b, cudnn_descriptor operation)
{
    finish(b, operation);
    b->operations[b->n_operations++] = operation;
}

/* y = mode(x, other, chosen); axis: of CUDNN_INDEX, else -1. */
static void pointwise(builder *b, int mode, int precision, int64_t axis, cudnn_descriptor x,
    cudnn_descriptor other, cudnn_descriptor chosen, cudnn_descriptor y)
{
    cudnn_descriptor what = begin(b, CUDNN_POINTWISE);
    set_number(b, what, CUDNN_POINTWISE_MODE, CUDNN_IS_POINTWISE_MODE, mode);
    set_number(b, what, CUDNN_POINTWISE_PRECISION, CUDNN_IS_DATA_TYPE, precision);
    if (axis >= 0) set(b, what, CUDNN_POINTWISE_AXIS, CUDNN_IS_INT64, 1, &axis);
    finish(b, what);
    cudnn_descriptor operation = begin(b, CUDNN_OPERATION_POINTWISE);
    set_descriptor(b, operation, CUDNN_OP_POINTWISE, what);
    set_descriptor(b, operation, CUDNN_OP_POINTWISE_X, x);
    set_descriptor(b, operation, CUDNN_OP_POINTWISE_B, other);
    set_descriptor(b, operation, CUDNN_OP_POINTWISE_T, chosen);
    set_descriptor(b, operation, CUDNN_OP_POINTWISE_Y, y);
    add_operation(b, operation);
}

static void multiply(builder *b, cudnn_descriptor x, cudnn_descriptor y, cudnn_descriptor product)
{
    cudnn_descriptor what = begin(b, CUDNN_MATMUL);
    set_number(b, what, CUDNN_MATMUL_TYPE, CUDNN_IS_DATA_TYPE, CUDNN_FLOAT);
    finish(b, what);
    cudnn_descriptor operation = begin(b, CUDNN_OPERATION_MATMUL);
    set_descriptor(b, operation, CUDNN_OP_MATMUL_A, x);
    set_descriptor(b, operation, CUDNN_OP_MATMUL_B, y);
    set_descriptor(b, operation, CUDNN_OP_MATMUL_C, product);
    set_descriptor(b, operation, CUDNN_OP_MATMUL, what);
    add_operation(b, operation);
}

static void reduce(builder *b, int how, cudnn_descriptor x, cudnn_descriptor y)
{
    cudnn_descriptor what = begin(b, CUDNN_REDUCTION);
    set_number(b, what, CUDNN_REDUCTION_OPERATOR, CUDNN_IS_REDUCTION, how);
    set_number(b, what, CUDNN_REDUCTION_TYPE, CUDNN_IS_DATA_TYPE, CUDNN_FLOAT);
    finish(b, what);
    cudnn_descriptor operation = begin(b, CUDNN_OPERATION_REDUCTION);
    set_descriptor(b, operation, CUDNN_OP_REDUCTION_X, x);
    set_descriptor(b, operation, CUDNN_OP_REDUCTION_Y, y);
    set_descriptor(b, operation, CUDNN_OP_REDUCTION, what);
    add_operation(b, operation);
}

static void add_attention(builder *b)
{
    const attention_shape *s = &b->out->shape;
    const int type = s->type == INSET_BF16 ? CUDNN_BFLOAT16 : CUDNN_HALF;
    const extent one = dense(1, 1, 1, 1),
                 square = dense(s->n_sequences, s->n_heads, s->length, s->length),
                 column = dense(s->n_sequences, s->n_heads, s->length, 1),
                 q_rows = rows_extent(s, s->n_heads, s->q_stride),
                 k_rows = transposed(rows_extent(s, s->n_kv_heads, s->k_stride)),
                 v_rows = rows_extent(s, s->n_kv_heads, s->v_stride),
                 out_rows = rows_extent(s, s->n_heads, s->out_stride);
    cudnn_descriptor q = tensor(b, type, &q_rows, ATTENTION_Q, false),
                     k = tensor(b, type, &k_rows, ATTENTION_K, false),
                     v = tensor(b, type, &v_rows, ATTENTION_V, false),
                     out = tensor(b, type, &out_rows, ATTENTION_OUT, false),
                     statistics = tensor(b, CUDNN_FLOAT, &column, ATTENTION_STATISTICS, false),
                     scale = tensor(b, CUDNN_FLOAT, &one, ATTENTION_SCALE, true),
                     masked = tensor(b, CUDNN_FLOAT, &one, ATTENTION_MASKED, true);

    cudnn_descriptor product = tensor(b, CUDNN_FLOAT, &square, 0, false),
                     scaled = tensor(b, CUDNN_FLOAT, &square, 0, false),
                     query = tensor(b, CUDNN_INT32, &square, 0, false),
                     key = tensor(b, CUDNN_INT32, &square, 0, false),
                     seen = tensor(b, CUDNN_BOOLEAN, &square, 0, false),
                     scores = tensor(b, CUDNN_FLOAT, &square, 0, false);
    multiply(b, q, k, product);
    pointwise(b, CUDNN_MULTIPLY, CUDNN_FLOAT, -1, product, scale, NULL, scaled);
    pointwise(b, CUDNN_INDEX, CUDNN_FLOAT, 2, scaled, NULL, NULL, query);
    pointwise(b, CUDNN_INDEX, CUDNN_FLOAT, 3, scaled, NULL, NULL, key);
    pointwise(b, CUDNN_NOT_LESS, CUDNN_BOOLEAN, -1, query, key, NULL, seen);
    pointwise(b, CUDNN_SELECT, CUDNN_FLOAT, -1, scaled, masked, seen, scores);

    cudnn_descriptor largest = tensor(b, CUDNN_FLOAT, &column, 0, false),
                     shifted = tensor(b, CUDNN_FLOAT, &square, 0, false),
                     weights = tensor(b, CUDNN_FLOAT, &square, 0, false),
                     sum = tensor(b, CUDNN_FLOAT, &column, 0, false),
                     logarithm = tensor(b, CUDNN_FLOAT, &column, 0, false),
                     pattern = tensor(b, type, &square, 0, false);
    reduce(b, CUDNN_LARGEST, scores, largest);
    pointwise(b, CUDNN_SUBTRACT, CUDNN_FLOAT, -1, scores, largest, NULL, shifted);
    pointwise(b, CUDNN_EXP, CUDNN_FLOAT, -1, shifted, NULL, NULL, weights);
    reduce(b, CUDNN_SUM, weights, sum);
    pointwise(b, CUDNN_LOG, CUDNN_FLOAT, -1, sum, NULL, NULL, logarithm);
    pointwise(b, CUDNN_ADD, CUDNN_FLOAT, -1, largest, logarithm, NULL, statistics);
    pointwise(b, CUDNN_DIVIDE, CUDNN_FLOAT, -1, weights, sum, NULL, pattern);
    multiply(b, pattern, v, out);
}

/* ---- the plan ----------------------------------------------------------- */

static cudnn_descriptor make_graph(builder *b, const attention_target *target)
{
    const bool dynamic = true;
    cudnn_descriptor graph = begin(b, CUDNN_GRAPH);
    if (target->handle) set(b, graph, CUDNN_GRAPH_HANDLE, CUDNN_IS_HANDLE, 1, &target->handle);
    set(b, graph, CUDNN_GRAPH_OPERATIONS, CUDNN_IS_DESCRIPTOR, b->n_operations, b->operations);
    set(b, graph, CUDNN_GRAPH_DYNAMIC, CUDNN_IS_BOOLEAN, 1, &dynamic);
    finish(b, graph);
    return graph;
}

/* The kernels that plans share are bound to the form of the first plan's graph. */
static void make_kernel_cache(builder *b, const attention_target *target, cudnn_descriptor graph)
{
    if (b->failed || *target->kernels) return;
    cudnn_descriptor made = NULL;
    b->failed = b->library->cudnnBackendCreateDescriptor(CUDNN_KERNEL_CACHE, &made) != 0;
    set_descriptor(b, made, CUDNN_KERNEL_CACHE_GRAPH, graph);
    finish(b, made);
    if (!b->failed) *target->kernels = made;
    else if (made) b->library->cudnnBackendDestroyDescriptor(made);
}

/* How many configurations cuDNN's heuristic proposes, best first, at most `most`. */
static int64_t propose(builder *b, const attention_target *target, cudnn_descriptor graph,
    cudnn_descriptor *configs, int64_t most)
{
    cudnn_descriptor heuristic = begin(b, CUDNN_ENGINE_HEURISTIC);
    int64_t n = 0, found = 0;
    set_descriptor(b, heuristic, CUDNN_HEURISTIC_GRAPH, graph);
    set_number(b, heuristic, CUDNN_HEURISTIC_MODE, CUDNN_IS_HEURISTIC, CUDNN_HEURISTIC_A);
    set_descriptor(b, heuristic, CUDNN_HEURISTIC_DEVICE, target->device);
    finish(b, heuristic);
    if (b->failed
        || b->library->cudnnBackendGetAttribute(
            heuristic, CUDNN_HEURISTIC_RESULTS, CUDNN_IS_DESCRIPTOR, 0, &found, NULL))
        return 0;
    for (; n < found && n < most; n++) configs[n] = begin(b, CUDNN_ENGINE_CONFIG);
    if (b->failed
        || b->library->cudnnBackendGetAttribute(
            heuristic, CUDNN_HEURISTIC_RESULTS, CUDNN_IS_DESCRIPTOR, n, &found, configs))
        return 0;
    return found < n ? found : n;
}

/* The plan of one configuration; false when it cannot be had, which is no failure: the next may
 * do. */
static bool finalise(builder *b, const attention_target *target, cudnn_descriptor config)
{
    int64_t found = 0;
    cudnn_descriptor plan = begin(b, CUDNN_PLAN);
    if (target->handle) set(b, plan, CUDNN_PLAN_HANDLE, CUDNN_IS_HANDLE, 1, &target->handle);
    set_descriptor(b, plan, CUDNN_PLAN_CONFIG, config);
    set_descriptor(b, plan, CUDNN_PLAN_DEVICE, target->device);
    set_descriptor(b, plan, CUDNN_PLAN_KERNEL_CACHE, *target->kernels);
    if (b->failed || b->library->cudnnBackendFinalize(plan)) return false;
    if (b->library->cudnnBackendGetAttribute(
            plan, CUDNN_PLAN_WORKSPACE, CUDNN_IS_INT64, 1, &found, &b->out->workspace))
        return false;
    b->out->plan = plan;
    return true;
}

bool attention_plan_make(
    const cudnn_library *library, const attention_target *target, attention_plan *out)
{
    enum { MOST = 8 };
    builder b = {.library = library, .out = out, .next_id = ATTENTION_IDS + 1};
    cudnn_descriptor configs[MOST];
    *out = (attention_plan){.shape = out->shape};
    add_attention(&b);
    cudnn_descriptor graph = make_graph(&b, target);
    make_kernel_cache(&b, target, graph);
    const int64_t n = propose(&b, target, graph, configs, MOST);
    for (int64_t i = 0; i < n && !out->plan && !b.failed; i++) finalise(&b, target, configs[i]);
    if (!out->plan) attention_plan_free(library, out);
    return out->plan != NULL;
}

void attention_plan_free(const cudnn_library *library, attention_plan *p)
{
    while (p->n) library->cudnnBackendDestroyDescriptor(p->all[--p->n]);
    p->plan = NULL;
}
