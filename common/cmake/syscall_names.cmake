# Writes syscall_names.inc: one line for each SYS_ name that the compiler's own
# <sys/syscall.h> defines. The compiler then puts in the numbers, which differ
# from one architecture to the next.

function(generate_syscall_names file)
  execute_process(
    COMMAND ${CMAKE_CXX_COMPILER} -dM -E -x c++ -include sys/syscall.h /dev/null
    OUTPUT_VARIABLE macros COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "#define SYS_[a-z0-9_]+ " found "${macros}")
  list(SORT found)
  set(lines "")
  foreach(macro IN LISTS found)
    string(REGEX REPLACE "#define SYS_([a-z0-9_]+) " "\\1" name "${macro}")
    string(APPEND lines "{SYS_${name}, \"${name}\"},\n")
  endforeach()
  if(lines STREQUAL "")
    message(FATAL_ERROR "<sys/syscall.h> defines no system call")
  endif()
  file(CONFIGURE OUTPUT ${file} CONTENT "${lines}")
endfunction()
