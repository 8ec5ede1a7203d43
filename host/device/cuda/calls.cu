// calls.cu: the CUDA runtime behind cuda/library.h, and the check that what that header declares by
// hand is what NVIDIA's headers say.
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include "device/cuda/library.h"
#include "device/cuda/cudnn.h"
#if __has_include(<cudnn_graph.h>)
#include <cudnn_graph.h>
#endif

template <typename A, typename B>
static constexpr bool same(A ours, B theirs)
{
    return (long long)ours == (long long)theirs;
}

static_assert(same(CUDA_ERROR_INVALID, cudaErrorInvalidValue)
                  && same(CUDA_ERROR_MEMORY, cudaErrorMemoryAllocation)
                  && same(CUDA_ERROR_OLD_DRIVER, cudaErrorInsufficientDriver)
                  && same(CUDA_ERROR_NO_DEVICE, cudaErrorNoDevice),
    "errors");
static_assert(same(CUDA_HOST_TO_DEVICE, cudaMemcpyHostToDevice)
                  && same(CUDA_DEVICE_TO_HOST, cudaMemcpyDeviceToHost)
                  && same(CUDA_DEVICE_TO_DEVICE, cudaMemcpyDeviceToDevice),
    "copies");
static_assert(same(CUDA_STREAM_NON_BLOCKING, cudaStreamNonBlocking)
                  && same(CUDA_EVENT_NO_TIMING, cudaEventDisableTiming),
    "flags");
static_assert(same(CUDA_CAPTURE_THREAD_LOCAL, cudaStreamCaptureModeThreadLocal), "capture");
static_assert(same(CUDA_MULTIPROCESSORS, cudaDevAttrMultiProcessorCount)
                  && same(CUDA_SHARED_BYTES, cudaDevAttrMaxSharedMemoryPerBlockOptin)
                  && same(CUDA_CAPABILITY_MAJOR, cudaDevAttrComputeCapabilityMajor)
                  && same(CUDA_CAPABILITY_MINOR, cudaDevAttrComputeCapabilityMinor),
    "attributes");
static_assert(same(CUDA_TYPE_F32, CUDA_R_32F) && same(CUDA_TYPE_F16, CUDA_R_16F)
                  && same(CUDA_TYPE_BF16, CUDA_R_16BF),
    "types");
static_assert(same(CUBLAS_INVALID_VALUE, CUBLAS_STATUS_INVALID_VALUE)
                  && same(CUBLAS_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED)
                  && same(CUBLAS_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED),
    "cuBLAS statuses");
static_assert(same(CUBLAS_COMPUTE_F32, CUBLAS_COMPUTE_32F)
                  && same(CUBLAS_COMPUTE_TF32, CUBLAS_COMPUTE_32F_FAST_TF32)
                  && same(CUBLAS_PLAIN, CUBLAS_OP_N) && same(CUBLAS_TRANSPOSED, CUBLAS_OP_T),
    "computing");
static_assert(same(CUBLAS_EPILOGUE_NONE, CUBLASLT_EPILOGUE_DEFAULT)
                  && same(CUBLAS_EPILOGUE_ADD_BIAS, CUBLASLT_EPILOGUE_BIAS)
                  && same(CUBLAS_EPILOGUE_GELU_ONLY, CUBLASLT_EPILOGUE_GELU)
                  && same(CUBLAS_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS)
                  && same(CUBLAS_NO_REDUCTION, CUBLASLT_REDUCTION_SCHEME_NONE),
    "epilogues");
static_assert(same(CUBLAS_PRODUCT_TRANS_A, CUBLASLT_MATMUL_DESC_TRANSA)
                  && same(CUBLAS_PRODUCT_TRANS_B, CUBLASLT_MATMUL_DESC_TRANSB)
                  && same(CUBLAS_PRODUCT_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE)
                  && same(CUBLAS_PRODUCT_BIAS, CUBLASLT_MATMUL_DESC_BIAS_POINTER),
    "product attributes");
static_assert(same(CUBLAS_LAYOUT_COLUMNS, CUBLASLT_MATRIX_LAYOUT_COLS)
                  && same(CUBLAS_LAYOUT_STRIDE, CUBLASLT_MATRIX_LAYOUT_LD),
    "layouts");
static_assert(same(CUBLAS_PREFER_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
                  && same(CUBLAS_PREFER_REDUCTION, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
                  && same(CUBLAS_PREFER_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
                  && same(CUBLAS_PREFER_ALIGNMENT_B, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
                  && same(CUBLAS_PREFER_ALIGNMENT_C, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES)
                  && same(CUBLAS_PREFER_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES),
    "preferences");
static_assert(sizeof(cublas_algorithm) == sizeof(cublasLtMatmulAlgo_t), "algorithm");
static_assert(
    sizeof(cublas_candidate) == sizeof(cublasLtMatmulHeuristicResult_t)
        && offsetof(cublas_candidate, workspace)
               == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize)
        && offsetof(cublas_candidate, state) == offsetof(cublasLtMatmulHeuristicResult_t, state),
    "candidate");

#if __has_include(<cudnn_graph.h>)
static_assert(same(CUDNN_FLOAT, CUDNN_DATA_FLOAT) && same(CUDNN_HALF, CUDNN_DATA_HALF)
                  && same(CUDNN_INT32, CUDNN_DATA_INT32)
                  && same(CUDNN_BFLOAT16, CUDNN_DATA_BFLOAT16)
                  && same(CUDNN_BOOLEAN, CUDNN_DATA_BOOLEAN),
    "cuDNN's types");
static_assert(
    same(CUDNN_IS_HANDLE, CUDNN_TYPE_HANDLE) && same(CUDNN_IS_DATA_TYPE, CUDNN_TYPE_DATA_TYPE)
        && same(CUDNN_IS_BOOLEAN, CUDNN_TYPE_BOOLEAN) && same(CUDNN_IS_INT64, CUDNN_TYPE_INT64)
        && same(CUDNN_IS_POINTER, CUDNN_TYPE_VOID_PTR)
        && same(CUDNN_IS_HEURISTIC, CUDNN_TYPE_HEUR_MODE)
        && same(CUDNN_IS_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE)
        && same(CUDNN_IS_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR)
        && same(CUDNN_IS_REDUCTION, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE)
        && same(CUDNN_IS_CHAR, CUDNN_TYPE_CHAR),
    "cuDNN's attribute types");
static_assert(
    same(CUDNN_ADD, CUDNN_POINTWISE_ADD) && same(CUDNN_MULTIPLY, CUDNN_POINTWISE_MUL)
        && same(CUDNN_DIVIDE, CUDNN_POINTWISE_DIV) && same(CUDNN_SUBTRACT, CUDNN_POINTWISE_SUB)
        && same(CUDNN_EXP, CUDNN_POINTWISE_EXP) && same(CUDNN_LOG, CUDNN_POINTWISE_LOG)
        && same(CUDNN_NOT_LESS, CUDNN_POINTWISE_CMP_GE)
        && same(CUDNN_INDEX, CUDNN_POINTWISE_GEN_INDEX)
        && same(CUDNN_SELECT, CUDNN_POINTWISE_BINARY_SELECT)
        && same(CUDNN_SUM, CUDNN_REDUCE_TENSOR_ADD) && same(CUDNN_LARGEST, CUDNN_REDUCE_TENSOR_MAX)
        && same(CUDNN_HEURISTIC_A, CUDNN_HEUR_MODE_A),
    "cuDNN's operations");
static_assert(same(CUDNN_POINTWISE, CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
                  && same(CUDNN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
                  && same(CUDNN_ENGINE_HEURISTIC, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)
                  && same(CUDNN_PLAN, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
                  && same(CUDNN_OPERATION_POINTWISE, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)
                  && same(CUDNN_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)
                  && same(CUDNN_VARIANTS, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)
                  && same(CUDNN_TENSOR, CUDNN_BACKEND_TENSOR_DESCRIPTOR)
                  && same(CUDNN_MATMUL, CUDNN_BACKEND_MATMUL_DESCRIPTOR)
                  && same(CUDNN_OPERATION_MATMUL, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR)
                  && same(CUDNN_REDUCTION, CUDNN_BACKEND_REDUCTION_DESCRIPTOR)
                  && same(CUDNN_OPERATION_REDUCTION, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR)
                  && same(CUDNN_KERNEL_CACHE, CUDNN_BACKEND_KERNEL_CACHE_DESCRIPTOR)
                  && same(CUDNN_DEVICE, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR),
    "cuDNN's descriptors");
static_assert(same(CUDNN_POINTWISE_MODE, CUDNN_ATTR_POINTWISE_MODE)
                  && same(CUDNN_POINTWISE_PRECISION, CUDNN_ATTR_POINTWISE_MATH_PREC)
                  && same(CUDNN_POINTWISE_AXIS, CUDNN_ATTR_POINTWISE_AXIS)
                  && same(CUDNN_OP_POINTWISE, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR)
                  && same(CUDNN_OP_POINTWISE_X, CUDNN_ATTR_OPERATION_POINTWISE_XDESC)
                  && same(CUDNN_OP_POINTWISE_B, CUDNN_ATTR_OPERATION_POINTWISE_BDESC)
                  && same(CUDNN_OP_POINTWISE_Y, CUDNN_ATTR_OPERATION_POINTWISE_YDESC)
                  && same(CUDNN_OP_POINTWISE_T, CUDNN_ATTR_OPERATION_POINTWISE_TDESC)
                  && same(CUDNN_MATMUL_TYPE, CUDNN_ATTR_MATMUL_COMP_TYPE)
                  && same(CUDNN_OP_MATMUL_A, CUDNN_ATTR_OPERATION_MATMUL_ADESC)
                  && same(CUDNN_OP_MATMUL_B, CUDNN_ATTR_OPERATION_MATMUL_BDESC)
                  && same(CUDNN_OP_MATMUL_C, CUDNN_ATTR_OPERATION_MATMUL_CDESC)
                  && same(CUDNN_OP_MATMUL, CUDNN_ATTR_OPERATION_MATMUL_DESC)
                  && same(CUDNN_REDUCTION_OPERATOR, CUDNN_ATTR_REDUCTION_OPERATOR)
                  && same(CUDNN_REDUCTION_TYPE, CUDNN_ATTR_REDUCTION_COMP_TYPE)
                  && same(CUDNN_OP_REDUCTION_X, CUDNN_ATTR_OPERATION_REDUCTION_XDESC)
                  && same(CUDNN_OP_REDUCTION_Y, CUDNN_ATTR_OPERATION_REDUCTION_YDESC)
                  && same(CUDNN_OP_REDUCTION, CUDNN_ATTR_OPERATION_REDUCTION_DESC),
    "attributes of cuDNN's operations");
static_assert(same(CUDNN_HEURISTIC_MODE, CUDNN_ATTR_ENGINEHEUR_MODE)
                  && same(CUDNN_HEURISTIC_GRAPH, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)
                  && same(CUDNN_HEURISTIC_RESULTS, CUDNN_ATTR_ENGINEHEUR_RESULTS)
                  && same(CUDNN_HEURISTIC_DEVICE, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP)
                  && same(CUDNN_PLAN_CONFIG, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
                  && same(CUDNN_PLAN_WORKSPACE, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)
                  && same(CUDNN_PLAN_KERNEL_CACHE, CUDNN_ATTR_EXECUTION_PLAN_KERNEL_CACHE)
                  && same(CUDNN_PLAN_DEVICE, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP)
                  && same(CUDNN_GRAPH_OPERATIONS, CUDNN_ATTR_OPERATIONGRAPH_OPS)
                  && same(CUDNN_GRAPH_DYNAMIC, CUDNN_ATTR_OPERATIONGRAPH_IS_DYNAMIC_SHAPE_ENABLED)
                  && same(CUDNN_KERNEL_CACHE_GRAPH, CUDNN_ATTR_KERNEL_CACHE_OPERATION_GRAPH)
                  && same(CUDNN_DEVICE_JSON, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION),
    "attributes of cuDNN's plans");
static_assert(same(CUDNN_TENSOR_ALIGNMENT, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT)
                  && same(CUDNN_TENSOR_TYPE, CUDNN_ATTR_TENSOR_DATA_TYPE)
                  && same(CUDNN_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_DIMENSIONS)
                  && same(CUDNN_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_STRIDES)
                  && same(CUDNN_TENSOR_ID, CUDNN_ATTR_TENSOR_UNIQUE_ID)
                  && same(CUDNN_TENSOR_VIRTUAL, CUDNN_ATTR_TENSOR_IS_VIRTUAL)
                  && same(CUDNN_TENSOR_BY_VALUE, CUDNN_ATTR_TENSOR_IS_BY_VALUE)
                  && same(CUDNN_VARIANTS_IDS, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)
                  && same(CUDNN_VARIANTS_POINTERS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)
                  && same(CUDNN_VARIANTS_WORKSPACE, CUDNN_ATTR_VARIANT_PACK_WORKSPACE),
    "attributes of cuDNN's tensors");
#endif

static int device_name(int device, char *name, size_t size)
{
    cudaDeviceProp properties;
    int error = cudaGetDeviceProperties(&properties, device);
    snprintf(name, size, "%s", error ? "" : properties.name);
    return error;
}

static int launch(kernel_entry kernel, const void *args, size_t, unsigned blocks, unsigned threads,
    size_t shared_bytes, cuda_stream stream)
{
    void *parameters[] = {const_cast<void *>(args)};
    return cudaLaunchKernel(
        (const void *)kernel, dim3(blocks), dim3(threads), parameters, shared_bytes, stream);
}

static int allow_shared(kernel_entry kernel, size_t shared_bytes)
{
    return cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

extern "C" void cuda_calls_fill(cuda_library *l)
{
    l->cudaGetDeviceCount = [](int *count) -> int { return cudaGetDeviceCount(count); };
    l->device_name = device_name;
    l->cudaDeviceGetAttribute = [](int *value, int attribute, int device) -> int {
        return cudaDeviceGetAttribute(value, (cudaDeviceAttr)attribute, device);
    };
    l->cudaSetDevice = [](int device) -> int { return cudaSetDevice(device); };
    l->cudaMemGetInfo = [](size_t *free, size_t *total) -> int {
        return cudaMemGetInfo(free, total);
    };
    l->cudaDriverGetVersion = [](int *version) -> int { return cudaDriverGetVersion(version); };
    l->cudaRuntimeGetVersion = [](int *version) -> int { return cudaRuntimeGetVersion(version); };
    l->cudaMalloc = [](void **out, size_t bytes) -> int { return cudaMalloc(out, bytes); };
    l->cudaFree = [](void *memory) -> int { return cudaFree(memory); };
    l->cudaMallocHost = [](void **out, size_t bytes) -> int { return cudaMallocHost(out, bytes); };
    l->cudaFreeHost = [](void *memory) -> int { return cudaFreeHost(memory); };
    l->cudaStreamCreateWithFlags = [](cuda_stream *out, unsigned flags) -> int {
        return cudaStreamCreateWithFlags(out, flags);
    };
    l->cudaStreamDestroy = [](cuda_stream stream) -> int { return cudaStreamDestroy(stream); };
    l->cudaStreamSynchronize = [](cuda_stream stream) -> int {
        return cudaStreamSynchronize(stream);
    };
    l->cudaEventCreateWithFlags = [](cuda_event *out, unsigned flags) -> int {
        return cudaEventCreateWithFlags(out, flags);
    };
    l->cudaEventDestroy = [](cuda_event event) -> int { return cudaEventDestroy(event); };
    l->cudaEventRecord = [](cuda_event event, cuda_stream stream) -> int {
        return cudaEventRecord(event, stream);
    };
    l->cudaEventSynchronize = [](cuda_event event) -> int { return cudaEventSynchronize(event); };
    l->cudaStreamWaitEvent = [](cuda_stream stream, cuda_event event, unsigned flags) -> int {
        return cudaStreamWaitEvent(stream, event, flags);
    };
    l->cudaEventElapsedTime = [](float *milliseconds, cuda_event start, cuda_event end) -> int {
        return cudaEventElapsedTime(milliseconds, start, end);
    };
    l->cudaMemcpyAsync = [](void *to, const void *from, size_t bytes, int kind,
                             cuda_stream stream) -> int {
        return cudaMemcpyAsync(to, from, bytes, (cudaMemcpyKind)kind, stream);
    };
    l->cudaMemsetAsync = [](void *at, int byte, size_t bytes, cuda_stream stream) -> int {
        return cudaMemsetAsync(at, byte, bytes, stream);
    };
    l->launch = launch;
    l->allow_shared = allow_shared;
    l->cudaStreamBeginCapture = [](cuda_stream stream, int mode) -> int {
        return cudaStreamBeginCapture(stream, (cudaStreamCaptureMode)mode);
    };
    l->cudaStreamEndCapture = [](cuda_stream stream, cuda_graph *out) -> int {
        return cudaStreamEndCapture(stream, out);
    };
    l->cudaGraphInstantiate = [](cuda_graph_exec *out, cuda_graph graph,
                                  unsigned long long flags) -> int {
        return cudaGraphInstantiate(out, graph, flags);
    };
    l->cudaGraphLaunch = [](cuda_graph_exec graph, cuda_stream stream) -> int {
        return cudaGraphLaunch(graph, stream);
    };
    l->cudaGraphDestroy = [](cuda_graph graph) -> int { return cudaGraphDestroy(graph); };
    l->cudaGraphExecDestroy = [](cuda_graph_exec graph) -> int {
        return cudaGraphExecDestroy(graph);
    };
    l->cudaGetLastError = []() -> int { return cudaGetLastError(); };
    l->cudaGetErrorString = [](int error) -> const char * {
        return cudaGetErrorString((cudaError_t)error);
    };
    l->fill_kernels = kernels_cuda_fill;
}
