/* sweeps.h: what the tests of sweeps share. */
#ifndef INSET_SWEEPS_H
#define INSET_SWEEPS_H

#include "inset.h"

/* To the end, or to the first failure. */
static inline inset_status run_all(inset_sweep *sweep)
{
    inset_status status = INSET_OK;
    while (!status && !inset_sweep_done(sweep)) status = inset_sweep_step(sweep);
    return status;
}

#endif
