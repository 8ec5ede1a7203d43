# Tests of the CUDA device: on the stand-in (tests/standin), which needs neither nvcc nor a GPU, and on a GPU (label `cuda`; skipped where none
# answers).
#
# inset_add_standin_test(name source...): a program whose CUDA device works on the stand-in. The stand-in's objects define what
# host/device/cuda/library.c does, and stand before the library, which then does not bring its own.
file(GLOB standin_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/standin/*.c)
add_library(inset_standin OBJECT ${standin_sources})
target_link_libraries(inset_standin PRIVATE inset_flags)
target_include_directories(inset_standin PRIVATE ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(inset_standin PRIVATE -O3)
# Its arithmetic works on copies of its own, made after it has checked the ranges it was given (device_range); under
# sanitizers it would be most of what the tests do.
if(INSET_SANITIZE)
  set_source_files_properties(tests/standin/products.c tests/standin/attention.c PROPERTIES COMPILE_OPTIONS -fno-sanitize=all)
endif()

function(inset_add_standin_test name)
  inset_add_test(${name} ${ARGN} $<TARGET_OBJECTS:inset_standin>)
endfunction()

inset_add_standin_test(test_cuda_standin tests/test_cuda_standin.c)
inset_add_test(test_cuda tests/test_cuda.c)
set_tests_properties(test_cuda PROPERTIES LABELS cuda)
inset_add_standin_test(test_replay_standin tests/test_replay_standin.c)
inset_add_standin_test(test_sweep_standin tests/test_sweep_standin.c)
inset_add_standin_test(test_products_standin tests/test_products_standin.c)
inset_add_standin_test(test_whole_attention tests/test_whole_attention.c)
list(APPEND INSET_CLAIMED_TESTS test_cuda_standin test_cuda test_replay_standin test_sweep_standin test_products_standin test_whole_attention)

# cuDNN's plans without a GPU, with a driver that drives nothing in front of any other. What cuDNN keeps for itself would be called a leak, so
# not with sanitizers.
if(NOT INSET_SANITIZE)
  add_library(inset_no_driver SHARED tests/no_driver.c)
  set_target_properties(inset_no_driver PROPERTIES C_VISIBILITY_PRESET default OUTPUT_NAME cuda SOVERSION 1 LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/no_driver)
  inset_add_test(test_attention_plans tests/test_attention_plans.c)
  add_dependencies(test_attention_plans inset_no_driver)
  set_tests_properties(test_attention_plans PROPERTIES TIMEOUT 900 ENVIRONMENT_MODIFICATION LD_LIBRARY_PATH=path_list_prepend:${PROJECT_BINARY_DIR}/tests/no_driver)
endif()
list(APPEND INSET_CLAIMED_TESTS test_attention_plans)

# Tests that take the device from INSET_TEST_DEVICE run three times: on the CPU (tests.cmake), on the stand-in, and on a GPU.
foreach(name test_kernels test_matmul test_cases test_properties test_attribution test_edges test_sweep_plans test_sweep_sites test_exchange test_cache test_rows test_features test_stream)
  inset_add_standin_test(${name}_standin tests/${name}.c)
  add_test(NAME ${name}_cuda COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(${name}_cuda PROPERTIES LABELS cuda SKIP_RETURN_CODE 77 TIMEOUT 900)
  set_tests_properties(${name}_cuda ${name}_standin PROPERTIES ENVIRONMENT INSET_TEST_DEVICE=cuda)
endforeach()

target_compile_definitions(test_stream_standin PRIVATE INSET_STANDIN)

# The cases with weights that come and go.
foreach(name test_cases test_cases_standin)
  add_test(NAME ${name}_streamed COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(${name}_streamed PROPERTIES TIMEOUT 900 ENVIRONMENT INSET_TEST_STREAMED=1)
endforeach()
set_tests_properties(test_cases_standin_streamed PROPERTIES ENVIRONMENT "INSET_TEST_STREAMED=1;INSET_TEST_DEVICE=cuda")

inset_add_standin_test(test_fused_standin tests/test_fused.c tests/random_traces.c)
set_tests_properties(test_fused_standin PROPERTIES ENVIRONMENT INSET_TEST_DEVICE=cuda)

# The command line on the stand-in: `inset-standin run --device cuda ...`, for whole traces (and for the sample cases) without a GPU.
if(TARGET inset_cli)
  get_target_property(sources inset_cli SOURCES)
  add_executable(inset_cli_standin ${sources} $<TARGET_OBJECTS:inset_standin>)
  set_target_properties(inset_cli_standin PROPERTIES OUTPUT_NAME inset-standin RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(inset_cli_standin PRIVATE inset_static inset_flags m)
endif()
