/* load.c: a tokenizer.json into its parts. What is not known is refused here by its name, so that a
 * text never becomes other ids than the file says. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "file/gguf/gguf.h"
#include "text/tokenizer.h"

enum { MOST_IDS = 1 << 24, MOST_PARTS = 64 };

static inset_status refuse(tokenizer *t, const char *what, const char *name)
{
    inset_status status = error_set(
        t->context, INSET_FILE_ERROR, "%s: %s %s is not known", t->name, what, name);
    error_help(t->context, "Token ids work without a tokenizer: [[464, 412]].");
    return status;
}

static inset_status wrong(tokenizer *t, const char *what)
{
    return error_set(t->context, INSET_FILE_ERROR, "%s: %s", t->name, what);
}

static inset_status type_of(tokenizer *t, const json_node *node, const char **out)
{
    *out = "";
    return json_need_string(t->document, node, "type", out);
}

/* ---- patterns ------------------------------------------------------------ */

/* {"Regex": "..."} or {"String": "..."}, or (older files) the text itself. */
static inset_status read_pattern(tokenizer *t, const json_node *part_node, regex **out)
{
    const json_node *node = json_member(part_node, "pattern");
    const char *pattern = NULL;
    char error[128];
    bool literal = true;
    if (json_is_string(node)) json_as_string(node, &pattern);
    else if (json_is_object(node)) {
        inset_status status = json_get_string(t->document, node, "String", &pattern);
        if (!status && !pattern) {
            literal = false;
            status = json_get_string(t->document, node, "Regex", &pattern);
        }
        if (status) return status;
    }
    if (!pattern) return wrong(t, "a pattern was expected: {\"Regex\": ...} or {\"String\": ...}");
    if ((*out = regex_new(t->context, pattern, literal, error))) return INSET_OK;
    return *error ? error_set(t->context, INSET_FILE_ERROR,
               "%s: the regular expression '%.80s' is not understood: %s", t->name, pattern, error)
                  : INSET_NO_MEMORY;
}

/* GPT-2's words. */
static const char words[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- normalizers --------------------------------------------------------- */

static part *add_part(tokenizer *t, part **list, size_t *n, part_kind kind)
{
    if (!*list) *list = arena_new(&t->memory, MOST_PARTS * sizeof **list);
    if (!*list) return NULL;
    if (*n == MOST_PARTS) {
        wrong(t, "too many normalizers or pre-tokenizers");
        return NULL;
    }
    part *p = &(*list)[(*n)++];
    *p = (part){.kind = kind};
    return p;
}

static inset_status read_each(tokenizer *t, const json_node *node, const char *key, int depth,
    inset_status (*read)(tokenizer *, const json_node *, int))
{
    const json_node *items = json_member(node, key);
    inset_status status = INSET_OK;
    if (!json_is_array(items) || depth > 8) return wrong(t, "a Sequence without its parts");
    for (size_t i = 0; i < json_length(items) && !status; i++)
        status = read(t, json_item(items, i), depth + 1);
    return status;
}

static inset_status read_normalizer(tokenizer *t, const json_node *node, int depth)
{
    static const struct {
        const char *name;
        part_kind kind;
    } known[] = {{"NFC", NORMAL_NFC}, {"NFD", NORMAL_NFD}, {"NFKC", NORMAL_NFKC},
        {"NFKD", NORMAL_NFKD}, {"Lowercase", NORMAL_LOWERCASE}, {"Strip", NORMAL_STRIP},
        {"StripAccents", NORMAL_STRIP_ACCENTS}, {"Replace", NORMAL_REPLACE},
        {"Prepend", NORMAL_PREPEND}, {"ByteLevel", NORMAL_BYTES}};
    const char *type;
    inset_status status = type_of(t, node, &type);
    if (status) return status;
    if (!strcmp(type, "Sequence")) return read_each(t, node, "normalizers", depth, read_normalizer);
    size_t k = 0;
    while (k < sizeof known / sizeof *known && strcmp(known[k].name, type)) k++;
    if (k == sizeof known / sizeof *known) return refuse(t, "the normalizer", type);
    part *p = add_part(t, &t->normalizers, &t->n_normalizers, known[k].kind);
    if (!p) return t->context->status;
    p->text = "";
    p->left = p->right = true;
    switch (p->kind) {
    case NORMAL_STRIP:
        status = json_get_bool(t->document, node, "strip_left", &p->left);
        return status ? status : json_get_bool(t->document, node, "strip_right", &p->right);
    case NORMAL_REPLACE:
        status = json_get_string(t->document, node, "content", &p->text);
        return status ? status : read_pattern(t, node, &p->pattern);
    case NORMAL_PREPEND: return json_get_string(t->document, node, "prepend", &p->text);
    default: return INSET_OK;
    }
}

/* ---- pre-tokenizers ------------------------------------------------------ */

static inset_status read_behaviour(tokenizer *t, const json_node *node, behaviour *out)
{
    static const char *const names[] = {
        "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = "";
    inset_status status = json_need_string(t->document, node, "behavior", &name);
    for (int i = 0; i < 5 && !status; i++)
        if (!strcmp(names[i], name)) {
            *out = (behaviour)i;
            return INSET_OK;
        }
    return status ? status : refuse(t, "the behavior", name);
}

static inset_status read_metaspace(tokenizer *t, const json_node *node, part *p)
{
    const char *scheme = NULL;
    char error[128];
    bool prefix = true;
    p->text = "\xe2\x96\x81";
    p->apart = true;
    inset_status status = json_get_string(t->document, node, "replacement", &p->text);
    if (!status) status = json_get_string(t->document, node, "prepend_scheme", &scheme);
    if (!status) status = json_get_bool(t->document, node, "add_prefix_space", &prefix);
    if (!status) status = json_get_bool(t->document, node, "split", &p->apart);
    if (status) return status;
    if (!scheme) scheme = prefix ? "always" : "never";
    p->scheme = !strcmp(scheme, "always")  ? PREPEND_ALWAYS
                : !strcmp(scheme, "first") ? PREPEND_FIRST
                                           : PREPEND_NEVER;
    if (p->scheme == PREPEND_NEVER && strcmp(scheme, "never"))
        return refuse(t, "the prepend_scheme", scheme);
    p->pattern = regex_new(t->context, p->text, true, error);
    return p->pattern ? INSET_OK : *error ? wrong(t, "Metaspace's replacement") : INSET_NO_MEMORY;
}

static inset_status read_byte_level(tokenizer *t, const json_node *node, part *p)
{
    bool by_words = true;
    char error[128];
    p->prefix_space = true;
    inset_status status = json_get_bool(t->document, node, "add_prefix_space", &p->prefix_space);
    if (!status) status = json_get_bool(t->document, node, "use_regex", &by_words);
    if (status || !by_words) return status;
    p->pattern = regex_new(t->context, words, false, error);
    return p->pattern ? INSET_OK : *error ? wrong(t, error) : INSET_NO_MEMORY;
}

static inset_status fixed_pattern(tokenizer *t, part *p, const char *pattern, behaviour how)
{
    char error[128];
    p->behaviour = how;
    p->pattern = regex_new(t->context, pattern, false, error);
    return p->pattern ? INSET_OK : *error ? wrong(t, error) : INSET_NO_MEMORY;
}

static inset_status read_split(tokenizer *t, const json_node *node, int depth)
{
    static const struct {
        const char *name;
        part_kind kind;
    } known[] = {{"ByteLevel", SPLIT_BYTES}, {"Split", SPLIT_PATTERN},
        {"Metaspace", SPLIT_METASPACE}, {"Digits", SPLIT_DIGITS}, {"Whitespace", SPLIT_PATTERN},
        {"WhitespaceSplit", SPLIT_PATTERN}};
    const char *type;
    inset_status status = type_of(t, node, &type);
    if (status) return status;
    if (!strcmp(type, "Sequence")) return read_each(t, node, "pretokenizers", depth, read_split);
    size_t k = 0;
    while (k < sizeof known / sizeof *known && strcmp(known[k].name, type)) k++;
    if (k == sizeof known / sizeof *known) return refuse(t, "the pre-tokenizer", type);
    part *p = add_part(t, &t->splits, &t->n_splits, known[k].kind);
    if (!p) return t->context->status;
    if (!strcmp(type, "Whitespace")) {
        p->invert = true;
        return fixed_pattern(
            t, p, "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+", SPLIT_REMOVED);
    }
    if (!strcmp(type, "WhitespaceSplit")) return fixed_pattern(t, p, "\\s", SPLIT_REMOVED);
    switch (p->kind) {
    case SPLIT_BYTES: return read_byte_level(t, node, p);
    case SPLIT_METASPACE: return read_metaspace(t, node, p);
    case SPLIT_DIGITS: return json_get_bool(t->document, node, "individual_digits", &p->apart);
    default: break;
    }
    status = read_behaviour(t, node, &p->behaviour);
    if (!status) status = json_get_bool(t->document, node, "invert", &p->invert);
    return status ? status : read_pattern(t, node, &p->pattern);
}

/* ---- vocabulary ---------------------------------------------------------- */

static inset_status need_ids(tokenizer *t, int64_t id, int64_t *most)
{
    if (id < 0 || id >= MOST_IDS)
        return error_set(
            t->context, INSET_FILE_ERROR, "%s: a token has the id %lld", t->name, (long long)id);
    if (id >= *most) *most = id + 1;
    return INSET_OK;
}

/* Gives an id its text; one text may have several ids, of which the first found counts. */
static inset_status put_token(tokenizer *t, const char *token, int64_t id)
{
    const size_t length = strlen(token);
    t->texts[id] = token;
    t->lengths[id] = length;
    return table_add(t->context, &t->by_text, hash_bytes(1, token, length), (int32_t)id)
               ? INSET_OK
               : INSET_NO_MEMORY;
}

static inset_status largest_id(
    tokenizer *t, const json_node *vocabulary, const json_node *added, int64_t *most)
{
    void *cursor = NULL;
    const char *token;
    const json_node *value;
    inset_status status = INSET_OK;
    while (!status && json_next(vocabulary, &cursor, &token, &value)) {
        int64_t id = -1;
        if (!json_as_integer(value, &id)) return wrong(t, "an id in the vocabulary is no integer");
        status = need_ids(t, id, most);
    }
    for (size_t i = 0; i < json_length(added) && !status; i++) {
        int64_t id = -1;
        status = json_need_integer(t->document, json_item(added, i), "id", 0, MOST_IDS - 1, &id);
        if (!status) status = need_ids(t, id, most);
    }
    return status;
}

static inset_status read_vocabulary(tokenizer *t, const json_node *model, const json_node *added)
{
    const json_node *vocabulary = json_member(model, "vocab"), *value;
    int64_t most = 0, id = 0;
    void *cursor = NULL;
    const char *token;
    if (!json_is_object(vocabulary)) return wrong(t, "the model has no vocab");
    inset_status status = largest_id(t, vocabulary, added, &most);
    if (status) return status;
    t->n_ids = (int32_t)most;
    t->texts = arena_new(&t->memory, (size_t)(most + 1) * sizeof *t->texts);
    t->lengths = arena_new(&t->memory, (size_t)(most + 1) * sizeof *t->lengths);
    if (!t->texts || !t->lengths) return INSET_NO_MEMORY;
    while (!status && json_next(vocabulary, &cursor, &token, &value)) {
        json_as_integer(value, &id);
        if (t->texts[id])
            return error_set(t->context, INSET_FILE_ERROR, "%s: two tokens have the id %lld",
                t->name, (long long)id);
        status = put_token(t, token, id);
    }
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        t->bytes[byte] = status ? -1 : tokenizer_find(t, name, 6);
    }
    return status;
}

/* ---- merges -------------------------------------------------------------- */

/* "a b", or ["a", "b"]: both and their join are tokens. */
static inset_status read_merge(tokenizer *t, const json_node *node, byte_list *joined)
{
    const char *left = NULL, *right = NULL;
    size_t length = 0;
    if (json_is_array(node) && json_length(node) == 2) {
        json_as_string(json_item(node, 0), &left);
        json_as_string(json_item(node, 1), &right);
        if (left) length = strlen(left);
    } else if (json_as_string(node, &left)) {
        const char *space = strchr(left, ' ');
        right = space ? space + 1 : NULL;
        length = space ? (size_t)(space - left) : 0;
    }
    if (!left || !right) return wrong(t, "a merge is two tokens, \"a b\" or [\"a\", \"b\"]");
    joined->n = 0;
    if (!byte_list_add(t->context, joined, left, length)
        || !byte_list_add(t->context, joined, right, strlen(right)))
        return INSET_NO_MEMORY;
    const merge m = {tokenizer_find(t, left, length), tokenizer_find(t, right, strlen(right)),
        tokenizer_find(t, joined->at, joined->n), (int32_t)t->n_merges};
    if (m.left < 0 || m.right < 0 || m.made < 0)
        return error_set(t->context, INSET_FILE_ERROR,
            "%s: the merge of '%.*s' and '%.40s' is of no tokens", t->name,
            (int)(length < 40 ? length : 40), left, right);
    return tokenizer_add_merge(t, m) ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status read_merges(tokenizer *t, const json_node *merges)
{
    byte_list joined = {0};
    inset_status status = INSET_OK;
    const size_t n = json_length(merges);
    for (size_t i = 0; i < n && !status; i++) status = read_merge(t, json_item(merges, i), &joined);
    memory_free(t->context, joined.at);
    return status;
}

static inset_status read_model(tokenizer *t, const json_node *model, const json_node *added)
{
    const char *type = "BPE", *unknown = NULL, *prefix = "", *suffix = "";
    double dropout = 0;
    if (!json_is_object(model)) return wrong(t, "there is no model");
    inset_status status = json_get_string(t->document, model, "type", &type);
    if (status) return status;
    t->word_level = !strcmp(type, "WordLevel");
    /* how gguf_tokenizer writes SentencePiece's vocabularies; no file of Hugging Face's has it */
    const bool scored = !strcmp(type, "SentencePiece");
    if (!t->word_level && !scored && strcmp(type, "BPE")) return refuse(t, "the model", type);
    if ((status = json_get_string(t->document, model, "unk_token", &unknown))
        || (status = json_get_string(t->document, model, "continuing_subword_prefix", &prefix))
        || (status = json_get_string(t->document, model, "end_of_word_suffix", &suffix))
        || (status = json_get_bool(t->document, model, "byte_fallback", &t->byte_fallback))
        || (status = json_get_bool(t->document, model, "ignore_merges", &t->ignore_merges))
        || (status = json_get_bool(t->document, model, "fuse_unk", &t->fuse_unknown))
        || (status = json_get_number(t->document, model, "dropout", &dropout)))
        return status;
    if (*prefix) return refuse(t, "continuing_subword_prefix", prefix);
    if (*suffix) return refuse(t, "end_of_word_suffix", suffix);
    if (dropout > 0) return wrong(t, "dropout: the same text would not always give the same ids");
    if ((status = read_vocabulary(t, model, added))) return status;
    t->unknown = unknown ? tokenizer_find(t, unknown, strlen(unknown)) : -1;
    if (t->word_level) return INSET_OK;
    if (scored && !json_is_array(json_member(model, "scores")))
        return wrong(t, "the model has no scores");
    if (scored) return merges_by_scores(t, json_member(model, "scores"));
    if (!json_is_array(json_member(model, "merges"))) return wrong(t, "the model has no merges");
    return read_merges(t, json_member(model, "merges"));
}

/* ---- added tokens -------------------------------------------------------- */

static inset_status read_added_token(tokenizer *t, const json_node *node, added_token *out)
{
    const json_document *d = t->document;
    int64_t id = 0;
    const char *token = "";
    *out = (added_token){.normalized = false};
    inset_status status;
    if ((status = json_need_integer(d, node, "id", 0, MOST_IDS - 1, &id))
        || (status = json_need_string(d, node, "content", &token))
        || (status = json_get_bool(d, node, "single_word", &out->single_word))
        || (status = json_get_bool(d, node, "lstrip", &out->lstrip))
        || (status = json_get_bool(d, node, "rstrip", &out->rstrip))
        || (status = json_get_bool(d, node, "normalized", &out->normalized)))
        return status;
    out->id = (int32_t)id;
    out->text = token;
    out->length = strlen(token);
    if (!t->texts[id] || strcmp(t->texts[id], token)) status = put_token(t, token, id);
    return status;
}

static inset_status read_added(tokenizer *t, const json_node *added)
{
    const size_t n = json_length(added);
    inset_status status = INSET_OK;
    t->added = arena_new(&t->memory, (n + 1) * sizeof *t->added);
    if (!t->added) return INSET_NO_MEMORY;
    for (size_t i = 0; i < n && !status; i++, t->n_added++)
        status = read_added_token(t, json_item(added, i), &t->added[i]);
    /* such a token is looked for in normal text, in its own normal form */
    for (size_t i = 0; i < n && !status; i++) {
        added_token *a = &t->added[i];
        piece p = {a->text, a->length, -1, true};
        if (!a->normalized) continue;
        status = normalize_piece(t, &t->memory, &p);
        a->text = p.text;
        a->length = p.length;
    }
    return status;
}

/* ---- the template -------------------------------------------------------- */

static inset_status add_special(
    tokenizer *t, const json_node *processor, const char *name, bool before)
{
    const json_node *known = json_member(json_member(processor, "special_tokens"), name),
                    *ids = json_member(known, "ids");
    int32_t **list = before ? &t->before : &t->after;
    size_t *n = before ? &t->n_before : &t->n_after;
    if (!json_is_array(ids)) return wrong(t, "the template names a token that it has no ids of");
    for (size_t i = 0; i < json_length(ids); i++) {
        int64_t id = -1;
        if (!json_as_integer(json_item(ids, i), &id) || id < 0 || id >= MOST_IDS)
            return wrong(t, "the template's ids");
        int32_t *more = arena_new(&t->memory, (*n + 1) * sizeof *more);
        if (!more) return INSET_NO_MEMORY;
        if (*n) memcpy(more, *list, *n * sizeof *more);
        more[(*n)++] = (int32_t)id;
        *list = more;
    }
    return INSET_OK;
}

static inset_status read_template(tokenizer *t, const json_node *processor)
{
    const json_node *single = json_member(processor, "single");
    bool before = true;
    inset_status status = INSET_OK;
    if (!json_is_array(single)) return wrong(t, "TemplateProcessing has no single");
    for (size_t i = 0; i < json_length(single) && !status; i++) {
        const json_node *item = json_item(single, i), *special = json_member(item, "SpecialToken");
        const char *name = "";
        if (json_member(item, "Sequence")) {
            if (!before) return wrong(t, "the template has its text twice");
            before = false;
        } else if (!(status = json_need_string(t->document, special, "id", &name)))
            status = add_special(t, processor, name, before);
    }
    return !status && before ? wrong(t, "the template leaves the text out") : status;
}

static inset_status read_processor(tokenizer *t, const json_node *node, int depth)
{
    const char *type;
    inset_status status = type_of(t, node, &type);
    if (status || !strcmp(type, "ByteLevel")) return status;
    if (!strcmp(type, "Sequence")) return read_each(t, node, "processors", depth, read_processor);
    if (strcmp(type, "TemplateProcessing")) return refuse(t, "the post-processor", type);
    if (t->n_before || t->n_after) return wrong(t, "there are two templates");
    return read_template(t, node);
}

/* ---- all ----------------------------------------------------------------- */

static bool is_byte_level(const json_node *node)
{
    const char *type = NULL;
    if (json_as_string(json_member(node, "type"), &type) && !strcmp(type, "ByteLevel")) return true;
    const json_node *decoders = json_member(node, "decoders");
    for (size_t i = 0; i < json_length(decoders); i++)
        if (json_as_string(json_member(json_item(decoders, i), "type"), &type)
            && !strcmp(type, "ByteLevel"))
            return true;
    return false;
}

static inset_status read_all(tokenizer *t)
{
    const json_node *root = json_root(t->document), *added, *node;
    if (!json_is_object(root)) return wrong(t, "an object was expected");
    added = json_member(root, "added_tokens");
    inset_status status = read_model(t, json_member(root, "model"), added);
    if (!status && (node = json_member(root, "normalizer"))) status = read_normalizer(t, node, 0);
    if (!status && (node = json_member(root, "pre_tokenizer"))) status = read_split(t, node, 0);
    if (!status && (node = json_member(root, "post_processor")))
        status = read_processor(t, node, 0);
    if (!status) status = read_added(t, added);
    t->bytes_as_letters = is_byte_level(json_member(root, "decoder"));
    for (size_t i = 0; i < t->n_splits; i++)
        t->bytes_as_letters |= t->splits[i].kind == SPLIT_BYTES;
    return status;
}

static inset_status start(inset_context *context, const char *name, tokenizer **out)
{
    tokenizer *t = *out = memory_new(context, sizeof *t);
    if (!t) return INSET_NO_MEMORY;
    t->context = context;
    t->unknown = -1;
    arena_start(&t->memory, context);
    t->name = arena_text(&t->memory, name, strlen(name));
    return t->name ? INSET_OK : INSET_NO_MEMORY;
}

static inset_status finish(inset_status status, tokenizer **out)
{
    if (!status) status = read_all(*out);
    if (!status) return INSET_OK;
    tokenizer_free(*out);
    *out = NULL;
    return status;
}

inset_status tokenizer_parse(
    inset_context *context, const char *name, const void *bytes, size_t size, tokenizer **out)
{
    inset_status status = start(context, name, out);
    if (!status) status = json_parse(context, name, bytes, size, &(*out)->document);
    return finish(status, out);
}

static inset_status open_gguf(inset_context *context, const char *path, tokenizer **out)
{
    gguf *g;
    char *made = NULL;
    size_t length;
    *out = NULL;
    inset_status status = gguf_open(context, path, &g);
    if (!status) status = gguf_tokenizer(context, g, &made, &length);
    if (!status) status = tokenizer_parse(context, path, made, length, out);
    memory_free(context, made);
    gguf_close(g);
    return status;
}

inset_status tokenizer_open(inset_context *context, const char *path, tokenizer **out)
{
    if (is_gguf(path)) return open_gguf(context, path, out);
    inset_status status = start(context, path, out);
    if (!status) status = json_open(context, path, &(*out)->document);
    return finish(status, out);
}

void tokenizer_free(tokenizer *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->n_normalizers; i++) regex_free(t->context, t->normalizers[i].pattern);
    for (size_t i = 0; i < t->n_splits; i++) regex_free(t->context, t->splits[i].pattern);
    memory_free(t->context, t->merges);
    table_free(t->context, &t->by_text);
    table_free(t->context, &t->by_pair);
    json_close(t->document);
    arena_free(&t->memory);
    memory_free(t->context, t);
}
