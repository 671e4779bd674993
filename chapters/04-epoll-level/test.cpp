#include <doctest/doctest.h>

TEST_CASE("to come") {}
