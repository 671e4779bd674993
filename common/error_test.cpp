#include "common/error.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <ostream>
#include <string>
#include <system_error>

namespace {

std::string what(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::system_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace

TEST_CASE("an error says which call failed and why") {
  CHECK(what([] {
          errno = EADDRINUSE;
          net::throw_errno("bind");
        }) == "bind: Address already in use");
}

TEST_CASE("an error says which address it was about") {
  CHECK(what([] {
          errno = ECONNREFUSED;
          net::throw_errno("connect", "127.0.0.1:8080");
        }) == "connect 127.0.0.1:8080: Connection refused");
}

TEST_CASE("an error keeps its number") {
  try {
    net::check(::close(-1), "close");
    FAIL("close(-1) succeeded");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::bad_file_descriptor);
    CHECK(error.code().value() == EBADF);
  }
}

TEST_CASE("check passes on a result that is not negative") {
  CHECK(net::check(0, "call") == 0);
  CHECK(net::check(42L, "call") == 42L);
  CHECK(what([] {
          errno = EINTR;
          net::check(ssize_t{-1}, "recv", "[::1]:7");
        }) == "recv [::1]:7: Interrupted system call");
}

TEST_CASE("a wait that failed is nothing, a rest, or the end") {
  const auto after = [](int error) {
    return what([=] {
      errno = error;
      net::rest_or_throw("poll");
    });
  };
  const auto start = std::chrono::steady_clock::now();
  const auto past = [&] { return std::chrono::steady_clock::now() - start; };
  CHECK(after(EINTR) == "nothing was thrown");
  CHECK(after(EBADF) == "poll: Bad file descriptor");
  CHECK(after(EFAULT) == "poll: Bad address");
  CHECK(after(EINVAL) == "poll: Invalid argument");
  CHECK(after(EIO) == "poll: Input/output error");
  CHECK(after(ENOMEM) == "nothing was thrown");
  CHECK(past() >= std::chrono::milliseconds(100));
  CHECK(after(EAGAIN) == "nothing was thrown");
  CHECK(past() >= std::chrono::milliseconds(200));
}

TEST_CASE("last_error is errno as a value") {
  errno = EPIPE;
  CHECK(net::last_error() == std::errc::broken_pipe);
  errno = 0;
  CHECK_FALSE(net::last_error());
}

TEST_CASE("end of stream is an error equal to itself only") {
  CHECK(net::eof());
  CHECK(net::eof() == net::eof());
  CHECK(net::eof().message() == "end of stream");
  CHECK(std::string(net::eof().category().name()) == "stream");
  // 1 is EPERM in the kernel's category; the number alone must not decide.
  CHECK(net::eof() != std::error_code(1, std::system_category()));
}
