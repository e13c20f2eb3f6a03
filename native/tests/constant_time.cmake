# Counts the instructions of one draw under callgrind for three seeds: the shipped sampler's counts are equal, the control's are not.
# cmake -DVALGRIND=... -DPROGRAM=... -P constant_time.cmake
function(count_instructions mode seed result)
  execute_process(
    COMMAND ${VALGRIND} --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=counted ${PROGRAM} ${mode} ${seed}
    OUTPUT_VARIABLE output ERROR_VARIABLE log RESULT_VARIABLE status)
  if(NOT status EQUAL 0 OR NOT log MATCHES "Collected : ([0-9]+)")
    message(FATAL_ERROR "callgrind failed: ${log}")
  endif()
  set(count ${CMAKE_MATCH_1})
  message(STATUS "${mode}, seed ${seed}: ${count} instructions, ${output}")
  if(count LESS 100000)
    message(FATAL_ERROR "too few instructions counted: the toggle did not match")
  endif()
  set(${result} ${count} PARENT_SCOPE)
endfunction()

foreach(mode shipped lazy)
  foreach(seed 1 2 3)
    count_instructions(${mode} ${seed} ${mode}_${seed})
  endforeach()
endforeach()
if(NOT (shipped_1 EQUAL shipped_2 AND shipped_2 EQUAL shipped_3))
  message(FATAL_ERROR "the sampler's instruction count depends on its noise")
endif()
if(lazy_1 EQUAL lazy_2 AND lazy_2 EQUAL lazy_3)
  message(FATAL_ERROR "the early-exit control shows no difference: this test sees nothing")
endif()
