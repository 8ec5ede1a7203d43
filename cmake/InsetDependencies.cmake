# Finds what inset is built on and gathers it in the target `inset_dependencies`: oneDNN (matrix products on the CPU), Jansson (JSON),
# PCRE2 and utf8proc (tokenizers), OpenMP and threads. An installed inset's package file includes this file too, because who links the static library needs the same.
if(TARGET inset_dependencies)
  return()
endif()

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# The C runtime's own: gcc brings OpenMP along; clang needs a package of its own (libomp-dev).
find_package(OpenMP QUIET COMPONENTS C)
if(NOT TARGET OpenMP::OpenMP_C)
  message(FATAL_ERROR "OpenMP was not found for ${CMAKE_C_COMPILER_ID}. gcc has it built in; for clang install libomp-dev.")
endif()

find_path(INSET_DNNL_INCLUDE_DIR dnnl.h PATH_SUFFIXES oneapi/dnnl)
find_library(INSET_DNNL_LIBRARY dnnl)
find_path(INSET_JANSSON_INCLUDE_DIR jansson.h)
find_library(INSET_JANSSON_LIBRARY jansson)
find_path(INSET_PCRE2_INCLUDE_DIR pcre2.h)
find_library(INSET_PCRE2_LIBRARY pcre2-8)
find_path(INSET_UTF8PROC_INCLUDE_DIR utf8proc.h)
find_library(INSET_UTF8PROC_LIBRARY utf8proc)
foreach(what "DNNL;libdnnl-dev" "JANSSON;libjansson-dev" "PCRE2;libpcre2-dev" "UTF8PROC;libutf8proc-dev")
  list(GET what 0 name)
  list(GET what 1 package)
  if(NOT INSET_${name}_INCLUDE_DIR OR NOT INSET_${name}_LIBRARY)
    message(FATAL_ERROR "${name} was not found: install ${package} (Debian, Ubuntu), or set INSET_${name}_INCLUDE_DIR and "
      "INSET_${name}_LIBRARY.")
  endif()
  mark_as_advanced(INSET_${name}_INCLUDE_DIR INSET_${name}_LIBRARY)
endforeach()

add_library(inset_dependencies INTERFACE IMPORTED)
target_include_directories(inset_dependencies SYSTEM INTERFACE ${INSET_DNNL_INCLUDE_DIR} ${INSET_JANSSON_INCLUDE_DIR}
  ${INSET_PCRE2_INCLUDE_DIR} ${INSET_UTF8PROC_INCLUDE_DIR})
target_link_libraries(inset_dependencies INTERFACE ${INSET_DNNL_LIBRARY} ${INSET_JANSSON_LIBRARY} ${INSET_PCRE2_LIBRARY}
  ${INSET_UTF8PROC_LIBRARY} OpenMP::OpenMP_C
  Threads::Threads m ${CMAKE_DL_LIBS})
# A CUDA device built in needs CUDA's static runtime. cuda.cmake adds it to the build; the package file of an installed inset sets this.
if(INSET_CUDART)
  set_property(TARGET inset_dependencies APPEND PROPERTY INTERFACE_LINK_LIBRARIES ${INSET_CUDART} rt)
endif()
