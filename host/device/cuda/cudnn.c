/* cudnn.c: cuDNN as the product finds it: opened when somebody asks, and no loss but of time where
 * it is not there. */
#include "device/cuda/cudnn.h"
#include "device/cuda/library.h"

#include <dlfcn.h>
#include <string.h>

/* Finds one function; the address goes into a function pointer through memory, which C allows and a
 * cast does not. */
static bool find(void *opened, const char *name, void *function)
{
    void *address = dlsym(opened, name);
    memcpy(function, &address, sizeof address);
    return address != NULL;
}

static bool find_all(cudnn_library *l)
{
    const struct {
        const char *name;
        void *function;
    } wanted[] = {
        {"cudnnGetVersion", &l->cudnnGetVersion},
        {"cudnnGetErrorString", &l->cudnnGetErrorString},
        {"cudnnCreate", &l->cudnnCreate},
        {"cudnnDestroy", &l->cudnnDestroy},
        {"cudnnSetStream", &l->cudnnSetStream},
        {"cudnnBackendCreateDescriptor", &l->cudnnBackendCreateDescriptor},
        {"cudnnBackendDestroyDescriptor", &l->cudnnBackendDestroyDescriptor},
        {"cudnnBackendFinalize", &l->cudnnBackendFinalize},
        {"cudnnBackendSetAttribute", &l->cudnnBackendSetAttribute},
        {"cudnnBackendGetAttribute", &l->cudnnBackendGetAttribute},
        {"cudnnBackendExecute", &l->cudnnBackendExecute},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!find(l->opened, wanted[i].name, wanted[i].function)) return false;
    return true;
}

bool cudnn_open(cudnn_library *library)
{
    *library = (cudnn_library){.opened = cuda_shared_open("libcudnn.so.9")};
    if (library->opened && find_all(library) && library->cudnnGetVersion() >= CUDNN_OLDEST)
        return true;
    cudnn_close(library);
    return false;
}

void cudnn_close(cudnn_library *library)
{
    if (library->opened) dlclose(library->opened);
    memset(library, 0, sizeof *library);
}
