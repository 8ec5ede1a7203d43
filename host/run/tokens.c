/* tokens.c: what a model's tokenizer is asked for: prompts, answers, and pieces for labels. */
#include "run/tokens.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "file/gguf/gguf.h"

inset_status model_tokenizer(struct inset_model *model, tokenizer **out)
{
    char path[PATH_MAX];
    *out = model->tokenizer;
    if (*out) return INSET_OK;
    if (!model->program->vocabulary)
        return error_set(model->context, INSET_TYPE_ERROR,
            "%s takes numbers [batch, in], not a text", model->program->model_type);
    if (!model->folder)
        return error_set(model->context, INSET_USAGE_ERROR,
            "a text needs a tokenizer.json, and the model was made in memory; token ids work: "
            "[[464, 412]]");
    snprintf(path, sizeof path, is_gguf(model->folder) ? "%s" : "%s/tokenizer.json", model->folder);
    if (access(path, F_OK))
        return error_set(model->context, INSET_FILE_ERROR,
            "%s: there is no tokenizer.json, which a text needs; token ids work: [[464, 412]]",
            model->folder);
    inset_status status = tokenizer_open(model->context, path, &model->tokenizer);
    *out = model->tokenizer;
    return status;
}

tokenizer *model_tokenizer_if_any(struct inset_model *model)
{
    tokenizer *found = NULL;
    if (!model->program->vocabulary || !model->folder) return NULL;
    return model_tokenizer(model, &found) ? NULL : found;
}

void model_pieces(const tokenizer *t, const int64_t *ids, size_t count, text *out)
{
    for (size_t i = 0; i < count; i++) {
        text piece = {0};
        tokenizer_piece(t, ids[i], &piece);
        text_add(t->context, out, "%s'%s'", i ? " " : "", piece.bytes ? piece.bytes : "");
        text_free(t->context, &piece);
    }
}

/* What to write instead of an answer that is several tokens. */
static void help_answer(tokenizer *t, const char *answer, size_t length)
{
    id_list ids = {0};
    if (length && *answer != ' ')
        error_help(
            t->context, "Most words have a space before them: \" %.*s\".", (int)length, answer);
    else if (length > 1 && !tokenizer_encode(t, answer + 1, length - 1, false, &ids)
             && ids.count == 1)
        error_help(t->context, "This tokenizer puts the space there by itself: \"%.*s\".",
            (int)length - 1, answer + 1);
    id_list_free(t->context, &ids);
}

inset_status model_answer(
    struct inset_model *model, const char *answer, size_t length, int64_t *out)
{
    tokenizer *t;
    id_list ids = {0};
    inset_status status = model_tokenizer(model, &t);
    if (!status) status = tokenizer_encode(t, answer, length, false, &ids);
    if (!status && ids.count == 1) *out = ids.ids[0];
    else if (!status) {
        text pieces = {0};
        model_pieces(t, ids.ids, ids.count, &pieces);
        status = error_set(model->context, INSET_VALUE_ERROR,
            "the answer '%.*s' is %zu tokens, %s: one token was expected", (int)length, answer,
            ids.count, pieces.bytes ? pieces.bytes : "none");
        help_answer(t, answer, length);
        text_free(model->context, &pieces);
    }
    id_list_free(model->context, &ids);
    return status;
}

/* ---- for traces ----------------------------------------------------------- */

static inset_status prompt_ids(
    void *of, const char *text, size_t length, int64_t **ids, size_t *count)
{
    tokenizer *t;
    id_list made = {0};
    inset_status status = model_tokenizer(of, &t);
    if (!status) status = tokenizer_encode(t, text, length, true, &made);
    *ids = made.ids;
    *count = made.count;
    return status;
}

static inset_status answer_id(void *of, const char *text, size_t length, int64_t *id)
{
    return model_answer(of, text, length, id);
}

text_source model_text_source(struct inset_model *model)
{
    return (text_source){.of = model, .prompt = prompt_ids, .answer = answer_id};
}
