# The fuzz targets: every tests/fuzz/fuzz_NAME.c, with its corpus in tests/fuzz/corpus/NAME.
#
# In ordinary tests each is a program with driver.c, and a ctest fuzz_NAME that replays the corpus and 20,000 mutations of it. For a search with
# libFuzzer (clang), where the library itself has to be compiled for it:
#
#   cmake -B build-fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DINSET_SANITIZE=fuzzer-no-link,address,undefined -DINSET_FUZZ=ON
#   cmake --build build-fuzz --target libfuzzer_npy
#   build-fuzz/tests/libfuzzer_npy -max_total_time=60 NEW_INPUTS tests/fuzz/corpus/npy
option(INSET_FUZZ "Build the fuzz targets for libFuzzer too (clang)" OFF)

file(GLOB fuzz_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/fuzz_*.c)
foreach(source IN LISTS fuzz_sources)
  get_filename_component(target ${source} NAME_WE)
  string(REPLACE "fuzz_" "" name ${target})
  add_executable(${target} ${source} ${PROJECT_SOURCE_DIR}/tests/fuzz/driver.c)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${target} PRIVATE inset_test_flags)
  add_test(NAME ${target} COMMAND ${target} fuzz/corpus/${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(${target} PROPERTIES TIMEOUT 300)
  if(INSET_FUZZ)
    add_executable(libfuzzer_${name} ${source} ${PROJECT_SOURCE_DIR}/tests/fuzz/libfuzzer.c)
    set_target_properties(libfuzzer_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
    target_link_libraries(libfuzzer_${name} PRIVATE inset_test_flags)
    target_link_options(libfuzzer_${name} PRIVATE -fsanitize=fuzzer)
  endif()
endforeach()

# What make_tokenizers.py holds beside Hugging Face's tokenizers.
add_executable(tokens ${PROJECT_SOURCE_DIR}/tests/fuzz/tokens.c)
set_target_properties(tokens PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
target_link_libraries(tokens PRIVATE inset_test_flags)
