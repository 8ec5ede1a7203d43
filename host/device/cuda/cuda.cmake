# The CUDA device. Its C files are always compiled; where nvcc is found (and -DINSET_CUDA=OFF is not given) the kernels and the runtime's
# calls are compiled as well and the device is in the same library and binary as everything else. Otherwise opening it answers that this
# build has none.
#
# Included by the root after inset_add_objects and inset_flags are there, at the top level (enable_language wants that). CUDA's runtime is
# linked statically, through inset_dependencies; it looks for the driver when it is first called. cuBLASLt is opened at run time. So
# nothing built here needs CUDA's libraries or a GPU to load.
#
# INSET_CUDART is then the static runtime's path, "" in a build without CUDA: who links libinset.a needs it.

file(GLOB INSET_CUDA_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/host/device/cuda/*.c)
add_library(inset_cuda OBJECT ${INSET_CUDA_SOURCES})
target_link_libraries(inset_cuda PRIVATE inset_flags)
inset_add_objects(inset_cuda)

# 8.0, 9.0 and 10.0 as machine code; what is newer gets the last one's PTX. CMake's own environment
# variable chooses others: CUDAARCHS=native.
if(DEFINED ENV{CUDAARCHS})
  set(INSET_CUDA_ARCHITECTURES "$ENV{CUDAARCHS}" CACHE STRING "What the CUDA kernels are compiled for")
else()
  set(INSET_CUDA_ARCHITECTURES "80-real;90-real;100" CACHE STRING "What the CUDA kernels are compiled for")
endif()
set(INSET_CUDART "")
find_program(INSET_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
mark_as_advanced(INSET_NVCC)

if(INSET_CUDA AND INSET_NVCC)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${INSET_NVCC})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${INSET_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)

  # --fmad=false for what -ffp-contract=off is for on the host: a fused kernel gives the bits of the two it replaces.
  file(GLOB INSET_CUDA_KERNELS CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)
  add_library(inset_cuda_kernels OBJECT ${INSET_CUDA_KERNELS} ${PROJECT_SOURCE_DIR}/host/device/cuda/calls.cu)
  target_include_directories(inset_cuda_kernels PRIVATE ${PROJECT_SOURCE_DIR}/host ${PROJECT_SOURCE_DIR})
  target_compile_options(inset_cuda_kernels PRIVATE --fmad=false -Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror)
  if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8) # machine code for three architectures is most of the library
    target_compile_options(inset_cuda_kernels PRIVATE --compress-mode=size)
  endif()
  target_compile_definitions(inset_cuda_kernels PRIVATE KERNEL_NAMESPACE=kernels_cuda)
  inset_add_objects(inset_cuda_kernels)
  target_compile_definitions(inset_cuda PRIVATE INSET_CUDA)

  find_library(INSET_CUDART_STATIC cudart_static HINTS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
  mark_as_advanced(INSET_CUDART_STATIC)
  set(INSET_CUDART ${INSET_CUDART_STATIC})
  set_property(TARGET inset_dependencies APPEND PROPERTY INTERFACE_LINK_LIBRARIES ${INSET_CUDART} ${CMAKE_DL_LIBS} rt)
  # The runtime's own symbols stay inside libinset.so: a process may have another copy.
  set_property(TARGET inset_dependencies APPEND PROPERTY INTERFACE_LINK_OPTIONS -Wl,--exclude-libs,libcudart_static.a)
  message(STATUS "CUDA device: ${INSET_NVCC}, for ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA device: not built (no nvcc, or -DINSET_CUDA=OFF)")
endif()
