/* shared.c: NVIDIA's shared libraries by name: where the loader looks, and then in the folders that
 * INSET_CUDA_LIBRARIES names (pip's packages have one each, site-packages/nvidia/.../lib). */
#include "device/cuda/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *cuda_shared_open(const char *name)
{
    const int how = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;
    void *opened = dlopen(name, how);
    const char *folders = getenv("INSET_CUDA_LIBRARIES");
    while (!opened && folders && *folders) {
        char path[4096];
        const int n = (int)strcspn(folders, ":");
        const bool fits = snprintf(path, sizeof path, "%.*s/%s", n, folders, name)
                          < (int)sizeof path;
        if (n && fits) opened = dlopen(path, how);
        folders += n + (folders[n] == ':');
    }
    return opened;
}
