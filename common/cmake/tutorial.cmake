# One function for each kind of target. Leaf CMakeLists.txt files only list.

set(warnings -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion
             -Werror)

set(quick_options -O0 -g0)
if(TUTORIAL_QUICK_TESTS)
  set(quick_options ${TUTORIAL_QUICK_TESTS})
endif()

# Tests stand in for calls such as recv and poll. Where a distribution fortifies
# by default, __recv_chk and __poll_chk would go past them.
add_compile_options(-U_FORTIFY_SOURCE)

# A library of the house; the public include root is the repository.
function(tutorial_library name)
  add_library(${name} STATIC ${ARGN})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>)
endfunction()

# tutorial_program(NAME source... LINK library...)
function(tutorial_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LINK")
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${arg_LINK} common)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>)
endfunction()

# tutorial_objects(NAME source LINK library...): a source that many programs
# have, compiled once. It is theirs as $<TARGET_OBJECTS:NAME>.
function(tutorial_objects name source)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "LINK")
  add_library(${name} OBJECT ${source})
  target_link_libraries(${name} PRIVATE ${arg_LINK} common)
  target_compile_options(${name} PRIVATE ${warnings})
endfunction()

# tutorial_quick_headers(header...): what tutorial_quick reads once for all.
function(tutorial_quick_headers)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/quick.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "")
  tutorial_objects(quick ${source} LINK doctest::doctest)
  set_target_properties(quick PROPERTIES EXCLUDE_FROM_ALL ON)
  target_compile_options(quick PRIVATE ${quick_options})
  target_precompile_headers(quick PRIVATE ${ARGN})
endfunction()

# Compiles a target in a hurry: it runs once, and there are many of its kind.
# Not for what readers build: an include that a file lacks does not show.
function(tutorial_quick target)
  target_compile_options(${target} PRIVATE ${quick_options})
  target_precompile_headers(${target} REUSE_FROM quick)
endfunction()

# The same for tests, where a preset wants it.
function(tutorial_quick_test target)
  if(TUTORIAL_QUICK_TESTS)
    tutorial_quick(${target})
  endif()
endfunction()

# tutorial_test(NAME source... LINK library... LABEL label): a doctest program
# and its ctest entry. Whoever hangs is told apart from whoever is slow: at its
# deadline the runner names the system call and the descriptor it sits in.
function(tutorial_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "LABEL;SECONDS" "LINK")
  tutorial_program(${name} ${arg_UNPARSED_ARGUMENTS}
                   LINK ${arg_LINK} testing doctest_main)
  if(NOT arg_SECONDS)
    set(arg_SECONDS 120)
  endif()
  tutorial_quick_test(${name})
  add_test(NAME ${name} COMMAND deadline --seconds ${arg_SECONDS}
                                $<TARGET_FILE:${name}>)
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABEL}")
  if(arg_LABEL STREQUAL "author")
    add_dependencies(author-checks ${name} deadline)
  endif()
endfunction()

# tutorial_chapter([RECORDED] [EDGES] [GOROUTINES] [OWN_MAIN] [PARTS source...]):
# the chapter in this folder, with its program, its tests, its facts and the
# contract linked to it. RECORDED: it uses epoll, and its tests see the
# server's calls (common/testing/recorded_server.hpp). EDGES: and it watches its
# clients edge-triggered. GOROUTINES: and their turns are no rounds of its own.
# OWN_MAIN: its main.cpp in place of the common one. PARTS: what its server is
# made of besides server.cpp.
function(tutorial_chapter)
  cmake_parse_arguments(PARSE_ARGV 0 arg "RECORDED;EDGES;GOROUTINES;OWN_MAIN" ""
                        "PARTS")
  get_filename_component(name ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  set(main $<TARGET_OBJECTS:server_main>)
  if(arg_OWN_MAIN)
    set(main main.cpp)
  endif()
  tutorial_library(${name}-server server.cpp ${arg_PARTS})
  target_link_libraries(${name}-server PUBLIC common)
  tutorial_program(${name} ${main} LINK ${name}-server)
  tutorial_test(${name}-test test.cpp LINK ${name}-server LABEL chapter)
  target_compile_definitions(${name}-test
                             PRIVATE PROGRAM="$<TARGET_FILE:${name}>")
  add_dependencies(${name}-test ${name})
  if(arg_RECORDED)
    set(suites epoll_server)
    if(arg_EDGES)
      list(APPEND suites edge_server)
    endif()
    if(NOT arg_GOROUTINES)
      list(APPEND suites epoll_listener)
    endif()
    if(arg_EDGES AND NOT arg_GOROUTINES)
      list(APPEND suites edge_round)
    endif()
    list(TRANSFORM suites REPLACE "(.+)" "$<TARGET_OBJECTS:\\1_test>")
    if(NOT arg_OWN_MAIN AND NOT arg_GOROUTINES)
      list(APPEND suites
           ${PROJECT_SOURCE_DIR}/common/testing/epoll_program_test.cpp)
    endif()
    target_sources(${name}-test PRIVATE ${suites})
    target_link_libraries(${name}-test PRIVATE recording)
  endif()
  tutorial_test(${name}-facts facts_test.cpp LABEL facts)
  set(which ${CMAKE_CURRENT_BINARY_DIR}/chapter.cpp)
  file(CONFIGURE OUTPUT ${which} CONTENT "\
#include \"common/testing/contract.hpp\"
const std::string_view testing::chapter_under_test = \"${name}\";
")
  tutorial_test(${name}-contract ${which} $<TARGET_OBJECTS:contract_test>
                LINK ${name}-server LABEL contract SECONDS 300)
endfunction()

# tutorial_broken_copy(NAME OLD NEW): the server of this chapter with the one
# place OLD replaced by NEW, as function NAME beside serve in the chapter's test.
function(tutorial_broken_copy function old new)
  get_filename_component(chapter ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS server.cpp)
  file(READ server.cpp text)
  string(REPLACE "${old}" "" without "${text}")
  string(LENGTH "${old}" one)
  string(LENGTH "${text}" before)
  string(LENGTH "${without}" after)
  math(EXPR removed "${before} - ${after}")
  if(NOT removed EQUAL one)
    message(FATAL_ERROR "${chapter}/server.cpp: not exactly once: ${old}")
  endif()
  string(REPLACE "${old}" "${new}" text "${text}")
  set(copy ${CMAKE_CURRENT_BINARY_DIR}/${function}.cpp)
  file(CONFIGURE OUTPUT ${copy} CONTENT "${text}" @ONLY)
  target_sources(${chapter}-test PRIVATE ${copy})
  set_source_files_properties(${copy} PROPERTIES COMPILE_DEFINITIONS
                                                 serve=${function})
endfunction()

# The test of an exercise as a program that finds <NAME.hpp> in the folder, with
# further libraries to link.
function(tutorial_answer target name folder)
  tutorial_program(${target} ${name}_test.cpp LINK ${ARGN} testing doctest_main)
  target_include_directories(${target} BEFORE PRIVATE ${folder})
endfunction()

# tutorial_exercise(NAME WRONG belief... VARIANTS name... [LINK library...]
#                   [PROGRAM name] [SECONDS n] [REPAIR]): one test and all who
#                   take it.
#   exercise-NAME, check-NAME   the learner's file; built on request only
#   solution-NAME               also built as a server program PROGRAM
#   starter-NAME, wrong-NAME.b, variant-NAME.v, exercise-files-CHAPTER
#                               the author's; with TUTORIAL_AUTHOR only
# LINK: what the answers are built on, besides common. REPAIR: the starter is a
# program with a fault, not one with gaps.
function(tutorial_exercise name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "REPAIR" "PROGRAM;SECONDS"
                        "WRONG;VARIANTS;LINK")
  get_filename_component(chapter ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  set(solutions ${PROJECT_SOURCE_DIR}/solutions/${chapter})
  if(NOT arg_SECONDS)
    set(arg_SECONDS 20)
  endif()
  set(limit $<TARGET_FILE:deadline> --seconds ${arg_SECONDS})

  # The only glob of this build. A learner's file appears in my/ long after
  # the configuration, and no list in the repository can name it.
  file(GLOB folder CONFIGURE_DEPENDS
       ${PROJECT_SOURCE_DIR}/my/${chapter}/${name}.hpp)
  if(folder)
    set(folder ${PROJECT_SOURCE_DIR}/my/${chapter})
  else()
    set(folder ${CMAKE_CURRENT_SOURCE_DIR})
  endif()
  tutorial_answer(exercise-${name} ${name} ${folder} ${arg_LINK})
  # A learner's warning is worth reading, but no reason to stop.
  target_compile_options(exercise-${name} PRIVATE -Wno-unused-parameter
                                                  -Wno-error)
  set_target_properties(exercise-${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  add_custom_target(
    check-${name}
    COMMAND ${limit} --read-next solutions/${chapter}/${name}.md
            $<TARGET_FILE:exercise-${name}> --no-intro
    DEPENDS exercise-${name} deadline
    COMMENT "Checking ${folder}/${name}.hpp"
    USES_TERMINAL VERBATIM)

  tutorial_answer(solution-${name} ${name} ${solutions} ${arg_LINK})
  add_test(NAME solution-${name}
           COMMAND ${limit} $<TARGET_FILE:solution-${name}>)
  set_tests_properties(solution-${name} PROPERTIES LABELS solution)
  if(arg_PROGRAM)
    set(source ${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include <${name}.hpp>\n")
    tutorial_program(${arg_PROGRAM} $<TARGET_OBJECTS:server_main> ${source}
                     LINK ${arg_LINK})
    target_include_directories(${arg_PROGRAM} PRIVATE ${solutions})
  endif()
  if(TUTORIAL_AUTHOR)
    tutorial_author_exercise()
  endif()
endfunction()

# The author's half of tutorial_exercise, in its scope.
macro(tutorial_author_exercise)
  set(starter starter)
  if(arg_REPAIR)
    set(starter repair)
  endif()
  tutorial_answer(starter-${name} ${name} ${CMAKE_CURRENT_SOURCE_DIR}
                  ${arg_LINK})
  add_dependencies(author-checks judge deadline starter-${name})
  target_compile_options(starter-${name} PRIVATE -Wno-unused-parameter)
  add_test(NAME starter-${name}
           COMMAND judge ${starter} ${CMAKE_CURRENT_SOURCE_DIR}/${name}.hpp
                   ${limit} $<TARGET_FILE:starter-${name}> --abort-after=1)
  set_tests_properties(starter-${name} PROPERTIES LABELS author)
  foreach(belief IN LISTS arg_WRONG)
    tutorial_one_answer(wrong ${belief})
    add_test(NAME wrong-${name}.${belief}
             COMMAND judge wrong ${solutions}/wrong/${name}.${belief}.hpp
                     ${limit} $<TARGET_FILE:wrong-${name}.${belief}>)
    set_tests_properties(wrong-${name}.${belief} PROPERTIES LABELS author)
  endforeach()
  foreach(variant IN LISTS arg_VARIANTS)
    tutorial_one_answer(variant ${variant})
    add_test(NAME variant-${name}.${variant}
             COMMAND ${limit} $<TARGET_FILE:variant-${name}.${variant}>)
    set_tests_properties(variant-${name}.${variant} PROPERTIES LABELS author)
  endforeach()
  get_property(listed DIRECTORY PROPERTY tutorial_exercises)
  if(NOT listed)
    cmake_language(DEFER CALL tutorial_exercise_files)
  endif()
  string(JOIN "," wrong ${arg_WRONG})
  string(JOIN "," variants ${arg_VARIANTS})
  set_property(DIRECTORY APPEND PROPERTY tutorial_exercises
                                         "${name}:${wrong}:${variants}")
endmacro()

# wrong/NAME.which.hpp or variants/NAME.which.hpp under the name that the test
# includes.
macro(tutorial_one_answer kind which)
  set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/${kind}/${name}.${which})
  string(REPLACE variant variants source ${kind})
  file(CONFIGURE OUTPUT ${wrapper}/${name}.hpp CONTENT
       "#include \"${solutions}/${source}/${name}.${which}.hpp\"\n")
  tutorial_answer(${kind}-${name}.${which} ${name} ${wrapper} ${arg_LINK})
  add_dependencies(author-checks ${kind}-${name}.${which})
  tutorial_quick(${kind}-${name}.${which})
  target_link_options(${kind}-${name}.${which} PRIVATE -s)
  set_target_properties(${kind}-${name}.${which} PROPERTIES EXCLUDE_FROM_ALL ON)
endmacro()

function(tutorial_exercise_files)
  get_filename_component(chapter ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  get_property(exercises DIRECTORY PROPERTY tutorial_exercises)
  add_test(NAME exercise-files-${chapter}
           COMMAND judge files ${CMAKE_CURRENT_SOURCE_DIR}
                   ${PROJECT_SOURCE_DIR}/solutions/${chapter} ${exercises})
  set_tests_properties(exercise-files-${chapter} PROPERTIES LABELS author)
endfunction()
