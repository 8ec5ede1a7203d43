# Benchmark programs: `cmake --build BUILD --target bench` builds them, bench/run runs them. Not part of `all` and not tests.
set(INSET_BENCH_PROGRAMS "")
foreach(name write_gpt2 forward trace sweep plan attribute)
  add_executable(bench_${name} EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/bench/${name}.c)
  set_target_properties(bench_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
  target_link_libraries(bench_${name} PRIVATE inset_static inset_flags m)
  list(APPEND INSET_BENCH_PROGRAMS bench_${name})
endforeach()
add_custom_target(bench DEPENDS ${INSET_BENCH_PROGRAMS})
