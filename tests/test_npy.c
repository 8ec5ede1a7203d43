/* test_npy.c: .npy files in: every refusal by its words, and each type, version and shape read
 * back. */
#include "files.h"

/* A file of the version with this dictionary, padded as NumPy pads, and data 0, 1, 2, ... */
static size_t make_npy(char *out, int version, const char *dictionary, size_t data_size)
{
    size_t start = version == 1 ? 10 : 12, length = strlen(dictionary) + 1;
    while ((start + length) % 64) length++;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (char)version;
    out[7] = 0;
    memcpy(out + 8, &length, start - 8);
    memset(out + start, ' ', length);
    memcpy(out + start, dictionary, strlen(dictionary));
    out[start + length - 1] = '\n';
    for (size_t i = 0; i < data_size; i++) out[start + length + i] = (char)i;
    return start + length + data_size;
}

#define NPY(descr, order, shape) \
    "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }"

static void refuses_npy(void)
{
    static const struct {
        const char *name;
        int version;
        const char *dictionary;
        size_t data_size;
        const char *words;
    } arrays[] = {
        {"version 4", 4, NPY("<f4", "False", "(1,)"), 4,
            "x: is of version 4.0, expected 1.0, 2.0 or 3.0"},
        {"version 0", 0, NPY("<f4", "False", "(1,)"), 4, "x: is of version 0.0"},
        {"fortran", 1, NPY("<f4", "True", "(1,2)"), 8, "x: is in Fortran order, expected C order"},
        {"objects", 1, NPY("|O", "False", "(1,)"), 8, "x: its dtype '|O' is Python objects"},
        {"big-endian", 1, NPY(">f4", "False", "(1,)"), 4,
            "x: its dtype '>f4' is big-endian numbers"},
        {"unsigned", 1, NPY("<u4", "False", "(1,)"), 4, "x: its dtype '<u4' is unsigned integers"},
        {"complex", 1, NPY("<c8", "False", "(1,)"), 8, "x: its dtype '<c8' is complex numbers"},
        {"text", 1, NPY("<U3", "False", "(1,)"), 12, "x: its dtype '<U3' is text"},
        {"bytes", 1, NPY("|S3", "False", "(1,)"), 3, "x: its dtype '|S3' is text"},
        {"dates", 1, NPY("<M8[ns]", "False", "(1,)"), 8, "x: its dtype '<M8[ns]' is dates"},
        {"bfloat16", 1, NPY("<V2", "False", "(1,)"), 2,
            "x: its dtype '<V2' is raw bytes or records (NumPy has no bfloat16"},
        {"long double", 1, NPY("<f16", "False", "(1,)"), 16,
            "x: its dtype '<f16' is a type inset does not read"},
        {"no order", 1, NPY("f4", "False", "(1,)"), 4,
            "x: its dtype 'f4' is a type inset does not read"},
        {"empty dtype", 1, NPY("", "False", "(1,)"), 4,
            "x: its dtype '' is a type inset does not read"},
        {"order of a byte for two", 1, NPY("|i2", "False", "(1,)"), 2, "x: its dtype '|i2'"},
        {"records", 1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4,
            "x: holds records (a structured dtype)"},
        {"no dictionary", 1, "", 0, "x: byte 54 of the header: expected '{'"},
        {"empty dictionary", 1, "{}", 0, "x: its header lacks 'descr'"},
        {"no order entry", 1, "{'descr': '<f4', 'shape': (1,)}", 4,
            "x: its header lacks 'fortran_order'"},
        {"no shape", 1, "{'descr': '<f4', 'fortran_order': False}", 4,
            "x: its header lacks 'shape'"},
        {"twice", 1, "{'descr': '<f4', 'descr': '<f4'}", 4, "x: its header has a second 'descr'"},
        {"unknown entry", 1, "{'descr': '<f4', 'more': 1}", 4,
            "x: its header has an unknown entry 'more'"},
        {"no colon", 1, "{'descr' '<f4'}", 4, "x: byte 9 of the header: expected ':'"},
        {"no comma", 1, "{'descr': '<f4' 'shape': ()}", 4,
            "x: byte 16 of the header: expected ',' or '}'"},
        {"open text", 1, "{'descr: 1}", 4,
            "x: byte 33 of the header: expected a short text of plain characters"},
        {"text with a backslash", 1, "{'de\\x41'", 4,
            "x: byte 4 of the header: expected a short text of plain characters"},
        {"order is a number", 1, NPY("<f4", "0", "(1,)"), 4, "expected True or False"},
        {"shape is a list", 1, NPY("<f4", "False", "[1]"), 4,
            "x: byte 50 of the header: expected '('"},
        {"shape is no tuple", 1, NPY("<f4", "False", "(1)"), 4,
            "expected ',' after the only extent of a shape"},
        {"negative", 1, NPY("<f4", "False", "(-1,)"), 4,
            "x: byte 51 of the header: expected an integer from 0 up"},
        {"real", 1, NPY("<f4", "False", "(1.0,)"), 4, "expected ',' after the only extent"},
        {"two commas", 1, NPY("<f4", "False", "(1,,2)"), 4,
            "x: byte 53 of the header: expected an integer from 0 up"},
        {"no comma in shape", 1, NPY("<f4", "False", "(1,2 3)"), 4, "expected ',' or ')'"},
        {"open shape", 1, "{'shape': (1,", 4, "expected an integer from 0 up"},
        {"large", 1, NPY("<f4", "False", "(99999999999999999999,)"), 4,
            "expected an integer that fits 64 bits"},
        {"overflow", 1, NPY("<f4", "False", "(4294967296,4294967296)"), 4,
            "x: the product of its shape does not fit 64 bits"},
        {"overflow beside a 0", 1, NPY("<f4", "False", "(4294967296,4294967296,0)"), 0,
            "does not fit 64 bits"},
        {"nine", 1, NPY("<f4", "False", "(1,1,1,1,1,1,1,1,1)"), 4, "x: has more than 8 dimensions"},
        {"text behind", 1, NPY("<f4", "False", "(1,)") " x", 4, "expected nothing but spaces"},
        {"too few", 1, NPY("<f4", "False", "(2,)"), 7,
            "x: its shape needs 8 bytes of data, the file has 7: is it cut short?"},
        {"too many", 1, NPY("<f4", "False", "(2,)"), 9, "x: has 1 bytes behind its data"},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        char bytes[1024];
        world w;
        npy *file = (npy *)&w;
        inset_context *context = world_start(&w);
        size_t size = make_npy(bytes, arrays[i].version, arrays[i].dictionary, arrays[i].data_size);
        check_refused(
            context, npy_parse(context, "x", bytes, size, &file), arrays[i].name, arrays[i].words);
        CHECK(!file, "%s: out must be NULL", arrays[i].name);
        world_end(&w, arrays[i].name);
    }
}

static void refuses_npy_bytes(void)
{
    static const struct {
        const char *name, *bytes;
        size_t size;
        const char *words;
    } files[] = {
        {"nothing", "", 0, "x: does not begin as an .npy file does"},
        {"magic alone", "\x93NUMPY\1\0", 8, "x: does not begin as an .npy file does"},
        {"other magic", "PK\3\4aaaaaaaaaaa", 15, "x: does not begin as an .npy file does"},
        {"cut length", "\x93NUMPY\2\0\1\0", 10, "x: ends before its header"},
        {"minor version", "\x93NUMPY\1\1\1\0 ", 11, "x: is of version 1.1"},
        {"long header", "\x93NUMPY\2\0\xff\xff\xff\xff", 12,
            "x: its header would have 4294967295 bytes, at most 65536 are read"},
        {"cut header", "\x93NUMPY\1\0\x76\0{'descr'", 18,
            "x: its header would have 118 bytes, the file has only 8 behind the length"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        world w;
        npy *file;
        inset_context *context = world_start(&w);
        check_refused(context, npy_parse(context, "x", files[i].bytes, files[i].size, &file),
            files[i].name, files[i].words);
        world_end(&w, files[i].name);
    }
}

static void reads_npy(void)
{
    static const struct {
        int version;
        const char *dictionary;
        inset_type type;
        int n;
        int64_t shape[3];
    } arrays[] = {
        {1, NPY("<f4", "False", "(2, 3)"), INSET_F32, 2, {2, 3}},
        {2, NPY("<f8", "False", "()"), INSET_F64, 0, {0}},
        {3, NPY("<i8", "False", "(3,)"), INSET_I64, 1, {3}},
        {1, NPY("<i4", "False", "(1, 2, 1,)"), INSET_I32, 3, {1, 2, 1}},
        {1, "{ \"shape\":(2,),\"descr\":\"<i2\",\n'fortran_order':False}", INSET_I16, 1, {2}},
        {1, NPY("|i1", "False", "(2,)"), INSET_I8, 1, {2}},
        {1, NPY("|u1", "False", "(2,)"), INSET_U8, 1, {2}},
        {1, NPY("|b1", "False", "(2,)"), INSET_BOOL, 1, {2}},
        {1, NPY("<f2", "False", "(2, 0, 3)"), INSET_F16, 3, {2, 0, 3}},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        char bytes[1024];
        world w;
        npy *file;
        inset_context *context = world_start(&w);
        int64_t elements = 1;
        for (int d = 0; d < arrays[i].n; d++) elements *= arrays[i].shape[d];
        size_t data_size = (size_t)elements * type_size(arrays[i].type);
        size_t size = make_npy(bytes, arrays[i].version, arrays[i].dictionary, data_size);
        write_file(at("array.npy"), bytes, size);
        NEED(!npy_open(context, at("array.npy"), &file), "%s: %s", arrays[i].dictionary,
            inset_message(context));
        const file_tensor *tensor = npy_tensor(file);
        CHECK(tensor->type == arrays[i].type && tensor->n_dimensions == arrays[i].n
                  && tensor->bytes == data_size
                  && !memcmp(
                      tensor->shape, arrays[i].shape, sizeof *tensor->shape * (size_t)arrays[i].n)
                  && !memcmp(tensor->data, bytes + size - data_size, data_size),
            "%s", arrays[i].dictionary);
        npy_close(file);
        world_end(&w, arrays[i].dictionary);
    }
}

int main(void)
{
    if (directory_start()) return 1;
    refuses_npy();
    refuses_npy_bytes();
    reads_npy();
    directory_end();
    return test_result();
}
