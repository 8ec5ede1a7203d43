/* cudnn.h: the calls that attention makes into cuDNN's backend API, as one table of functions, for
 * the reasons library.h gives: the product must load where there is no cuDNN, and tests answer
 * cudnn_open with a stand-in.
 *
 * Members have the names and the meaning that NVIDIA documents. Results are cudnnStatus_t as int, 0
 * for success; enumerations are int, which is what they are in C. Descriptors are kept and freed by
 * who creates them. cuda_calls.cu checks the constants where cuDNN's headers are. */
#ifndef INSET_CUDA_CUDNN_H
#define INSET_CUDA_CUDNN_H

#include "device/cuda/library.h"

typedef struct cudnn_handle_struct *cudnn_handle; /* cudnnHandle_t */
typedef void *cudnn_descriptor;                   /* cudnnBackendDescriptor_t */

enum {
    CUDNN_FLOAT = 0,
    CUDNN_HALF = 2,
    CUDNN_INT32 = 4,
    CUDNN_BFLOAT16 = 9,
    CUDNN_BOOLEAN = 11, /* cudnnDataType_t */
    CUDNN_IS_HANDLE = 0,
    CUDNN_IS_DATA_TYPE = 1,
    CUDNN_IS_BOOLEAN = 2,
    CUDNN_IS_INT64 = 3,
    CUDNN_IS_POINTER = 6,
    CUDNN_IS_HEURISTIC = 8,
    CUDNN_IS_POINTWISE_MODE = 14,
    CUDNN_IS_DESCRIPTOR = 15,
    CUDNN_IS_REDUCTION = 18,
    CUDNN_IS_CHAR = 24, /* cudnnBackendAttributeType_t */
    CUDNN_ADD = 0,
    CUDNN_MULTIPLY = 1,
    CUDNN_DIVIDE = 6,
    CUDNN_SUBTRACT = 9,
    CUDNN_EXP = 13,
    CUDNN_LOG = 15,
    CUDNN_NOT_LESS = 303,
    CUDNN_INDEX = 501,
    CUDNN_SELECT = 601, /* cudnnPointwiseMode_t */
    CUDNN_SUM = 0,
    CUDNN_LARGEST = 3, /* cudnnReduceTensorOp_t */
    /* cudnnBackendHeurMode_t */
    CUDNN_HEURISTIC_A = 3,
};

enum { /* cudnnBackendDescriptorType_t */
    CUDNN_POINTWISE = 0,
    CUDNN_ENGINE_CONFIG = 3,
    CUDNN_ENGINE_HEURISTIC = 4,
    CUDNN_PLAN = 5,
    CUDNN_OPERATION_POINTWISE = 13,
    CUDNN_GRAPH = 15,
    CUDNN_VARIANTS = 16,
    CUDNN_TENSOR = 17,
    CUDNN_MATMUL = 18,
    CUDNN_OPERATION_MATMUL = 19,
    CUDNN_REDUCTION = 21,
    CUDNN_OPERATION_REDUCTION = 22,
    CUDNN_KERNEL_CACHE = 34,
    CUDNN_DEVICE = 38,
};

enum { /* cudnnBackendAttributeName_t */
    CUDNN_POINTWISE_MODE = 0,
    CUDNN_POINTWISE_PRECISION = 1,
    CUDNN_POINTWISE_AXIS = 9,
    CUDNN_HEURISTIC_MODE = 200,
    CUDNN_HEURISTIC_GRAPH = 201,
    CUDNN_HEURISTIC_RESULTS = 202,
    CUDNN_HEURISTIC_DEVICE = 204,
    CUDNN_PLAN_HANDLE = 400,
    CUDNN_PLAN_CONFIG = 401,
    CUDNN_PLAN_WORKSPACE = 402,
    CUDNN_PLAN_KERNEL_CACHE = 406,
    CUDNN_PLAN_DEVICE = 407,
    CUDNN_OP_POINTWISE = 750,
    CUDNN_OP_POINTWISE_X = 751,
    CUDNN_OP_POINTWISE_B = 752,
    CUDNN_OP_POINTWISE_Y = 753,
    CUDNN_OP_POINTWISE_T = 758,
    CUDNN_GRAPH_HANDLE = 800,
    CUDNN_GRAPH_OPERATIONS = 801,
    CUDNN_GRAPH_DYNAMIC = 803,
    CUDNN_TENSOR_ALIGNMENT = 900,
    CUDNN_TENSOR_TYPE = 901,
    CUDNN_TENSOR_DIMENSIONS = 902,
    CUDNN_TENSOR_STRIDES = 903,
    CUDNN_TENSOR_ID = 906,
    CUDNN_TENSOR_VIRTUAL = 907,
    CUDNN_TENSOR_BY_VALUE = 908,
    CUDNN_VARIANTS_IDS = 1000,
    CUDNN_VARIANTS_POINTERS = 1001,
    CUDNN_VARIANTS_WORKSPACE = 1003,
    CUDNN_MATMUL_TYPE = 1500,
    CUDNN_OP_MATMUL_A = 1520,
    CUDNN_OP_MATMUL_B = 1521,
    CUDNN_OP_MATMUL_C = 1522,
    CUDNN_OP_MATMUL = 1523,
    CUDNN_REDUCTION_OPERATOR = 1600,
    CUDNN_REDUCTION_TYPE = 1601,
    CUDNN_OP_REDUCTION_X = 1610,
    CUDNN_OP_REDUCTION_Y = 1611,
    CUDNN_OP_REDUCTION = 1612,
    CUDNN_KERNEL_CACHE_GRAPH = 2400,
    CUDNN_DEVICE_JSON = 2702,
};

/* 9.10.2: attention of one shape for all, heads of more than 128; 9.10.0 and 9.10.1 are faulty */
enum { CUDNN_OLDEST = 91002 };

typedef struct cudnn_library {
    size_t (*cudnnGetVersion)(void);
    const char *(*cudnnGetErrorString)(int status);
    int (*cudnnCreate)(cudnn_handle *out);
    int (*cudnnDestroy)(cudnn_handle handle);
    int (*cudnnSetStream)(cudnn_handle handle, cuda_stream stream);
    int (*cudnnBackendCreateDescriptor)(int kind, cudnn_descriptor *out);
    int (*cudnnBackendDestroyDescriptor)(cudnn_descriptor descriptor);
    int (*cudnnBackendFinalize)(cudnn_descriptor descriptor);
    int (*cudnnBackendSetAttribute)(
        cudnn_descriptor descriptor, int name, int type, int64_t count, const void *elements);
    int (*cudnnBackendGetAttribute)(cudnn_descriptor descriptor, int name, int type, int64_t wanted,
        int64_t *found, void *elements);
    int (*cudnnBackendExecute)(
        cudnn_handle handle, cudnn_descriptor plan, cudnn_descriptor variants);
    void *opened; /* what dlopen gave, or NULL */
} cudnn_library;

/* Opens cuDNN and fills in its calls. False when there is none, or an older one than CUDNN_OLDEST:
 * then nothing of it may be called. */
bool cudnn_open(cudnn_library *library);
/* takes one that was never opened, all zeros */
void cudnn_close(cudnn_library *library);

#endif
