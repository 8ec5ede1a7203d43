// cuda_calls.cu: the CUDA runtime behind cuda_library.h, and the check that what that header declares by hand is what NVIDIA's headers say.
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include "device/cuda_library.h"

template <typename A, typename B> static constexpr bool same(A ours, B theirs) { return (long long)ours == (long long)theirs; }

static_assert(same(CUDA_ERROR_INVALID, cudaErrorInvalidValue) && same(CUDA_ERROR_MEMORY, cudaErrorMemoryAllocation)
              && same(CUDA_ERROR_OLD_DRIVER, cudaErrorInsufficientDriver) && same(CUDA_ERROR_NO_DEVICE, cudaErrorNoDevice), "errors");
static_assert(same(CUDA_HOST_TO_DEVICE, cudaMemcpyHostToDevice) && same(CUDA_DEVICE_TO_HOST, cudaMemcpyDeviceToHost), "copies");
static_assert(same(CUDA_STREAM_NON_BLOCKING, cudaStreamNonBlocking) && same(CUDA_EVENT_NO_TIMING, cudaEventDisableTiming), "flags");
static_assert(same(CUDA_CAPTURE_THREAD_LOCAL, cudaStreamCaptureModeThreadLocal), "capture");
static_assert(same(CUDA_MULTIPROCESSORS, cudaDevAttrMultiProcessorCount)
              && same(CUDA_CAPABILITY_MAJOR, cudaDevAttrComputeCapabilityMajor)
              && same(CUDA_CAPABILITY_MINOR, cudaDevAttrComputeCapabilityMinor), "attributes");
static_assert(same(CUDA_TYPE_F32, CUDA_R_32F) && same(CUDA_TYPE_F16, CUDA_R_16F) && same(CUDA_TYPE_BF16, CUDA_R_16BF), "types");
static_assert(same(CUBLAS_INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE) && same(CUBLAS_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED)
              && same(CUBLAS_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED), "cuBLAS statuses");
static_assert(same(CUBLAS_COMPUTE_F32, CUBLAS_COMPUTE_32F) && same(CUBLAS_PLAIN, CUBLAS_OP_N)
              && same(CUBLAS_TRANSPOSED, CUBLAS_OP_T), "computing");
static_assert(same(CUBLAS_EPILOGUE_NONE, CUBLASLT_EPILOGUE_DEFAULT) && same(CUBLAS_EPILOGUE_ADD_BIAS, CUBLASLT_EPILOGUE_BIAS)
              && same(CUBLAS_EPILOGUE_GELU_ONLY, CUBLASLT_EPILOGUE_GELU) && same(CUBLAS_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS)
              && same(CUBLAS_NO_REDUCTION, CUBLASLT_REDUCTION_SCHEME_NONE), "epilogues");
static_assert(same(CUBLAS_PRODUCT_TRANS_A, CUBLASLT_MATMUL_DESC_TRANSA) && same(CUBLAS_PRODUCT_TRANS_B, CUBLASLT_MATMUL_DESC_TRANSB)
              && same(CUBLAS_PRODUCT_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE)
              && same(CUBLAS_PRODUCT_BIAS, CUBLASLT_MATMUL_DESC_BIAS_POINTER), "product attributes");
static_assert(same(CUBLAS_LAYOUT_COLUMNS, CUBLASLT_MATRIX_LAYOUT_COLS) && same(CUBLAS_LAYOUT_STRIDE, CUBLASLT_MATRIX_LAYOUT_LD), "layouts");
static_assert(same(CUBLAS_PREFER_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
              && same(CUBLAS_PREFER_REDUCTION, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
              && same(CUBLAS_PREFER_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
              && same(CUBLAS_PREFER_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
              && same(CUBLAS_PREFER_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES)
              && same(CUBLAS_PREFER_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES), "preferences");
static_assert(sizeof(cublas_algorithm) == sizeof(cublasLtMatmulAlgo_t), "algorithm");
static_assert(sizeof(cublas_candidate) == sizeof(cublasLtMatmulHeuristicResult_t)
              && offsetof(cublas_candidate, workspace) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize)
              && offsetof(cublas_candidate, state) == offsetof(cublasLtMatmulHeuristicResult_t, state), "candidate");

static int device_name(int device, char *name, size_t size)
{
    cudaDeviceProp properties;
    int error = cudaGetDeviceProperties(&properties, device);
    snprintf(name, size, "%s", error ? "" : properties.name);
    return error;
}

static int launch(kernel_entry kernel, const void *args, size_t, unsigned blocks, unsigned threads, cuda_stream stream)
{
    void *parameters[] = {const_cast<void *>(args)};
    return cudaLaunchKernel((const void *)kernel, dim3(blocks), dim3(threads), parameters, 0, stream);
}

extern "C" void cuda_calls_fill(cuda_library *l)
{
    l->cudaGetDeviceCount = [](int *count) -> int { return cudaGetDeviceCount(count); };
    l->device_name = device_name;
    l->cudaDeviceGetAttribute = [](int *value, int attribute, int device) -> int {
        return cudaDeviceGetAttribute(value, (cudaDeviceAttr)attribute, device);
    };
    l->cudaSetDevice = [](int device) -> int { return cudaSetDevice(device); };
    l->cudaMemGetInfo = [](size_t *free, size_t *total) -> int { return cudaMemGetInfo(free, total); };
    l->cudaDriverGetVersion = [](int *version) -> int { return cudaDriverGetVersion(version); };
    l->cudaRuntimeGetVersion = [](int *version) -> int { return cudaRuntimeGetVersion(version); };
    l->cudaMalloc = [](void **out, size_t bytes) -> int { return cudaMalloc(out, bytes); };
    l->cudaFree = [](void *memory) -> int { return cudaFree(memory); };
    l->cudaMallocHost = [](void **out, size_t bytes) -> int { return cudaMallocHost(out, bytes); };
    l->cudaFreeHost = [](void *memory) -> int { return cudaFreeHost(memory); };
    l->cudaStreamCreateWithFlags = [](cuda_stream *out, unsigned flags) -> int { return cudaStreamCreateWithFlags(out, flags); };
    l->cudaStreamDestroy = [](cuda_stream stream) -> int { return cudaStreamDestroy(stream); };
    l->cudaStreamSynchronize = [](cuda_stream stream) -> int { return cudaStreamSynchronize(stream); };
    l->cudaEventCreateWithFlags = [](cuda_event *out, unsigned flags) -> int { return cudaEventCreateWithFlags(out, flags); };
    l->cudaEventDestroy = [](cuda_event event) -> int { return cudaEventDestroy(event); };
    l->cudaEventRecord = [](cuda_event event, cuda_stream stream) -> int { return cudaEventRecord(event, stream); };
    l->cudaEventSynchronize = [](cuda_event event) -> int { return cudaEventSynchronize(event); };
    l->cudaMemcpyAsync = [](void *to, const void *from, size_t bytes, int kind, cuda_stream stream) -> int {
        return cudaMemcpyAsync(to, from, bytes, (cudaMemcpyKind)kind, stream);
    };
    l->cudaMemsetAsync = [](void *at, int byte, size_t bytes, cuda_stream stream) -> int {
        return cudaMemsetAsync(at, byte, bytes, stream);
    };
    l->launch = launch;
    l->cudaStreamBeginCapture = [](cuda_stream stream, int mode) -> int { return cudaStreamBeginCapture(stream, (cudaStreamCaptureMode)mode); };
    l->cudaStreamEndCapture = [](cuda_stream stream, cuda_graph *out) -> int { return cudaStreamEndCapture(stream, out); };
    l->cudaGraphInstantiate = [](cuda_graph_exec *out, cuda_graph graph, unsigned long long flags) -> int {
        return cudaGraphInstantiate(out, graph, flags);
    };
    l->cudaGraphLaunch = [](cuda_graph_exec graph, cuda_stream stream) -> int { return cudaGraphLaunch(graph, stream); };
    l->cudaGraphDestroy = [](cuda_graph graph) -> int { return cudaGraphDestroy(graph); };
    l->cudaGraphExecDestroy = [](cuda_graph_exec graph) -> int { return cudaGraphExecDestroy(graph); };
    l->cudaGetLastError = []() -> int { return cudaGetLastError(); };
    l->cudaGetErrorString = [](int error) -> const char * { return cudaGetErrorString((cudaError_t)error); };
    l->fill_kernels = kernels_cuda_fill;
}
