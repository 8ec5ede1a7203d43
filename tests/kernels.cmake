# Tests of the kernels that need a compilation of their own: blocks of real threads, alone and under ThreadSanitizer. They link neither OpenMP nor
# oneDNN, of whose threads ThreadSanitizer knows nothing, and of inset only host/base. Included by tests.cmake.
list(APPEND INSET_CLAIMED_TESTS test_blocks test_attention_rows)

include(CheckCSourceCompiles)
find_package(Threads REQUIRED)

file(GLOB INSET_BASE_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/host/base/*.c)

# inset_block_test(name threads option...): test_blocks.c with blocks of that many threads, all of it compiled with the options. What the compiler makes
# of the kernels is not the point here, nor is their speed, so they are compiled quickly (-O1).
function(inset_block_test name threads)
  inset_kernel_objects(${name}_kernels -DKERNEL_NAMESPACE=kernels_threads -DGRID_THREADS=${threads} -O1 ${ARGN})
  add_executable(${name} ${PROJECT_SOURCE_DIR}/tests/test_blocks.c ${INSET_BASE_SOURCES} $<TARGET_OBJECTS:${name}_kernels>)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests LINKER_LANGUAGE CXX)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_options(${name} PRIVATE ${ARGN})
  target_link_options(${name} PRIVATE ${ARGN})
  target_link_libraries(${name} PRIVATE inset_flags Threads::Threads m)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(${name} PROPERTIES TIMEOUT 900)
endfunction()

inset_block_test(test_blocks 64)
if(NOT INSET_SANITIZE)
  set(CMAKE_REQUIRED_FLAGS -fsanitize=thread)
  check_c_source_compiles("int main(void) { return 0; }" INSET_HAS_THREAD_SANITIZER)
  unset(CMAKE_REQUIRED_FLAGS)
  if(INSET_HAS_THREAD_SANITIZER)
    inset_block_test(test_blocks_tsan 32 -fsanitize=thread -g)
  endif()
endif()

# Attention's plain kernel for blocks of one thread, once per instruction set, which the library's is compared with.
set_source_files_properties(${PROJECT_SOURCE_DIR}/tests/plain_attention.cc PROPERTIES OBJECT_DEPENDS "${INSET_KERNEL_FILES}")
set(plain_objects "")
foreach(set IN LISTS INSET_KERNEL_SETS)
  add_library(plain_attention_${set} OBJECT ${PROJECT_SOURCE_DIR}/tests/plain_attention.cc)
  target_link_libraries(plain_attention_${set} PRIVATE inset_flags)
  target_compile_options(plain_attention_${set} PRIVATE ${INSET_KERNEL_OPTIONS} -O1 -DKERNEL_NAMESPACE=plain_${set} ${INSET_KERNEL_OPTIONS_${set}})
  list(APPEND plain_objects $<TARGET_OBJECTS:plain_attention_${set}>)
endforeach()
inset_add_test(test_attention_rows tests/test_attention_rows.c ${plain_objects})
