/* fuzz_npy.c: any bytes as an .npy file. A tensor that comes out lies inside the bytes and is read
 * to its end. */
#include "fuzz.h"
#include "file/file.h"

#include <string.h>

static const char *const words[] = {"\x93NUMPY", "{", "}",
    "'descr': ", "'fortran_order': ", "'shape': ", "False", "True", "(", ")", "()", "(1,)",
    "(2, 2)", ", ", "'<f4'", "'<f8'", "'<f2'", "'<i8'", "'<i4'", "'<i2'", "'|i1'", "'|u1'", "'|b1'",
    "'|O'", "'>f4'", "'<V2'", "[('a', '<f4')]", "\n", NULL};

/* The header's length: up to its newline. */
static void repair(uint8_t *data, size_t size)
{
    if (size < 12) return;
    size_t start = data[6] == 1 ? 10 : 12;
    const uint8_t *newline = memchr(data + start, '\n', size - start);
    uint32_t length = (uint32_t)(newline ? (size_t)(newline - data) + 1 - start : size - start);
    memcpy(data + 8, &length, start - 8);
}

const fuzz_hints fuzz_target = {words, repair};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run run;
    npy *file;
    volatile double sum = 0; /* so that the elements are really read */
    inset_status status = npy_parse(fuzz_start(&run), "input.npy", data, size, &file);
    if (!status) {
        const file_tensor *tensor = npy_tensor(file);
        size_t width = type_size(tensor->type);
        int64_t elements = 1;
        for (int i = 0; i < tensor->n_dimensions; i++) elements *= tensor->shape[i];
        fuzz_need((size_t)elements * width == tensor->bytes, "shape and bytes differ");
        for (size_t at = 0; at < tensor->bytes; at += width)
            sum = sum + element_get(tensor->type, (const char *)tensor->data + at);
        fuzz_need(tensor->bytes <= size, "more bytes than there are");
    } else {
        fuzz_need(
            status == INSET_FILE_ERROR && !file, "a refusal is a FileError and gives nothing");
    }
    npy_close(file);
    fuzz_end(&run, status);
    return 0;
}
