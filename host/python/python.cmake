#The Python package's extension module, inset._inset: what pyproject.toml builds (`pip install .`). Needs a Python with its headers and
#nanobind, which pip brings along.
if (INSET_PYTHON)
  find_package(Python 3.9 REQUIRED COMPONENTS Interpreter Development.Module OPTIONAL_COMPONENTS Development.SABIModule)
  execute_process(COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_ROOT)
  find_package(nanobind CONFIG REQUIRED)
  file(GLOB python_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/host/python/*.cc)
  nanobind_add_module(inset_python STABLE_ABI NB_STATIC NOMINSIZE ${python_sources})
  set_target_properties(inset_python PROPERTIES OUTPUT_NAME _inset)
  target_link_libraries(inset_python PRIVATE inset_static)
  target_include_directories(inset_python PRIVATE ${PROJECT_SOURCE_DIR}/host)
  install(TARGETS inset_python LIBRARY DESTINATION inset COMPONENT python)
endif()
