/* attention.c: attention of whole sequences by cuDNN, one plan a shape, all of them made from the
 * kernels of the first of their kind.
 *
 * A shape that cuDNN refuses is remembered as refused, and the planner has the own kernel do it.
 * What is taken is taken for good: other numbers of sequences run one by one where there is no plan
 * for all of them. Plans are made while nothing is captured, since the first run of everything is
 * not. */
#include "device/cuda/attention.h"

#include <math.h>
#include <string.h>

/* The kernels of one type and one kind of heads. */
typedef struct kernel_family {
    int32_t type, n_heads, n_kv_heads, head_dim;
    cudnn_descriptor kernels;
} kernel_family;

typedef struct shape_plan {
    attention_plan plan; /* plan.plan NULL: refused */
    void *workspace;     /* its own, where the device's is too small */
} shape_plan;

struct cuda_attention {
    cudnn_library library;
    cudnn_handle handle;
    kernel_family *families;
    size_t n_families, families_capacity;
    shape_plan **plans;
    size_t n_plans, plans_capacity;
};

/* ---- opening ------------------------------------------------------------ */

/* Opens cuDNN, once; NULL where there is none that fits. */
static cuda_attention *open_attention(cuda_device *d)
{
    if (d->attention || d->attention_missing) return d->attention;
    d->attention_missing = true;
    cuda_attention *a = memory_new(d->base.context, sizeof *a);
    if (!a) return NULL;
    if (cudnn_open(&a->library) && !cuda_enter(d) && !a->library.cudnnCreate(&a->handle)
        && !a->library.cudnnSetStream(a->handle, d->stream)) {
        d->attention_missing = false;
        return d->attention = a;
    }
    d->library.cudaGetLastError();
    if (a->handle) a->library.cudnnDestroy(a->handle);
    cudnn_close(&a->library);
    memory_free(d->base.context, a);
    return NULL;
}

void cuda_attention_close(cuda_device *d)
{
    cuda_attention *a = d->attention;
    inset_context *context = d->base.context;
    if (!a) return;
    for (size_t i = 0; i < a->n_plans; i++) {
        attention_plan_free(&a->library, &a->plans[i]->plan);
        cuda_release(&d->base, a->plans[i]->workspace, (size_t)a->plans[i]->plan.workspace);
        memory_free(context, a->plans[i]);
    }
    for (size_t i = 0; i < a->n_families; i++)
        if (a->families[i].kernels)
            a->library.cudnnBackendDestroyDescriptor(a->families[i].kernels);
    a->library.cudnnDestroy(a->handle);
    cudnn_close(&a->library);
    memory_free(context, a->families);
    memory_free(context, a->plans);
    memory_free(context, a);
    d->attention = NULL;
}

void cuda_attention_describe(cuda_device *d, text *out)
{
    const cuda_attention *a = open_attention(d);
    const size_t version = a ? a->library.cudnnGetVersion() : 0;
    if (!a) text_add(d->base.context, out, "no cuDNN");
    else
        text_add(d->base.context, out, "cuDNN %zu.%zu.%zu", version / 10000, version / 100 % 100,
            version % 100);
}

/* ---- plans -------------------------------------------------------------- */

static attention_shape shape_of(
    inset_type type, const whole_attention_args *args, int64_t n_sequences)
{
    return (attention_shape){.type = (int32_t)type,
        .n_heads = args->n_heads,
        .n_kv_heads = args->n_kv_heads,
        .head_dim = args->head_dim,
        .n_sequences = n_sequences,
        .length = args->length,
        .q_stride = args->q_stride,
        .k_stride = args->k_stride,
        .v_stride = args->v_stride,
        .out_stride = args->out_stride};
}

static kernel_family *find_family(cuda_device *d, const attention_shape *s)
{
    cuda_attention *a = d->attention;
    for (size_t i = 0; i < a->n_families; i++) {
        kernel_family *f = &a->families[i];
        if (f->type == s->type && f->n_heads == s->n_heads && f->n_kv_heads == s->n_kv_heads
            && f->head_dim == s->head_dim)
            return f;
    }
    if (!array_extend(d->base.context, &a->families, &a->families_capacity, a->n_families + 1,
            sizeof *a->families))
        return NULL;
    a->families[a->n_families] = (kernel_family){.type = s->type,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim};
    return &a->families[a->n_families++];
}

/* The workspace that a plan needs beyond the device's. */
static bool find_workspace(cuda_device *d, shape_plan *p)
{
    return p->plan.workspace <= WORKSPACE_BYTES
           || !cuda_allocate(&d->base, (size_t)p->plan.workspace, &p->workspace);
}

static shape_plan *make_plan(cuda_device *d, const attention_shape *shape)
{
    cuda_attention *a = d->attention;
    kernel_family *f = find_family(d, shape);
    shape_plan *p = f ? memory_new(d->base.context, sizeof *p) : NULL;
    if (!p) return NULL;
    if (!array_extend(
            d->base.context, &a->plans, &a->plans_capacity, a->n_plans + 1, sizeof *a->plans)) {
        memory_free(d->base.context, p);
        return NULL;
    }
    p->plan.shape = *shape;
    const attention_target target = {.handle = a->handle, .kernels = &f->kernels};
    if (!attention_plan_make(&a->library, &target, &p->plan)) d->library.cudaGetLastError();
    else if (!find_workspace(d, p)) attention_plan_free(&a->library, &p->plan);
    return a->plans[a->n_plans++] = p;
}

/* The plan of a shape, made when it is first asked for; NULL where there is none, or when memory is
 * out. */
static const shape_plan *find_plan(cuda_device *d, const attention_shape *shape)
{
    const cuda_attention *a = d->attention;
    const shape_plan *found = NULL;
    for (size_t i = 0; i < a->n_plans && !found; i++)
        if (!memcmp(&a->plans[i]->plan.shape, shape, sizeof *shape)) found = a->plans[i];
    if (!found) found = make_plan(d, shape);
    return found && found->plan.plan ? found : NULL;
}

bool cuda_takes_attention(device *base, inset_type type, const whole_attention_args *args)
{
    cuda_device *d = (cuda_device *)base;
    const attention_shape shape = shape_of(type, args, 1);
    return (type == INSET_BF16 || type == INSET_F16) && open_attention(d) && !cuda_enter(d)
           && find_plan(d, &shape);
}

/* ---- running ------------------------------------------------------------ */

static int execute(cuda_device *d, const shape_plan *p, const whole_attention_args *args,
    float *statistics, int64_t first)
{
    const cudnn_library *l = &d->attention->library;
    const int64_t ids[] = {ATTENTION_Q, ATTENTION_K, ATTENTION_V, ATTENTION_OUT,
        ATTENTION_STATISTICS, ATTENTION_SCALE, ATTENTION_MASKED};
    const int64_t rows = first * args->length * 2; /* in bytes a column */
    float scale = args->scale, masked = -INFINITY;
    const void *pointers[] = {(const char *)args->q + rows * args->q_stride,
        (const char *)args->k + rows * args->k_stride,
        (const char *)args->v + rows * args->v_stride, (char *)args->out + rows * args->out_stride,
        statistics, &scale, &masked};
    void *workspace = p->workspace ? p->workspace : d->workspace;
    cudnn_descriptor variants = NULL;
    int error = l->cudnnBackendCreateDescriptor(CUDNN_VARIANTS, &variants);
    if (!error)
        error = l->cudnnBackendSetAttribute(
            variants, CUDNN_VARIANTS_IDS, CUDNN_IS_INT64, ATTENTION_IDS, ids);
    if (!error)
        error = l->cudnnBackendSetAttribute(
            variants, CUDNN_VARIANTS_POINTERS, CUDNN_IS_POINTER, ATTENTION_IDS, pointers);
    if (!error)
        error = l->cudnnBackendSetAttribute(
            variants, CUDNN_VARIANTS_WORKSPACE, CUDNN_IS_POINTER, 1, &workspace);
    if (!error) error = l->cudnnBackendFinalize(variants);
    if (!error) error = l->cudnnBackendExecute(d->attention->handle, p->plan.plan, variants);
    if (variants) l->cudnnBackendDestroyDescriptor(variants);
    return error;
}

inset_status cuda_whole_attention(cuda_device *d, inset_type type, const whole_attention_args *args)
{
    const bool there = open_attention(d) != NULL;
    attention_shape shape = shape_of(type, args, args->n_sequences);
    const shape_plan *p = there ? find_plan(d, &shape) : NULL;
    if (!p && there) { /* one by one */
        shape.n_sequences = 1;
        p = find_plan(d, &shape);
    }
    if (!p)
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "cuda:%d: cuDNN has no plan for attention over %lld positions, which it had before",
            d->index, (long long)args->length);
    for (int64_t s = 0; s < args->n_sequences; s += shape.n_sequences) {
        const int error = execute(
            d, p, args, args->statistics + s * args->n_heads * args->length, s);
        if (!error) continue;
        d->library.cudaGetLastError();
        return error_set(d->base.context, INSET_DEVICE_ERROR,
            "cuda:%d: attention by cuDNN failed: %s", d->index,
            d->attention->library.cudnnGetErrorString(error));
    }
    return INSET_OK;
}
