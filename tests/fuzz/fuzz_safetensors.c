/* fuzz_safetensors.c: any bytes as a safetensors file. Tensors that come out lie inside the bytes,
 * side by side, and are found by name. */
#include "fuzz.h"
#include "file/file.h"

#include <string.h>

static const char *const words[] = {"{", "}", "[", "]", ",", ":",
    "\"dtype\":", "\"shape\":", "\"data_offsets\":", "\"__metadata__\":", "\"F32\"", "\"BF16\"",
    "\"F16\"", "\"F64\"", "\"I64\"", "\"U8\"", "\"BOOL\"", "\"F8_E4M3\"", "\"F4\"", "\"U16\"", "[]",
    "[0]", "[1]", "[0,0]", "[0,1]", "[2,2]", "{\"format\":\"pt\"}", "\"a\":", "null", "true",
    "\\u0000", "\\u001b", "\xc2\x9b", " ", NULL};

/* The header's length: up to the last bracket. */
static void repair(uint8_t *data, size_t size)
{
    uint64_t length = size;
    while (length > 8 && data[length - 1] != '}') length--;
    if (length <= 8) return;
    length -= 8;
    memcpy(data, &length, sizeof length);
}

const fuzz_hints fuzz_target = {words, repair};

static void check_file(safetensors *file, const uint8_t *data, size_t size)
{
    size_t bytes = 0;
    volatile unsigned sum = 0; /* so that the bytes are really read */
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const file_tensor *tensor = safetensors_at(file, i), *needed;
        const uint8_t *at = tensor->data;
        fuzz_need(
            at >= data + 8 && at <= data + size && tensor->bytes <= (size_t)(data + size - at),
            "a tensor outside the file");
        for (size_t b = 0; b < tensor->bytes; b++) sum = sum + at[b];
        bytes += tensor->bytes;
        fuzz_need(safetensors_find(file, tensor->name) == tensor, "a tensor that is not found");
        fuzz_need(
            !safetensors_need(file, tensor->name, &needed) == (tensor->type != INSET_TYPE_COUNT),
            "a type that inset lacks");
        safetensors_release_pages(file, tensor);
    }
    fuzz_need(bytes <= size, "more bytes than there are");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run run;
    safetensors *file;
    inset_status status = safetensors_parse(
        fuzz_start(&run), "input.safetensors", data, size, &file);
    if (!status) check_file(file, data, size);
    else
        fuzz_need(
            status == INSET_FILE_ERROR && !file, "a refusal is a FileError and gives nothing");
    safetensors_close(file);
    fuzz_end(&run, status);
    return 0;
}
