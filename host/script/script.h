/* script.h: the script reader: text in, calls of trace.h out. It makes no call that a client in C
 * could not make. */
#ifndef INSET_SCRIPT_H
#define INSET_SCRIPT_H

#include "trace/trace.h"

/* Reads a script and makes its records. `file` names it in messages; `directory` is where load()
 * looks files up ("" = the working directory). Errors carry place (file:line:column, the line, a
 * caret), help and sentence. */
inset_status script_read(
    trace *t, const char *file, const char *directory, const char *text, size_t length);
/* Parses "transformer.h[5].output[:, -1]": the site and its index items (allocated in the trace's
 * arena). */
inset_status script_parse_site(
    trace *t, const char *text, int32_t *site, size_t *n_items, index_item **items);
/* Parses an index alone, "[:, -1]"; "" gives no items. For the C API, as script_parse_site is. */
inset_status script_parse_index(trace *t, const char *text, size_t *n_items, index_item **items);

#endif
