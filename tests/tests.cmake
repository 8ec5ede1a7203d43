# The tests: every tests/test_*.c is a program of its own, linked with a shared library that shows all that is inside (so that a test may call it, and
# the kernels are there once), and a ctest of the same name. Tests run in tests/ and name files from there. 77 means skipped. Programs that need more than that are claimed by the file that has their rules.
set(INSET_CLAIMED_TESTS "")

add_library(inset_inside SHARED ${objects})
set_target_properties(inset_inside PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
target_link_libraries(inset_inside PUBLIC inset_dependencies PRIVATE inset_flags)

add_library(inset_test_flags INTERFACE)
target_include_directories(inset_test_flags INTERFACE ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(inset_test_flags INTERFACE -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)      # __FILE__ is tests/test_NAME.c
target_link_libraries(inset_test_flags INTERFACE inset_inside inset_flags inset_dependencies)

# inset_add_test(name source...): one program and its ctest.
function(inset_add_test name)
  add_executable(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE inset_test_flags)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900)
endfunction()

include(tests/fuzz/fuzz.cmake)
include(tests/kernels.cmake)
include(tests/cuda.cmake)

inset_add_test(test_print_tensor tests/test_print_tensor.c host/cli/print_tensor.c)
list(APPEND INSET_CLAIMED_TESTS test_print_tensor)
inset_add_test(test_planner tests/test_planner.c tests/plain_executor.c tests/random_traces.c)
inset_add_test(test_fused tests/test_fused.c tests/random_traces.c)
list(APPEND INSET_CLAIMED_TESTS test_planner test_fused)

file(GLOB test_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/test_*.c)
foreach(source IN LISTS test_sources)
  get_filename_component(name ${source} NAME_WE)
  if(NOT name IN_LIST INSET_CLAIMED_TESTS)
    inset_add_test(${name} ${source})
  endif()
endforeach()

# README's C program and inset.h's, as a user would build them; and an installed inset under a project outside. Sanitized libraries are not for
# outside.
if(NOT INSET_SANITIZE)
  add_test(NAME test_install COMMAND ${CMAKE_COMMAND}
    -D BUILD=${PROJECT_BINARY_DIR} -D SOURCE=${PROJECT_SOURCE_DIR} -D GENERATOR=${CMAKE_GENERATOR} -D C_COMPILER=${CMAKE_C_COMPILER}
    -D CXX_COMPILER=${CMAKE_CXX_COMPILER} -P ${PROJECT_SOURCE_DIR}/tests/install/test_install.cmake)
  set_tests_properties(test_install PROPERTIES TIMEOUT 300)
endif()

# README's table of families and sites says what the program says.
add_test(NAME test_sites_table COMMAND ${PROJECT_SOURCE_DIR}/tests/sites_table.sh $<TARGET_FILE:inset_cli> ${PROJECT_SOURCE_DIR}/README.md)
set_tests_properties(test_sites_table PROPERTIES TIMEOUT 60)

# One sweep by several processes, where there is an MPI.
if(NOT INSET_SANITIZE)
  add_test(NAME test_mpi COMMAND ${PROJECT_SOURCE_DIR}/tests/mpi.sh ${PROJECT_BINARY_DIR} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(test_mpi PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 300)
endif()
