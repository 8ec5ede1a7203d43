/* libfuzzer.c: beside a target under libFuzzer: its own mutations, then the target's repair in most
 * cases. */
#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, most);
    if (fuzz_target.repair && seed % 8) fuzz_target.repair(data, size);
    return size;
}
