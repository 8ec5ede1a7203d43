/* prompts.h: prompts from Python, as C has them. */
#ifndef INSET_PYTHON_PROMPTS_H
#define INSET_PYTHON_PROMPTS_H

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <vector>

#include "handles.h"

typedef std::optional<std::string> text_or_none;

/* Prompts as C has them: a text, or ids one prompt after the other. */
struct Prompts {
    text_or_none text;
    std::vector<int64_t> lengths, tokens;

    inset_prompts given() const
    {
        inset_prompts p = {
            text ? text->c_str() : nullptr, (int64_t)lengths.size(), lengths.data(), tokens.data()};
        return p;
    }
};

inline Prompts prompts_of(nb::handle x)
{
    Prompts p;
    if (x.is_none()) return p;
    if (PyUnicode_Check(x.ptr())) {
        p.text = nb::cast<std::string>(x);
        return p;
    }
    for (const auto &one : nb::cast<std::vector<std::vector<int64_t>>>(x)) {
        p.lengths.push_back((int64_t)one.size());
        p.tokens.insert(p.tokens.end(), one.begin(), one.end());
    }
    return p;
}

#endif
