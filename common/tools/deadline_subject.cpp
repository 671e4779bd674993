// A doctest program that finds a fault and then hangs. For the test of
// deadline.

#include <doctest/doctest.h>
#include <unistd.h>

TEST_CASE("a fault, and its consequence") {
  CHECK_MESSAGE(false, "what is wrong");
  ::pause();
}
