/* attention.h: attention of whole sequences by cuDNN, as cuda.c knows it. */
#ifndef INSET_CUDA_ATTENTION_H
#define INSET_CUDA_ATTENTION_H

#include "device/cuda/attention_graph.h"
#include "device/cuda/cuda.h"

/* device_takes_attention and KERNEL_WHOLE_ATTENTION of device.h. cuDNN is opened when the first
 * question is asked. */
bool cuda_takes_attention(device *base, inset_type type, const whole_attention_args *shape);
inset_status cuda_whole_attention(
    cuda_device *d, inset_type type, const whole_attention_args *args);
void cuda_attention_close(cuda_device *d); /* once nothing is running */
/* "cuDNN 9.19.0", or "no cuDNN", which is what a device without a fitting one is described by. */
void cuda_attention_describe(cuda_device *d, text *out);

#endif
