// With angle brackets: quotes would find the header beside this file even when
// the solution is built.
#include <time_left.hpp>

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <exception>
#include <functional>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "exercises/02-select/given/world.hpp"

namespace {

using namespace std::chrono_literals;

constexpr int descriptor = 7;
constexpr Clock::time_point start{100s};

bool is(const timeval& left, time_t seconds, suseconds_t microseconds) {
  return left.tv_sec == seconds && left.tv_usec == microseconds;
}

// What select is to say the next time it is asked.
struct Answer {
  std::chrono::seconds after;
  int result;
  int error;
};

// A clock that stands still but for the answers, and a select that knows them
// in advance.
class Script {
 public:
  explicit Script(std::vector<Answer> answers)
      : answers_(std::move(answers)),
        world_{[this] { return now_; },
               [this](int, fd_set* readable, timeval* limit) {
                 return answer(*readable, *limit);
               }} {}

  bool wait(Clock::time_point deadline) {
    return wait_readable(world_, descriptor, deadline);
  }

  // Whether the limits, as far as select was asked, were these whole seconds.
  bool asked_for(const std::vector<time_t>& seconds) const {
    return limits_.size() <= seconds.size() &&
           std::equal(limits_.begin(), limits_.end(), seconds.begin(),
                      [](const timeval& limit, time_t expected) {
                        return is(limit, expected, 0);
                      });
  }

 private:
  int answer(fd_set& readable, timeval& limit) {
    limits_.push_back(limit);
    if (limits_.size() > answers_.size()) throw std::runtime_error("once more");
    const Answer& next = answers_[limits_.size() - 1];
    now_ += next.after;
    if (next.result == 0) FD_ZERO(&readable);
    if (next.result < 0) limit = {77, 0};
    errno = next.error;
    return next.result;
  }

  std::vector<Answer> answers_;
  Clock::time_point now_ = start;
  World world_;
  std::vector<timeval> limits_;
};

// SIGALRM every millisecond, and a handler that makes select fail with EINTR.
class Alarms {
 public:
  Alarms() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    net::check(::sigaction(SIGALRM, &action, nullptr), "sigaction");
    set(1000);
  }
  Alarms(const Alarms&) = delete;
  Alarms& operator=(const Alarms&) = delete;
  ~Alarms() { set(0); }

 private:
  static void set(suseconds_t microseconds) {
    const itimerval timer{{0, microseconds}, {0, microseconds}};
    ::setitimer(ITIMER_REAL, &timer, nullptr);
  }
};

struct Pair {
  net::Fd ours;
  net::Fd peer;
};

Pair connected() {
  std::array<int, 2> ends{};
  net::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
             "socketpair");
  return {net::Fd(ends[0]), net::Fd(ends[1])};
}

// True if it holds and nothing is thrown.
bool holds(const std::function<bool()>& what) {
  try {
    return what();
  } catch (const std::exception&) {
    return false;
  }
}

// The errno of the system_error it throws; 0 if it throws none.
int thrown_error(const std::function<void()>& what) {
  try {
    what();
  } catch (const std::system_error& error) {
    return error.code().value();
  } catch (const std::exception&) {
    return 0;
  }
  return 0;
}

}  // namespace

TEST_CASE("time is left") {
  CHECK_MESSAGE((is(time_left(start + 1ns, start), 0, 1) &&
                 is(time_left(start + 1000ns, start), 0, 1) &&
                 is(time_left(start + 1001ns, start), 0, 2)),
                "a part of a microsecond counts as a whole one");
  CHECK_MESSAGE((is(time_left(start + 2500ms, start), 2, 500'000) &&
                 is(time_left(start + 1999999999ns, start), 2, 0)),
                "a whole second is no million microseconds");
}

TEST_CASE("no time is left") {
  CHECK_MESSAGE((is(time_left(start, start), 0, 0) &&
                 is(time_left(start - 1ns, start), 0, 0) &&
                 is(time_left(start - 2500ms, start), 0, 0)),
                "time that has passed is no time, not less than none");
}

TEST_CASE("nothing comes until the deadline") {
  Script script({{5s, 0, 0}});
  CHECK_MESSAGE(!script.wait(start + 5s), "at the deadline the answer is no");
}

TEST_CASE("signals interrupt the wait") {
  Script script({{2s, -1, EINTR}, {1s, -1, EINTR}, {1s, 1, 0}});
  CHECK_MESSAGE(holds([&] { return script.wait(start + 5s); }),
                "a signal does not end the wait");
  CHECK_MESSAGE(script.asked_for({5, 3, 2}),
                "after a signal only what is left then is waited for");
}

TEST_CASE("the deadline has passed before the wait") {
  Script script({{0s, 1, 0}});
  CHECK_MESSAGE(script.wait(start - 1s), "select is asked once even so");
}

TEST_CASE("select fails") {
  Script script({{0s, -1, EBADF}});
  CHECK_MESSAGE(thrown_error([&] { script.wait(start + 5s); }) == EBADF,
                "an error that is no signal is thrown");
}

TEST_CASE("the real select waits for bytes that are there") {
  const Pair pair = connected();
  net::check(::send(pair.peer.get(), "x", 1, 0), "send");
  CHECK_MESSAGE(wait_readable({}, pair.ours.get(), Clock::now() + 2s),
                "the real select sees the bytes");
}

TEST_CASE("signals interrupt the real select") {
  const Pair pair = connected();
  const Alarms alarms;
  const auto deadline = Clock::now() + 30ms;
  CHECK_MESSAGE(holds([&] {
                  return !wait_readable({}, pair.ours.get(), deadline) &&
                         Clock::now() >= deadline;
                }),
                "signals do not shorten a real wait");
}
