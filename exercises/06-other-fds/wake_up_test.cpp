// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <wake_up.hpp>

#include <dlfcn.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/testing/process.hpp"

#if defined(__SANITIZE_THREAD__)
#define TUTORIAL_HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TUTORIAL_HAS_TSAN 1
#endif
#endif

namespace {

using namespace std::chrono_literals;
using Numbers = std::vector<int>;

// How long a test waits for what a right answer does at once.
constexpr std::chrono::milliseconds patience{5000};

std::atomic<bool> has_waited = false;  // a read would have slept

bool is_readable(int fd, std::chrono::milliseconds limit = 0ms) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, static_cast<int>(limit.count())) > 0;
}

// Whether a thread sleeps now.
bool is_asleep(pid_t thread) {
  try {
    return testing::state(thread) == 'S';
  } catch (const std::exception&) {
    return false;  // it has ended
  }
}

// A call in a thread of its own. It may have to wait for a lock.
class Visitor {
 public:
  explicit Visitor(const std::function<void()>& call)
      : thread_([this, call] {
          number_ = ::gettid();
          call();
          over_ = true;
        }) {}

  // Waits until the call is over, or waits for something itself.
  void give_way() const {
    int asleep = 0;
    for (int i = 0; i < 2'000 && !over_ && asleep < 20; ++i) {
      asleep = number_ != 0 && is_asleep(number_) ? asleep + 1 : 0;
      ::poll(nullptr, 0, 1);
    }
  }

 private:
  std::atomic<pid_t> number_ = 0;
  std::atomic<bool> over_ = false;
  std::jthread thread_;  // the last: it is joined first
};

// A call that is interrupted at one place, for a visitor. There is a place
// before and after each lock, unlock, read and write.
struct Interrupted {
  std::size_t at;
  std::function<void()> by;
  std::size_t places = 0;  // seen so far
  std::string steps = {};  // "lock unlock | write"
  std::unique_ptr<Visitor> visitor = nullptr;
};

// The call that this thread makes.
thread_local Interrupted* interrupted = nullptr;

void add(std::string& steps, const std::string& step) {
  if (!steps.empty() && !step.empty()) steps += ' ';
  steps += step;
}

void place(const std::string& step_before = "") {
  if (interrupted == nullptr) return;
  Interrupted& call = *interrupted;
  add(call.steps, step_before);
  if (call.places++ != call.at) return;
  add(call.steps, "|");
  interrupted = nullptr;
  call.visitor = std::make_unique<Visitor>(call.by);
  call.visitor->give_way();
  interrupted = &call;
}

}  // namespace

// These take the place of libc's in this program.

extern "C" ssize_t read(int fd, void* buffer, std::size_t size) {
  place();
  // Says that it would have slept, and goes on.
  const bool waits =
      !is_readable(fd) && (::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0;
  if (waits) has_waited = true;
  if (waits) errno = EAGAIN;
  const ssize_t n = waits ? -1 : ::syscall(SYS_read, fd, buffer, size);
  const int error = errno;
  place("read");
  errno = error;
  return n;
}

extern "C" ssize_t write(int fd, const void* buffer, std::size_t size) {
  place();
  const ssize_t n = ::syscall(SYS_write, fd, buffer, size);
  const int error = errno;
  place("write");
  errno = error;
  return n;
}

extern "C" int eventfd_read(int fd, eventfd_t* value) {
  return ::read(fd, value, sizeof *value) == sizeof *value ? 0 : -1;
}

extern "C" int eventfd_write(int fd, eventfd_t value) {
  return ::write(fd, &value, sizeof value) == sizeof value ? 0 : -1;
}

// ThreadSanitizer has functions of its own here and needs them.
#ifndef TUTORIAL_HAS_TSAN
namespace {

using MutexCall = int (*)(pthread_mutex_t*);

int of_libc(const char* name, pthread_mutex_t* mutex) {
  return reinterpret_cast<MutexCall>(::dlsym(RTLD_NEXT, name))(mutex);
}

}  // namespace

extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  place();
  const int result = of_libc("pthread_mutex_lock", mutex);
  place("lock");
  return result;
}

extern "C" int pthread_mutex_unlock(pthread_mutex_t* mutex) noexcept {
  place();
  const int result = of_libc("pthread_mutex_unlock", mutex);
  place("unlock");
  return result;
}
#endif

namespace {

// "7 8 9"
std::string text(const Numbers& numbers) {
  std::string line;
  for (const int number : numbers) {
    line += (line.empty() ? "" : " ") + std::to_string(number);
  }
  return line;
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

// A mailbox, what has been put into it, and the loop's part.
struct Box {
  void put() { mailbox.put(++last); }
  void put(int n) {
    for (int i = 0; i < n; ++i) put();
  }
  void take() {
    for (const int number : mailbox.take()) taken.push_back(number);
  }
  bool is_announced() const { return is_readable(mailbox.fd()); }

  // As long as something is announced; how often something was.
  int take_all() {
    int wakeups = 0;
    for (; wakeups < 10'000 && is_announced(); ++wakeups) take();
    return wakeups;
  }
  bool has_all() const { return std::ssize(taken) == last; }

  Mailbox<int> mailbox;
  std::atomic<int> last = 0;
  Numbers taken;
};

using Call = void (*)(Box&);

// How a call went that another one interrupted at this place.
struct Course {
  bool was_interrupted;  // it has such a place
  bool lost;             // an item lies there and is not announced
  bool deaf;             // the next item is not announced
  bool spins;            // an empty box is announced for ever
  std::string steps;
};

Course interrupt(Call call, Call by, std::size_t at, int waiting) {
  Box box;
  box.put(waiting);
  Interrupted course{at, [&] { by(box); }};
  interrupted = &course;
  call(box);
  interrupted = nullptr;
  const bool was_interrupted = course.visitor != nullptr;
  course.visitor.reset();
  box.take_all();
  const bool lost = !box.has_all();
  bool spins = box.is_announced();
  box.put();
  box.take_all();
  spins = spins || box.is_announced();
  const bool deaf = !lost && !box.has_all();
  return {was_interrupted, lost, deaf, spins, course.steps};
}

// The courses that went wrong: "lock unlock | write". The bar is for the other
// call, which begins there and may have to wait for a lock.
struct Failures {
  std::string lost;
  std::string deaf;
  std::string spins;
};

void note(std::string& courses, const std::string& steps) {
  if (courses.find('(' + steps + ')') != std::string::npos) return;
  add(courses, '(' + steps + ')');
}

// At each place, with an empty box and with one that is not.
Failures interrupt_everywhere(Call call, Call by) {
  Failures failures;
  for (const int waiting : {0, 1}) {
    for (std::size_t at = 0; at < 50; ++at) {
      const Course course = interrupt(call, by, at, waiting);
      if (!course.was_interrupted) break;
      if (course.lost) note(failures.lost, course.steps);
      if (course.deaf) note(failures.deaf, course.steps);
      if (course.spins) note(failures.spins, course.steps);
    }
  }
  return failures;
}

void put_one(Box& box) { box.put(); }
void take(Box& box) { box.take(); }

// An item of one of the workers.
struct Item {
  std::size_t worker;
  int number;
};

}  // namespace

TEST_CASE("an item is put and taken") {
  Box box;
  box.put();
  CHECK_MESSAGE(box.is_announced(), "an item is announced when it is put");
  box.take();
  CHECK_MESSAGE(!box.is_announced(), "after take() it is silent");
}

TEST_CASE("several items wait") {
  Box box;
  box.put(5);
  box.take_all();
  CHECK_MESSAGE(text(box.taken) == "1 2 3 4 5",
                "all come, in the order in which they were put");
}

TEST_CASE("a thousand items wait") {
  Box box;
  box.put(1'000);
  CHECK_MESSAGE(box.take_all() < 1'000, "not each of them wakes the loop");
}

TEST_CASE("the loop takes without a reason") {
  Box box;
  has_waited = false;
  const bool taken = works([&] { box.take(); });
  CHECK_MESSAGE((taken && !has_waited), "take() neither waits nor fails");
}

TEST_CASE("a worker puts while the loop takes") {
  const Failures failures = interrupt_everywhere(take, put_one);
  CHECK_MESSAGE(failures.lost == "", "what comes during take() is announced");
  CHECK_MESSAGE(failures.deaf == "", "what comes after that is announced");
  CHECK_MESSAGE(failures.spins == "", "when all has been taken it is silent");
}

TEST_CASE("the loop takes while a worker puts") {
  const Failures failures = interrupt_everywhere(put_one, take);
  CHECK_MESSAGE(failures.lost == "", "what take() has not seen is announced");
  CHECK_MESSAGE(failures.deaf == "", "the next item is announced again");
  CHECK_MESSAGE(failures.spins == "", "what is taken is silent in the end");
}

TEST_CASE("a worker puts while another one puts") {
  const Failures failures = interrupt_everywhere(put_one, put_one);
  CHECK_MESSAGE(failures.lost == "", "one of the two rings");
}

TEST_CASE("a worker answers ten thousand times") {
  constexpr int rounds = 10'000;
  Box box;
  std::atomic<int> asked = 0;
  std::jthread worker([&] {
    for (int i = 0; i < rounds; ++i) {
      while (asked <= i) asked.wait(i);
      box.put();
    }
  });
  const auto ask_for = [&](std::size_t n) {
    asked = std::max(asked.load(), static_cast<int>(n));
    asked.notify_one();
  };
  while (std::ssize(box.taken) < rounds) {
    ask_for(box.taken.size() + 1);
    if (!is_readable(box.mailbox.fd(), patience)) break;
    // So that the next one comes while it takes.
    ask_for(box.taken.size() + 2);
    box.take();
  }
  CHECK_MESSAGE(std::ssize(box.taken) == rounds, "each answer wakes the loop");
  ask_for(rounds);
}

TEST_CASE("four workers put a hundred thousand items") {
  constexpr int each = 25'000;
  Mailbox<Item> mailbox;
  std::array<int, 4> next{};  // number of each worker
  std::array<std::jthread, next.size()> workers;
  std::atomic<int> put = 0;
  for (std::size_t worker = 0; worker < workers.size(); ++worker) {
    workers[worker] = std::jthread([&mailbox, &put, worker] {
      for (int i = 0; i < each; ++i, ++put) mailbox.put({worker, i});
    });
  }
  // Behind its workers from the beginning.
  testing::wait_until("2,000 items", [&] { return put >= 2'000; });
  bool in_order = true;
  int taken = 0;
  while (taken < 4 * each && is_readable(mailbox.fd(), patience)) {
    for (const Item& item : mailbox.take()) {
      in_order = in_order && item.number == next.at(item.worker)++;
      ++taken;
    }
  }
  const std::string came =
      std::to_string(taken) + (in_order ? " in order" : "");
  CHECK_MESSAGE(came == "100000 in order",
                "the items of each worker come, in their order");
}

TEST_CASE("a mailbox is thrown away") {
  const auto before = testing::open_descriptors(::getpid());
  { const Box box; }
  CHECK_MESSAGE(testing::open_descriptors(::getpid()) == before,
                "its descriptor is closed");
}
