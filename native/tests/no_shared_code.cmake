# No object compiled for a wider instruction set defines a symbol that the linker might choose for other callers (an
# inline function, a template instance), and none but its own table is visible at all.
# cmake -DNM=... -DLIBRARY=... -P no_shared_code.cmake
execute_process(COMMAND ${NM} --defined-only --extern-only ${LIBRARY} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "nm failed on ${LIBRARY}")
endif()
foreach(unit kernels_avx2 kernels_avx512 float_avx2 float_avx2_fast float_avx512 float_avx512_fast)
  if(NOT symbols MATCHES "${unit}\\.[^:]*:\n([^:]*)(\n\n|$)")
    message(FATAL_ERROR "no object ${unit} in ${LIBRARY}")
  endif()
  string(STRIP "${CMAKE_MATCH_1}" defined)
  string(REGEX REPLACE "^(kernels|float)_(.*)$" "\\2_\\1" table ${unit})
  message(STATUS "${unit} defines ${defined}")
  if(NOT defined MATCHES "^[0-9a-f]+ [DR] [A-Za-z0-9_]*${table}[A-Za-z0-9_]*$")
    message(FATAL_ERROR "${unit} shares code: ${defined}")
  endif()
endforeach()
