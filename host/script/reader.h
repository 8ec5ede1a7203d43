/* script.h: what the files of the script reader share: tokens, the tree a script is parsed to, and
 * the reader itself.
 *
 *     scan.c       bytes -> tokens
 *     expression.c tokens -> expressions: sites, calls, arithmetic
 *     literal.c    tokens -> numbers and nested lists of them
 *     index.c      tokens -> what stands in brackets
 *     statement.c  tokens -> statements and blocks
 *     evaluate.c   expressions -> operands, by calls of trace.h
 *     metric.c     logit_diff(a, b) and its like
 *     function.c   exp(x), x.clamp(a, b), x.float() and their like
 *     row_function.c  x.sum(-1), softmax(x, -1), where(c, a, b) and their like
 *     run.c        statements -> records; loops are unrolled here
 *     list.c       what names hold, lists, saves
 *     input.c      literals, loaded files and the inputs of invokes
 *     error.c      where a message points
 *     script.c            the two ways in
 *
 * A script is parsed whole before its first line runs, so a syntax error anywhere is the first
 * thing said. Tokens and tree nodes carry byte ranges of the text and nothing else; line, column
 * and caret are made when an error is printed.
 *
 * The parser has no error checks between its steps: the first error sticks in the reader, every
 * later token is the end, and memory that could not be had is replaced by `spare`, so that
 * functions unwind by themselves. Nobody walks a tree after an error. */
#ifndef INSET_SCRIPT_READER_H
#define INSET_SCRIPT_READER_H

#include "script/script.h"

enum {
    SCRIPT_NESTING = 200,    /* brackets, and blocks in blocks */
    SCRIPT_BODIES = 1000000, /* turns of all loops of a script together */
};

/* ---- tokens ------------------------------------------------------------- */
/* A token of one character is that character; the others: */
typedef enum token_kind {
    TOKEN_END = 256,
    TOKEN_NEWLINE,
    TOKEN_NAME,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_STRING,
    TOKEN_ELLIPSIS,
    TOKEN_FLOOR /* // */,
    TOKEN_EQUAL /* == */,
    TOKEN_UNEQUAL,
    TOKEN_LESS_EQUAL,
    TOKEN_GREATER_EQUAL,
    TOKEN_ADD_SET,
    TOKEN_SUBTRACT_SET,
    TOKEN_MULTIPLY_SET,
    TOKEN_DIVIDE_SET
} token_kind;

typedef struct token {
    int kind;
    uint32_t at, end; /* bytes of the text */
} token;

/* ---- expressions -------------------------------------------------------- */
typedef struct expression expression;

/* Nested lists of numbers, flat. A shape of -1 has not been met. */
typedef struct literal {
    /* how deep the numbers lie; may exceed INSET_MAX_DIMENSIONS, see shape */
    int n_dimensions;
    int64_t shape[INSET_MAX_DIMENSIONS]; /* extents of the first lists met */
    size_t count;                        /* numbers */
    /* all of them, when all were written as integers; else NULL */
    int64_t *integers;
    double *numbers; /* all of them; made from the integers when first needed */
    size_t n_rows;
    int64_t *row_lengths; /* of the innermost lists, in order */
    uint32_t float_at;    /* the first number with a point or an exponent */
    /* innermost lists differ in length; other lists do; an integer beyond 64 bits */
    bool ragged, irregular, too_large;
    uint32_t ragged_at, irregular_at, too_large_at;
} literal;

/* One item of an index. */
typedef struct item {
    index_kind kind;
    expression *start, *stop, *step; /* each may be NULL; an integer is `start` */
    expression *list;                /* linked by `next` */
    int64_t *list_values;            /* room for their values */
    size_t list_length;
    struct item *next;
} item;

/* What may follow a name or a bracketed expression: ".name", ".5", "[...]", ".clone()",
 * ".logit(3)", ... */
typedef enum link_kind {
    LINK_NAME,
    LINK_NUMBER,
    LINK_INDEX,
    LINK_CLONE,
    LINK_SAVE,
    LINK_APPEND,
    LINK_SKIP,
    LINK_METRIC,
    LINK_FUNCTION,  /* ".relu()", "relu(x)" behind x; ".clamp(a, b)" */
    LINK_CAST,      /* ".float()" */
    LINK_ROWS,      /* ".sum(-1)", "softmax(x, -1)" behind x, ".topk(5).values" */
    LINK_TRANSPOSE, /* ".T", ".mT", ".transpose(0, 1)" */
    LINK_WHERE,     /* "where(c, a, b)" behind c */
    LINK_DETACH,    /* ".detach()" */
    LINK_CALL,      /* ".ln_f(x)", "(x)": a module, by the links before it */
    LINK_GRAD,      /* ".grad" */
    LINK_BACKWARD   /* ".backward()", at the end of a `with` */
} link_kind;
/* The arguments of LINK_ROWS. */
typedef struct row_link {
    trace_row_op function;
    expression *dimensions; /* linked by `next`; none: all */
    int n_dimensions;
    bool keep;
    expression *k, *p; /* of topk and norm, or NULL */
    /* what is taken of topk: two tensors to bind to two names, or one of them */
    enum { PART_BOTH, PART_VALUES, PART_PLACES } part;
} row_link;

typedef struct link {
    link_kind kind;
    uint32_t at, end; /* the name, the number, or the "[" and its "]" */
    item *items;
    size_t n_items;
    index_item *values;       /* room for the items' values */
    expression *argument;     /* append, skip, a module's call; kl's reference; where's values and
                                 transpose's dimensions, two linked by `next` */
    inset_metric_kind metric; /* LINK_METRIC: its tokens are items, one a set */
    trace_op function;        /* LINK_FUNCTION; its bounds, if it has any, are `argument` */
    bool both;                /* clamp of two bounds: at least the first, at most the next */
    inset_type type;          /* LINK_CAST */
    row_link *rows;           /* LINK_ROWS */
    struct link *next;
} link;

typedef enum expression_kind {
    EXPRESSION_NUMBER,
    EXPRESSION_LITERAL,
    EXPRESSION_NAME,
    EXPRESSION_SITE,
    EXPRESSION_CALL,
    EXPRESSION_CHAIN,
    EXPRESSION_NEGATE,
    EXPRESSION_LENGTH,
    EXPRESSION_MODULES, /* how many numbered modules: len(transformer.h) */
    EXPRESSION_LOAD,
    EXPRESSION_ZEROS
} expression_kind;

typedef enum script_op {
    OP_ADD,
    OP_SUBTRACT,
    OP_MULTIPLY,
    OP_DIVIDE,
    OP_FLOOR,
    OP_REMAINDER,
    OP_PRODUCT, /* "@" */
    OP_EQUAL,
    OP_UNEQUAL,
    OP_LESS,
    OP_LESS_EQUAL,
    OP_GREATER,
    OP_GREATER_EQUAL
} script_op;

/* Operands of one priority, from left to right, however many there are: "a + b - c". */
typedef struct term {
    script_op op;
    uint32_t at; /* the operator */
    expression *operand;
    struct term *next;
} term;

struct expression {
    expression_kind kind;
    uint32_t at, end;
    link *links; /* indices and clones, in the order they are done */
    bool saved;  /* ".save()" follows, at save_at */
    uint32_t save_at;
    expression *next; /* of a list of expressions */
    union {
        struct {
            bool is_float, too_large;
            int64_t integer;
            double number;
        };                /* NUMBER */
        literal *literal; /* LITERAL */
        int32_t name;     /* NAME, LENGTH of a list or a tensor */
        /* SITE; a module where `site` is NULL; CALL, MODULES: of that module */
        struct {
            int32_t head; /* the path's first name */
            link *parts;  /* what lies between it and the site */
            link *site;
            expression *argument; /* CALL */
            bool resolved;        /* a path without loop names is looked up once */
            int32_t found;
        };
        struct {
            expression *first;
            term *terms;
        }; /* CHAIN */
        struct {
            expression *operand;
            int32_t times;
        }; /* NEGATE */
        struct {
            token file, tensor;
        }; /* LOAD; tensor.kind is TOKEN_END when no name was given */
        struct {
            expression *extents;
            int32_t n_extents;
        }; /* ZEROS */
    };
};

/* ---- statements --------------------------------------------------------- */
typedef enum statement_kind {
    STATEMENT_BIND,
    STATEMENT_SET,
    STATEMENT_SAVE,
    STATEMENT_UNNAMED_SAVE,
    STATEMENT_APPEND,
    STATEMENT_SKIP,
    STATEMENT_STOP,
    STATEMENT_CACHE,
    STATEMENT_PASS,
    STATEMENT_INVOKE,
    STATEMENT_BACKWARD,
    STATEMENT_EDIT,
    STATEMENT_CLEAR_EDITS,
    STATEMENT_FOR
} statement_kind;

typedef struct bound_name {
    int32_t name;
    uint32_t at;
    struct bound_name *next;
} bound_name;

/* "..." of a cache(...) */
typedef struct quoted_text {
    token text;
    struct quoted_text *next;
} quoted_text;

typedef struct statement {
    statement_kind kind;
    uint32_t at;
    int32_t line; /* of its first byte, from 1 */
    struct statement *next, *body;
    bound_name *names;  /* BIND; FOR and SAVE and APPEND: one */
    expression *target; /* SET; SKIP: the module */
    trace_op op;        /* SET: TRACE_COPY for a plain "=" */
    /* BIND: one a name, linked; SET, APPEND, SKIP, INVOKE: one; FOR: range's arguments or the
     * integers */
    expression *value;
    bool listed;           /* FOR over a list of integers */
    bool modules;          /* FOR over numbered modules; value: their path */
    quoted_text *patterns; /* CACHE; its prefix= is an integer in `value`, or a text, or neither */
    quoted_text *prefix;
    /* SAVE, UNNAMED_SAVE, FOR: the "save"; the "range" or "[" */
    uint32_t save_at;
} statement;

/* ---- what names hold ---------------------------------------------------- */
typedef enum value_kind { VALUE_NONE, VALUE_OPERAND, VALUE_LITERAL, VALUE_LIST } value_kind;

/* A literal that a name is bound to: a tensor only once somebody uses it as one, so that rows of
 * different lengths may be an input. */
typedef struct bound_literal {
    literal *literal;
    operand *made;
    bool in_edit; /* written in an edit(): each invoke has its own */
} bound_literal;

typedef struct list list;
typedef struct script_value {
    value_kind kind;
    operand operand;        /* VALUE_OPERAND */
    bound_literal *literal; /* VALUE_LITERAL */
    list *list;             /* VALUE_LIST */
} script_value;

/* The same in little space, for names and items of lists. */
typedef struct kept_value {
    value_kind kind;
    operand_kind number_kind; /* numbers are kept here, tensors in `operand` */
    int64_t integer;
    double number;
    operand *operand;
    bound_literal *literal;
    list *list;
} kept_value;

struct list {
    kept_value *items;
    size_t length, capacity;
    bool saved; /* its values are appended with ".save()" */
};

typedef struct name {
    const char *text;
    size_t length;
    /* the model's top-level module of this name, or that which a loop has come to, or -1 */
    int32_t module;
    bool of_loop;       /* some loop goes through modules by this name */
    int32_t bound_line; /* the first line that binds it, 0 = none */
    int32_t saved_line; /* where it was saved, 0 = not yet */
    kept_value value;
} name;

/* Saves wait for the end of the script, in their order: a list grows until then. */
typedef struct pending_save {
    int32_t name, line;
    uint32_t at;
    kept_value value;
    struct pending_save *next;
} pending_save;

/* A cache() waits for the end of its invoke: what lines behind it set is kept, too, and none of
 * them is out of order for it. */
typedef struct pending_cache {
    const bool *chosen; /* [n_sites] */
    const char *prefix;
    uint32_t at;
    int32_t line;
    struct pending_cache *next;
} pending_cache;

/* A loop that is running, for messages. */
typedef struct running_loop {
    int32_t name;
    int64_t value;
    struct running_loop *outer;
} running_loop;

typedef struct open_bracket {
    char bracket;
    uint32_t at;
} open_bracket;

typedef struct script {
    inset_context *context;
    trace *trace;
    const program *program;
    const char *file, *directory; /* file NULL: a site's text from the C API */
    const char *text;
    uint32_t length;
    inset_status status; /* the first error; it sticks */
    arena memory;        /* tree, names, lists */
    /* stands in for memory that could not be had */
    union {
        expression e;
        statement s;
        literal l;
        char bytes[256];
    } spare;

    /* scanner */
    token current;    /* one token of look-ahead */
    uint32_t next;    /* first byte behind it */
    uint32_t indent;  /* spaces before the first token of the latest line */
    bool path_number; /* current is the 5 of h.5 */
    int32_t depth;
    open_bracket open[SCRIPT_NESTING];

    /* parser */
    name *names;
    size_t n_names, names_capacity;
    table interned;
    int32_t blocks; /* blocks that are open */
    bool in_invoke; /* or in an edit() */
    bool in_edit;
    uint32_t n_saves, latest_save; /* ".save()" met in the current expression */
    uint32_t counted_to;           /* lines are counted up to this byte */
    int32_t line;
    union {
        int64_t integer;
        double number;
    } * numbers; /* of the literal being read */
    size_t numbers_capacity;
    int64_t *rows;
    size_t rows_capacity;

    /* evaluator */
    running_loop *loops; /* innermost first */
    int64_t bodies;      /* turns of loops so far */
    int32_t running_line;
    int32_t closed_line; /* where a backward() ended the running invoke, 0 = none */
    int32_t stop_line;   /* of the running invoke, 0 = none */
    pending_save *saves, **last_save;
    pending_cache *caches; /* of the running invoke, latest first */
} script;

/* ---- scanner ------------------------------------------------------------ */
/* Refuses NUL bytes and what is not UTF-8, and reads the first token. */
void script_scan_start(script *s);
/* Bytes of the UTF-8 character at `at`; 0 when it is none (overlong forms, surrogates and what lies
 * beyond U+10FFFF are none). */
uint32_t script_character(const script *s, uint32_t at);
/* Moves to the next token. */
void script_advance(script *s);
/* True when `c` is what comes behind the current token. */
bool script_followed_by(const script *s, char c);
/* True when the token is this word. */
bool script_is(const script *s, token t, const char *word);

/* ---- parser ------------------------------------------------------------- */
/* arena memory, or `spare` and a sticking error */
void *script_new(script *s, size_t size);
statement *script_statements(script *s);  /* the whole script */
expression *script_expression(script *s); /* without ".save()" */
expression *script_saved(script *s);      /* expr | factor ".save()" | "[]" */
expression *script_integer(script *s);
expression *script_answer(script *s); /* a word in quotes, as its token's number */
/* Refuses what cannot be an integer, whatever the names hold; `where` says who needs it. */
void script_require_integer(script *s, const expression *e, const char *where);
expression *script_new_expression(script *s, expression_kind kind, uint32_t at, uint32_t end);
expression *script_number(script *s);  /* literal.c */
expression *script_literal(script *s); /* literal.c: nested lists of numbers */
void script_index(script *s, link *l); /* index.c: "[" ... "]" behind a name */
/* A name and all that follows it by dots and brackets. On a line of its own it may end in
 * ".append(...)" or ".skip(...)", which is then the last of `links` and everything before it still
 * is in links, too. */
expression *script_chain(script *s, token head, bool own_line);
int32_t script_name(script *s, token t); /* interns */
bool script_accept(script *s, int kind); /* moves on when the token is of this kind */
token script_expect(script *s, int kind, const char *what);
/* ---- function.c ---------------------------------------------------------- */
/* Is it the name of a function or a cast? Then the link becomes it. */
bool script_function_named(script *s, token t, link *l);
/* What stands in the brackets behind x.name( or, for name(x, ...), behind x. */
void script_function_arguments(script *s, link *l, bool behind);
inset_status script_function(script *s, link *l, operand *v);

/* ---- row_function.c ------------------------------------------------------ */
/* Is it sum, softmax, where, transpose or their like? Then the link becomes it. */
bool script_row_function_named(script *s, token t, link *l);
/* What stands in the brackets, as script_function_arguments. */
void script_row_function_arguments(script *s, link *l, bool behind);
void script_topk_part(script *s, link *l);
inset_status script_row_function(script *s, const link *l, operand *v);
/* Both tensors of topk: *x becomes the values. */
inset_status script_topk_both(script *s, const link *l, operand *x, operand *places);

/* The metric that a name behind a "." calls, or -1; and the arguments of a call of it, behind its
 * "(". */
int script_metric_named(const script *s, token t);
void script_metric_arguments(script *s, link *l);
/* "[" int { "," int } "]", also "[]" where `empty` allows it. */
void script_integer_list(script *s, item *i, bool empty);
/* An error about the current token, "expected X, found Y". */
void script_unexpected(script *s, const char *expected);
/* Refuses a word of Python's that the language has not got. True when it was one. */
bool script_refuse_word(script *s, token t);

/* ---- errors ------------------------------------------------------------- */
/* Sets the error and its place, and sticks it when it is the first. */
inset_status script_refuse(script *s, uint32_t at, inset_status status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Gives a message that another layer made its place; returns status, also INSET_OK. */
inset_status script_at(script *s, uint32_t at, inset_status status);
/* For "%.*s": the part of the text, at most 60 bytes of it. */
int script_quote_length(uint32_t at, uint32_t end);
int32_t script_line_of(const script *s, uint32_t at);

/* ---- evaluator ---------------------------------------------------------- */
inset_status script_run(script *s, const statement *first);
inset_status script_evaluate(script *s, expression *e, script_value *out);
/* The same without the links from `end` on. */
inset_status script_evaluate_before(script *s, expression *e, const link *end, script_value *out);
/* As an operand: TypeError for a list. */
inset_status script_operand(script *s, expression *e, operand *out);
inset_status script_evaluate_integer(script *s, expression *e, int64_t *out);
/* fills index->values */
inset_status script_evaluate_index(script *s, link *index);
inset_status script_find_site(script *s, expression *path, int32_t *site);
/* Does the path end at a weight of the model, as lm_head.weight? *weight, or -1. */
inset_status script_find_weight(script *s, expression *path, int32_t *weight);
inset_status script_find_module(script *s, expression *path, int32_t *module);
/* The container that a path names, transformer.h: how many numbered modules it has. */
inset_status script_find_modules(script *s, expression *path, int32_t *module, int64_t *count);
inset_status script_number_op(
    script *s, uint32_t at, script_op op, const operand *a, const operand *b, operand *out);
operand operand_of_integer(int64_t integer);

/* One link: xs[i], x[...], x.clone(), on a value. */
inset_status script_follow(script *s, link *l, script_value *v);
/* x.logit_diff(a, b) and its like */
inset_status script_metric(script *s, link *l, operand *v);
/* literals become tensors; TypeError for lists */
inset_status script_as_operand(script *s, uint32_t at, script_value *v);

inset_status script_bind(script *s, int32_t name, uint32_t at, const script_value *v);
inset_status script_check_bindable(script *s, int32_t name, uint32_t at);
inset_status script_look_up(script *s, int32_t name, uint32_t at, script_value *out);
inset_status script_save(script *s, int32_t name, uint32_t at, const script_value *v);
inset_status script_save_all(script *s); /* at the end of the script */
inset_status script_list_new(script *s, script_value *out);
inset_status script_list_item(
    script *s, uint32_t at, const script_value *of, link *index, kept_value **out);
inset_status script_append(script *s, const statement *line);
inset_status script_keep(script *s, const script_value *v, kept_value *out);
void script_recall(const kept_value *kept, script_value *out);

/* ---- cache.c ---- */
void script_cache_line(script *s, statement *line); /* parses from "(" on */
inset_status script_cache(script *s, const statement *line);
inset_status script_fill_caches(script *s); /* at the end of the invoke */

/* ---- input -------------------------------------------------------------- */
/* before: it stands outside of the edit() that is open, if one is */
inset_status script_literal_operand(script *s, uint32_t at, literal *l, bool before, operand *out);
inset_status script_invoke(script *s, expression *input);
/* The bytes between the quotes of a TOKEN_STRING, in the script's arena; NULL: out of memory. */
char *script_unquoted(script *s, token t);
inset_status script_load(script *s, const expression *e, operand *out);
inset_status script_zeros(script *s, const expression *e, operand *out);

/* ---- the reader --------------------------------------------------------- */
/* False, with a sticking error, when the text is too long. */
bool script_start(
    script *s, trace *t, const char *file, const char *directory, const char *text, size_t length);
void script_free(script *s);

#endif
