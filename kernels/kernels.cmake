# The kernels of the CPU device: kernels/host.cc (which includes every kernels/*.cu) compiled once per instruction set, each in a namespace of its
# own. host/device/cpu/cpu.c chooses among them when it opens. x86-64 gets baseline, AVX2 and AVX-512; other processors the baseline.
# cuda.cmake compiles the same .cu files with nvcc, one by one.
#
# inset_kernel_objects(name option...) is also what tests/kernels.cmake makes blocks of real threads with.
#
# -O3 in every build type: vectorising is the point; but -O1 under a sanitizer, which compiles in half the time. -fno-trapping-math and
# -fno-math-errno let loops with comparisons and square roots vectorise and change no result. There is no fast-math and no contraction, so
# a result does not depend on inlining. -Wno-psabi: vectors wider than the instruction set's are passed between inlined functions only.

set(INSET_KERNEL_OPTIONS -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti -Wno-psabi)
set(INSET_KERNEL_HOST ${PROJECT_SOURCE_DIR}/kernels/host.cc)
file(GLOB INSET_KERNEL_FILES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu ${PROJECT_SOURCE_DIR}/kernels/*.h)
if(INSET_SANITIZE)
  list(APPEND INSET_KERNEL_OPTIONS -O1)
endif()
set_source_files_properties(${INSET_KERNEL_HOST} PROPERTIES OBJECT_DEPENDS "${INSET_KERNEL_FILES}")

function(inset_kernel_objects name)
  add_library(${name} OBJECT ${INSET_KERNEL_HOST})
  target_link_libraries(${name} PRIVATE inset_flags)
  target_compile_options(${name} PRIVATE ${INSET_KERNEL_OPTIONS} ${ARGN})
endfunction()

set(INSET_KERNEL_SETS baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(APPEND INSET_KERNEL_SETS avx2 avx512)
  set(INSET_KERNEL_OPTIONS_avx2 -mavx2)
  set(INSET_KERNEL_OPTIONS_avx512 -mavx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
endif()
foreach(set IN LISTS INSET_KERNEL_SETS)
  inset_kernel_objects(inset_kernels_${set} -DKERNEL_NAMESPACE=kernels_${set} ${INSET_KERNEL_OPTIONS_${set}})
  inset_add_objects(inset_kernels_${set})
endforeach()
