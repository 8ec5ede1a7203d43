/* model.h: a model ready to run: its program, the device, and the weights on it. */
#ifndef INSET_RUN_MODEL_H
#define INSET_RUN_MODEL_H

#include "base/base.h"
#include "device/device.h"
#include "file/file.h"
#include "plan/plan.h"
#include "program/program.h"
#include "trace/trace.h"

typedef struct device_weight {
    /* WEIGHT_MATRIX used by a linear step (with that step's bias inside) */
    matrix *matrix;
    matrix *reverse; /* the other way round, from the first run on that goes backwards */
    /* WEIGHT_VECTOR and WEIGHT_TABLE, and others that are read as values, in the model's type, on
     * the device */
    void *data;
    size_t bytes; /* of data */
} device_weight;

/* parts of weights as matrices of their own (parts.c) */
typedef struct model_parts model_parts;

struct inset_model {
    inset_context *context;
    handle handle;          /* the public API's: removed by model_free's caller */
    program *program;       /* owned */
    device *device;         /* owned */
    inset_type type;        /* f32, bf16 or f16 */
    device_weight *weights; /* one per program weight */
    /* every product with a tanh GELU behind it may be one launch with it */
    bool gelu_in_product;
    int64_t weight_bytes;         /* of all weights in the model's type, a tied one once */
    struct weight_stream *stream; /* weights that come and go (stream.h); NULL: all stay */
    model_parts *parts;           /* NULL until a head is run on its own */
    char *directory;              /* where the weights are; NULL: they were in memory */
    char *folder; /* where config.json is, with or without weights; NULL: in memory */
    struct tokenizer *tokenizer; /* of that folder, from the first text on (tokens.h) */
    weight_files *given;         /* tensors that somebody keeps for the model, or NULL */
    edit **edits;                /* what traces of the public API begin with, the oldest first */
    size_t n_edits, edits_capacity;
};

/* Opens a Hugging Face directory (config.json; model.safetensors or an index of shards): reads the
 * config, has the family build its program, checks that every weight is there with its shape and a
 * float type and that nothing unknown is left over, and prepares the weights on the device.
 *   device_name  as device_open takes it
 *   type         INSET_F32, INSET_BF16, INSET_F16, or INSET_TYPE_COUNT for the file's own type
 *   fast         whether the device may give up that a row's bits depend on its own numbers alone
 *                (device.h)
 *   ungroup      see program.ungroup
 *   weight_memory   most bytes that weights take on the device: where that is not enough, some
 *                come and go (stream.h). 0: what there is
 * INSET_FILE_ERROR names the file and what is wrong with it. Nothing is read from the weights
 * before the config is checked. */
struct inset_model;
inset_status model_open(inset_context *context, const char *directory, const char *device_name,
    inset_type type, bool fast, bool ungroup, size_t weight_memory, struct inset_model **out);
/* The same from a config's text and tensors by the names that a file would have, which stay where
 * they are, unchanged, as long as the model: on the host, or on the GPU it runs on, where those
 * that can be read as they lie are not copied. */
inset_status model_from_tensors(inset_context *context, const char *config, size_t length,
    const file_tensor *tensors, size_t count, const char *device_name, inset_type type, bool fast,
    bool ungroup, size_t weight_memory, struct inset_model **out);
/* A model whose program was built in memory (weights have `data`). Takes the program over, also on
 * failure. */
inset_status model_from_program(
    program *p, const char *device_name, inset_type type, bool fast, struct inset_model **out);
/* The program of a config's text, and of a directory, without weights or device: for `inset
 * sites`. */
inset_status model_program_of(
    inset_context *context, const char *config, size_t length, bool ungroup, program **out);
inset_status model_program(
    inset_context *context, const char *directory, bool ungroup, program **out);
/* Bytes that runs may take beside the weights when nobody gave a limit, 1 at least: on a GPU what
 * is free now, on a CPU what was when the model was opened, without the weights. 0: any (no device,
 * or it does not say). */
size_t model_memory_left(const struct inset_model *model);
/* What plans for this model must know of its device. */
plan_traits model_traits(const struct inset_model *model);
/* The matrix of a weight that linear steps have; reverse: the other way round, made once. */
inset_status model_matrix(
    struct inset_model *model, int32_t weight, bool reverse, const matrix **out);
/* What the weights of a model with a device take there, with all matrices also the other way round
 * where it needs a copy for that, as gradients have them. */
int64_t model_bytes_backward(const struct inset_model *model);
/* Says where the config lies. */
inset_status model_set_folder(struct inset_model *model, const char *folder);
void model_free(struct inset_model *model); /* takes NULL */
void model_clear_edits(struct inset_model *model);

/* The weights once more, as numbers on the host: for what is computed beside runs. USAGE_ERROR
 * for a model whose weights were given in memory. */
typedef struct model_weights model_weights;
/* That error, or INSET_OK. */
inset_status model_need_numbers(const struct inset_model *model);
inset_status model_weights_open(struct inset_model *model, model_weights **out);
void model_weights_close(model_weights *w); /* takes NULL */
/* A weight as fp32, [rows, columns] as the file has it; it holds until the next call with the same
 * `place`, 0 to 3, or the end. */
inset_status model_weights_get(model_weights *w, int32_t weight, int place, const float **out);

/* The same as it lies, in its own type; holds until the next call. */
inset_status model_weights_raw(
    model_weights *w, int32_t weight, const void **out, inset_type *type);

/* A part of a weight as a matrix, with its part of the bias (-1: none); made once. reverse: by its
 * transpose, without a bias. It is the model's. As model_weights_open's errors. */
inset_status model_part(struct inset_model *model, int32_t weight, int32_t bias,
    const head_part *part, bool reverse, const matrix **out);
/* Which part a matrix of model_part is, or is the reverse of; NULL: it is none. (Tests ask what a
 * launch multiplies.) */
const head_part *model_part_of(const struct inset_model *model, const matrix *m, bool *reverse);
/* A weight's numbers on the device as they lie in the file, for what reads rows of it: vectors that
 * only steps aside read, weights as values. Nothing where they are there already. */
inset_status model_numbers(struct inset_model *model, int32_t weight);
/* A weight as fp32 on the host, [rows, columns] as the file has it, until the next part or weight
 * is asked for. As model_weights_open's errors. */
inset_status model_part_numbers(struct inset_model *model, int32_t weight, const float **out);
void model_parts_free(struct inset_model *model);

#endif
