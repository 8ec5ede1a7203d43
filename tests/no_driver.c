/* no_driver.c: a libcuda.so.1 that drives nothing, so that cuDNN can be asked for plans on a
 * machine without a GPU (test_attention_plans.c). It has what cuDNN 9 looks up: no device answers,
 * modules load, and nothing is ever launched. */
enum { NO_DEVICE = 100, NOT_FOUND = 500, VERSION = 13000 };

static int a_module, a_kernel;

#define NOTHING(name) \
    int name(void);   \
    int name(void) { return 0; }
#define GIVES(name, what) \
    int name(void **out); \
    int name(void **out)  \
    {                     \
        *out = &what;     \
        return 0;         \
    }
#define COUNTS(name, number) \
    int name(int *out);      \
    int name(int *out)       \
    {                        \
        *out = number;       \
        return 0;            \
    }
#define SAYS(name)                         \
    int name(int error, const char **out); \
    int name(int error, const char **out)  \
    {                                      \
        (void)error;                       \
        *out = "no driver";                \
        return 0;                          \
    }

int cuInit(unsigned flags);
int cuInit(unsigned flags)
{
    (void)flags;
    return NO_DEVICE;
}
int cuGetProcAddress_v2(
    const char *name, void **out, int version, unsigned long long flags, void *found);
int cuGetProcAddress_v2(
    const char *name, void **out, int version, unsigned long long flags, void *found)
{
    (void)name, (void)version, (void)flags, (void)found;
    *out = 0;
    return NOT_FOUND;
}

COUNTS(cuDriverGetVersion, VERSION)
COUNTS(cuDeviceGetCount, 0)
COUNTS(cuKernelGetAttribute, 0)
COUNTS(cuFuncGetAttribute, 0)
SAYS(cuGetErrorName)
SAYS(cuGetErrorString)
GIVES(cuLibraryLoadData, a_module)
GIVES(cuLibraryGetKernel, a_kernel)
GIVES(cuKernelGetFunction, a_kernel)
GIVES(cuModuleLoadData, a_module)
GIVES(cuModuleGetFunction, a_kernel)
NOTHING(cuKernelSetAttribute)
NOTHING(cuFuncSetAttribute)
NOTHING(cuLibraryUnload)
NOTHING(cuModuleUnload)
NOTHING(cuCtxGetCurrent)
NOTHING(cuCtxGetLimit)
NOTHING(cuCtxPopCurrent)
NOTHING(cuCtxPushCurrent)
NOTHING(cuDeviceGet)
NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLaunchKernel)
NOTHING(cuLaunchKernelEx)
NOTHING(cuLibraryLoadFromFile)
NOTHING(cuLinkAddData)
NOTHING(cuLinkComplete)
NOTHING(cuLinkCreate)
NOTHING(cuLinkDestroy)
NOTHING(cuOccupancyMaxPotentialClusterSize)
NOTHING(cuStreamGetCtx)
