# Installs into an empty folder and builds a project outside with what lies there: README's C program, with CMake against both libraries and
# with pkg-config where it is installed; each build must print what README says. The program at the head of inset.h must compile too.
cmake_policy(VERSION 3.25)
set(scratch ${BUILD}/tests/install)
file(REMOVE_RECURSE ${scratch})
file(MAKE_DIRECTORY ${scratch}/outside)

# run(WHAT COMMAND...): stops with the command's output when it fails; the output is left in `output`.
macro(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${what} failed (${result}):\n${output}${errors}")
  endif()
endmacro()

# The text between the first `from` and the next `to`.
function(take text from to out)
  string(FIND "${text}" "${from}" start)
  if(start LESS 0)
    message(FATAL_ERROR "'${from}' was not found")
  endif()
  string(SUBSTRING "${text}" ${start} -1 text)
  string(FIND "${text}" "${to}" end)
  string(SUBSTRING "${text}" 0 ${end} text)
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

# ---- the programs that are printed in README and in inset.h
file(READ ${SOURCE}/README.md readme)
take("${readme}" "#include <inset.h>" "```" program)
file(WRITE ${scratch}/outside/program.c "${program}")
take("${readme}" "It prints\n" "Everything" expected)
string(REGEX REPLACE "It prints[\n ]+" "" expected "${expected}")
string(STRIP "${expected}" expected)
file(READ ${SOURCE}/host/inset.h header)
take("${header}" "#include <inset.h>" " * Rules that hold" opening)
string(REGEX REPLACE "\n \\* ?" "\n" opening "${opening}")
file(WRITE ${scratch}/opening.c "${opening}")

# ---- installed
run("installing" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${scratch}/prefix)
file(GLOB_RECURSE pc ${scratch}/prefix/*/inset.pc)
get_filename_component(pc_folder ${pc} DIRECTORY)
get_filename_component(library_folder ${pc_folder} DIRECTORY)
foreach(file ${scratch}/prefix/include/inset.h ${library_folder}/libinset.so ${library_folder}/libinset.a ${pc})
  if(NOT EXISTS ${file})
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
run("compiling the program of inset.h" ${C_COMPILER} -std=c11 -Wall -Wextra -Werror -I${scratch}/prefix/include -fsyntax-only
  ${scratch}/opening.c)

function(check program)
  run("${program}" ${ARGN} ${program})
  string(STRIP "${output}" output)
  if(NOT output STREQUAL expected)
    message(FATAL_ERROR "${program}: README says\n${expected}\nand it printed\n${output}")
  endif()
endfunction()

# ---- with CMake
file(COPY ${SOURCE}/tests/install/outside/CMakeLists.txt DESTINATION ${scratch}/outside)
run("configuring the project outside" ${CMAKE_COMMAND} -S ${scratch}/outside -B ${scratch}/outside-build -G ${GENERATOR}
  -D CMAKE_PREFIX_PATH=${scratch}/prefix -D CMAKE_C_COMPILER=${C_COMPILER} -D CMAKE_CXX_COMPILER=${CXX_COMPILER})
run("building the project outside" ${CMAKE_COMMAND} --build ${scratch}/outside-build)
check(${scratch}/outside-build/with_shared)
check(${scratch}/outside-build/with_static)

# ---- with pkg-config
find_program(pkg_config NAMES pkg-config pkgconf)
if(pkg_config)
  set(ENV{PKG_CONFIG_PATH} ${pc_folder})
  run("pkg-config" ${pkg_config} --cflags --libs inset)
  separate_arguments(flags UNIX_COMMAND "${output}")
  run("building with pkg-config" ${C_COMPILER} ${scratch}/outside/program.c ${flags} -o ${scratch}/with_pkg_config)
  check(${scratch}/with_pkg_config ${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${library_folder})
else()
  message(STATUS "pkg-config is not installed: that part was left out")
endif()
