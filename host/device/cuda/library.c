/* library.c: NVIDIA's libraries as the product finds them. The runtime is linked in (statically: it
 * looks for the driver only when it is first called); cuBLASLt, hundreds of megabytes, is opened
 * when a CUDA device is. */
#include "device/cuda/library.h"

#ifndef INSET_CUDA

inset_status cuda_library_open(inset_context *context, cuda_library *library)
{
    (void)library;
    return error_set(context, INSET_DEVICE_ERROR,
        "this build of inset has no CUDA device (it was built without nvcc)");
}

inset_status cuda_library_open_products(inset_context *context, cuda_library *library)
{
    return cuda_library_open(context, library);
}

void cuda_library_close(cuda_library *library) { (void)library; }

#else

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

inset_status cuda_library_open(inset_context *context, cuda_library *library)
{
    (void)context;
    cuda_calls_fill(library);
    return INSET_OK;
}

/* Version 13 is what CUDA 13 brings; 12 has the same calls. The last name is there where the
 * development files are. */
static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

/* Finds one function; the address goes into a function pointer through memory, which C allows and a
 * cast does not. */
static bool find(void *products, const char *name, void *function)
{
    void *address = dlsym(products, name);
    memcpy(function, &address, sizeof address);
    return address != NULL;
}

static const char *find_all(cuda_library *l)
{
    const struct {
        const char *name;
        void *function;
    } wanted[] = {
        {"cublasLtGetVersion", &l->cublasLtGetVersion},
        {"cublasLtGetStatusString", &l->cublasLtGetStatusString},
        {"cublasLtCreate", &l->cublasLtCreate},
        {"cublasLtDestroy", &l->cublasLtDestroy},
        {"cublasLtMatmulDescCreate", &l->cublasLtMatmulDescCreate},
        {"cublasLtMatmulDescDestroy", &l->cublasLtMatmulDescDestroy},
        {"cublasLtMatmulDescSetAttribute", &l->cublasLtMatmulDescSetAttribute},
        {"cublasLtMatrixLayoutCreate", &l->cublasLtMatrixLayoutCreate},
        {"cublasLtMatrixLayoutDestroy", &l->cublasLtMatrixLayoutDestroy},
        {"cublasLtMatrixLayoutSetAttribute", &l->cublasLtMatrixLayoutSetAttribute},
        {"cublasLtMatmulPreferenceCreate", &l->cublasLtMatmulPreferenceCreate},
        {"cublasLtMatmulPreferenceDestroy", &l->cublasLtMatmulPreferenceDestroy},
        {"cublasLtMatmulPreferenceSetAttribute", &l->cublasLtMatmulPreferenceSetAttribute},
        {"cublasLtMatmulAlgoGetHeuristic", &l->cublasLtMatmulAlgoGetHeuristic},
        {"cublasLtMatmul", &l->cublasLtMatmul},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!find(l->products, wanted[i].name, wanted[i].function)) return wanted[i].name;
    return NULL;
}

/* Opens the one of that name; *why: what is wrong with it, [256]. */
static bool open_products(cuda_library *l, const char *name, char *why)
{
    l->products = cuda_shared_open(name);
    if (!l->products) {
        snprintf(why, 256, "%s", dlerror());
        return false;
    }
    const char *missing = find_all(l);
    const size_t version = missing ? 0 : l->cublasLtGetVersion();
    if (!missing && version >= 120000 && version < 140000) return true;
    if (missing) snprintf(why, 256, "%s has no %s", name, missing);
    else snprintf(why, 256, "%s is of version %zu.%zu", name, version / 10000, version / 100 % 100);
    dlclose(l->products);
    l->products = NULL;
    return false;
}

inset_status cuda_library_open_products(inset_context *context, cuda_library *library)
{
    char why[256] = "", first[256] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (open_products(library, names[i], why)) return INSET_OK;
        /* the first that is there and is not fit says more than the last that is not there */
        if (!i || strncmp(why, "lib", 3) == 0) snprintf(first, sizeof first, "%s", why);
    }
    return error_set(context, INSET_DEVICE_ERROR,
        "a CUDA device needs cuBLASLt 12 or 13: %s; install CUDA's libraries, or name their folder "
        "in INSET_CUDA_LIBRARIES (pip's are in site-packages/nvidia/*/lib)",
        first);
}

void cuda_library_close(cuda_library *library)
{
    if (library->products) dlclose(library->products);
    memset(library, 0, sizeof *library);
}

#endif
