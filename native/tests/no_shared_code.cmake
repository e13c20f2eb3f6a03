# No object compiled for a wider instruction set defines a symbol that the linker might choose for other callers (an
# inline function, a template instance), and none but its own table is visible at all.
# cmake -DNM=... -DLIBRARY=... -P no_shared_code.cmake
execute_process(COMMAND ${NM} --defined-only --extern-only ${LIBRARY} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "nm failed on ${LIBRARY}")
endif()
foreach(isa avx2 avx512)
  if(NOT symbols MATCHES "kernels_${isa}[^:]*:\n([^:]*)(\n\n|$)")
    message(FATAL_ERROR "no object kernels_${isa} in ${LIBRARY}")
  endif()
  string(STRIP "${CMAKE_MATCH_1}" defined)
  message(STATUS "${isa} defines ${defined}")
  if(NOT defined MATCHES "^[0-9a-f]+ [DR] [A-Za-z0-9_]*${isa}_kernels[A-Za-z0-9_]*$")
    message(FATAL_ERROR "kernels_${isa} shares code: ${defined}")
  endif()
endforeach()
