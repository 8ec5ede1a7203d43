/* library.h: every call that the CUDA device makes into NVIDIA's libraries, as one table of
 * functions.
 *
 * Why a table: the product must load on machines that have neither a GPU nor CUDA's libraries (the
 * runtime is linked statically, cuBLASLt is opened when a CUDA device is), and tests run the whole
 * device on machines without one, with a stand-in for these calls that works on host memory
 * (tests/standin). Both are answers to cuda_library_open and nothing else.
 *
 * Members have the names and the meaning that NVIDIA documents; what differs is said beside them.
 * Results are cudaError_t or cublasStatus_t as int, 0 for success. The few types and constants
 * below are declared here so that the device compiles without CUDA's headers; cuda_calls.cu, which
 * has them, checks every one. */
#ifndef INSET_CUDA_LIBRARY_H
#define INSET_CUDA_LIBRARY_H

#include "base/base.h"
#include "kernels/table.h"

typedef struct CUstream_st *cuda_stream;
typedef struct CUevent_st *cuda_event;
typedef struct CUgraph_st *cuda_graph;
typedef struct CUgraphExec_st *cuda_graph_exec;

typedef struct cublas_handle_struct *cublas_handle;         /* cublasLtHandle_t */
typedef struct cublas_product_struct *cublas_product;       /* cublasLtMatmulDesc_t */
typedef struct cublas_layout_struct *cublas_layout;         /* cublasLtMatrixLayout_t */
typedef struct cublas_preference_struct *cublas_preference; /* cublasLtMatmulPreference_t */

/* cublasLtMatmulAlgo_t and cublasLtMatmulHeuristicResult_t */
typedef struct cublas_algorithm {
    uint64_t data[8];
} cublas_algorithm;
typedef struct cublas_candidate {
    cublas_algorithm algorithm;
    size_t workspace;
    int state; /* the rest holds only if this is 0 */
    float waves;
    int reserved[4];
} cublas_candidate;

enum {
    CUDA_ERROR_INVALID = 1,
    CUDA_ERROR_MEMORY = 2,
    CUDA_ERROR_OLD_DRIVER = 35,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NO_IMAGE = 209,
    CUDA_ERROR_BAD_PTX = 218,
    CUDA_ERROR_NEW_PTX = 222,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_HOST_TO_DEVICE = 1,
    CUDA_DEVICE_TO_HOST = 2,
    CUDA_DEVICE_TO_DEVICE = 3, /* cudaMemcpyKind */
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_EVENT_NO_TIMING = 2, /* flags */
    /* cudaStreamCaptureMode: other threads stay free */
    CUDA_CAPTURE_THREAD_LOCAL = 1,
    CUDA_MULTIPROCESSORS = 16,
    CUDA_SHARED_BYTES = 97,
    CUDA_CAPABILITY_MAJOR = 75,
    CUDA_CAPABILITY_MINOR = 76, /* cudaDeviceAttr */
    CUDA_TYPE_F32 = 0,
    CUDA_TYPE_F16 = 2,
    CUDA_TYPE_BF16 = 14, /* cudaDataType */

    CUBLAS_INVALID_VALUE = 7,
    CUBLAS_NOT_SUPPORTED = 15, /* cublasStatus_t */
    CUBLAS_ALLOC_FAILED = 3,
    /* fp32 products and sums, TF32 not allowed */
    CUBLAS_COMPUTE_F32 = 68,
    /* factors rounded to TF32, fp32 sums */
    CUBLAS_COMPUTE_TF32 = 77,
    CUBLAS_PLAIN = 0,
    CUBLAS_TRANSPOSED = 1, /* cublasOperation_t */
    CUBLAS_EPILOGUE_NONE = 1,
    CUBLAS_EPILOGUE_ADD_BIAS = 4, /* cublasLtEpilogue_t */
    CUBLAS_EPILOGUE_GELU_ONLY = 32,
    CUBLAS_EPILOGUE_GELU_BIAS = 36, /* the tanh form */
    CUBLAS_NO_REDUCTION = 0,        /* no split-K */
    CUBLAS_PRODUCT_TRANS_A = 3,
    CUBLAS_PRODUCT_TRANS_B = 4,  /* cublasLtMatmulDescAttributes_t: int32_t */
    CUBLAS_PRODUCT_EPILOGUE = 7, /* uint32_t */
    /* const void * */
    CUBLAS_PRODUCT_BIAS = 8,
    /* cublasLtMatrixLayoutAttribute_t: uint64_t */
    CUBLAS_LAYOUT_COLUMNS = 3,
    CUBLAS_LAYOUT_STRIDE = 4, /* int64_t */
    CUBLAS_LAYOUT_BATCH = 5,  /* int32_t: so many matrices */
    CUBLAS_LAYOUT_STEP = 6,   /* int64_t: elements from one to the next */
    /* cublasLtMatmulPreferenceAttributes_t: uint64_t */
    CUBLAS_PREFER_WORKSPACE = 1,
    /* uint32_t, as are the alignments (bytes) */
    CUBLAS_PREFER_REDUCTION = 3,
    CUBLAS_PREFER_ALIGNMENT_A = 5,
    CUBLAS_PREFER_ALIGNMENT_B = 6,
    CUBLAS_PREFER_ALIGNMENT_C = 7,
    CUBLAS_PREFER_ALIGNMENT_D = 8,
};

typedef struct cuda_library {
    /* ---- the runtime ---- */
    int (*cudaGetDeviceCount)(int *count);
    /* cudaGetDeviceProperties, of which only the name */
    int (*device_name)(int device, char *name, size_t size);
    int (*cudaDeviceGetAttribute)(int *value, int attribute, int device);
    int (*cudaSetDevice)(int device);
    int (*cudaMemGetInfo)(size_t *free, size_t *total);
    int (*cudaDriverGetVersion)(int *version);
    int (*cudaRuntimeGetVersion)(int *version);
    int (*cudaMalloc)(void **out, size_t bytes);
    int (*cudaFree)(void *memory);
    int (*cudaMallocHost)(void **out, size_t bytes);
    int (*cudaFreeHost)(void *memory);
    int (*cudaStreamCreateWithFlags)(cuda_stream *out, unsigned flags);
    int (*cudaStreamDestroy)(cuda_stream stream);
    int (*cudaStreamSynchronize)(cuda_stream stream);
    int (*cudaEventCreateWithFlags)(cuda_event *out, unsigned flags);
    int (*cudaEventDestroy)(cuda_event event);
    int (*cudaEventRecord)(cuda_event event, cuda_stream stream);
    int (*cudaEventSynchronize)(cuda_event event);
    int (*cudaStreamWaitEvent)(cuda_stream stream, cuda_event event, unsigned flags);
    /* of events with timing: benchmarks */
    int (*cudaEventElapsedTime)(float *milliseconds, cuda_event start, cuda_event end);
    int (*cudaMemcpyAsync)(void *to, const void *from, size_t bytes, int kind, cuda_stream stream);
    int (*cudaMemsetAsync)(void *at, int byte, size_t bytes, cuda_stream stream);
    /* cudaLaunchKernel of a kernel whose one parameter is a struct of args_size bytes, on grid
     * (blocks) and blocks of `threads`, which have shared_bytes of dynamic shared memory; and
     * cudaFuncSetAttribute, to be called before with more than 48 KiB of these */
    int (*launch)(kernel_entry kernel, const void *args, size_t args_size, unsigned blocks,
        unsigned threads, size_t shared_bytes, cuda_stream stream);
    int (*allow_shared)(kernel_entry kernel, size_t shared_bytes);
    int (*cudaStreamBeginCapture)(cuda_stream stream, int mode);
    int (*cudaStreamEndCapture)(cuda_stream stream, cuda_graph *out);
    int (*cudaGraphInstantiate)(cuda_graph_exec *out, cuda_graph graph, unsigned long long flags);
    int (*cudaGraphLaunch)(cuda_graph_exec graph, cuda_stream stream);
    int (*cudaGraphDestroy)(cuda_graph graph);
    int (*cudaGraphExecDestroy)(cuda_graph_exec graph);
    /* the last failure, which is then forgotten */
    int (*cudaGetLastError)(void);
    const char *(*cudaGetErrorString)(int error);
    void (*fill_kernels)(kernel_table *table); /* kernels_cuda_fill */

    /* ---- cuBLASLt, empty until cuda_library_open_products ---- */
    size_t (*cublasLtGetVersion)(void);
    const char *(*cublasLtGetStatusString)(int status);
    int (*cublasLtCreate)(cublas_handle *out);
    int (*cublasLtDestroy)(cublas_handle handle);
    int (*cublasLtMatmulDescCreate)(cublas_product *out, int compute, int scale_type);
    int (*cublasLtMatmulDescDestroy)(cublas_product product);
    int (*cublasLtMatmulDescSetAttribute)(
        cublas_product product, int attribute, const void *value, size_t bytes);
    int (*cublasLtMatrixLayoutCreate)(
        cublas_layout *out, int type, uint64_t rows, uint64_t columns, int64_t stride);
    int (*cublasLtMatrixLayoutDestroy)(cublas_layout layout);
    int (*cublasLtMatrixLayoutSetAttribute)(
        cublas_layout layout, int attribute, const void *value, size_t bytes);
    int (*cublasLtMatmulPreferenceCreate)(cublas_preference *out);
    int (*cublasLtMatmulPreferenceDestroy)(cublas_preference preference);
    int (*cublasLtMatmulPreferenceSetAttribute)(
        cublas_preference preference, int attribute, const void *value, size_t bytes);
    int (*cublasLtMatmulAlgoGetHeuristic)(cublas_handle handle, cublas_product product,
        cublas_layout a, cublas_layout b, cublas_layout c, cublas_layout d,
        cublas_preference preference, int wanted, cublas_candidate *candidates, int *found);
    int (*cublasLtMatmul)(cublas_handle handle, cublas_product product, const void *alpha,
        const void *a, cublas_layout a_layout, const void *b, cublas_layout b_layout,
        const void *beta, const void *c, cublas_layout c_layout, void *d, cublas_layout d_layout,
        const cublas_algorithm *algorithm, void *workspace, size_t workspace_bytes,
        cuda_stream stream);
    void *products; /* what dlopen gave, or NULL */
} cuda_library;

/* Fills in the runtime's calls. INSET_DEVICE_ERROR when this build has no CUDA device. Needs no
 * GPU. */
inset_status cuda_library_open(inset_context *context, cuda_library *library);
/* Opens cuBLASLt and fills in its calls. INSET_DEVICE_ERROR names what is missing. */
inset_status cuda_library_open_products(inset_context *context, cuda_library *library);
/* takes one that was never opened, all zeros */
void cuda_library_close(cuda_library *library);
/* shared.c: dlopen's handle of a library by its name ("libcudnn.so.9"), where the loader finds it
 * or else in one of the folders, colons between them, of INSET_CUDA_LIBRARIES; NULL and dlerror()
 * where there is none. It stays loaded when it is closed. */
void *cuda_shared_open(const char *name);

#ifdef __cplusplus
extern "C"
#endif
    /* cuda_calls.cu: the runtime's part */
    void
    cuda_calls_fill(cuda_library *library);

#endif
