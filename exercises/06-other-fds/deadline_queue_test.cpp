// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <deadline_queue.hpp>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#include "common/testing/process.hpp"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TUTORIAL_HAS_CLANG_TSAN 1
#endif
#endif

namespace {

using namespace std::chrono_literals;
using Ids = std::vector<int>;

int tellings = 0;         // calls of timerfd_settime
bool has_waited = false;  // a read would have slept
long in_use = 0;          // bytes

// So many times the clock shows this and not the time.
int false_looks = 0;
Clock::time_point shown{};

timespec to_timespec(Clock::time_point time) {
  const auto since_zero = time.time_since_epoch();
  const auto whole = floor<std::chrono::seconds>(since_zero);
  return {whole.count(), (since_zero - whole).count()};
}

bool is_readable(int fd, std::chrono::milliseconds limit = 0ms) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, static_cast<int>(limit.count())) > 0;
}

}  // namespace

// These take the place of libc's and the library's in this program.

extern "C" int timerfd_settime(int fd, int flags, const itimerspec* value,
                               itimerspec* old) noexcept {
  ++tellings;
  return static_cast<int>(
      ::syscall(SYS_timerfd_settime, fd, flags, value, old));
}

// Says that a read would have slept, and goes on.
extern "C" ssize_t read(int fd, void* buffer, std::size_t size) {
  if (!is_readable(fd) && (::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0) {
    has_waited = true;
    errno = EAGAIN;
    return -1;
  }
  return ::syscall(SYS_read, fd, buffer, size);
}

// steady_clock looks here.
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  if (clock == CLOCK_MONOTONIC && false_looks > 0) {
    --false_looks;
    *time = to_timespec(shown);
    return 0;
  }
  return static_cast<int>(::syscall(SYS_clock_gettime, clock, time));
}

// Clang's ThreadSanitizer has operators of its own, linked statically.
#ifndef TUTORIAL_HAS_CLANG_TSAN
// Not inlined: GCC would see malloc and free in places where they do not match.
[[gnu::noinline]] void* operator new(std::size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  in_use += static_cast<long>(::malloc_usable_size(memory));
  return memory;
}

[[gnu::noinline]] void operator delete(void* memory) noexcept {
  in_use -= static_cast<long>(::malloc_usable_size(memory));
  std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
  operator delete(memory);
}
#endif

namespace {

// How long a test waits for what a right answer does at once.
constexpr std::chrono::milliseconds patience{3000};

// "7 8 9"
std::string text(const Ids& ids) {
  std::string line;
  for (const int id : ids) {
    line += (line.empty() ? "" : " ") + std::to_string(id);
  }
  return line;
}

Ids sorted(Ids ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

// False if it throws.
template <typename Call>
bool works(Call call) {
  try {
    call();
  } catch (const std::exception&) {
    return false;
  }
  return true;
}

// What a loop is told until the timer is silent.
Ids reported(Deadlines& deadlines) {
  Ids all;
  for (int i = 0; i < 10 && is_readable(deadlines.fd()); ++i) {
    const Ids ids = deadlines.expired();
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return all;
}

// The same, of a timer that is to fire now.
Ids reported_soon(Deadlines& deadlines) {
  is_readable(deadlines.fd(), patience);
  return reported(deadlines);
}

itimerspec left_of(const Deadlines& deadlines) {
  itimerspec left{};
  if (::timerfd_gettime(deadlines.fd(), &left) < 0) return {};
  return left;
}

std::chrono::nanoseconds duration(const timespec& time) {
  return std::chrono::seconds(time.tv_sec) +
         std::chrono::nanoseconds(time.tv_nsec);
}

bool is_disarmed(const Deadlines& deadlines) {
  return duration(left_of(deadlines).it_value) == 0ns;
}

// True if it fires then and only then. The kernel says how long it will be
// until it fires, at some moment during the call. So the call is timed, and
// made several times: one of them is short.
bool is_armed_for(const Deadlines& deadlines, Clock::time_point when) {
  for (int i = 0; i < 20; ++i) {
    const auto before = Clock::now();
    const itimerspec left = left_of(deadlines);
    const auto after = Clock::now();
    const auto time = duration(left.it_value);
    if (time == 0ns || duration(left.it_interval) != 0ns) return false;
    if (when < before + time || after + time < when) return false;
  }
  return true;
}

// Far from whole milliseconds, and not due before the test is over.
Clock::time_point in_about(std::chrono::seconds time) {
  return floor<std::chrono::seconds>(Clock::now()) + time + 999'999'999ns;
}

std::string about_timer(int fd) {
  std::ifstream file("/proc/self/fdinfo/" + std::to_string(fd));
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("one deadline is set") {
  Deadlines deadlines;
  const auto when = in_about(100s);
  deadlines.set(7, when);
  CHECK_MESSAGE(is_armed_for(deadlines, when),
                "the timer is armed for it, to the nanosecond");
  // What libc calls CLOCK_MONOTONIC is 1 for the kernel.
  CHECK_MESSAGE(
      about_timer(deadlines.fd()).find("clockid: 1\n") != std::string::npos,
      "it goes by a clock that nobody sets");
}

TEST_CASE("many deadlines are set") {
  Deadlines deadlines;
  const auto before = testing::open_descriptors(::getpid());
  for (int id = 0; id < 100; ++id) deadlines.set(id, in_about(100s));
  CHECK_MESSAGE(testing::open_descriptors(::getpid()) == before,
                "one descriptor serves them all");
}

TEST_CASE("an earlier deadline is set") {
  Deadlines deadlines;
  const auto earlier = in_about(50s);
  deadlines.set(7, in_about(100s));
  deadlines.set(8, earlier);
  CHECK_MESSAGE(is_armed_for(deadlines, earlier),
                "the timer is armed for the earlier one");
}

TEST_CASE("a later deadline is set") {
  Deadlines deadlines;
  const auto nearest = in_about(50s);
  deadlines.set(7, nearest);
  deadlines.set(8, in_about(100s));
  CHECK_MESSAGE(is_armed_for(deadlines, nearest),
                "the timer stays armed for the nearest");
}

TEST_CASE("a deadline behind the nearest is moved to the front") {
  Deadlines deadlines;
  const auto front = in_about(20s);
  deadlines.set(7, in_about(50s));
  deadlines.set(8, in_about(100s));
  deadlines.set(8, front);
  CHECK_MESSAGE(is_armed_for(deadlines, front),
                "who is moved before the nearest is the nearest");
}

TEST_CASE("the nearest deadline is moved to a later time") {
  Deadlines deadlines;
  const auto second = in_about(100s);
  deadlines.set(7, in_about(50s));
  deadlines.set(8, second);
  deadlines.set(7, in_about(150s));
  CHECK_MESSAGE(is_armed_for(deadlines, second),
                "the timer is armed for whichever is the nearest now");
}

TEST_CASE("the nearest deadline is cancelled") {
  Deadlines deadlines;
  const auto second = in_about(100s);
  deadlines.set(7, in_about(50s));
  deadlines.set(8, second);
  deadlines.cancel(7);
  CHECK_MESSAGE(is_armed_for(deadlines, second),
                "the timer is armed for the one behind it");
}

TEST_CASE("the last deadline is cancelled") {
  Deadlines deadlines;
  deadlines.set(7, in_about(100s));
  deadlines.cancel(7);
  CHECK_MESSAGE(is_disarmed(deadlines),
                "without a deadline the timer is disarmed");
}

TEST_CASE("who is not there is cancelled") {
  Deadlines deadlines;
  CHECK_MESSAGE(works([&] { deadlines.cancel(7); }),
                "who was not there may be cancelled");
}

TEST_CASE("several deadlines are due") {
  Deadlines deadlines;
  const auto now = Clock::now();
  const auto next = in_about(100s);
  deadlines.set(7, now - 1s);
  deadlines.set(9, now - 3s);
  deadlines.set(6, next);
  deadlines.set(8, now - 2s);
  is_readable(deadlines.fd(), patience);
  CHECK_MESSAGE(text(deadlines.expired()) == "9 8 7",
                "all that are due come at once, the nearest first");
  CHECK_MESSAGE(is_armed_for(deadlines, next),
                "after that it is armed for the next");
}

TEST_CASE("all deadlines have been reported") {
  Deadlines deadlines;
  deadlines.set(7, Clock::now());
  is_readable(deadlines.fd(), patience);
  deadlines.expired();
  CHECK_MESSAGE(!is_readable(deadlines.fd()), "after that it is silent");
  CHECK_MESSAGE(deadlines.expired().empty(), "each is reported once");
}

TEST_CASE("several have the same deadline") {
  Deadlines deadlines;
  const auto now = Clock::now();
  for (const int id : {9, 7, 8}) deadlines.set(id, now);
  CHECK_MESSAGE(text(sorted(reported_soon(deadlines))) == "7 8 9",
                "equal deadlines are all reported");
}

TEST_CASE("one of several with the same deadline leaves") {
  Deadlines deadlines;
  const auto now = Clock::now();
  for (const int id : {9, 7, 8, 6}) deadlines.set(id, now);
  deadlines.cancel(8);
  deadlines.set(6, in_about(100s));
  CHECK_MESSAGE(text(sorted(reported_soon(deadlines))) == "7 9",
                "the others stay");
}

TEST_CASE("very many are due") {
  Deadlines deadlines;
  const auto now = Clock::now();
  for (int id = 0; id < 1'000; ++id) deadlines.set(id, now);
  is_readable(deadlines.fd(), patience);
  CHECK_MESSAGE(deadlines.expired().size() == 1'000, "one call reports them");
}

TEST_CASE("a deadline is cancelled when the timer has fired") {
  Deadlines deadlines;
  deadlines.set(7, Clock::now());
  is_readable(deadlines.fd(), patience);
  deadlines.cancel(7);
  CHECK_MESSAGE(!is_readable(deadlines.fd()),
                "nobody is woken for what was cancelled");
}

TEST_CASE("a deadline is moved before it is reported") {
  Deadlines deadlines;
  deadlines.set(7, Clock::now());
  deadlines.set(7, in_about(100s));
  CHECK_MESSAGE(deadlines.expired().empty(), "the old time is forgotten");
}

TEST_CASE("a deadline is past when it is set") {
  Deadlines deadlines;
  SUBCASE("by a second") {
    deadlines.set(7, Clock::now() - 1s);
    CHECK_MESSAGE(text(reported_soon(deadlines)) == "7",
                  "it is reported at once");
  }
  SUBCASE("as far as can be") {
    const bool taken =
        works([&] { deadlines.set(7, Clock::time_point::min()); });
    CHECK_MESSAGE((taken && text(reported_soon(deadlines)) == "7"),
                  "a time before the clock began is a past one");
  }
  SUBCASE("at the zero of the clock") {
    deadlines.set(7, Clock::time_point{});
    CHECK_MESSAGE(text(reported_soon(deadlines)) == "7",
                  "zero is a time like any other");
  }
}

TEST_CASE("a time comes twice") {
  Deadlines deadlines;
  const auto now = Clock::now();
  deadlines.set(7, now);
  reported_soon(deadlines);
  deadlines.set(8, now);
  CHECK_MESSAGE(text(reported_soon(deadlines)) == "8",
                "a time that was reported can be set again");
  deadlines.set(8, now);
  CHECK_MESSAGE(text(reported_soon(deadlines)) == "8",
                "also by the one that was reported");
}

TEST_CASE("the thread loses the processor after a look at the clock") {
  Deadlines deadlines;
  const auto now = Clock::now();
  SUBCASE("while a deadline is set") {
    const auto when = in_about(100s);
    shown = now - 1s;
    false_looks = 1;
    deadlines.set(7, when);
    false_looks = 0;
    CHECK_MESSAGE(is_armed_for(deadlines, when),
                  "the timer is armed for a time, not for a while");
  }
  SUBCASE("and a deadline passes meanwhile") {
    deadlines.set(7, now - 1s);
    deadlines.set(8, now);
    is_readable(deadlines.fd(), patience);
    shown = now - 1ms;
    false_looks = 1;
    const Ids first = deadlines.expired();
    false_looks = 0;
    const Ids rest = first.size() == 2 ? Ids{} : reported_soon(deadlines);
    CHECK_MESSAGE(text(first) + ' ' + text(rest) == "7 8",
                  "a deadline that passes meanwhile is not lost");
  }
}

TEST_CASE("the clock is close to a deadline") {
  Deadlines deadlines;
  const auto when = Clock::now();
  deadlines.set(7, when);
  false_looks = 1'000;
  shown = when - 1ns;
  const Ids before = deadlines.expired();
  shown = when;
  const Ids then = deadlines.expired();
  false_looks = 0;
  CHECK_MESSAGE(before.empty(), "a nanosecond too early nobody is reported");
  CHECK_MESSAGE(text(then) == "7", "at its very time it is reported");
}

TEST_CASE("it is asked without a reason") {
  Deadlines deadlines;
  const auto when = in_about(100s);
  deadlines.set(7, when);
  has_waited = false;
  Ids ids;
  const bool asked = works([&] { ids = deadlines.expired(); });
  CHECK_MESSAGE((asked && !has_waited), "it neither waits nor fails");
  CHECK_MESSAGE(ids.empty(), "whose time has not come is not reported");
  CHECK_MESSAGE(is_armed_for(deadlines, when), "it is still armed");
}

TEST_CASE("deadlines come and go behind the nearest") {
  Deadlines deadlines;
  deadlines.set(0, in_about(50s));
  const int before = tellings;
  const auto later = in_about(100s);
  for (int id = 1; id < 10'000; ++id) deadlines.set(id, later);
  for (int id = 1; id < 10'000; ++id) deadlines.set(id, later + 1s);
  for (int id = 1; id < 10'000; ++id) deadlines.cancel(id);
  deadlines.cancel(1);
  CHECK_MESSAGE(tellings == before, "the kernel hears of the nearest only");
}

TEST_CASE("a server runs for a long time") {
  Deadlines deadlines;
  deadlines.set(0, in_about(50s));
  const auto later = in_about(100s);
  const long before = in_use;
  SUBCASE("and a client speaks again and again") {
    for (int i = 0; i < 100'000; ++i) deadlines.set(1, later + i * 1us);
    CHECK_MESSAGE(in_use - before < 65'536, "what was moved leaves nothing");
  }
  SUBCASE("and clients come and go") {
    for (int id = 1; id < 100'000; ++id) {
      deadlines.set(id, later);
      deadlines.cancel(id);
    }
    CHECK_MESSAGE(in_use - before < 65'536,
                  "what was cancelled leaves nothing");
  }
  SUBCASE("and clients are idle for too long") {
    const auto now = Clock::now();
    for (int id = 1; id < 100'000; ++id) {
      deadlines.set(id, now);
      if (id % 1'000 == 0) reported_soon(deadlines);
    }
    reported_soon(deadlines);
    CHECK_MESSAGE(in_use - before < 65'536, "what was reported leaves nothing");
  }
}
