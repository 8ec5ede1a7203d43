/* log.h: the lines that were recorded, kept short while recording and written out as a trace script
 * when somebody asks (tracer.script()). */
#ifndef INSET_PYTHON_LOG_H
#define INSET_PYTHON_LOG_H

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

#include "inset.h"

namespace nb = nanobind;

/* What stands at the right of a line: a value by its number, a number, or lists of numbers. */
struct LogOperand {
    enum Kind : char { NOTHING, VALUE, INTEGER, FLOAT, ARRAY, ROWS } kind = NOTHING;
    int64_t integer = 0; /* of a VALUE: its number; of ROWS: their width */
    double number = 0;
    /* a copy (of ROWS the bytes of their floats); None: it has more than MOST_NUMBERS */
    nb::object array;
};
enum { MOST_NUMBERS = 4096 }; /* of an array in a script */
enum { REFLECTED = 64 };

/* One line. Example: v3 = v1[:, -1] is {INDEX, made 3, of 1, index (:, -1)}; v1[:, 0] = 0 is {SET,
 * of 1, index (:, 0), source 0}; transformer.h.1.output = v3 is {SET_SITE, of that site, source
 * v3}. */
struct LogLine {
    enum Kind : char {
        INVOKE, /* text: token ids or a value's name; else source: rows */
        EDIT,
        CLEAR_EDITS,
        END,        /* of an invoke, an edit or a block of gradients */
        BACKWARD,   /* of */
        READ,       /* made = the site with the number `of` */
        SET_SITE,   /* that site = source */
        INDEX,      /* made = of[index] */
        SET,        /* of[index] = source; without an index: all of it */
        UPDATE,     /* of op= source */
        ARITHMETIC, /* made = of op source; reflected: source op of */
        NEGATE,
        CLONE,
        GRADIENT,
        METHOD, /* made = of.text, which is "relu()" and the like */
        METRIC, /* made = of.text(..) with the metric's arguments in text */
        KL,     /* made = of.kl(source) */
        SAVE,
        CALL,   /* made = text(source) */
        WHERE,  /* made = where(of, source, other) */
        WEIGHT, /* made = text */
        SKIP,   /* text.skip(source) */
        STOP,
        CACHE,   /* the site with the number `of` is saved, in any order: no line says it */
        ZEROS,   /* made = zeros(text) */
        EXTERNAL /* made: an array */
    } kind;
    char operation = 0; /* as inset_operation; + REFLECTED */
    int64_t made = -1, of = -1;
    LogOperand source, other;
    nb::object index; /* as Python gave it; where it has lists, its text */
    std::string text;
};

class Log {
  public:
    void add(LogLine line) { lines_.push_back(std::move(line)); }
    /* UsageError for arrays of more than MOST_NUMBERS and those that have a name, which a script
     * loads from a file. */
    std::string script(inset_model *model) const;

  private:
    std::vector<LogLine> lines_;
};

/* "[:, -1]" */
std::string index_text(nb::handle index);

#endif
