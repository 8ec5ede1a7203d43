/* tokens.h: a model's tokenizer, opened when a text first asks for it. */
#ifndef INSET_RUN_TOKENS_H
#define INSET_RUN_TOKENS_H

#include "run/model.h"
#include "text/tokenizer.h"

/* tokenizer.json of the model's directory; it is the model's. FILE_ERROR: there is none, or it is
 * not understood; USAGE_ERROR: the model was made in memory; TYPE_ERROR: it takes no tokens. */
inset_status model_tokenizer(struct inset_model *model, tokenizer **out);
/* The same where there is one that can be read; NULL, and no error: there is none. */
tokenizer *model_tokenizer_if_any(struct inset_model *model);
/* The token that an answer is, " Mary". VALUE_ERROR for one that is several, with its pieces. */
inset_status model_answer(
    struct inset_model *model, const char *answer, size_t length, int64_t *out);
/* What a trace's lines have of the model: prompts and answers. */
text_source model_text_source(struct inset_model *model);
/* "'When' ' Mary' ' and'": pieces of ids, for messages. */
void model_pieces(const tokenizer *t, const int64_t *ids, size_t count, text *out);

#endif
