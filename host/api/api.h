/* api.h: what stands behind the handles of inset.h.
 *
 * The API adds nothing to the layers below: it checks that handles are there and belong together,
 * passes calls on, and sees to it that everything is freed with what it was made from (base.h,
 * `handle`). A value is an operand of the trace's with a way back to the trace. */
#ifndef INSET_API_H
#define INSET_API_H

#include "base/base.h"
#include "plan/plan.h"
#include "run/model.h"
#include "run/run.h"
#include "sweep/sweep.h"
#include "trace/trace.h"

/* A tensor from outside on the device, as long as its trace. */
typedef struct kept_tensor {
    struct kept_tensor *next;
    void *data;
    size_t bytes;
} kept_tensor;

struct inset_trace {
    handle handle; /* owner: the model */
    inset_context *context;
    inset_model *model;
    trace *trace;
    kept_tensor *kept;
    bool edits_model; /* its lines are an edit of the model, and it has no invokes */
};

struct inset_value { /* in the trace's arena */
    inset_trace *trace;
    operand operand;
};

struct inset_plan {
    handle handle; /* owner: the trace */
    inset_context *context;
    inset_model *model;
    plan *plan;
    /* NULL until the first run, so that planning leaves the device alone */
    run *run;
    bool ran; /* the last run succeeded: there are saved values */
};

/* Takes options over into model.c's and builder.c's common form. */
typedef struct model_choice {
    const char *device; /* NULL: none */
    inset_type type;    /* INSET_TYPE_COUNT: the file's own */
    bool fast, ungroup;
    size_t weight_memory; /* 0: what there is */
} model_choice;
inset_status api_model_choice(
    inset_context *context, const inset_model_options *options, model_choice *out);
/* Enters a new model in the context's list and hands it out. */
void api_model_register(inset_model *model);
/* A model without a device around a program, which it takes over, also on failure. */
inset_status api_model_without_device(
    program *p, inset_type type, size_t weight_memory, inset_model **out);

/* INSET_OK for a model that can run. */
inset_status api_need_device(const inset_model *model);
/* What the options of an attribution ask for, checked as far as they alone say. */
inset_status api_attribution(inset_context *context, const inset_attribution_options *options,
    inset_sweep_options *runs, attribution_method *method);

/* What is done so far, copied under the book's lock. USAGE_ERROR: out's size. */
inset_status api_progress(const sweep *s, inset_sweep_progress *out);

/* Ends the open edit, if there is one: it is then the trace's or the model's. */
inset_status api_end_edit(inset_trace *t);
/* Gives a new trace the model's edits. */
inset_status api_begin_edited(inset_trace *t);
/* INSET_OK for a model without edits, which `what` cannot do with. */
inset_status api_need_unedited(const inset_model *model, const char *what);

/* Releases the tensors on the device that the trace keeps. */
void api_free_kept(inset_trace *t);

/* INSET_OK when the value is there and the trace's own. */
inset_status api_check_value(inset_trace *t, const inset_value *value);
/* The finished `status` of a call that made `made`: hands out a value. */
inset_status api_give(inset_trace *t, inset_status status, const operand *made, inset_value **out);

/* "a NULL trace was given": for the calls that have a context to say it in. */
inset_status api_null(inset_context *context, const char *what);

/* Fills a caller's buffer from a text, as inset_describe says, and frees the text. */
inset_status api_give_text(
    inset_context *context, text *from, char *buffer, size_t capacity, size_t *length);

/* INSET_OK for a tensor with a known type, a possible shape, and data. */
inset_status api_check_tensor(inset_context *context, const inset_tensor *tensor);

#endif
