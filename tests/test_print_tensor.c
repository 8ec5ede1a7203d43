/* test_print_tensor.c: tensors print as PyTorch prints them: tests/print/cases.txt holds tensors
 * and PyTorch's words (made by make.py). */
#include "base/base.h"
#include "cli/cli.h"
#include "test.h"

typedef struct reader {
    char *at;
    int line;
} reader;

static char *next_line(reader *r)
{
    char *start = r->at, *end = strchr(start, '\n');
    if (!*start) return NULL;
    if (end) *end = 0;
    r->at = end ? end + 1 : start + strlen(start);
    r->line++;
    return start;
}

static bool read_shape(char *line, inset_tensor *out)
{
    char *word = strtok(line, " ");
    out->type = INSET_TYPE_COUNT;
    for (inset_type type = 0; word && type < INSET_TYPE_COUNT; type++)
        if (!strcmp(word, inset_type_name(type))) out->type = type;
    out->n_dimensions = 0;
    while ((word = strtok(NULL, " "))) out->shape[out->n_dimensions++] = atoll(word);
    return out->type < INSET_TYPE_COUNT;
}

static void *read_numbers(const char *line, const inset_tensor *tensor)
{
    int64_t count = inset_tensor_count(tensor);
    size_t size = inset_type_size(tensor->type);
    char *data = calloc((size_t)count + 1, size), *end = (char *)line;
    double a = 0, b = 0;
    bool linear = sscanf(line, "linear %lf %lf", &a, &b) == 2;
    for (int64_t i = 0; data && i < count; i++)
        element_put(
            tensor->type, data + (size_t)i * size, linear ? a + b * (double)i : strtod(end, &end));
    return data;
}

/* The text that a case expects: the lines up to "==". */
static char *read_expected(reader *r)
{
    size_t length = 0;
    char *text = calloc(1, strlen(r->at) + 1), *line;
    while ((line = next_line(r)) && strcmp(line, "=="))
        length += (size_t)sprintf(text + length, "%s%s", length ? "\n" : "", line);
    return text;
}

static char *printed(const inset_tensor *tensor)
{
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    print_tensor(to, tensor);
    fclose(to);
    return text;
}

int main(void)
{
    char *all = test_read("print/cases.txt", NULL), *line;
    reader r = {all, 0};
    int cases = 0;
    if (!CHECK(all, "print/cases.txt is not there")) return test_result();
    while ((line = next_line(&r))) {
        inset_tensor tensor;
        int first = r.line;
        if (!CHECK(read_shape(line, &tensor), "line %d: no type", first)) break;
        void *data = read_numbers(next_line(&r), &tensor);
        tensor.data = data;
        CHECK(!strcmp(next_line(&r), "--"), "line %d", r.line);
        char *expected = read_expected(&r), *found = printed(&tensor);
        CHECK(!strcmp(expected, found), "cases.txt:%d: expected\n%s\nfound\n%s", first, expected,
            found);
        free(data);
        free(expected);
        free(found);
        cases++;
    }
    CHECK(cases >= 60, "%d cases", cases);
    free(all);
    return test_result();
}
