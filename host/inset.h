/* inset.h: set values inside a running transformer, on a GPU or on the CPU.
 *
 * A complete program: take the residual stream of one prompt at layer 5, position 2, put it into
 * another prompt's run, and read the logits that come out.
 *
 *     #include <inset.h>
 *     #include <stdio.h>
 *
 *     int main(void)
 *     {
 *         inset_context *context = NULL;
 *         inset_model *model = NULL;
 *         inset_trace *trace = NULL;
 *         inset_plan *plan = NULL;
 *         inset_value *source = NULL, *logits = NULL;
 *         inset_tensor out;
 *         const int64_t clean[] = {464, 412, 733}, corrupt[] = {464, 999, 733};
 *         inset_status status = inset_context_create(NULL, &context);
 *         if (!status) status = inset_model_open(context, "gpt2", NULL, &model);
 *         if (!status) status = inset_trace_create(model, &trace);
 *         if (!status) status = inset_invoke_tokens(trace, 1, (int64_t[]){3}, clean);
 *         if (!status) status = inset_get(trace, "transformer.h[5].output[:, 2]", &source);
 *         if (!status) status = inset_invoke_tokens(trace, 1, (int64_t[]){3}, corrupt);
 *         if (!status) status = inset_set(trace, "transformer.h[5].output[:, 2]", source);
 *         if (!status) status = inset_get(trace, "output.logits[:, -1]", &logits);
 *         if (!status) status = inset_save(trace, "logits", logits);
 *         if (!status) status = inset_plan_create(trace, NULL, &plan);
 *         if (!status) status = inset_run(plan);
 *         if (!status) status = inset_saved(plan, "logits", &out);
 *         if (status) fprintf(stderr, "%s\n", inset_message(context));
 *         else printf("logit of token 11: %g\n", ((const float *)out.data)[11]);
 *         inset_context_free(context);
 *         return status != INSET_OK;
 *     }
 *
 * Rules that hold throughout. Every call that can fail returns an inset_status, and the context
 * then holds a message for the user. Every handle belongs to one context and is freed by its own
 * _free call or, at the latest, with the one it was made from (context > model > trace > plan),
 * after which it must not be used. One thread at a time may use a context and what belongs to it;
 * different contexts are independent. The library has no global state, never prints, exits or
 * aborts. On failure nothing is launched and nothing that existed before the call has changed,
 * except where a call says otherwise. */
#ifndef INSET_H
#define INSET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define INSET_API __attribute__((visibility("default")))
#else
#define INSET_API
#endif

#define INSET_VERSION "0.1.0"

/* ---- status ------------------------------------------------------------- */
typedef enum inset_status {
    INSET_OK = 0,
    /* MemoryError: the host or the device has too little; the message has both figures where
     * known */
    INSET_NO_MEMORY,
    INSET_SYNTAX_ERROR,    /* SyntaxError */
    INSET_NAME_ERROR,      /* NameError */
    INSET_UNKNOWN_SITE,    /* UnknownSiteError */
    INSET_OUT_OF_ORDER,    /* OutOfOrderError */
    INSET_MISSED_PROVIDER, /* MissedProviderError */
    INSET_INDEX_ERROR,     /* IndexError */
    INSET_VALUE_ERROR,     /* ValueError */
    INSET_SHAPE_ERROR,     /* ShapeError */
    INSET_TYPE_ERROR,      /* TypeError */
    INSET_FILE_ERROR,      /* FileError */
    INSET_DEVICE_ERROR,    /* DeviceError */
    /* UsageError: a call that makes no sense (a NULL handle, an unknown option) */
    INSET_USAGE_ERROR,
    INSET_STOPPED /* StoppedError: the watcher asked for it, see inset_watch */
} inset_status;

/* "OutOfOrderError" and so on; "OK" for INSET_OK. Never NULL. */
INSET_API const char *inset_status_name(inset_status status);
INSET_API const char *inset_version(void);

/* ---- context ------------------------------------------------------------ */
typedef struct inset_context inset_context;

/* Where the library's host memory comes from. resize(user, NULL, n) allocates, resize(user, p, 0)
 * frees and returns NULL. */
typedef struct inset_allocator {
    void *(*resize)(void *user, void *block, size_t size);
    void *user;
} inset_allocator;

/* Creates a context. allocator: copied, or NULL for realloc and free. INSET_NO_MEMORY is the only
 * failure. */
INSET_API inset_status inset_context_create(const inset_allocator *allocator, inset_context **out);
/* Frees the context and everything that still belongs to it. Takes NULL. */
INSET_API void inset_context_free(inset_context *context);
/* The last failure's message, several lines, the last of them "NAME: what is wrong"; "" when
 * nothing failed. Holds until the next call. */
INSET_API const char *inset_message(inset_context *context);
/* Which devices answer, one a line, and the libraries inset works with and their versions.
 *   buffer    gets the text, cut to `capacity` bytes with the final NUL; may be NULL when capacity
 *             is 0
 *   length    gets the length of the whole text; may be NULL
 * INSET_NO_MEMORY, or INSET_USAGE_ERROR for a NULL context. */
INSET_API inset_status inset_describe(
    inset_context *context, char *buffer, size_t capacity, size_t *length);

/* How many GPUs answer: cuda:0 to cuda:N-1. 0 where there are none, and for a NULL context. */
INSET_API int inset_gpu_count(inset_context *context);

/* How far a long call is: `done` of `total` steps of the model, invokes or launches. */
typedef struct inset_progress {
    const char *doing; /* "opening", "planning", "running" */
    int64_t done, total;
} inset_progress;
/* Is called, in the caller's thread, while a call opens a model, plans or runs (sweeps,
 * attributions and circuits plan and run), and must not use the context. 0: go on; anything else:
 * stop, and the call returns INSET_STOPPED as if it had failed. */
typedef int (*inset_watcher)(void *user, const inset_progress *progress);
/* Sets the context's watcher; NULL: none. It is called when `seconds` have passed since the last
 * time; 0: at every step that is opened, every invoke and launch. What a GPU was given before a
 * stop it finishes: the next call waits for it, and a graph (a plan's third run and later ones) is
 * stopped before it begins or not at all. INSET_USAGE_ERROR: a NULL context, seconds below 0 or not
 * a number. */
INSET_API inset_status inset_watch(
    inset_context *context, inset_watcher watcher, void *user, double seconds);

/* ---- tensors ------------------------------------------------------------ */
typedef enum inset_type {
    INSET_F32,
    INSET_BF16,
    INSET_F16,
    INSET_F64,
    INSET_I64,
    INSET_I32,
    INSET_I16,
    INSET_I8,
    INSET_U8,
    INSET_BOOL,
    INSET_TYPE_COUNT
} inset_type;

enum { INSET_MAX_DIMENSIONS = 8 };

/* A dense row-major tensor in host memory. */
typedef struct inset_tensor {
    const void *data;
    inset_type type;
    int32_t n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS];
} inset_tensor;

/* A tensor on the spot, for calls that take one: INSET_TENSOR(numbers, INSET_F32, 10, 5) is a
 * `const inset_tensor *` that lives as long as the block it stands in. */
#define INSET_TENSOR(data, type, ...)      \
    (&(const inset_tensor){(data), (type), \
        (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})

/* A tensor on the device that the model runs on, dense and row-major there: numbers that stay on a
 * GPU. One that inset gave is a copy of its own, whole when the call returns: nothing that is run
 * or freed later changes it, and inset_device_tensor_free may be called by any thread at any time.
 * One that inset takes is borrowed during the call; memory and release may be NULL. inset_dlpack.h
 * makes DLPack's tensors of these and these of DLPack's. */
enum { INSET_ON_CPU = 1, INSET_ON_CUDA = 2 }; /* DLPack's kDLCPU, kDLCUDA */
typedef struct inset_device_tensor {
    inset_tensor tensor; /* data is an address there */
    int32_t device_type, device_index;
    void *memory;
    void (*release)(void *memory);
} inset_device_tensor;
/* Takes NULL, and one that was freed. */
INSET_API void inset_device_tensor_free(inset_device_tensor *tensor);

/* Bytes of one element; 0 for a value that is no type. */
INSET_API size_t inset_type_size(inset_type type);
/* "f32"; "?" for a value that is no type. */
INSET_API const char *inset_type_name(inset_type type);
/* Elements of a tensor: the product of its shape, 1 for a tensor without dimensions. */
INSET_API int64_t inset_tensor_count(const inset_tensor *tensor);
/* Element `index` in row-major order as a double (bool: 0 or 1; large 64-bit integers round). The
 * index is not checked. */
INSET_API double inset_tensor_element(const inset_tensor *tensor, int64_t index);

/* ---- model -------------------------------------------------------------- */
typedef struct inset_model inset_model;

typedef struct inset_model_options {
    size_t size; /* sizeof(inset_model_options); set by INSET_MODEL_OPTIONS */
    /* "auto" (CUDA when a device answers, else the CPU; also NULL), "cpu", "cuda", "cuda:N", or
     * "none": names, shapes, checks and plans without weights or a device, and no runs */
    const char *device;
    /* "f32", "bf16", "f16": weights are converted; NULL: the type of the file (own models and
     * "none": f32) */
    const char *dtype;
    /* 1: the fastest way, even where a row's bits then depend on what is computed beside it, so
     * that sharing, chunks and what is saved may show in the last bits; 0: they never do, but on a
     * CPU without AVX-512, whose products add up in an order that depends on how many rows there
     * are. On a GPU, products of an f32 model are then TF32's: factors rounded to 10 bits. On the
     * CPU it changes nothing */
    int fast;
    /* 1: query heads that share a key-value head have a copy of it each, as TransformerLens's
     * ungroup_grouped_query_attention: `.k`, `.v`, `.k_input`, `.v_input` are as many as `.q`.
     * INSET_VALUE_ERROR for a model that norms the keys of all heads at once (OLMo 2) */
    int ungroup;
    /* most bytes that the weights may take on the device; where that is not enough, as many layers
     * as fit stay there, and the others are brought from the file when a run comes to them, the
     * next one while the device computes. The same bits. 0: what there is: all stay where they take
     * less than nine tenths of the memory that is free, else six tenths of it are theirs.
     * INSET_NO_MEMORY: embeddings, the head and two layers' largest matrices do not fit. A plan of
     * a device "none" says what it would copy */
    size_t weight_memory;
} inset_model_options;
#define INSET_MODEL_OPTIONS                              \
    {                                                    \
        sizeof(inset_model_options), NULL, NULL, 0, 0, 0 \
    }

/* Opens a Hugging Face directory, or a file whose name ends in .gguf (quantised: F32, F16, BF16,
 * Q4_0 to Q8_0, Q2_K to Q8_K, widened; of the architectures llama, qwen2, qwen3, gemma2 and phi3).
 * A directory has config.json, and model.safetensors or
 * model.safetensors.index.json with its shards. The weights are checked and put on the device.
 *   options   read during the call; NULL for the defaults
 *   out       the model; freed with inset_model_free, or with the context
 * INSET_FILE_ERROR: something is wrong in the directory, INSET_DEVICE_ERROR: the device does not
 * answer, INSET_USAGE_ERROR: an option that is none, INSET_NO_MEMORY. On failure *out is
 * untouched. */
INSET_API inset_status inset_model_open(inset_context *context, const char *directory,
    const inset_model_options *options, inset_model **out);
/* The same without files: from the text of a config.json and tensors by the names that
 * model.safetensors would have. They are borrowed as long as the model, unchanged and where they
 * are: parts of them may be read later. On a CPU matrices are packed, as those of files are. On a
 * GPU, tensors that lie on it in the model's type are read where they are, but for matrices [in,
 * out] (GPT-2's), whose other order is made once.
 *   names, tensors  [n]; on the CPU or on the model's GPU
 * Errors as inset_model_open's, the same things being wrong with them; INSET_VALUE_ERROR: a name
 * twice; INSET_DEVICE_ERROR: a tensor on another device. */
INSET_API inset_status inset_model_from_tensors(inset_context *context, const char *config,
    size_t n, const char *const *names, const inset_device_tensor *tensors,
    const inset_model_options *options, inset_model **out);
/* Frees the model and every trace and plan made from it. Takes NULL. */
INSET_API void inset_model_free(inset_model *model);
/* What runs it: "cpu: Intel Xeon ..., AVX-512, 2 threads", "cuda:0: NVIDIA H200", "none". Holds as
 * long as the model. */
INSET_API const char *inset_model_device(const inset_model *model);
/* Its family, as config.json's model_type has it: "gpt2", "sequential"; an own model's is "own". */
INSET_API const char *inset_model_kind(const inset_model *model);
/* The model_type of the model of images and text whose text part this is ("llava", "gemma3": its
 * text_config was read, its other tensors were left); NULL for all others. */
INSET_API const char *inset_model_part_of(const inset_model *model);
/* The type its numbers are stored in: INSET_F32, INSET_BF16 or INSET_F16. */
INSET_API inset_type inset_model_type(const inset_model *model);

/* What can be asked for by name, in execution order. */
enum { INSET_BATCH = -1, INSET_POSITION = -2 };
typedef struct inset_site {
    const char *module; /* path: "transformer.h.5.mlp"; "" for the root */
    const char *name;   /* "input", "output", "q", ... */
    /* both as a trace writes them: "transformer.h.5.mlp.output"; the root's logits
     * "output.logits" */
    char path[256];
    int32_t depth;    /* how many modules that have sites are open around it */
    int32_t settable; /* 0 for token ids and positions */
    int32_t integer;  /* 1: int64; 0: the model's type */
    int32_t n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS]; /* INSET_BATCH, INSET_POSITION, or an extent */
} inset_site;
INSET_API size_t inset_site_count(const inset_model *model);
/* Fills in site `index` in execution order; its texts hold as long as the model. INSET_INDEX_ERROR
 * past the last. */
INSET_API inset_status inset_site_at(inset_model *model, size_t index, inset_site *out);

/* ---- text ---------------------------------------------------------------- */

/* Token ids of a text, by the tokenizer.json of the model's directory (BPE, with the parts that the
 * families' files use; INSET_FILE_ERROR names others). special: 1 with what the file puts before
 * and behind a prompt, such as BOS; 0 for words of answers. ids [capacity] gets as many as there is
 * room for, *count is how many there are. text: UTF-8. INSET_FILE_ERROR: there is no
 * tokenizer.json, or it is wrong; INSET_USAGE_ERROR: the model was made in memory;
 * INSET_TYPE_ERROR: it takes numbers; INSET_VALUE_ERROR: no UTF-8. */
INSET_API inset_status inset_tokens(inset_model *model, const char *text, int special, int64_t *ids,
    size_t capacity, size_t *count);
/* What a token stands for, " Mary", in out [size] with a NUL behind it; bytes that are no UTF-8 and
 * control characters as \\xf0 or \\n, an id without a token as #17. Errors as above. */
INSET_API inset_status inset_token_text(inset_model *model, int64_t token, char *out, size_t size);

/* ---- a model of one's own -----------------------------------------------
 * Modules, steps and weights are declared in the order they run. The notebook's two-layer model:
 *
 *     inset_builder *builder = NULL; inset_status status = inset_builder_create(context, &builder);
 *     inset_slot x = inset_builder_input(builder, 5); x = inset_builder_linear(builder, "layer1",
 *     x, INSET_TENSOR(w1, INSET_F32, 10, 5), INSET_TENSOR(b1, INSET_F32, 10)); x =
 *     inset_builder_linear(builder, "layer2", x, INSET_TENSOR(w2, INSET_F32, 2, 10),
 *     INSET_TENSOR(b2, INSET_F32, 2)); if (!status) status = inset_builder_finish(builder, x, NULL,
 *     &model);
 *
 * A slot refers to the value that a step made, or to whatever was put there: adding, naming and
 * reading go by slots. Calls that make a slot never need a check: the first failure sticks in the
 * builder, later calls give INSET_NO_SLOT, and inset_builder_finish returns the failure. With a
 * NULL builder they give INSET_NO_SLOT too.
 *   name      the module the step becomes ("h.0.mlp" makes `h` a container); NULL: a step without a
 *             module
 *   weights   of a float type, borrowed until inset_builder_finish has returned; biases may be
 *             NULL */
typedef struct inset_builder inset_builder;
typedef int32_t inset_slot;
enum { INSET_NO_SLOT = -1 };
typedef enum inset_activation {
    INSET_GELU,
    INSET_GELU_TANH,
    INSET_RELU,
    INSET_SILU,
    INSET_TANH,
    INSET_SIGMOID
} inset_activation;

/* Freed by inset_builder_finish, by inset_builder_free, or with the context. */
INSET_API inset_status inset_builder_create(inset_context *context, inset_builder **out);
INSET_API void inset_builder_free(inset_builder *builder); /* takes NULL */

/* What invokes give the model: rows of numbers [batch, width], or token ids [batch, position] below
 * `vocabulary` at no more than `max_positions` positions. One of the two, first. */
INSET_API inset_slot inset_builder_input(inset_builder *builder, int64_t width);
INSET_API inset_slot inset_builder_tokens(
    inset_builder *builder, int64_t vocabulary, int64_t max_positions);
/* The positions 0, 1, ... of the tokens, to embed. */
INSET_API inset_slot inset_builder_positions(inset_builder *builder);

/* A module around what follows, until inset_builder_leave: its `.input` is `x`, its `.output` what
 * leave is given. Both return the slot to go on with: what is put at that site from outside is seen
 * by who reads that slot. */
INSET_API inset_slot inset_builder_enter(inset_builder *builder, const char *name, inset_slot x);
INSET_API inset_slot inset_builder_leave(inset_builder *builder, inset_slot x);

/* table [n, width], a row an id */
INSET_API inset_slot inset_builder_embed(
    inset_builder *builder, const char *name, inset_slot ids, const inset_tensor *table);
/* x W^T + bias: weight [out, in], bias [out] */
INSET_API inset_slot inset_builder_linear(inset_builder *builder, const char *name, inset_slot x,
    const inset_tensor *weight, const inset_tensor *bias);
/* (x - mean) / sqrt(variance + epsilon) * weight + bias: weight [width], bias [width] */
INSET_API inset_slot inset_builder_layernorm(inset_builder *builder, const char *name, inset_slot x,
    const inset_tensor *weight, const inset_tensor *bias, float epsilon);
INSET_API inset_slot inset_builder_activation(
    inset_builder *builder, const char *name, inset_slot x, inset_activation kind);
/* x + y, of one width */
INSET_API inset_slot inset_builder_add(inset_builder *builder, inset_slot x, inset_slot y);
/* Causal attention of token models: softmax(q k^T / sqrt(head_dim)) v, heads side by side: q [..,
 * n_heads * head_dim], k and v [.., n_kv_heads * head_dim], n_heads a multiple of n_kv_heads,
 * head_dim at most 256. Gives [.., n_heads * head_dim]. */
INSET_API inset_slot inset_builder_attention(inset_builder *builder, inset_slot q, inset_slot k,
    inset_slot v, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim);
/* Columns first, ..., first + n_heads * head_dim - 1 of `x` as a site `name` of the open module,
 * [batch, position, n_heads, head_dim]: a view, so that setting it sets `x`. n_heads 0: [batch,
 * position, head_dim]. */
INSET_API inset_slot inset_builder_view(inset_builder *builder, const char *name, inset_slot x,
    int64_t first, int64_t n_heads, int64_t head_dim);

/* Makes the model; its last value is `x`, which token models also have as `output.logits`. Frees
 * the builder, whatever comes of it. The weights are copied to the device. options as in
 * inset_model_open. INSET_VALUE_ERROR, INSET_SHAPE_ERROR, INSET_TYPE_ERROR or INSET_USAGE_ERROR:
 * the first declaration that was wrong; else as inset_model_open. */
INSET_API inset_status inset_builder_finish(
    inset_builder *builder, inset_slot x, const inset_model_options *options, inset_model **out);

/* ---- trace --------------------------------------------------------------- */

/* A list of invokes, each
 * an input with its own records. Every call is checked at once: names, order, indices, shapes and
 * types; a call that fails records nothing (but a site that it reached counts as asked for, as in
 * Python). Nothing is computed before inset_run. What calls mean is what the same lines of a trace
 * script mean:
 *
 *     source = h[5].output[:, 2]          inset_get(trace, "h[5].output[:, 2]", &source)
 *     h[5].output[:, 2] = source          inset_set(trace, "h[5].output[:, 2]", source)         in
 *                                         place
 *     h[5].output = source                inset_set(trace, "h[5].output", source)               a
 *                                         replacement
 *     h[5].output += source               inset_update(trace, "h[5].output", INSET_ADD, source)
 *     x = 0.5 * source.clone()            inset_clone(source, &x), inset_number(trace, 0.5, &half),
 *                                         inset_arithmetic(half, INSET_MULTIPLY, x, &x)
 *     d = logits[0, -1].logit_diff(3, 5)  inset_index(logits, "[0, -1]", &x), inset_metric(x,
 *                                         INSET_LOGIT_DIFF, 1, (int64_t[]){3}, 1, (int64_t[]){5},
 *                                         NULL, &d)
 *     x[:, 0] = 1                         inset_number(trace, 1, &one), inset_set_value(x, "[:,
 *                                         0]", one)
 *     logits.save()                       inset_save(trace, "logits", logits)
 *
 * Statuses that calls below share: INSET_UNKNOWN_SITE, INSET_OUT_OF_ORDER and INSET_MISSED_PROVIDER
 * for sites, INSET_SYNTAX_ERROR for a site or index that cannot be read, INSET_INDEX_ERROR and
 * INSET_VALUE_ERROR for indices, INSET_SHAPE_ERROR, INSET_TYPE_ERROR, INSET_USAGE_ERROR for a NULL
 * or a value of another trace, INSET_NO_MEMORY. */
typedef struct inset_trace inset_trace;
/* a reference to a tensor of the trace, or a number; lives as long as the trace */
typedef struct inset_value inset_value;
typedef enum inset_operation {
    INSET_ADD,
    INSET_SUBTRACT,
    INSET_MULTIPLY,
    INSET_DIVIDE,
    /* of inset_arithmetic alone. As torch.matmul, of floats of one type: planned products where b
     * is a matrix from outside or a weight, else dot products */
    INSET_MATRIX_PRODUCT,
    INSET_EQUAL, /* comparisons give bools */
    INSET_UNEQUAL,
    INSET_LESS,
    INSET_LESS_EQUAL,
    INSET_GREATER,
    INSET_GREATER_EQUAL
} inset_operation;

/* Freed with inset_trace_free, or with its model. */
INSET_API inset_status inset_trace_create(inset_model *model, inset_trace **out);
/* Frees the trace, its values, and every plan made from it. Takes NULL. */
INSET_API void inset_trace_free(inset_trace *trace);

/* Begins an invoke and ends the one before. tokens: n_sequences lists of ids one after the other;
 * lengths [n_sequences]. Both are copied. INSET_INDEX_ERROR for an id outside the vocabulary,
 * INSET_VALUE_ERROR for an empty batch or prompt or one longer than the model's positions. */
INSET_API inset_status inset_invoke_tokens(
    inset_trace *trace, int64_t n_sequences, const int64_t *lengths, const int64_t *tokens);
/* The same for models that take numbers: rows [n_rows, width], copied. */
INSET_API inset_status inset_invoke_rows(
    inset_trace *trace, int64_t n_rows, int64_t width, const float *rows);
/* The same with a value that inset_external gave: integers [batch, position] or numbers [batch,
 * width]. */
INSET_API inset_status inset_invoke_value(inset_trace *trace, inset_value *input);
/* Ends the invoke, the block of gradients, or the edit; needed only before saving or setting what
 * belongs to no invoke, and at the end of a model's edit. Errors: those of an edit's lines that the
 * invoke has still to repeat. */
INSET_API inset_status inset_invoke_end(inset_trace *trace);
/* Goes on with the last invoke, where it ended: for arithmetic of metrics of several invokes before
 * inset_backward, which then belongs to it. Nothing happens where there is none. */
INSET_API inset_status inset_invoke_reopen(inset_trace *trace);

/* Edits: lines that every later invoke of the trace repeats, as the script's `with edit():`.
 *
 *     inset_edit(trace)                        with edit():
 *     inset_get(trace, "h[1].output", &x)          x = h[1].output
 *     inset_set_value(x, "[:, 0]", zero)           x[:, 0] = 0
 *
 * inset_edit ends what is open; until inset_invoke_end, or the next invoke, the calls below record
 * lines and run none. They are repeated in each invoke before the invoke's own lines at the same
 * place, older edits first; those inside a module that an invoke skips, or behind its inset_stop,
 * fall away there. Values that they give are for these lines alone (INSET_NAME_ERROR elsewhere);
 * values from before may be used. Order is checked at once. Shapes, types and ranges are checked
 * where an invoke repeats a line: the call that goes past the place fails, and its message says
 * that it is an edit's and in which invoke; every later call fails alike, since the trace cannot go
 * on without. Saves, inset_stop, gradients: INSET_SYNTAX_ERROR. inset_plan_create puts an open
 * invoke behind the last of its edits. */
INSET_API inset_status inset_edit(inset_trace *trace);
/* Later invokes go without the edits so far. */
INSET_API inset_status inset_clear_edits(inset_trace *trace);
/* The edits that hold, a line each, the oldest first: "sets transformer.h.1.output, reads ...".
 * buffer, capacity and length as in inset_describe. */
INSET_API inset_status inset_edits(
    inset_trace *trace, char *buffer, size_t capacity, size_t *length);

/* The same for a model: *out takes the lines of an edit, and no invokes (INSET_USAGE_ERROR). From
 * inset_invoke_end(*out) on every trace made of the model begins with it; traces that are there
 * already go on without. Freed with inset_trace_free, at any time; before its end, there is no
 * edit. Its numbers are in host memory (INSET_USAGE_ERROR for inset_external_device of a GPU's).
 * Sweeps, attribution and circuits refuse a model with edits (INSET_USAGE_ERROR). Errors as
 * inset_trace_create's. */
INSET_API inset_status inset_model_edit(inset_model *model, inset_trace **out);
/* Traces made from now on are without; those that are there keep theirs. */
INSET_API inset_status inset_model_clear_edits(inset_model *model);
INSET_API inset_status inset_model_edits(
    inset_model *model, char *buffer, size_t capacity, size_t *length);

/* A reference to what a site holds, or to a view of it: "transformer.h[5].output",
 * "transformer.h.5.output[:, -1]". */
INSET_API inset_status inset_get(inset_trace *trace, const char *site, inset_value **out);

/* Values that come from outside. A tensor of up to 8 dimensions and any type is copied; numbers
 * take the type of what they meet. */
INSET_API inset_status inset_external(
    inset_trace *trace, const inset_tensor *tensor, inset_value **out);
/* The same for numbers on the model's own GPU, which are copied there and not brought to the host,
 * or on the CPU, as inset_external.
 *   stream  the cudaStream_t that makes the numbers, which is waited for; NULL: the default one
 * It can be no invoke's input. INSET_DEVICE_ERROR: a tensor on another device. */
INSET_API inset_status inset_external_device(
    inset_trace *trace, const inset_device_tensor *tensor, void *stream, inset_value **out);
/* f32 */
INSET_API inset_status inset_zeros(
    inset_trace *trace, int32_t n_dimensions, const int64_t *shape, inset_value **out);
INSET_API inset_status inset_number(inset_trace *trace, double number, inset_value **out);
INSET_API inset_status inset_integer(inset_trace *trace, int64_t number, inset_value **out);

/* Values from values. index "[:, -1]": a view, or a copy when there is a list in it; clone: a copy
 * as it is now. */
INSET_API inset_status inset_index(inset_value *value, const char *index, inset_value **out);
INSET_API inset_status inset_clone(inset_value *value, inset_value **out);
INSET_API inset_status inset_arithmetic(
    inset_value *a, inset_operation operation, inset_value *b, inset_value **out);
INSET_API inset_status inset_negate(inset_value *value, inset_value **out);

/* What a module of the model makes of rows of one's own, x [.., in] -> [.., out], both of the
 * model's type: the logit lens is inset_call(trace, "lm_head", inset_call(trace,
 * "transformer.ln_f", x)). These are rows like any other at that step: what the model computes
 * anyway is not computed again. Norms, linear layers and MLPs make row i of row i; attention
 * modules and blocks take whole sequences, [batch, position, in], whose positions count from each
 * one's first. INSET_TYPE_ERROR for other modules, for other types and for numbers,
 * INSET_SHAPE_ERROR, INSET_VALUE_ERROR for more positions than the model has. Gradients go
 * through. */
INSET_API inset_status inset_call(
    inset_trace *trace, const char *module, inset_value *x, inset_value **out);

/* A function of each element, a new tensor of the same shape. As in PyTorch integers become f32
 * where the function has no integer values; GELU is by erf, GELU_TANH by tanh.
 * INSET_TYPE_ERROR for numbers, and of abs and relu for bools. */
typedef enum inset_function {
    INSET_FUNCTION_EXP,
    INSET_FUNCTION_LOG,
    INSET_FUNCTION_SQRT,
    INSET_FUNCTION_ABS,
    INSET_FUNCTION_RELU,
    INSET_FUNCTION_SIGMOID,
    INSET_FUNCTION_TANH,
    INSET_FUNCTION_GELU,
    INSET_FUNCTION_GELU_TANH,
    INSET_FUNCTION_SILU
} inset_function;
INSET_API inset_status inset_apply(inset_value *value, inset_function function, inset_value **out);
/* At least `low` and at most `high`, numbers (inset_number, inset_integer), each NULL where there
 * is no such bound (not both); a NaN stays one. Integers stay integers between integers.
 * INSET_TYPE_ERROR for bounds that are tensors. */
INSET_API inset_status inset_clamp(
    inset_value *value, inset_value *low, inset_value *high, inset_value **out);
/* A copy in another type, rounded to nearest even, truncated for integers. */
INSET_API inset_status inset_cast(inset_value *value, inset_type type, inset_value **out);

/* Functions over dimensions, as PyTorch has them: negative ones count from the end; n_dimensions 0
 * is all of them (of SUM to NORM), and ARGMAX to LOG_SOFTMAX go along exactly one. keep: what is
 * summed over stays as a dimension of extent 1. NORM is the 2-norm. Prompts of different lengths
 * have each its own positions. SUM of integers and ARGMAX are i64, all else has the value's type;
 * sums are fp32. INSET_TYPE_ERROR: integers where floats are needed, f64; INSET_INDEX_ERROR: a
 * dimension that is not there; INSET_VALUE_ERROR: one named twice, or without elements;
 * INSET_SHAPE_ERROR: over sequences of different lengths. */
typedef enum inset_row_function {
    INSET_SUM,
    INSET_MEAN,
    INSET_AMAX,
    INSET_AMIN,
    INSET_NORM,
    INSET_ARGMAX,
    INSET_SOFTMAX,
    INSET_LOG_SOFTMAX
} inset_row_function;
INSET_API inset_status inset_rows(inset_value *value, inset_row_function function,
    int32_t n_dimensions, const int64_t *dimensions, int keep, inset_value **out);
/* The k largest along a dimension, in order, and their places (i64); either may be NULL. */
INSET_API inset_status inset_topk(
    inset_value *value, int64_t k, int64_t dimension, inset_value **values, inset_value **places);
/* Elements of a where condition, bools, is true, else of b; tensors or numbers, which broadcast. */
INSET_API inset_status inset_where(
    inset_value *condition, inset_value *a, inset_value *b, inset_value **out);
/* A view with two dimensions exchanged. */
INSET_API inset_status inset_transpose(
    inset_value *value, int64_t first, int64_t second, inset_value **out);
/* A clone through which no gradient goes back. */
INSET_API inset_status inset_detach(inset_value *value, inset_value **out);
/* A weight of the model, "transformer.wte.weight", in the model's type and the shape that
 * transformers gives it. It can be read, indexed and multiplied by, not set. INSET_UNKNOWN_SITE;
 * INSET_USAGE_ERROR for a model of weights in memory that a builder may have let go of. */
INSET_API inset_status inset_weight(inset_trace *trace, const char *path, inset_value **out);

/* Gradients in less memory, as checkpoints of PyTorch: every block is run a second time before it
 * is gone through backwards, and of its first run only what it begins with is kept. About one
 * forward more; the same numbers to rounding. To be called before the first inset_backward, and
 * before the script. Where lines set something within a block, all is kept as without. */
INSET_API inset_status inset_trace_again(inset_trace *trace, int again);

/* Gradients. inset_backward ends the invoke and begins `with metric.backward():`, until the next
 * invoke begins: metric is one float that a run computes, INSET_SHAPE_ERROR otherwise. Then
 * inset_gradient gives the gradient of the metric with respect to what `value` holds when the
 * forward ends, of value's shape: it may be read, saved, and changed (inset_set_value and its
 * like), which goes on further back. Values of the model come in reverse order of execution
 * (INSET_OUT_OF_ORDER). INSET_TYPE_ERROR for integers and tensors from outside, INSET_VALUE_ERROR
 * for a value that does not reach the metric. */
INSET_API inset_status inset_backward(inset_trace *trace, inset_value *metric);
INSET_API inset_status inset_gradient(inset_trace *trace, inset_value *value, inset_value **out);

/* A number for every row of logits along the last dimension of `row`, an f32 tensor of its other
 * dimensions: what the script's row.logit_diff(a, b), row.logit(a), ..., row.kl(reference) give.
 * Computed on the device, from a few dot products where only a few logits are wanted. a and b are
 * sets of tokens below the row's length; only the kinds that need them read them.
 *   INSET_LOGIT_DIFF       the mean logit of a less the mean logit of b
 *   INSET_LOGIT            the mean logit of a
 *   INSET_PROBABILITY      the sum of a's probabilities
 *   INSET_LOG_PROBABILITY  its natural logarithm
 *   INSET_RANK             how many logits are larger than the largest of a
 *   INSET_KL               sum p log(p / q), q the row's distribution, p the reference's, which has
 *                          as many rows or one for all; 0 for equal rows
 * INSET_TYPE_ERROR for integers, INSET_SHAPE_ERROR, INSET_INDEX_ERROR for a token that the row has
 * not got, INSET_VALUE_ERROR for an empty set. */
typedef enum inset_metric_kind {
    INSET_LOGIT_DIFF,
    INSET_LOGIT,
    INSET_PROBABILITY,
    INSET_LOG_PROBABILITY,
    INSET_RANK,
    INSET_KL
} inset_metric_kind;
INSET_API inset_status inset_metric(inset_value *row, inset_metric_kind kind, size_t n_a,
    const int64_t *a, size_t n_b, const int64_t *b, inset_value *reference, inset_value **out);

/* Setting. With an index ("site[...]" for all of it) in place: the source broadcasts and is
 * converted. Without one, inset_set replaces: the site's reader sees `source` itself, whose shape
 * and type must be the site's. */
INSET_API inset_status inset_set(inset_trace *trace, const char *site, inset_value *source);
INSET_API inset_status inset_update(
    inset_trace *trace, const char *site, inset_operation operation, inset_value *source);
/* The same for a value; always in place. index: "[:, 0]", or "" for all of it. */
INSET_API inset_status inset_set_value(inset_value *target, const char *index, inset_value *source);
INSET_API inset_status inset_update_value(
    inset_value *target, const char *index, inset_operation operation, inset_value *source);

/* The same without texts, for callers that have numbers: sites as inset_site_at counts them, and an
 * index item by item. Reading text takes most of the time of a line's call. */
typedef enum inset_index_kind {
    INSET_AT,       /* 3 */
    INSET_SLICE,    /* 2:, :-1, ::2 */
    INSET_ELLIPSIS, /* ... */
    INSET_LIST,     /* [0, 2] */
    INSET_NEW       /* None: a dimension of extent 1 */
} inset_index_kind;
typedef struct inset_index_item {
    inset_index_kind kind;
    int64_t at;                        /* INSET_AT */
    int has_start, has_stop, has_step; /* INSET_SLICE: which of the three there are */
    int64_t start, stop, step;
    size_t count; /* INSET_LIST: numbers, read during the call */
    const int64_t *list;
} inset_index_item;
INSET_API inset_status inset_get_site(inset_trace *trace, size_t site, inset_value **out);
INSET_API inset_status inset_set_site(inset_trace *trace, size_t site, inset_value *source);
INSET_API inset_status inset_index_items(
    inset_value *value, size_t n, const inset_index_item *items, inset_value **out);
INSET_API inset_status inset_set_items(
    inset_value *target, size_t n, const inset_index_item *items, inset_value *source);

/* The module does not run and its output is `output`; inset_stop ends the invoke there. */
INSET_API inset_status inset_skip(inset_trace *trace, const char *module, inset_value *output);
INSET_API inset_status inset_stop(inset_trace *trace);

/* Keeps the value under a name, as it is when the trace ends. INSET_NAME_ERROR for a name used
 * before, INSET_TYPE_ERROR for a number. */
INSET_API inset_status inset_save(inset_trace *trace, const char *name, inset_value *value);
/* Keeps what a site of the invoke, numbered as inset_site_at numbers them, holds when the trace
 * ends: for keeping many, in any order, also what lines before have passed. INSET_MISSED_PROVIDER:
 * a site in a module that is skipped, or behind inset_stop; INSET_INDEX_ERROR; INSET_NAME_ERROR. */
INSET_API inset_status inset_save_site(inset_trace *trace, size_t site, const char *name);
/* The same for all sites of the invoke that patterns stand for, each under its path behind `prefix`
 * (NULL: none): what the script's cache() does when its invoke ends, and best the last call of one.
 * patterns: paths with `*` in the place of a name or an index,
 * "transformer.h[*].output,lm_head.input".
 * Sites that the invoke does not come to are left out, INSET_MISSED_PROVIDER where that is all;
 * INSET_UNKNOWN_SITE: a pattern that stands for nothing; INSET_NAME_ERROR. */
INSET_API inset_status inset_save_sites(
    inset_trace *trace, const char *patterns, const char *prefix);
/* Keeps `count` values of one shape and type as one tensor, stacked along a new first dimension. */
INSET_API inset_status inset_save_stack(
    inset_trace *trace, const char *name, size_t count, inset_value *const *values);

/* The value's shape as a user sees it, "(2, 5, 48)", lengths that differ between sequences as
 * "3|5", and its type; a number's is "()". Writes at most `size` bytes with the final NUL. */
INSET_API inset_status inset_value_shape(
    inset_value *value, char *out, size_t size, inset_type *type);

/* What is saved so far, in the order of saving: how many, and of one its name (NULL: it is not
 * wanted) and the value, or the first of a stack. Both hold as long as the trace.
 * INSET_INDEX_ERROR: past the last. */
INSET_API size_t inset_trace_saved_count(const inset_trace *trace);
INSET_API inset_status inset_trace_saved_at(
    inset_trace *trace, size_t index, const char **name, inset_value **value);

/* Reads a trace script, whose lines are recorded after what the trace already holds.
 *   file       its name in messages
 *   directory  where the files that it loads are looked up; NULL or "": the working directory
 *   text       [length] bytes
 * The message has file, line, column, the line and a caret. When a script fails, what came before
 * its error stays recorded: free the trace. */
INSET_API inset_status inset_script(
    inset_trace *trace, const char *file, const char *directory, const char *text, size_t length);

/* ---- plan --------------------------------------------------------------- */
typedef struct inset_plan inset_plan;

typedef struct inset_plan_options {
    size_t size; /* sizeof(inset_plan_options); set by INSET_PLAN_OPTIONS */
    /* 1: invokes share nothing; the same numbers, for tests and benchmarks */
    int no_share;
    /* bytes of device memory that a run may take beside the weights; 0: what the device has */
    size_t memory_limit;
    int explain; /* 1: inset_plan_explanation has something to say */
} inset_plan_options;
#define INSET_PLAN_OPTIONS                  \
    {                                       \
        sizeof(inset_plan_options), 0, 0, 0 \
    }

/* Plans a run of the trace as it stands, on the host alone. INSET_NO_MEMORY, with both figures,
 * when the run would not fit. Freed with inset_plan_free, or with its trace. */
INSET_API inset_status inset_plan_create(
    inset_trace *trace, const inset_plan_options *options, inset_plan **out);
/* The plan in words: its strands (rows that were made together), then a line for every step with
 * the rows that it computes, what records make of them, and what is saved. NULL unless the
 * options asked for it. It is the plan's. */
INSET_API const char *inset_plan_explanation(const inset_plan *plan);
/* Frees the plan and what it saved. Takes NULL. */
INSET_API void inset_plan_free(inset_plan *plan);

typedef struct inset_statistics {
    /* sizeof(inset_statistics), set by the caller with INSET_STATISTICS */
    size_t size;
    int64_t invokes, sequences, records, saved;
    /* rows that steps compute, over all steps; the second as if every invoke ran whole, alone */
    int64_t rows, rows_unshared;
    /* of matrix products and attention, a multiply-add counted as two */
    double flops, flops_unshared;
    int64_t steps, launches, passes;
    int64_t arena_bytes; /* intermediate values and tables on the device */
    int64_t table_bytes; /* of these, tables */
    int64_t saved_bytes, weight_bytes;
    /* between host and device, of a run with other inputs and metrics of other tokens: what goes
     * up, what is saved down */
    int64_t copies;
    int64_t first_copies;   /* of the first run: with the tables that go up for it */
    int64_t later_launches; /* of a later run: one graph on a GPU, else `launches` again */
    /* rectangles of elements (sets, arithmetic, saves, rows kept for later) that steps apply to the
     * rows they make, and the launches that do */
    int64_t fused_records, fused_launches;
    /* the others, and the launches that are for them alone */
    int64_t alone_records, alone_launches;
    /* whose attention is cuDNN's, in one layer or more; inset's own kernel has the rest */
    int64_t whole_sequences;
    int64_t blocks_again; /* run a second time for gradients: see inset_trace_again */
    /* weights that do not stay on the device, and what a run copies of them */
    int64_t coming_bytes, copied_bytes;
} inset_statistics;
#define INSET_STATISTICS                 \
    {                                    \
        .size = sizeof(inset_statistics) \
    }
/* Fills in as many fields as `out->size` has room for. */
INSET_API inset_status inset_plan_statistics(const inset_plan *plan, inset_statistics *out);

/* ---- run ---------------------------------------------------------------- */
/* Runs the plan, as often as wished; what the run before saved is overwritten. INSET_USAGE_ERROR
 * for a model without a device, INSET_NO_MEMORY, INSET_DEVICE_ERROR, INSET_VALUE_ERROR for inputs
 * that the plan does not fit (see inset_plan_tokens). */
INSET_API inset_status inset_run(inset_plan *plan);
/* Gives invoke `invoke` (counted from 0) other input of the same shape for the runs that follow.
 *   tokens [count]         of all its sequences, one after the other
 *   rows [n_rows, width]   as inset_invoke_rows takes them
 * Inputs that were equal at one position of several prompts when the plan was made are computed
 * once, so they must be equal still: set all invokes first; inset_run answers INSET_VALUE_ERROR
 * otherwise, and runs nothing. INSET_INDEX_ERROR for an invoke that is not there or an id outside
 * the vocabulary, INSET_SHAPE_ERROR for another count. On failure nothing has changed. */
INSET_API inset_status inset_plan_tokens(
    inset_plan *plan, int64_t invoke, int64_t count, const int64_t *tokens);
INSET_API inset_status inset_plan_rows(
    inset_plan *plan, int64_t invoke, int64_t n_rows, int64_t width, const float *rows);
/* Puts other numbers in the place of a tensor that inset_external took, for the runs that follow;
 * copied.
 *   external   what inset_external gave, of the plan's trace. An invoke that was made of it
 *              (inset_invoke_value) keeps its input: that is inset_plan_tokens' and
 *              inset_plan_rows' to change
 *   tensor     of the same type and shape: INSET_TYPE_ERROR, INSET_SHAPE_ERROR otherwise
 * INSET_USAGE_ERROR for any other value. On failure nothing has changed. */
INSET_API inset_status inset_plan_tensor(
    inset_plan *plan, const inset_value *external, const inset_tensor *tensor);

/* Gives metric `metric` (counted from 0 in the order of its invoke's calls) of invoke `invoke`
 * other tokens, as many as it had: those of a, then those of b. Metrics that the plan computes as
 * one, because their rows and tokens were equal, must have equal tokens still, as inputs must (see
 * inset_plan_tokens). INSET_INDEX_ERROR for a metric that is not there or a token that the row has
 * not got, INSET_SHAPE_ERROR for another count. */
INSET_API inset_status inset_plan_answers(
    inset_plan *plan, int64_t invoke, int64_t metric, int64_t count, const int64_t *tokens);

/* ---- saved -------------------------------------------------------------- */
/* What the last run saved, in the order of saving.
 *   out   the tensor; its memory is the plan's and holds until the plan runs again or is freed
 *   name  gets the name, if not NULL; holds as long as the plan
 * INSET_NAME_ERROR: nothing was saved under `name` (the message lists what was); INSET_INDEX_ERROR:
 * past the last; INSET_USAGE_ERROR: the plan has not run. *out is then untouched. */
INSET_API inset_status inset_saved(inset_plan *plan, const char *name, inset_tensor *out);
INSET_API size_t inset_saved_count(const inset_plan *plan);
INSET_API inset_status inset_saved_at(
    inset_plan *plan, size_t index, const char **name, inset_tensor *out);
/* Shape and type of what a run will save; out->data is NULL. */
INSET_API inset_status inset_saved_describe(
    inset_plan *plan, size_t index, const char **name, inset_tensor *out);
/* The saved value where the device has it, as a tensor that is the caller's: freed with
 * inset_device_tensor_free. Errors as inset_saved_at's, and INSET_NO_MEMORY. */
INSET_API inset_status inset_saved_device(
    inset_plan *plan, size_t index, const char **name, inset_device_tensor *out);
/* Writes everything that the last run saved to a safetensors file: to another name first, which
 * then takes the place of `path` at once. INSET_FILE_ERROR, and nothing is left behind. */
INSET_API inset_status inset_saved_write(inset_plan *plan, const char *path);

/* ---- sweep --------------------------------------------------------------- */

/* Activation patching
 * over a grid: for every pair of prompts, every site and every point of the axes, one run in which
 * the values at that point come from somewhere else, read out by metrics. All of it is one trace
 * (or a few, one a chunk), so that what the runs have in common is computed once.
 *
 *     inset_sweep_options options = INSET_SWEEP_OPTIONS;
 *     options.clean.text = "[[464, 412, 733]]";
 *     options.corrupt.text = "[[464, 999, 733]]";
 *     options.patch = "resid_pre,z";
 *     options.metrics = (const char *const[]){"logit_diff:11,12", "kl", NULL};
 *     status = inset_sweep_create(model, &options, &sweep);
 *     while (!status && !inset_sweep_done(sweep)) status = inset_sweep_step(sweep);
 *     if (!status) status = inset_sweep_result_at(sweep, 0, &result); */
typedef struct inset_sweep inset_sweep;

/* Token ids of several prompts, in one of two ways. */
typedef struct inset_prompts {
    /* a text, or "[\"a text\", \"another\"]", or FILE.txt (a text a line), for the model's
     * tokenizer (inset_tokens), or
     * "[[464, 412], [733]]", "FILE.npy" or "FILE.safetensors:NAME" ([prompt, position] integers,
     * where ids of -1 fill up a row behind a prompt's end), "FILE.json" (lists in a list) or
     * "FILE.jsonl" (a list a line); NULL: the three fields below */
    const char *text;
    int64_t count;          /* prompts; 0: none were given */
    const int64_t *lengths; /* [count] */
    const int64_t *tokens;  /* one prompt after the other */
} inset_prompts;

typedef struct inset_sweep_options {
    size_t size;         /* sizeof(inset_sweep_options); set by INSET_SWEEP_OPTIONS */
    inset_prompts clean; /* one prompt a pair */
    /* as many, each as long as its clean one; may be missing when the source is not the other
     * run */
    inset_prompts corrupt;
    /* sites, "resid_pre,z": resid_pre, resid_mid, resid_post, attn_out, mlp_out, block_every
     * (resid_pre, attn_out and mlp_out on an axis of their own), the MLP's pre, up and post, with
     * experts its router and expert_weights, and per head z, q, k, v, rot_q, rot_k, result,
     * q_input, k_input, v_input, pattern, scores, also as attn_head_out, attn_head_q,
     * attn_head_pattern, ... with _by_pos or _all_pos behind, which say the axes too. And
     * "features:SAE.safetensors@resid_pre.8", the features of a sparse autoencoder at a site of a
     * layer (see `features` below); the result is of the site "features@resid_pre.8" */
    const char *patch;
    /* axes, "layer,position": of layer, position, head, each at most once. What is not named is
     * patched at all its places at once; "": everything at once. NULL: layer,position for the
     * residual stream and the MLP, layer,head for heads. The position of a pattern is the one that
     * attends: its axis is (and may be) called destination. Heads of k, v and rot_k are key-value
     * heads: where several query heads share one, key_value_head */
    const char *by;
    /* "4:9", "-5:", "3": ranges as Python slices; NULL: all. In prompts of different lengths
     * positions count from each prompt's start, from its end in a range that begins below 0 */
    const char *layers, *positions, *heads;
    /* what is put there: NULL or "clean", the other run's value; "zero"; "mean:PROMPTS", the mean
     * at each position over the prompts that have it; "resample", another pair's prompt;
     * "resample:PROMPTS"; a tensor "FILE.npy" or "FILE.safetensors:NAME" [layer, position, ...],
     * [position, ...] or [...], ... being a row of the site's; for pattern and scores [layer, head,
     * position, position] or [head, position, position] */
    const char *source;
    /* "denoise": the corrupt run is patched, "noise": the clean run; NULL: denoise, noise when the
     * source is not the other run */
    const char *direction;
    /* ends with NULL: "logit_diff:A,B", "logit:A", "probability:A", "log_probability:A", "rank:A"
     * (of logits, 0 the largest), "kl" (from the unpatched run), each with "@POSITION" behind it
     * (the last: -1). A is a token, a set "11+12" (its mean logit, its summed probability, its best
     * rank), a word in quotes "\" Mary\"" that is one token, or a file of integers [pair] or [pair,
     * set] */
    const char *const *metrics;
    uint64_t seed; /* of resample */
    int no_share;  /* as in inset_plan_options */
    size_t memory_limit;
    /* what tells the model's weights from others, for the metadata and the state file; NULL:
     * nothing */
    const char *version;
    /* a file that keeps what is done, chunk by chunk; removed by inset_sweep_write. NULL: none */
    const char *state;
    /* 1: go on with what the state file holds, if it is there; 0: it must not be there */
    int resume;
    /* Which features, a range as `layers` is. A feature is set and the SAE's error is kept: what is
     * added to the row is (f' - f) times its row of W_dec. f of the patched runs and f' of the
     * source are found by running the prompts when the sweep is created; a point where they are
     * equal is not run, and has the unpatched run's metric. Axes are position and feature; the
     * source "zero" is f' = 0, means are of f, and a tensor has a number a feature, [feature] or
     * [position, feature]. The SAE: W_enc, b_enc, W_dec, b_dec as SAELens saves them (also with
     * threshold, and gated), or encoder.weight, ..., as sparsify and dictionary_learning do;
     * cfg.json beside the file is read where there is one, for the activation, k and whether b_dec
     * is subtracted first (as it is without one) */
    const char *features;
    /* 1: several will run it (inset_sweep_help, inset_sweep_take). It is cut in smaller chunks
     * then, the same ones whoever and however many they are; on a device whose products are not
     * steady (a CPU without AVX-512) last bits depend on how a sweep is cut */
    int shared;
    /* this is shard 3 of 16: only its chunks are run, and what is done is in the state file, which
     * inset_sweep_merge takes. 0 of 0: all of it */
    int64_t shard, shards;
    const char *command; /* for the metadata of what is merged; NULL: nothing */
} inset_sweep_options;
#define INSET_SWEEP_OPTIONS                 \
    {                                       \
        .size = sizeof(inset_sweep_options) \
    }

/* Checks everything (prompts, sites, axes, ranges, metrics, files, memory for what comes first) and
 * runs nothing, except for "mean:PROMPTS" and features, for which prompts are run first.
 * The options are read during the call. Freed with inset_sweep_free, or with its model.
 * INSET_VALUE_ERROR: lengths, axes, ranges; INSET_INDEX_ERROR: tokens outside the vocabulary;
 * INSET_UNKNOWN_SITE: a site the family has not got; INSET_SYNTAX_ERROR, INSET_FILE_ERROR,
 * INSET_SHAPE_ERROR, INSET_TYPE_ERROR, INSET_USAGE_ERROR, INSET_NO_MEMORY. */
INSET_API inset_status inset_sweep_create(
    inset_model *model, const inset_sweep_options *options, inset_sweep **out);
INSET_API void inset_sweep_free(inset_sweep *sweep); /* takes NULL */

/* Attribution: what each patch of a sweep would do, estimated from gradients, two forwards and one
 * backward for a pair in place of a run for a point. Everything that a sweep has means the same,
 * and the calls below that take an inset_sweep take the estimate too: a result's values are scores,
 *
 *     score = sum over what is no axis of (source - u) * g,
 *
 * u what stands there in the run that is patched, g the gradient of the metric with respect to it.
 * normalised is what the metric would then be, on the sweep's scale. Without steps, ends, qk,
 * graddrop and rules: attribution patching (AtP), g of the patched run. */
typedef struct inset_attribution_options {
    size_t size; /* sizeof(inset_attribution_options); set by INSET_ATTRIBUTION_OPTIONS */
    inset_sweep_options sweep;
    /* integrated gradients: g is the mean of the gradients of `steps` runs whose token embeddings
     * go from the corrupt prompt's to the clean one's; 0: none */
    int steps;
    int ends; /* 1: g is the mean of the gradients of the clean and the corrupt run */
    /* 1: the two parts of AtP*: the softmax exact for q and k; the mean size of scores with each
     * layer's outputs dropped in turn */
    int qk, graddrop;
    /* relevance patching (RelP): "ln", "identity", "half", "pattern", several with commas between;
     * "relp": the first three. NULL: true slopes */
    const char *rules;
} inset_attribution_options;
#define INSET_ATTRIBUTION_OPTIONS                                               \
    {                                                                           \
        .size = sizeof(inset_attribution_options), .sweep = INSET_SWEEP_OPTIONS \
    }

/* As inset_sweep_create; INSET_VALUE_ERROR also for metrics without a gradient (rank, kl from the
 * unpatched run), steps below 0 and unknown rules, INSET_USAGE_ERROR for methods that do not go
 * together and sites that gradients do not reach. */
INSET_API inset_status inset_attribution_create(
    inset_model *model, const inset_attribution_options *options, inset_sweep **out);

/* A point whose estimate was held against its patch. at: labels, as inset_sweep_axis has them (of
 * the axis "site", which member). score and exact: what the patch changes the first metric by,
 * estimated and run, mean over the pairs. */
typedef struct inset_verified {
    const char *site;
    int n_axes;
    const char *axes[4];
    int64_t at[4];
    double score, exact;
} inset_verified;
/* Patches the `count` points (or as many as there are) with the largest absolute scores of a
 * finished attribution. *found [*n], by size, holds until the attribution is freed; *rank is
 * Spearman's rank correlation of scores and exact effects. INSET_USAGE_ERROR: a sweep, or one that
 * is not done. */
INSET_API inset_status inset_attribution_verify(
    inset_sweep *attribution, size_t count, const inset_verified **found, size_t *n, double *rank);

/* What an attribution, of places or of edges, would take: for all its pairs, planned as it would
 * run and not run. It takes a model without a device ("none") and without weights, too. */
typedef struct inset_cost {
    int64_t pairs, pairs_at_once;
    int64_t rows; /* that steps compute */
    double flops; /* multiply-adds counted as two */
    /* of the pairs that go through together, beside the weights; of these; on the host */
    int64_t device_bytes, weight_bytes, host_bytes;
    /* blocks that are run a second time before they are gone through backwards, since what one pair
     * needs would not fit otherwise; 0: none */
    int64_t blocks_again;
} inset_cost;

/* Attribution of edges: what carrying the other run's value from one writer of the residual
 * stream to one later reader would do, for all pairs of them (EAP, arXiv 2310.10348; with steps
 * EAP-IG, arXiv 2403.17806).
 *   writers  "input" (the token embeddings), heads ("a3.h1": z times its part of the output
 *            projection), MLPs ("m3")
 *   readers  each head's q, k and v ("a3.h1<q>"; k and v of shared heads once), MLPs ("m3"),
 *            "logits":
 *            the stream as it alone reads it, before its norm
 *     score = mean over pairs of the sum over positions of (source - u) . g
 * with u what the writer adds in the run that is patched, g the gradient with respect to what
 * the reader reads. Where a norm stands behind attention, a head's difference goes through it,
 * linear at the patched run. Differences of all writers and gradients of one layer's readers are on
 * the device for some positions at a time, in at most 1 GiB. A CPU reads the model's weights once
 * more from its directory. */
typedef struct inset_edges inset_edges;
/* options: as for inset_attribution_create, with neither patch nor ranges, source, qk and
 * graddrop. by: NULL or "position". per_pair: 1 to keep each pair's scores. Errors as there;
 * UNKNOWN_SITE: a family whose stream is no sum; USAGE: options that edges have not got, on a
 * CPU a model that was built in memory. Freed with inset_edges_free, or with its model. */
INSET_API inset_status inset_edges_create(
    inset_model *model, const inset_attribution_options *options, int per_pair, inset_edges **out);
INSET_API void inset_edges_free(inset_edges *edges); /* takes NULL */
/* Runs the next pairs; nothing when all is done. */
INSET_API inset_status inset_edges_step(inset_edges *edges);
INSET_API int inset_edges_done(const inset_edges *edges); /* 1 for NULL */

/* Scores of one metric; all holds until the next call on these edges. Entries that are no edges are
 * 0. */
typedef struct inset_edge_result {
    const char *metric;
    int64_t pairs, done; /* done: of the pairs, which `mean` is over */
    /* positions: 1, or of the longest prompt where by is "position"; the matrices then add up to
     * the one that is there without */
    int64_t positions, sources, destinations, edges;
    int layers, heads, key_value_heads, width; /* of the model */
    int parallel;                              /* 1: no edge from a layer's heads to its MLP */
    const char *const *source_names, *const *destination_names;
    const float *mean;            /* [positions, sources, destinations] */
    const float *per_pair;        /* [pairs, positions, sources, destinations], or NULL */
    const float *clean, *corrupt; /* [pairs] the metric of the two runs */
} inset_edge_result;
/* USAGE_ERROR: a shard, whose scores are added up when all are merged. */
INSET_API inset_status inset_edges_result(
    inset_edges *edges, size_t metric, inset_edge_result *out);
INSET_API int inset_edge_exists(const inset_edges *edges, int64_t source, int64_t destination);
/* As inset_sweep_write: edges.METRIC.mean [source, destination] and, where kept, edges.METRIC
 * [pair, source, destination], the names in the metadata. */
INSET_API inset_status inset_edges_write(inset_edges *edges, const char *path, const char *command);

/* Scores [sources, destinations] of the first metric from a file that inset_edges_write made for a
 * model with the same graph. FILE_ERROR, SHAPE_ERROR, VALUE_ERROR. */
INSET_API inset_status inset_edges_read(inset_edges *edges, const char *path, float *scores);

/* An edge whose score was held against its patch: the reader alone sees the stream with the
 * writer's other value. exact: what that changes the first metric by, mean over the pairs. */
typedef struct inset_verified_edge {
    const char *source, *destination;
    double score, exact;
} inset_verified_edge;
/* The `count` edges of the largest size, as inset_attribution_verify. */
INSET_API inset_status inset_edges_verify(
    inset_edges *edges, size_t count, const inset_verified_edge **found, size_t *n, double *rank);

/* An edge, or a path of edges, that was patched: what that changes the first metric by, mean over
 * the pairs. */
typedef struct inset_edge_effect {
    const char *path; /* "a0.h1->m2" */
    double effect;
} inset_edge_effect;
/* Patches edges one by one, exactly: the destination alone sees the stream with the source's other
 * value. The edges need not have been stepped.
 *   paths   "a0.h1->a1.h2<q>, m0->logits", commas or lines between them. a0 stands for all heads of
 *           layer 0, 3 for all of layer 3, * for all there is: each of them is an edge of its own,
 *           as far as it is one. A step of several nodes together: "a0.h1+a0.h2->m1", with freeze
 *   freeze  1: path patching (arXiv 2211.00593): what is on the path is run again, each step with
 *           what the step before changed and nothing else; all other heads and MLPs keep the base
 *           run's value; what the last one changes reaches the logits directly. Paths may have
 *           more than two steps, "a0.h1->a1.h0<k>->a2.h3<v>"
 *   found   [n], in the order of the paths; the edges', until the next call
 * VALUE_ERROR: what is no node or no edge, by name; USAGE_ERROR: a longer path without freeze. */
INSET_API inset_status inset_edges_patch(
    inset_edges *edges, const char *paths, int freeze, const inset_edge_effect **found, size_t *n);

/* A part of that, for who shares it with others or wants each pair's effects: of one pair, `count`
 * paths from the `first` on: effects [count]. 256 paths go through a plan: that many at once, from a
 * multiple of it on, are planned as in the whole. INSET_INDEX_ERROR: no such pair or path. */
INSET_API inset_status inset_edges_patch_pair(inset_edges *edges, const char *paths, int freeze,
    int64_t pair, size_t first, size_t count, double *effects);
/* Which paths a text names: names [n], the edges', until the next call. Errors as there. */
INSET_API inset_status inset_edges_paths(
    inset_edges *edges, const char *paths, int freeze, const char *const **names, size_t *n);

/* What inset_edges_patch of these paths would take: nothing is run, and the model needs neither a
 * device nor weights. pairs_at_once is 1; host_bytes is 0. */
INSET_API inset_status inset_edges_patch_cost(
    inset_edges *edges, const char *paths, int freeze, inset_cost *out);

/* What the edges that a circuit lets go carry: "other" (NULL), the other run's value; "zero"; or
 * "mean:PROMPTS", the mean over these prompts of what the writer has at that position, PROMPTS as
 * inset_prompts takes them. With zero and mean the other run is the base's prompt with every
 * writer's output so set; and edges that are not connected, out of writers that see nothing or
 * into readers that lead nowhere, are let go too, as EAP-IG's evaluate_graph does. Means are
 * taken when a circuit first runs. VALUE_ERROR; the errors of prompts. */
INSET_API inset_status inset_edges_ablate(inset_edges *edges, const char *what);

/* kept [sources, destinations]: 1 for the `size` strongest edges by scores [sources,
 * destinations] (NULL: the edges' own, of the first metric): by "score", the largest; "abs"
 * (NULL), the largest in size; "greedy", one after the other the largest in size whose reader
 * leads to the logits. */
INSET_API inset_status inset_edges_choose(
    inset_edges *edges, const float *scores, const char *by, int64_t size, unsigned char *kept);
/* The first metric, mean over the pairs, of the patched run with the kept edges as they are and
 * the other run's value along all others: each reader sees, for an edge that is not kept, the
 * other run's output of the writer in the place of what it is in this very run. All kept: the
 * run itself, bit for bit; none: the other run. The edges need not have been stepped. */
INSET_API inset_status inset_edges_circuit(
    inset_edges *edges, const unsigned char *kept, double *metric);
/* The same of one pair; the mean over the pairs, summed in their order, is what that gives.
 * INSET_INDEX_ERROR: no such pair. */
INSET_API inset_status inset_edges_circuit_pair(
    inset_edges *edges, const unsigned char *kept, int64_t pair, double *metric);
/* What that would take, as inset_edges_patch_cost. The first call after inset_edges_ablate holds
 * what the means take, too. */
INSET_API inset_status inset_edges_circuit_cost(
    inset_edges *edges, const unsigned char *kept, inset_cost *out);

/* Of an attribution that was not stepped. USAGE: a sweep. */
INSET_API inset_status inset_attribution_cost(inset_sweep *attribution, inset_cost *out);
INSET_API inset_status inset_edges_cost(inset_edges *edges, inset_cost *out);

typedef struct inset_sweep_progress {
    /* sizeof(inset_sweep_progress), set by the caller with INSET_SWEEP_PROGRESS */
    size_t size;
    int64_t patches;             /* patched runs in all: pairs times points */
    int64_t done;                /* of these */
    int64_t restored;            /* of these, from the state file */
    int64_t rows, rows_unshared; /* of what ran, as in inset_statistics */
    double flops, flops_unshared;
    double planning, running; /* seconds, in this process */
    /* made in this process: chunks whose prompts have the same pattern of equal tokens share one */
    int64_t plans;
    /* of the patches, those of features that are equal in both runs: not run, since nothing
     * changes */
    int64_t unchanged;
    /* 1: merged from shards that ran on several kinds of devices, between which last bits differ */
    int64_t mixed_devices;
} inset_sweep_progress;
#define INSET_SWEEP_PROGRESS                 \
    {                                        \
        .size = sizeof(inset_sweep_progress) \
    }
INSET_API inset_status inset_sweep_progress_of(const inset_sweep *sweep, inset_sweep_progress *out);
/* The same of edges: `patches` are their pairs. */
INSET_API inset_status inset_edges_progress_of(const inset_edges *edges, inset_sweep_progress *out);

/* Runs the next chunk, or waits for one where helpers and other processes have all that are left;
 * nothing when all is done. A chunk that failed may be tried again. A helper's failure is told
 * once, with its device's name; its chunks are the others' then. */
INSET_API inset_status inset_sweep_step(inset_sweep *sweep);
/* 1 when nothing is left to run; 1 for NULL */
INSET_API int inset_sweep_done(const inset_sweep *sweep);

typedef struct inset_sweep_axis {
    /* "site", "layer", "position", "destination", "head", "key_value_head", "feature" */
    const char *name;
    int64_t count;
    /* [count]: numbers of layers, positions (below 0: from the end), heads; NULL for the axis
     * "site" */
    const int64_t *labels;
    const char *const *names; /* [count] for the axis "site", else NULL */
    /* [count] of positions: what stands there in the first clean prompt (inset_token_text), where
     * prompts were given as texts and all have one length; else NULL */
    const char *const *texts;
} inset_sweep_axis;

/* One site and one metric. All numbers are the sweep's, hold until it is freed, and are NaN where a
 * prompt has no such position, where nothing was run yet, and where there is no corrupt run to
 * normalise by. */
typedef struct inset_sweep_result {
    const char *site, *metric; /* as the options spell them */
    int64_t pairs, points;     /* points: the product of the axes */
    int32_t n_axes;
    inset_sweep_axis axes[4];
    const float *values;     /* [pairs, points] */
    const float *mean;       /* [points], over the pairs that have the point */
    const float *normalised; /* [pairs, points]: (value - corrupt) / (clean - corrupt) */
    const float *
        normalised_mean; /* [points]: the means of values, clean and corrupt, normalised likewise */
    const float *clean;  /* [pairs]: the metric of the clean run */
    const float *corrupt; /* [pairs] */
} inset_sweep_result;

INSET_API size_t inset_sweep_result_count(const inset_sweep *sweep);
/* Results by site, then by metric. INSET_INDEX_ERROR: past the last. */
INSET_API inset_status inset_sweep_result_at(
    inset_sweep *sweep, size_t index, inset_sweep_result *out);

/* Writes all results as safetensors: SITE.METRIC [pair, axes...], SITE.METRIC.mean, .normalised,
 * .normalised.mean, .clean [pair] and .corrupt [pair], the axes in the metadata, and removes the
 * state file.
 *   command  the caller's command for the metadata, or NULL
 * INSET_USAGE_ERROR: not all has run, or it is a shard; INSET_FILE_ERROR. */
INSET_API inset_status inset_sweep_write(inset_sweep *sweep, const char *path, const char *command);

/* ---- one sweep on several devices, processes and machines -------------------
 * A sweep is cut into chunks; whoever has the same sweep (made with the same options, `shared` 1,
 * of the same weights) may run them. Numbers do not depend on who ran what.
 *
 * Several GPUs: one sweep for each, every one in a context of its own; the others help the first,
 * which is stepped and has the results:
 *
 *     status = inset_sweep_help(first, second);
 *     while (!status && !inset_sweep_done(first)) status = inset_sweep_step(first);
 *
 * From the first step on a helper runs in a thread of its own. It, its model and its context may
 * not be used until the first sweep is done or freed. INSET_USAGE_ERROR: not the same sweep,
 * `shared` is not set, or one context. */
INSET_API inset_status inset_sweep_help(inset_sweep *sweep, inset_sweep *helper);

/* Several processes: one has the book (which chunks are free, the results, the state file), the
 * others ask for chunks by whatever carries bytes between them:
 *
 *     the one                               another, with the same options
 *     inset_sweep_cut(sweep, &cut)      ->  inset_sweep_cut_as(other, &cut)
 *     chunk = inset_sweep_take(sweep)   ->  inset_sweep_run_chunk(other, chunk, -1, &data, &size)
 *     inset_sweep_put(sweep, data, size) <-
 *
 * inset_sweep_take, inset_sweep_give_back and inset_sweep_put may be called in any thread, also
 * while the sweep is stepped in another; so they set no message. */
typedef struct inset_cut {
    uint64_t numbers[12];
} inset_cut;
INSET_API inset_status inset_sweep_cut(const inset_sweep *sweep, inset_cut *out);
/* Cuts a sweep that was not stepped as another is. INSET_USAGE_ERROR: it is not the same sweep. */
INSET_API inset_status inset_sweep_cut_as(inset_sweep *sweep, const inset_cut *cut);
/* A chunk for somebody else; -1: none is free now (all are done or taken). */
INSET_API int64_t inset_sweep_take(inset_sweep *sweep);
INSET_API void inset_sweep_give_back(inset_sweep *sweep, int64_t chunk); /* takes -1 */
/* Runs a chunk: *data [*size] holds until the next call or the sweep is freed. ahead: the chunk
 * that will be next, or -1: a GPU goes on to it while these numbers are carried away.
 * INSET_INDEX_ERROR: no such chunk. */
INSET_API inset_status inset_sweep_run_chunk(
    inset_sweep *sweep, int64_t chunk, int64_t ahead, const void **data, size_t *size);
/* Takes a chunk's numbers, once. INSET_VALUE_ERROR: not this sweep's, or damaged; INSET_FILE_ERROR:
 * the state file cannot be written. */
INSET_API inset_status inset_sweep_put(inset_sweep *sweep, const void *data, size_t size);

/* A sweep that is done, of the state files of all shards: for its results, not to be stepped. It
 * needs no model, and is freed with inset_sweep_free, or with the context. INSET_FILE_ERROR: a file
 * is no part, or of another sweep; INSET_VALUE_ERROR: shards or chunks are missing. */
INSET_API inset_status inset_sweep_merge(
    inset_context *context, size_t n, const char *const *parts, inset_sweep **out);

/* Edges are shared the same way, in chunks of pairs, by the same steps: each rank makes the edges
 * with the same options and `shared` set. Chunks' sums are added in their order, so that the scores
 * do not depend on who ran what; a chunk that comes early waits in the host's memory. As above,
 * inset_edges_take, inset_edges_give_back and inset_edges_put may be called in any thread. */
INSET_API inset_status inset_edges_cut(const inset_edges *edges, inset_cut *out);
INSET_API inset_status inset_edges_cut_as(inset_edges *edges, const inset_cut *cut);
INSET_API int64_t inset_edges_take(inset_edges *edges); /* -1: none is to be had now */
INSET_API void inset_edges_give_back(inset_edges *edges, int64_t chunk); /* takes -1 */
INSET_API inset_status inset_edges_run_chunk(
    inset_edges *edges, int64_t chunk, const void **data, size_t *size);
INSET_API inset_status inset_edges_put(inset_edges *edges, const void *data, size_t size);
/* Edges that are done, of the state files of all shards: for their scores. INSET_TYPE_ERROR: the
 * first part is a sweep's; the rest as for inset_sweep_merge. */
INSET_API inset_status inset_edges_merge(
    inset_context *context, size_t n, const char *const *parts, inset_edges **out);

/* ---- cache ---------------------------------------------------------------
 * What sites hold in the runs of many prompts, kept in files: a folder of safetensors shards, each
 * with the rows of consecutive prompts in their order, a tensor [rows, ...] for every site and
 * layer, and `prompt`, `position` and `token` [rows] to say which row is which. cache.json in it
 * says with what it was made and which shards are whole.
 *
 *     inset_cache_options options = INSET_CACHE_OPTIONS;
 *     options.prompts.text = "prompts.npy";
 *     options.sites = "resid_post,z";
 *     options.directory = "activations";
 *     status = inset_cache_create(model, &options, &cache);
 *     while (!status && !inset_cache_done(cache)) status = inset_cache_step(cache);
 *
 * A thread of its own writes what is done while the next prompts run. Memory does not depend on how
 * many prompts there are, but for their tokens. Whatever ends the process, shards that have their
 * name are whole, and the same options go on with those that are missing, to the same bytes. */
typedef struct inset_cache inset_cache;

typedef struct inset_cache_options {
    size_t size; /* sizeof(inset_cache_options); set by INSET_CACHE_OPTIONS */
    inset_prompts prompts;
    /* what a sweep patches, in every layer ("resid_post,z": tensors resid_post.0, z.0, ...), and
     * paths, perhaps with `*` in the place of a name or an index ("transformer.h[*].mlp.output":
     * tensors of these names). Not pattern and scores, whose rows are as wide as prompts are long,
     * and which a `*` leaves out, as it does token ids */
    const char *sites;
    /* of the short names: "0,3,5-7" or Python's slices; NULL: all */
    const char *layers;
    /* "-1", "0,4:9": negative ones count from each prompt's end, and what a prompt has not got has
     * no row; NULL or "all": all */
    const char *positions;
    const char *dtype; /* of what is written: "f32", "f16", "bf16"; NULL: the model's */
    /* is made if it is not there, and else is empty or has what was begun with these options */
    const char *directory;
    size_t shard_bytes;   /* most bytes of a shard's tensors; 0: 512 MiB */
    int64_t batch_tokens; /* of prompts that go through together; 0: 2048, on a GPU 16384 */
    int no_share;         /* as in inset_plan_options */
    size_t memory_limit;
    /* the model's name, and what tells its weights from others, for cache.json; NULL: nothing */
    const char *model, *version;
    /* several processes may make one cache, each its part of the shards, in one folder that all
     * see: part 1 to parts. What each has made is in cache.N-of-PARTS.json; the process that finds
     * all shards there writes cache.json. Another number of parts may go on. 0, 0: all of it */
    int64_t part, parts;
} inset_cache_options;
#define INSET_CACHE_OPTIONS                 \
    {                                       \
        .size = sizeof(inset_cache_options) \
    }

/* Checks everything, makes and locks the directory, and runs nothing. The options are read during
 * the call. Freed with inset_cache_free, or with its model, which end what is being written.
 * INSET_VALUE_ERROR: ranges, dtype, or a directory that was begun with other options, which the
 * message names; INSET_UNKNOWN_SITE; INSET_INDEX_ERROR: tokens outside the vocabulary;
 * INSET_FILE_ERROR: files and the directory; INSET_USAGE_ERROR, INSET_SYNTAX_ERROR,
 * INSET_SHAPE_ERROR, INSET_TYPE_ERROR, INSET_NO_MEMORY. */
INSET_API inset_status inset_cache_create(
    inset_model *model, const inset_cache_options *options, inset_cache **out);
INSET_API void inset_cache_free(inset_cache *cache); /* takes NULL */
/* Runs the next batch; the last call waits until all is on the disk. INSET_FILE_ERROR: something
 * could not be written (the disk is full, say): what is whole stays, and so does the failure; else
 * as inset_run, and may be tried again. */
INSET_API inset_status inset_cache_step(inset_cache *cache);
INSET_API int inset_cache_done(const inset_cache *cache); /* 1: all is on the disk; 1 for NULL */

typedef struct inset_cache_progress {
    /* sizeof(inset_cache_progress), set by the caller with INSET_CACHE_PROGRESS */
    size_t size;
    int64_t prompts, rows, shards, tensors; /* in all; tensors a shard, without the three */
    /* prompts that ran or were there already; of these, those that were there */
    int64_t done, restored;
    int64_t batches, plans; /* in this process: batches with the same lengths share a plan */
    int64_t bytes;          /* given to the writer, in this process */
    double planning, running, waiting; /* seconds, in this process; waiting for the disk */
    int64_t mine;                      /* prompts of this process's part, of which `done` are */
    int complete;                      /* 1: all shards of all parts are there, and cache.json */
} inset_cache_progress;
#define INSET_CACHE_PROGRESS                 \
    {                                        \
        .size = sizeof(inset_cache_progress) \
    }
INSET_API inset_status inset_cache_progress_of(const inset_cache *cache, inset_cache_progress *out);

#ifdef __cplusplus
}
#endif
#endif
