/* fuzz_tokenizer.c: any bytes as a tokenizer.json, and a text through what opens. Ids that come out
 * are below the size that the tokenizer says. */
#include "fuzz.h"
#include "text/tokenizer.h"

#include <string.h>

static const char *const words[] = {"{", "}", "[", "]", ",", ":",
    "\"model\":", "\"vocab\":", "\"merges\":", "\"type\":", "\"BPE\"", "\"WordLevel\"", "\"a b\"",
    "[\"a\", \"b\"]", "\"ab\": 2", "\"byte_fallback\": true", "\"ignore_merges\": true",
    "\"unk_token\": \"a\"", "\"fuse_unk\": true", "\"normalizer\":", "\"pre_tokenizer\":",
    "\"post_processor\":", "\"added_tokens\":", "\"Sequence\"",
    "\"normalizers\":", "\"pretokenizers\":", "\"processors\":", "\"NFC\"", "\"NFKC\"",
    "\"Replace\"", "\"Prepend\"", "\"Strip\"", "\"Lowercase\"", "\"ByteLevel\"", "\"Metaspace\"",
    "\"Split\"", "\"Digits\"", "\"Whitespace\"", "\"TemplateProcessing\"",
    "\"pattern\":", "{\"Regex\": \" ?\\\\p{L}+|\\\\s+\"}", "{\"String\": \" \"}",
    "\"behavior\":", "\"Isolated\"", "\"MergedWithNext\"", "\"invert\": true",
    "\"content\":", "\"id\": 1", "\"lstrip\": true", "\"single_word\": true",
    "\"normalized\": true", "\"single\":", "\"special_tokens\":", "\"ids\":", "0", "1", "null",
    "true", "\"\"", "\"\xe2\x96\x81\"", NULL};

const fuzz_hints fuzz_target = {words, NULL};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char given[] = " ab  a<s>b caf\xc3\xa9 12\n\n\xf0\x9f\x98\x80 a-b's  ";
    fuzz_run run;
    tokenizer *t;
    id_list ids;
    inset_context *context = fuzz_start(&run);
    inset_status status = tokenizer_parse(context, "tokenizer.json", data, size, &t);
    if (!status) {
        inset_status made = tokenizer_encode(t, given, sizeof given - 1, true, &ids);
        fuzz_need(!made || made == INSET_VALUE_ERROR || made == INSET_NO_MEMORY,
            "a text is tokens, or takes too long");
        text shown = {0};
        for (size_t i = 0; !made && i < ids.count; i++) {
            fuzz_need(ids.ids[i] >= 0, "an id below 0");
            tokenizer_piece(t, ids.ids[i], &shown);
        }
        text_free(context, &shown);
        if (!made) id_list_free(context, &ids);
    } else {
        fuzz_need((status == INSET_FILE_ERROR || status == INSET_NO_MEMORY) && !t,
            "a refusal is a FileError and gives nothing");
    }
    tokenizer_free(t);
    fuzz_end(&run, status);
    return 0;
}
