/* models.h: from a config.json to a program. One file a family, in families/; models.c has the list
 * of them.
 *
 * A family is a function that reads its config and writes its program: what transformers' forward
 * does, module by module, in the order it does it. To add one: copy the file of the family nearest
 * to it, change what differs, add a line to the list in models.c, and let tests/make_trees.py write
 * the tree that transformers has for it (tests/fixtures/trees), against which test_models compares.
 * Then a small model of it among FAMILIES in tests/make_fixtures.py, whose every site and random
 * traces are run by test_cases (a line in `suites`), and its name in tests/sites_table.sh, which
 * writes README's table. The families that are near to Llama say what differs in a struct decoder
 * (models/decoder.h), a dozen lines. */
#ifndef INSET_MODELS_H
#define INSET_MODELS_H

#include "file/file.h"
#include "program/program.h"

/* Builds and finishes the program that a parsed config.json describes. INSET_FILE_ERROR names the
 * key, what was expected and what was found; a model_type that nobody knows gets the list of those
 * there are. Reads no weights. ungroup: see program.ungroup. */
inset_status models_build(
    inset_context *context, const json_document *document, bool ungroup, program **out);

/* ---- reading a config ---------------------------------------------------- */

/* As with program.h's
 * calls the first failure sticks, so that a family reads all its keys and checks once. */
typedef struct config {
    inset_context *context;
    const json_document *document;
    const json_node *object;
    /* the model_type of a composite (images and text) whose text_config `object` is; else NULL */
    const char *part_of;
    inset_status status;
} config;

/* A key's value, or `otherwise` when it is absent or null: what transformers takes then. */
int64_t config_integer(config *c, const char *key, int64_t least, int64_t most, int64_t otherwise);
double config_number(config *c, const char *key, double least, double most, double otherwise);
bool config_bool(config *c, const char *key, bool otherwise);
/* tie_word_embeddings. A composite's head is tied unless its files have one (sources.h): where such
 * configs say it, and what absence means, differs by model and by version. */
bool config_tied(config *c, bool otherwise);
const char *config_string(config *c, const char *key, const char *otherwise);
/* A size that must be there: at least 1, and small enough that products of two sizes are no
 * overflow. */
int32_t config_size(config *c, const char *key);
int32_t config_size_or(config *c, const char *key, int64_t otherwise);
activation config_activation(config *c, const char *key, const char *otherwise);
bool config_has(const config *c, const char *key); /* and not null */
/* there, and null: where that means something else than absence */
bool config_is_null(const config *c, const char *key);
/* Fails unless `a` divides by `b`. */
void config_divides(config *c, const char *key_a, int64_t a, const char *key_b, int64_t b);
/* width / heads, refused where it is not whole or more than attention takes. */
int32_t config_head_dim(
    config *c, const char *width_key, int32_t width, const char *heads_key, int32_t heads);
/* A refusal in the family's own words: "NAME: 'key' ..."; does nothing after a failure. */
void config_refuse(config *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Fails when a key that inset does not implement is true. */
void config_refuse_if_true(config *c, const char *key);

/* ---- the families: each writes into a program that is then finished by models_build ---- */
void gpt2_build(config *c, program *p);
void gpt_neo_build(config *c, program *p);
void gpt_neox_build(config *c, program *p);
void gptj_build(config *c, program *p);
void llama_build(config *c, program *p);
void mistral_build(config *c, program *p);
void mixtral_build(config *c, program *p);
void qwen3_moe_build(config *c, program *p);
void gpt_oss_build(config *c, program *p);
void qwen2_build(config *c, program *p);
void qwen3_build(config *c, program *p);
void gemma2_build(config *c, program *p);
void bert_build(config *c, program *p);
void bloom_build(config *c, program *p);
void granite_build(config *c, program *p);
void cohere_build(config *c, program *p);
void cohere2_build(config *c, program *p);
void opt_build(config *c, program *p);
void phi_build(config *c, program *p);
void phi3_build(config *c, program *p);
void olmo_build(config *c, program *p);
void olmo2_build(config *c, program *p);
void olmo3_build(config *c, program *p);
void gemma_build(config *c, program *p);
void gemma3_build(config *c, program *p);
void smollm3_build(config *c, program *p);
void stablelm_build(config *c, program *p);
void starcoder2_build(config *c, program *p);
void sequential_build(config *c, program *p);

#endif
