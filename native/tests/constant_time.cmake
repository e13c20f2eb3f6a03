# Counts the instructions of one draw under callgrind for three seeds: the shipped sampler's counts are equal, the control's are not.
# Once for each instruction set that valgrind simulates; AVX-512 is not among them as of valgrind 3.19.
# cmake -DVALGRIND=... -DPROGRAM=... -P constant_time.cmake
function(count_instructions isa mode seed result)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env FEDGE_ISA=${isa}
            ${VALGRIND} --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=counted ${PROGRAM} ${mode} ${seed}
    OUTPUT_VARIABLE output ERROR_VARIABLE log RESULT_VARIABLE status)
  string(STRIP "${output}" output)
  if(status EQUAL 3 AND NOT isa STREQUAL "baseline")
    message(STATUS "${isa} is left out: ${output}")
    set(${result} 0 PARENT_SCOPE)
    return()
  endif()
  if(NOT status EQUAL 0 OR NOT log MATCHES "Collected : ([0-9]+)")
    message(FATAL_ERROR "callgrind failed: ${output} ${log}")
  endif()
  set(count ${CMAKE_MATCH_1})
  message(STATUS "${isa}, ${mode}, seed ${seed}: ${count} instructions, ${output}")
  if(count LESS 100000)
    message(FATAL_ERROR "too few instructions counted: the toggle did not match")
  endif()
  set(${result} ${count} PARENT_SCOPE)
endfunction()

foreach(isa baseline avx2 avx512)
  foreach(seed 1 2 3)
    count_instructions(${isa} shipped ${seed} count_${seed})
  endforeach()
  if(NOT (count_1 EQUAL count_2 AND count_2 EQUAL count_3))
    message(FATAL_ERROR "the sampler's instruction count on ${isa} depends on its noise")
  endif()
endforeach()
foreach(seed 1 2 3)
  count_instructions(baseline lazy ${seed} count_${seed})
endforeach()
if(count_1 EQUAL count_2 AND count_2 EQUAL count_3)
  message(FATAL_ERROR "the early-exit control shows no difference: this test sees nothing")
endif()
