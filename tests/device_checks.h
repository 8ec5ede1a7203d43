/* device_checks.h: what every device must do, checked through device.h alone. */
#ifndef INSET_DEVICE_CHECKS_H
#define INSET_DEVICE_CHECKS_H

#include "device/device.h"

/* Each returns the number of failed checks and has printed them. `d` is the device under test; reference is another device (the CPU's), whose
 * kernels are tested against plain loops elsewhere. */
int check_copies(device *d);
int check_products(device *d);
int check_row_bits(device *d);               /* a product's row has the same bits alone and among others */
int check_kernels(device *d, device *reference);

#endif
