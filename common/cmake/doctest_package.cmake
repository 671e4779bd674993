# doctest from the system, else from its release archive, pinned by its hash.

find_package(doctest 2.4.9 QUIET)
if(NOT doctest_FOUND)
  include(FetchContent)
  FetchContent_Declare(
    doctest
    URL https://github.com/doctest/doctest/archive/refs/tags/v2.4.11.tar.gz
    URL_HASH
      SHA256=632ed2c05a7f53fa961381497bf8069093f0d6628c5f26286161fbd32a560186)
  FetchContent_MakeAvailable(doctest)
endif()
