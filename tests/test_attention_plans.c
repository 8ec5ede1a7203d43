/* test_attention_plans.c: cuDNN itself takes the graph of attention that we describe, for GPUs of
 * three generations that are described too: no GPU and no driver is needed. Skipped where there is
 * no cuDNN. That the numbers are right is the stand-in's affair (test_whole_attention.c) and a
 * GPU's. */
#include "device/cuda/attention_graph.h"
#include "test.h"

typedef struct gpu {
    const char *name;
    int version, processors, shared_memory;
} gpu;
static const gpu gpus[] = {{"NVIDIA A100-SXM4-80GB", 800, 108, 166912},
    {"NVIDIA H200", 900, 132, 232448}, {"NVIDIA B200", 1000, 148, 232448}};

/* heads, key-value heads, numbers a head: GPT-2, Llama 3, Gemma */
static const int32_t heads[][3] = {{12, 12, 64}, {32, 8, 128}, {8, 4, 256}};
/* sequences, positions */
static const int64_t sizes[][2] = {{1, 256}, {1, 300}, {3, 1024}, {1, 257}};

/* What cuDNN wants to know of a GPU; NULL where it does not take this. */
static cudnn_descriptor describe_gpu(const cudnn_library *l, const gpu *g)
{
    char text[2048];
    cudnn_descriptor made = NULL;
    const int length = snprintf(text, sizeof text,
        "{\"deviceName\": \"%s\", \"deviceVer\": %d, \"driverVer\": 13000, \"cudaDeviceId\": 0, "
        "\"pciDeviceId\": 0, \"isTccDriver\": 0, \"supportCoopLaunch\": 1, "
        "\"multiProcessorCount\": %d, \"maxGridSize\": [2147483647, 65535, 65535], "
        "\"maxBlockSize\": [1024, 1024, 64], \"warpSize\": 32, \"regsPerBlock\": 65536, "
        "\"maxRegistersPerSM\": 65536, \"maxThreadsPerBlock\": 1024, \"maxThreadsPerSM\": 2048, "
        "\"maxCtasPerSM\": 32, \"maxSharedMemoryPerBlock\": 49152, "
        "\"maxSharedMemoryPerBlockOptin\": %d, \"reservedSharedMemoryPerBlock\": 1024, "
        "\"totalGlobalMem\": 80000000000, \"l2CacheSize\": 52428800, "
        "\"smClockRateKHz\": 1500000, \"memClockRateKHz\": 2500000}",
        g->name, g->version, g->processors, g->shared_memory);
    if (l->cudnnBackendCreateDescriptor(CUDNN_DEVICE, &made)) return NULL;
    if (!l->cudnnBackendSetAttribute(made, CUDNN_DEVICE_JSON, CUDNN_IS_CHAR, length + 1, text)
        && !l->cudnnBackendFinalize(made))
        return made;
    l->cudnnBackendDestroyDescriptor(made);
    return NULL;
}

static attention_shape shape_of(inset_type type, const int32_t *h, const int64_t *size)
{
    /* queries, keys and values side by side in a row */
    const int64_t width = (h[0] + 2 * h[1]) * h[2];
    return (attention_shape){.type = (int32_t)type,
        .n_heads = h[0],
        .n_kv_heads = h[1],
        .head_dim = h[2],
        .n_sequences = size[0],
        .length = size[1],
        .q_stride = width,
        .k_stride = width,
        .v_stride = width,
        .out_stride = h[0] * h[2]};
}

static void makes_plans(const cudnn_library *l, const gpu *g, cudnn_descriptor device)
{
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
        cudnn_descriptor kernels = NULL;
        const attention_target target = {.device = device, .kernels = &kernels};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            attention_plan p = {
                .shape = shape_of(h == 1 ? INSET_F16 : INSET_BF16, heads[h], sizes[i])};
            const bool made = attention_plan_make(l, &target, &p);
            CHECK(made && p.plan && p.workspace >= 0, "%s, %d heads of %d, %lld x %lld: no plan",
                g->name, heads[h][0], heads[h][2], (long long)sizes[i][0], (long long)sizes[i][1]);
            CHECK(kernels, "%s: nothing is kept for the next shape", g->name);
            attention_plan_free(l, &p);
        }
        if (kernels) l->cudnnBackendDestroyDescriptor(kernels);
    }
}

/* What cuDNN has no engine for is refused, and leaves nothing. */
static void refuses(const cudnn_library *l, cudnn_descriptor device)
{
    static const int32_t odd[3] = {4, 4, 12};
    cudnn_descriptor kernels = NULL;
    const attention_target target = {.device = device, .kernels = &kernels};
    attention_plan p = {.shape = shape_of(INSET_BF16, odd, sizes[0])};
    CHECK(!attention_plan_make(l, &target, &p) && !p.plan && p.n == 0,
        "heads of 12 numbers got a plan");
    if (kernels) l->cudnnBackendDestroyDescriptor(kernels);
}

int main(void)
{
    cudnn_library l;
    if (!cudnn_open(&l)) {
        printf("skipped: there is no cuDNN here, or an older one than %d\n", CUDNN_OLDEST);
        return 77;
    }
    printf("cuDNN %zu\n", l.cudnnGetVersion());
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        cudnn_descriptor device = describe_gpu(&l, &gpus[i]);
        if (!CHECK(device, "cuDNN does not take the description of a GPU, %s", gpus[i].name))
            continue;
        makes_plans(&l, &gpus[i], device);
        if (i == 1) refuses(&l, device);
        l.cudnnBackendDestroyDescriptor(device);
    }
    cudnn_close(&l);
    return test_result();
}
