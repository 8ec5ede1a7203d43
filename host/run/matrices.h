/* matrices.h: matrices that a trace brings to a run: tensors from outside that rows are multiplied
 * by, and weights in another role than their layer's. */
#ifndef INSET_RUN_MATRICES_H
#define INSET_RUN_MATRICES_H

#include "plan/emit/launches.h"
#include "run/model.h"

/* Those of a plan, as it numbers them; entries that no launch has are NULL. */
typedef struct run_matrices {
    struct inset_model *model;
    const plan *plan;
    const matrix **at;
    matrix **owned; /* those that are not the model's */
    void **fresh;   /* of each, numbers that a caller gave since: the whole tensor, or NULL */
} run_matrices;

inset_status matrices_create(struct inset_model *model, const plan *p, run_matrices **out);
void matrices_free(run_matrices *m); /* takes NULL */
/* Other numbers for a storage of the trace, [rows, width] in its type; copied. */
inset_status matrices_set(run_matrices *m, int32_t storage, const void *data);
/* Makes the matrices of numbers that were set; *renewed: there are such, and `at` has changed. */
inset_status matrices_renew(run_matrices *m, bool *renewed);

#endif
