#include "common/fd.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <type_traits>
#include <utility>

#include "common/error.hpp"

namespace {

int open_null() {
  return net::check(::open("/dev/null", O_RDONLY | O_CLOEXEC), "open");
}

bool is_open(int number) { return ::fcntl(number, F_GETFD) >= 0; }

static_assert(!std::is_copy_constructible_v<net::Fd>);
static_assert(!std::is_copy_assignable_v<net::Fd>);
static_assert(std::is_nothrow_move_constructible_v<net::Fd>);
static_assert(std::is_nothrow_move_assignable_v<net::Fd>);

}  // namespace

TEST_CASE("an Fd closes its descriptor at the end of its life") {
  const int number = open_null();
  {
    const net::Fd fd(number);
    CHECK(fd);
    CHECK(fd.get() == number);
    CHECK(is_open(number));
  }
  CHECK_FALSE(is_open(number));
}

TEST_CASE("an empty Fd holds -1 and is false") {
  const net::Fd fd;
  CHECK(fd.get() == -1);
  CHECK_FALSE(fd);
}

TEST_CASE("descriptor 0 is a descriptor like any other") {
  net::Fd fd(0);
  CHECK(fd);
  CHECK(fd.release() == 0);
}

TEST_CASE("a moved-from Fd is empty and closes nothing") {
  const int number = open_null();
  net::Fd first(number);
  {
    const net::Fd second(std::move(first));
    CHECK(second.get() == number);
    CHECK(first.get() == -1);
  }
  CHECK_FALSE(is_open(number));
  // The lowest free number is given out again, now to somebody else.
  const net::Fd other(open_null());
  REQUIRE(other.get() == number);
  first = net::Fd();
  CHECK(is_open(number));
}

TEST_CASE("assignment closes the old descriptor and takes the new one") {
  const int old_number = open_null();
  const int new_number = open_null();
  net::Fd fd(old_number);
  net::Fd source(new_number);
  fd = std::move(source);
  CHECK(fd.get() == new_number);
  CHECK_FALSE(source);
  CHECK_FALSE(is_open(old_number));
  CHECK(is_open(new_number));
}

TEST_CASE("assigning an Fd to itself changes nothing") {
  const int number = open_null();
  net::Fd fd(number);
  net::Fd& same = fd;
  fd = std::move(same);
  CHECK(fd.get() == number);
  CHECK(is_open(number));
}

TEST_CASE("release gives the descriptor away open") {
  const int number = open_null();
  {
    net::Fd fd(number);
    CHECK(fd.release() == number);
    CHECK_FALSE(fd);
  }
  CHECK(is_open(number));
  ::close(number);
}
