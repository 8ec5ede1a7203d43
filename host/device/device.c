/* device.c: which device a name means. */
#include "device/device.h"

#include <string.h>

/* The N of "cuda:N"; -1 when it is not a small number. */
static int cuda_index(const char *digits)
{
    int index = 0;
    size_t n = strlen(digits);
    if (n == 0 || n > 4) return -1;
    for (; *digits; digits++) {
        if (*digits < '0' || *digits > '9') return -1;
        index = index * 10 + (*digits - '0');
    }
    return index;
}

inset_status device_open(inset_context *context, const char *name, device **out)
{
    *out = NULL;
    if (!name || strcmp(name, "auto") == 0) {
        if (device_cuda_absent(context)) return device_open_cpu(context, out);
        inset_status status = device_open_cuda(context, 0, out);
        if (status) /* there is a GPU: not to use it would not be noticed */
            error_help(context, "To run on the CPU all the same: the device \"cpu\" (-d cpu).");
        return status;
    }
    if (strcmp(name, "cpu") == 0) return device_open_cpu(context, out);
    if (strcmp(name, "cuda") == 0) return device_open_cuda(context, 0, out);
    int index = strncmp(name, "cuda:", 5) == 0 ? cuda_index(name + 5) : -1;
    if (index >= 0) return device_open_cuda(context, index, out);
    return error_set(context, INSET_USAGE_ERROR,
        "there is no device '%s'; devices are auto, cpu, cuda and cuda:N", name);
}

void device_close(device *d)
{
    if (d) d->functions->close(d);
}

void device_describe(inset_context *context, text *out)
{
    device_describe_cuda(context, out);
    device_describe_cpu(context, out);
}
