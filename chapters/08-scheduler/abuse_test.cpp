// Programs that nobody should write, and what the runtime makes of them.

#include <doctest/doctest.h>

#include <chrono>

#include "common/testing/child_process.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

using namespace std::chrono_literals;

TEST_CASE("run ends with main, whoever starts others at that moment") {
  testing::ChildProcess child(
      [] { rt::run([] { rt::go([] { rt::go([] { rt::sleep(1h); }); }); }); });
  CHECK(child.wait() == 0);
}
