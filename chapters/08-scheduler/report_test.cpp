// What the runtime says and how it dies, by its public interface: for every
// engine. And the stacks of chapter 07 at their limits. Each name begins with
// the row of the specification that it tests.

#include <alloca.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "chapters/07-fiber/stack.hpp"
#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "common/testing/sanitizer.hpp"
#include "rt/go.hpp"
#include "rt/net.hpp"
#include "rt/time.hpp"

#if defined(__clang__)
#define NOT_SANITIZED __attribute__((no_sanitize("address", "undefined")))
#else
#define NOT_SANITIZED __attribute__((no_sanitize_address))
#endif

namespace {

using namespace std::chrono_literals;
using testing::ChildProcess;
using testing::sanitized;

constexpr int overflowed = 128 + SIGSEGV;

// What a runtime says.

// One line of a list of goroutines.
struct Line {
  std::uint64_t id = 0;
  std::string state;  // "running", or what it waits for: "read 7"
  double seconds = 0;
  std::string origin;  // "server.cpp:41"
};

// The list in what was said; other lines are passed over.
std::vector<Line> lines_in(const std::string& text) {
  std::vector<Line> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    Line found;
    std::array<char, 64> state{};
    std::array<char, 64> origin{};
    const int n = std::sscanf(
        line.c_str(), "goroutine %" SCNu64 " [%63[^],]], created at %63s",
        &found.id, state.data(), origin.data());
    if (n < 3 &&
        std::sscanf(line.c_str(),
                    "goroutine %" SCNu64 " [%63[^],], %lf s], created at %63s",
                    &found.id, state.data(), &found.seconds,
                    origin.data()) < 4) {
      continue;
    }
    found.state = state.data();
    found.origin = origin.data();
    lines.push_back(found);
  }
  return lines;
}

Line line_of(std::uint64_t id, const std::string& text) {
  for (const Line& line : lines_in(text)) {
    if (line.id == id) return line;
  }
  return {};
}

std::string state_of(std::uint64_t id, const std::string& text) {
  return line_of(id, text).state;
}

std::size_t occurrences(const std::string& words, const std::string& text) {
  std::size_t count = 0;
  for (std::size_t i = text.find(words); i != std::string::npos;
       i = text.find(words, i + words.size())) {
    ++count;
  }
  return count;
}

// What rt::dump prints now.
std::string dumped() {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* file = ::open_memstream(&text, &size);
  rt::dump(file);
  std::fclose(file);
  std::string result(text, size);
  std::free(text);
  return result;
}

// Lets the others run until that one waits for that.
void until_state(std::uint64_t id, const std::string& state) {
  const auto deadline = testing::Clock::now() + 20s;
  while (state_of(id, dumped()) != state) {
    if (testing::Clock::now() > deadline) {
      throw testing::TimedOut("not " + state + ":\n" + dumped());
    }
    rt::yield();
  }
}

std::string here(int line) { return "report_test.cpp:" + std::to_string(line); }

// Joins itself: who joins it waits for ever.
rt::Handle endless() {
  struct Self {
    std::optional<rt::Handle> handle;
    std::atomic<bool> known = false;
  };
  const auto self = std::make_shared<Self>();
  self->handle = rt::go([self] {
    while (!self->known) rt::yield();
    self->handle->join();
  });
  self->known = true;
  return *self->handle;
}

// Children.

// Fails the test case unless the runtime says that all are asleep, and who
// waits for what. Returns what it says.
std::string deadlock_of(const std::function<void()>& main_body) {
  ChildProcess child([&] { rt::run(main_body); });
  CHECK(child.wait() == 2);
  CHECK(child.errors().starts_with("all goroutines are asleep - deadlock!\n"));
  return child.errors();
}

// The numbers that the function finds, in a child of its own.
std::vector<std::uint64_t> found(
    const std::function<std::vector<std::uint64_t>()>& body) {
  ChildProcess child([&] {
    for (const std::uint64_t number : body()) std::printf("%ju ", number);
  });
  const int status = child.wait(60s);
  REQUIRE_MESSAGE(status == 0, child.errors());
  std::istringstream stream(child.output());
  std::vector<std::uint64_t> numbers;
  for (std::uint64_t number = 0; stream >> number;) numbers.push_back(number);
  return numbers;
}

// So many goroutines, or, aloud, as many as there can be here.
std::size_t goroutines(std::size_t wanted) {
  std::size_t most = wanted;
  if (rt::best_guard() == rt::Guard::Protect) most = 20'000;
  if (sanitized) most = 1'000;
  if (most < wanted) MESSAGE("only " << most << " goroutines, not " << wanted);
  return std::min(most, wanted);
}

// Figures of this process.

std::uint64_t resident() { return testing::resident_bytes(::getpid()); }

std::uint64_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::uint64_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

std::uint64_t address_space() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::uint64_t map_limit() {
  std::uint64_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  return most;
}

// Programs to watch.

// A pipe of the test, with which it tells a child to go on.
struct Signal {
  net::Fd read;
  net::Fd write;

  Signal() {
    std::array<int, 2> ends{};
    net::check(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), "pipe2");
    read = net::Fd(ends[0]);
    write = net::Fd(ends[1]);
  }

  void give() const { net::check(::write(write.get(), "x", 1), "write"); }

  // Does not wait. It is a call, because ThreadSanitizer hands signals on in
  // calls only.
  bool given() const {
    char byte = 0;
    return ::read(read.get(), &byte, 1) == 1;
  }

  // Takes the thread for itself until it is given.
  void compute_until_given() const {
    while (!given()) {
    }
  }

  rt::File file() const {
    auto [file, error] = rt::File::adopt(net::Fd(::dup(read.get())));
    if (error) throw std::system_error(error);
    return std::move(file);
  }
};

// False: the file has been closed.
bool wait_for_byte(const rt::File& file) {
  char byte = 0;
  return !file.read({&byte, 1}).error;
}

// An echo for whoever comes, until the listener is shut down.
void serve(const net::Fd& socket) {
  auto [listener, error] = rt::Listener::adopt(net::Fd(::dup(socket.get())));
  if (error) throw std::system_error(error);
  for (;;) {
    auto [client, failure] = listener.accept();
    if (failure) return;
    rt::go(
        [](rt::Conn conn) {
          std::array<char, 64> buffer;
          for (;;) {
            const auto [n, end] = conn.read(buffer);
            if (end) return;
            conn.write({buffer.data(), n});
          }
        },
        std::move(client));
  }
}

// Two goroutines that pass a byte to and fro and never sleep for long.
void play(const rt::File& from, const rt::File& to) {
  while (wait_for_byte(from) && !to.write({"x", 1}).error) {
  }
}

// Asks for the list and waits until all of it, which is the answer to the
// request with that number, has been said.
void ask(ChildProcess& child, std::size_t number, std::size_t goroutines) {
  child.signal(SIGQUIT);
  child.wait_until_errors(
      "answer " + std::to_string(number), [&](const std::string& said) {
        return occurrences(", created at report_test.cpp:", said) ==
                   number * goroutines &&
               said.ends_with('\n');
      });
}

// Stacks.

NOT_SANITIZED int deeper(int n) {
  std::array<volatile char, 1000> frame;
  frame[0] = 1;
  return n < 0 ? 0 : deeper(n + 1) + frame[0];
}

const std::byte* frame_address() {
  return static_cast<const std::byte*>(__builtin_frame_address(0));
}

// Says where its stack is, and uses it up.
void overflow() {
  std::fprintf(stderr, "frame %p\n", __builtin_frame_address(0));
  deeper(1);
}

// Reads upwards from its own frame, which damages nothing.
NOT_SANITIZED void go_up() {
  for (const std::byte* place = frame_address();; ++place) {
    [[maybe_unused]] const auto read =
        *static_cast<const volatile std::byte*>(place);
  }
}

// Uses so many bytes below this frame, each page of them.
NOT_SANITIZED __attribute__((noinline)) void use(std::size_t bytes) {
  auto* memory = static_cast<volatile char*>(::alloca(bytes));
  for (std::size_t i = bytes; i > 0; i -= std::min<std::size_t>(i, 4096)) {
    memory[i - 1] = 1;
  }
  memory[0] = 1;
}

// Ends by SIGSEGV, and before that says who has overflowed and where.
void check_overflow(ChildProcess& child, std::uint64_t id,
                    std::size_t stack_size) {
  CHECK(child.wait() == overflowed);
  std::uint64_t frame = 0;
  std::uint64_t place = 0;
  std::uint64_t told_id = 0;
  std::size_t told_size = 0;
  INFO(child.errors());
  REQUIRE(std::sscanf(child.errors().c_str(),
                      "frame 0x%" SCNx64 " goroutine %" SCNu64
                      ": stack overflow at 0x%" SCNx64
                      ": all of its %zu bytes are used",
                      &frame, &told_id, &place, &told_size) == 4);
  CHECK(told_id == id);
  CHECK(told_size == stack_size);
  CHECK(frame - place > stack_size - 8'192);
  CHECK(frame - place < stack_size + 65'536);
}

}  // namespace

TEST_CASE("161: an exception that leaves a goroutine ends the process") {
  int line = 0;
  ChildProcess child([&] {
    std::printf("said before");
    rt::run([&] {
      rt::go([] { rt::sleep(1h); });
      rt::go([] { throw std::runtime_error("the disk is on fire"); });
      rt::sleep(1h);
    });
  });
  line = __LINE__ - 4;
  CHECK(child.wait() == 2);
  CHECK(child.output() == "said before");
  CHECK(child.errors().find("the disk is on fire") != std::string::npos);
  REQUIRE(lines_in(child.errors()).size() == 1);
  CHECK(line_of(3, child.errors()).origin == here(line));
}

TEST_CASE("161: what is no std::exception ends the process all the same") {
  ChildProcess child([] {
    rt::run([] {
      rt::go([] { throw 7; });
      rt::sleep(1h);
    });
  });
  CHECK(child.wait() == 2);
  CHECK(child.errors().find("not a std::exception") != std::string::npos);
  CHECK(line_of(2, child.errors()).id == 2);
}

TEST_CASE("161: an exception that leaves main_body leaves run") {
  bool closed = false;
  const auto run = [&] {
    rt::run([&] {
      rt::go([&] {
        const auto pipe = rt::pipe();
        char byte = 0;
        closed = pipe.reader.read({&byte, 1}).error == rt::closed;
      });
      rt::yield();
      throw std::out_of_range("enough");
    });
  };
  CHECK_THROWS_WITH_AS(run(), "enough", std::out_of_range);
  CHECK(closed);
  CHECK_THROWS_AS(rt::run([] { throw 7; }), int);
}

TEST_CASE("161: an exception that is caught in its goroutine ends nothing") {
  std::string caught;
  rt::run([&] {
    rt::go([&] {
      try {
        rt::yield();
        throw std::runtime_error("mine");
      } catch (const std::runtime_error& error) {
        rt::yield();
        caught = error.what();
      }
    }).join();
  });
  CHECK(caught == "mine");
}

TEST_CASE("170: joins in a circle are a deadlock, told with every wait") {
  const std::string said = deadlock_of([] {
    std::optional<rt::Handle> first;
    std::optional<rt::Handle> second;
    std::atomic<bool> both = false;
    const auto join = [&](const std::optional<rt::Handle>& other) {
      while (!both) rt::yield();
      other->join();
    };
    first = rt::go([&] { join(second); });
    second = rt::go([&] { join(first); });
    both = true;
    first->join();
  });
  CHECK(lines_in(said).size() == 3);
  CHECK(state_of(1, said) == "join 2");
  CHECK(state_of(2, said) == "join 3");
  CHECK(state_of(3, said) == "join 2");
}

TEST_CASE("170: a goroutine that joins itself is a deadlock") {
  const std::string said = deadlock_of([] { endless().join(); });
  CHECK(lines_in(said).size() == 2);
  CHECK(state_of(1, said) == "join 2");
  CHECK(state_of(2, said) == "join 2");
}

TEST_CASE("170: in the list are those who have not ended, and their origin") {
  int line = 0;
  const std::string said = deadlock_of([&] {
    const rt::Handle first = rt::go([] {});
    rt::go([] {}).join();
    first.join();
    const rt::Handle stuck = endless();
    rt::go([=] { stuck.join(); });
    stuck.join();
  });
  line = __LINE__ - 3;
  CHECK(lines_in(said).size() == 3);
  CHECK(state_of(1, said) == "join 4");
  CHECK(state_of(5, said) == "join 4");
  CHECK(line_of(5, said).origin == here(line));
}

TEST_CASE("170: what was printed before a deadlock is not lost") {
  ChildProcess child([] {
    std::printf("said before");
    rt::run([] { endless().join(); });
  });
  CHECK(child.wait() == 2);
  CHECK(child.output() == "said before");
}

TEST_CASE("171: while somebody sleeps there is no deadlock") {
  ChildProcess child([] {
    rt::run([] {
      const rt::Handle sleeper = rt::go([] { rt::sleep(50ms); });
      rt::go([=] { sleeper.join(); });
      sleeper.join();
    });
  });
  CHECK(child.wait() == 0);
  CHECK(child.errors().empty());
}

TEST_CASE("171: while somebody waits for a descriptor there is no deadlock") {
  const Signal signal;
  ChildProcess child([&] {
    rt::run([&] { rt::go([&] { wait_for_byte(signal.file()); }).join(); });
  });
  testing::wait_until_settled(child.pid());
  signal.give();
  CHECK(child.wait() == 0);
  CHECK(child.errors().empty());
}

TEST_CASE("171: while somebody waits with a deadline there is no deadlock") {
  ChildProcess child([] {
    // A backlog that is full answers nobody: dial waits for its deadline.
    const net::Fd socket(
        net::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
    const net::Address any = net::resolve("127.0.0.1", 0);
    net::check(::bind(socket.get(), any.get(), any.length), "bind");
    net::check(::listen(socket.get(), 0), "listen");
    const net::Address address = net::local_address(socket);
    rt::run([&] {
      const auto first = rt::dial(address);
      const auto second = rt::dial(address, rt::after(50ms));
      std::puts(second.error.message().c_str());
    });
  });
  CHECK(child.wait() == 0);
  CHECK(child.output() == "deadline exceeded\n");
  CHECK(child.errors().empty());
}

TEST_CASE("172: descriptors for which nobody waits do not hide a deadlock") {
  const std::string said = deadlock_of([] {
    const auto listener = rt::listen(net::resolve("127.0.0.1", 0)).listener;
    const auto pipe = rt::pipe();
    const rt::Handle reader = rt::go([&] { wait_for_byte(pipe.reader); });
    until_state(reader.id(), "read " + std::to_string(pipe.reader.fd()));
    pipe.writer.write({"x", 1});
    reader.join();
    rt::sleep(1ms);
    endless().join();
  });
  CHECK(lines_in(said).size() == 2);
  CHECK(state_of(1, said) == "join 3");
}

TEST_CASE("172: nor does one that was closed under its waiter") {
  deadlock_of([] {
    auto pipe = rt::pipe();
    const rt::Handle reader = rt::go([&] { wait_for_byte(pipe.reader); });
    until_state(reader.id(), "read " + std::to_string(pipe.reader.fd()));
    pipe.reader.close();
    reader.join();
    endless().join();
  });
}

TEST_CASE("173: as many goroutines are counted as are in the list") {
  rt::run([] {
    const auto pipe = rt::pipe();
    const auto counted = [] {
      CHECK(rt::goroutine_count() == lines_in(dumped()).size());
      return rt::goroutine_count();
    };
    CHECK(counted() == 1);
    const rt::Handle reader = rt::go([&] { wait_for_byte(pipe.reader); });
    const rt::Handle joiner = rt::go([=] { reader.join(); });
    rt::go([] { rt::sleep(1h); });
    rt::go([] {}).join();
    CHECK(counted() == 4);
    until_state(reader.id(), "read " + std::to_string(pipe.reader.fd()));
    CHECK(counted() == 4);
    pipe.writer.write({"x", 1});
    joiner.join();
    CHECK(counted() == 2);
    rt::go([&] { CHECK(counted() == 3); }).join();
  });
}

TEST_CASE("174: the helpers of the runtime are not counted") {
  ChildProcess child([] {
    ::setenv("RT_TRACE", "1", 1);
    rt::run([] {
      const auto pipe = rt::pipe();
      pipe.writer.write({"x", 1});
      wait_for_byte(pipe.reader);
      rt::sleep(2ms);
      std::printf("%zu\n%s", rt::goroutine_count(), dumped().c_str());
    });
  });
  CHECK(child.wait() == 0);
  CHECK(child.output().starts_with("1\n"));
  CHECK(lines_in(child.output()).size() == 1);
  CHECK(occurrences("\n", child.output()) == 2);
}

TEST_CASE("175: a list says what each waits for and where it was created") {
  rt::run([] {
    const net::Address any = net::resolve("127.0.0.1", 0);
    const auto listener = rt::listen(any).listener;
    const auto pipe = rt::pipe();
    const auto full = rt::pipe();
    const auto number = [](const rt::Pollable& of) {
      return ' ' + std::to_string(of.fd());
    };
    const auto read = [&] { wait_for_byte(pipe.reader); };
    const auto write = [&] { full.writer.write(std::string(1 << 20, 'x')); };
    const rt::Handle sleeper = rt::go([] { rt::sleep(1h); });
    const std::vector<std::pair<rt::Handle, std::string>> all{
        {sleeper, "sleep"},
        {rt::go(read), "read" + number(pipe.reader)},
        {rt::go(read), "a turn to use" + number(pipe.reader)},
        {rt::go([&] { listener.accept(); }), "accept" + number(listener)},
        {rt::go(write), "write" + number(full.writer)},
        {rt::go([=] { sleeper.join(); }), "join 2"},
    };
    const int last = __LINE__ - 2;
    for (const auto& [goroutine, state] : all) {
      until_state(goroutine.id(), state);
    }
    const std::string list = dumped();
    CHECK(state_of(1, list) == "running");
    CHECK(line_of(7, list).origin == here(last));
    CHECK(line_of(6, list).origin == here(last - 1));
    CHECK(occurrences("\n", list) == 7);
    CHECK(lines_in(list).size() == 7);
  });
}

TEST_CASE("175: a list names who can run and who does") {
  rt::run([] {
    std::atomic<bool> over = false;
    const rt::Handle other = rt::go([&] {
      while (!over) rt::yield();
    });
    until_state(other.id(), "runnable");
    std::string list;
    rt::go([&] { list = dumped(); }).join();
    over = true;
    CHECK(state_of(3, list) == "running");
    CHECK(state_of(1, list) == "join 3");
    rt::yield();
  });
}

TEST_CASE("175: where run was called is where main was created") {
  std::string list;
  rt::run([&] { list = dumped(); });
  CHECK(line_of(1, list).origin == here(__LINE__ - 1));
}

TEST_CASE("175: a list says for how long each has waited") {
  const auto start = rt::Clock::now();
  const auto passed = [&] {
    return std::chrono::duration<double>(rt::Clock::now() - start).count();
  };
  rt::run([&] {
    const rt::Handle sleeper = rt::go([] { rt::sleep(1h); });
    until_state(sleeper.id(), "sleep");
    const auto until = rt::Clock::now() + 300ms;
    while (line_of(sleeper.id(), dumped()).seconds < 0.25) {
      REQUIRE(passed() < 20);
      rt::sleep(1ms);
    }
    CHECK(rt::Clock::now() > until - 100ms);
    CHECK(line_of(sleeper.id(), dumped()).seconds < passed() + 0.1);
  });
}

TEST_CASE("175: how long they have waited is right after a long computation") {
  rt::run([] {
    const rt::Handle sleeper = rt::go([] { rt::sleep(1h); });
    until_state(sleeper.id(), "sleep");
    const auto until = rt::Clock::now() + 300ms;
    while (rt::Clock::now() < until) {
    }
    CHECK(line_of(sleeper.id(), dumped()).seconds >= 0.25);
  });
}

TEST_CASE("175: SIGQUIT lists the goroutines of a server that sleeps") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  ChildProcess child([&] { rt::run([&] { serve(listener); }); });
  testing::wait_until_settled(child.pid());
  ask(child, 1, 1);
  CHECK(state_of(1, child.errors()).starts_with("accept "));
  CHECK(occurrences("\n", child.errors()) == 1);
  ::shutdown(listener.get(), SHUT_RDWR);
  CHECK(child.wait() == 0);
}

TEST_CASE("175: of 200 SIGQUITs none is lost on a server that sleeps") {
  const net::Fd listener = net::listen_on(net::resolve("127.0.0.1", 0));
  ChildProcess child([&] { rt::run([&] { serve(listener); }); });
  testing::wait_until_settled(child.pid());
  for (std::size_t i = 1; i <= 200; ++i) ask(child, i, 1);
  ::shutdown(listener.get(), SHUT_RDWR);
  CHECK(child.wait() == 0);
}

TEST_CASE("175: of 200 SIGQUITs none is lost on a server busy with I/O") {
  const Signal stop;
  ChildProcess child([&] {
    rt::run([&] {
      const auto there = rt::pipe();
      const auto back = rt::pipe();
      rt::go([&] { play(there.reader, back.writer); });
      rt::go([&] { play(back.reader, there.writer); });
      there.writer.write({"x", 1});
      std::fprintf(stderr, "begins\n");
      wait_for_byte(stop.file());
    });
  });
  child.wait_until_complains("begins\n");
  const auto line = [](const std::string& said) {
    return occurrences("goroutine 1 [read ", said);
  };
  for (std::size_t i = 1; i <= 200; ++i) {
    child.signal(SIGQUIT);
    child.wait_until_errors("answer " + std::to_string(i),
                            [&](const auto& said) { return line(said) == i; });
  }
  stop.give();
  CHECK(child.wait() == 0);
  CHECK(line(child.errors()) == 200);
}

TEST_CASE("175: SIGQUIT between the last look and the sleep is not lost") {
  const Signal stop;
  ChildProcess child([&] {
    rt::run([&] {
      const rt::File file = stop.file();
      std::raise(SIGQUIT);
      wait_for_byte(file);
    });
  });
  child.wait_until_complains("goroutine 1 [read ");
  stop.give();
  CHECK(child.wait() == 0);
}

TEST_CASE("175: SIGQUIT names who computes at once, and lists when it yields") {
  const Signal yield;
  const Signal stop;
  ChildProcess child([&] {
    rt::run([&] {
      rt::go([] { rt::sleep(1h); });
      rt::go([&] {
        std::fprintf(stderr, "begins\n");
        yield.compute_until_given();
        rt::yield();
        stop.compute_until_given();
      }).join();
    });
  });
  child.wait_until_complains("begins\n");
  child.signal(SIGQUIT);
  child.wait_until_complains("goroutine 3 is running");
  CHECK(lines_in(child.errors()).empty());
  yield.give();
  child.wait_until_errors("list", [](const std::string& said) {
    return lines_in(said).size() == 3;
  });
  CHECK(state_of(1, child.errors()) == "join 3");
  CHECK(state_of(2, child.errors()) == "sleep");
  CHECK(state_of(3, child.errors()) == "runnable");
  stop.give();
  CHECK(child.wait() == 0);
}

TEST_CASE("175: SIGQUIT may come at any moment, also while it is answered") {
  const Signal stop;
  ChildProcess child([&] {
    rt::run([&] {
      rt::go([] {
        for (;;) rt::yield();
      });
      std::fprintf(stderr, "begins\n");
      while (!stop.given()) rt::yield();
    });
  });
  child.wait_until_complains("begins\n");
  for (int round = 0; round < 200; ++round) {
    const std::size_t before = child.errors().size();
    for (int i = 0; i < 100; ++i) child.signal(SIGQUIT);
    child.wait_until_errors("answer", [&](const std::string& said) {
      return said.size() > before;
    });
  }
  stop.give();
  CHECK(child.wait() == 0);
  CHECK(state_of(1, child.errors()) == "runnable");
}

TEST_CASE("175: SIGQUIT needs nothing of the goroutine's stack") {
  if (sanitized) {
    MESSAGE("the frames are the sanitizer's: not tried");
    return;
  }
  ChildProcess child([] {
    rt::run([] {
      const auto* low = reinterpret_cast<const std::byte*>(
          (reinterpret_cast<std::uintptr_t>(frame_address()) + 4095) / 4096 *
              4096 -
          rt::Options().stack_size);
      auto* memory = static_cast<volatile char*>(
          ::alloca(static_cast<std::size_t>(frame_address() - low) - 1'500));
      memory[0] = 1;
      ::kill(::getpid(), SIGQUIT);
    });
  });
  CHECK(child.wait() == 0);
  CHECK(child.errors().starts_with("goroutine 1 is running"));
}

TEST_CASE("175: after run SIGQUIT is what it was") {
  ChildProcess child([] {
    rt::run([] {});
    std::raise(SIGQUIT);
  });
  CHECK(child.wait() == 128 + SIGQUIT);
  CHECK(child.errors().empty());
}

TEST_CASE("184: of two runs at once the signals are those of both") {
  const Signal end;
  ChildProcess child([&] {
    const Signal stop;
    std::promise<void> begun;
    std::atomic<bool> over = false;
    std::thread first([&] {
      rt::run([&] {
        begun.set_value();
        wait_for_byte(stop.file());
      });
      over = true;
    });
    begun.get_future().wait();
    rt::run([&] {
      stop.give();
      while (!over) rt::sleep(1ms);
      auto pipe = rt::pipe();
      pipe.reader.close();
      const int error = pipe.writer.write({"x", 1}).error.value();
      std::printf("%d\n", error == EPIPE);
      const rt::File file = end.file();
      rt::sleep(1ms);  // so that nothing is reported but the signal
      std::raise(SIGQUIT);
      wait_for_byte(file);
    });
    first.join();
    std::fflush(stdout);
    std::raise(SIGQUIT);
  });
  child.wait_until_complains("goroutine 1 [read ");
  end.give();
  CHECK(child.wait() == 128 + SIGQUIT);
  CHECK(child.output() == "1\n");
  CHECK(lines_in(child.errors()).size() == 1);
}

TEST_CASE("176: a stack overflow is told with the goroutine and the address") {
  ChildProcess child([] {
    rt::run([] {
      rt::go([] {}).join();
      rt::go(overflow).join();
    });
  });
  check_overflow(child, 3, rt::Options().stack_size);
}

TEST_CASE("176: it is told of the right one of nested goroutines") {
  ChildProcess child([] {
    rt::run(
        [] {
          rt::go([] {
            rt::go([] { rt::yield(); });
            rt::go([] { rt::go(overflow).join(); }).join();
          }).join();
        },
        {.stack_size = 65'536});
  });
  check_overflow(child, 5, 65'536);
}

TEST_CASE("176: the main goroutine can overflow too") {
  ChildProcess child([] { rt::run(overflow); });
  check_overflow(child, 1, rt::Options().stack_size);
}

TEST_CASE("176: a plain SIGSEGV is not called an overflow") {
  ChildProcess child([] {
    rt::run([] { *reinterpret_cast<volatile int*>(std::size_t{4096}) = 1; });
  });
  CHECK(child.wait() == overflowed);
  CHECK(child.errors().empty());
}

TEST_CASE("176: a SIGSEGV that somebody sends ends the process") {
  ChildProcess child([] { rt::run([] { std::raise(SIGSEGV); }); });
  CHECK(child.wait() == overflowed);
  CHECK(child.errors().empty());
}

TEST_CASE("176: after run SIGSEGV is what it was") {
  ChildProcess child([] {
    struct sigaction action {};
    action.sa_handler = [](int) { ::_exit(42); };
    net::check(::sigaction(SIGSEGV, &action, nullptr), "sigaction");
    rt::run([] {});
    std::raise(SIGSEGV);
  });
  CHECK(child.wait() == 42);
}

TEST_CASE("177: a goroutine can use all of its stack but some 4 KiB") {
  for (const std::size_t size : {16'384u, 65'536u, 262'144u, 8'388'608u}) {
    CAPTURE(size);
    ChildProcess child([size] {
      rt::run([size] { rt::go([size] { use(size - 4'096); }).join(); },
              {.stack_size = size});
    });
    CHECK(child.wait() == 0);
    CHECK(child.errors().empty());
  }
}

TEST_CASE("177: and not more") {
  ChildProcess child([] {
    rt::run([] { rt::go([] { use(65'536); }).join(); }, {.stack_size = 65'536});
  });
  CHECK(child.wait() == overflowed);
}

TEST_CASE("178: both guards of a stack fault, on every page") {
  std::vector<rt::Guard> guards{rt::Guard::Protect};
  if (rt::best_guard() == rt::Guard::Install) {
    guards.push_back(rt::Guard::Install);
  } else {
    MESSAGE("no MADV_GUARD_INSTALL here: only guards by mprotect are tried");
  }
  for (const rt::Guard guard : guards) {
    CAPTURE(static_cast<int>(guard));
    const auto status_of_write = [guard](std::ptrdiff_t from_low) {
      ChildProcess child([=] {
        rt::StackPool pool(16'384, guard);
        pool.take();
        rt::Stack& between = pool.take();
        pool.take();
        *const_cast<volatile std::byte*>(between.low + from_low) = {};
      });
      return child.wait();
    };
    CHECK(status_of_write(0) == 0);
    CHECK(status_of_write(16'383) == 0);
    for (const int below : {1, 4'096, 40'000, 65'536}) {
      CHECK(status_of_write(-below) == overflowed);
    }
    for (const int above : {16'384, 16'384 + 4'095}) {
      CHECK(status_of_write(above) == overflowed);
    }
  }
}

TEST_CASE("178: who leaves its stack at the top is told so") {
  ChildProcess child([] { rt::run([] { rt::go(go_up).join(); }); });
  CHECK(child.wait() == overflowed);
  CHECK(child.errors().starts_with("goroutine 2: write above its stack at 0x"));
}

TEST_CASE("179: a million goroutines one after another leave nothing behind") {
  constexpr std::uint64_t number = sanitized ? 20'000 : 1'000'000;
  if (sanitized) MESSAGE("only " << number << " goroutines, not 1000000");
  const auto numbers = found([] {
    std::uint64_t ran = 0;
    std::vector<std::uint64_t> figures;
    const auto spawn = [&](std::uint64_t times) {
      for (std::uint64_t i = 0; i < times; ++i) rt::go([&] { ++ran; }).join();
    };
    rt::run([&] {
      spawn(1'000);
      figures = {resident(), mappings()};
      spawn(number);
      figures.insert(figures.end(), {resident(), mappings(), ran});
    });
    return figures;
  });
  REQUIRE(numbers.size() == 5);
  CHECK(numbers[4] == number + 1'000);
  CHECK(numbers[2] < numbers[0] + (sanitized ? 8'000'000 : 500'000));
  CHECK(numbers[3] <= numbers[1] + 2);
}

// A body that cannot be brought to another stack.
struct Immovable {
  Immovable() = default;
  Immovable(const Immovable&) { throw std::runtime_error("no copy"); }
  void operator()() const {}
};

TEST_CASE("179: goroutines that could not be started leave nothing behind") {
  const auto numbers = found([] {
    std::vector<std::uint64_t> figures;
    rt::run([&] {
      std::uint64_t failed = 0;
      const auto fail = [&](int times) {
        for (int i = 0; i < times; ++i) {
          try {
            rt::go(Immovable());
          } catch (const std::runtime_error&) {
            ++failed;
          }
        }
      };
      fail(100);
      figures = {address_space()};
      fail(10'000);
      figures.insert(figures.end(),
                     {address_space(), failed, rt::goroutine_count()});
      rt::go([] {}).join();
    });
    return figures;
  });
  REQUIRE(numbers.size() == 4);
  CHECK(numbers[1] < numbers[0] + (sanitized ? 64'000'000 : 1'000'000));
  CHECK(numbers[2] == 10'100);
  CHECK(numbers[3] == 1);
}

TEST_CASE("181: a stack of no size is refused, and one that is too large") {
  constexpr std::size_t huge = SIZE_MAX - 1;
  for (const std::size_t size : {std::size_t{0}, huge}) {
    CHECK_THROWS_AS(rt::run([] {}, {.stack_size = size}),
                    std::invalid_argument);
  }
  const auto large = [] { rt::run([] {}, {.stack_size = SIZE_MAX / 2}); };
  CHECK_THROWS_AS(large(), std::system_error);
  bool ran = false;
  rt::run([&] { ran = true; }, {.stack_size = 1});
  CHECK(ran);
}

TEST_CASE("180: memory of a peak goes back to the kernel") {
  if (sanitized) {
    MESSAGE("memory is the sanitizer's: not measured");
    return;
  }
  const std::size_t peak = goroutines(20'000);
  const auto numbers = found([peak] {
    std::vector<std::uint64_t> figures;
    rt::run([&] {
      std::vector<rt::Handle> all;
      all.reserve(peak);
      figures.push_back(resident());
      const auto wake = rt::after(100ms);
      for (std::size_t i = 0; i < peak; ++i) {
        all.push_back(rt::go([=] {
          use(16'384);
          rt::sleep_until(wake);
        }));
      }
      rt::yield();
      figures.push_back(resident());
      for (const rt::Handle& goroutine : all) goroutine.join();
      for (int i = 0; i < 3'000; ++i) rt::go([] {}).join();
      figures.push_back(resident());
    });
    return figures;
  });
  REQUIRE(numbers.size() == 3);
  const std::uint64_t grown = numbers[1] - numbers[0];
  CHECK(grown > peak * 16'384);
  CHECK(numbers[2] < numbers[0] + grown / 10);
}

TEST_CASE("180: a pool notices a stack that is given back twice") {
  rt::StackPool pool(16'384);
  rt::Stack& stack = pool.take();
  rt::Stack& other = pool.take();
  pool.give(stack);
  CHECK_THROWS_AS(pool.give(stack), std::logic_error);
  CHECK(pool.free() == 1);
  CHECK(&pool.take() == &stack);
  pool.give(other);
  pool.give(stack);
  CHECK(pool.made() == 2);
}

namespace {

// Starts sleepers until there is no memory for another one, and prints the
// error, how many others there are, and whether the limit is named. Gives how
// many it has started; each that wakes counts itself.
std::size_t start_all_that_fit(const rlimit& limit, std::size_t& ended) {
  std::size_t started = 0;
  const auto wake = rt::after(50ms);
  try {
    for (;; ++started) {
      rt::go([&ended, wake] {
        rt::sleep_until(wake);
        ++ended;
      });
    }
  } catch (const std::system_error& error) {
    const std::string what = error.what();
    const bool named =
        what.starts_with("mmap for stack ") &&
        occurrences("(RLIMIT_AS is " + std::to_string(limit.rlim_cur) + ')',
                    what) == 1;
    std::printf("%d %zu %d\n", error.code().value(),
                rt::goroutine_count() - started, named);
  }
  return started;
}

}  // namespace

TEST_CASE("181: no memory for a stack is an error of go that names the limit") {
  if (sanitized) {
    MESSAGE("a sanitizer needs all addresses: RLIMIT_AS is not tried");
    return;
  }
  ChildProcess child([] {
    const rlimit limit{address_space() + 64'000'000, RLIM_INFINITY};
    net::check(::setrlimit(RLIMIT_AS, &limit), "setrlimit");
    rt::run([&] {
      const auto there = rt::pipe();
      const auto back = rt::pipe();
      rt::go([&] { play(there.reader, back.writer); });
      std::size_t ended = 0;
      const std::size_t started = start_all_that_fit(limit, ended);
      while (rt::goroutine_count() > 2) rt::sleep(1ms);
      there.writer.write({"x", 1});
      wait_for_byte(back.reader);
      for (int i = 0; i < 100; ++i) rt::go([&] { ++ended; }).join();
      std::printf("%d\n", ended == started + 100);
    });
  });
  CHECK(child.wait() == 0);
  CHECK(child.errors().empty());
  const std::string error = std::to_string(ENOMEM);
  CHECK(child.output() == error + " 2 1\n1\n");
}

TEST_CASE(
    "181: guards by mprotect are limited, and the error names the limit") {
  const std::uint64_t limit = map_limit();
  if (sanitized || limit > 200'000) {
    MESSAGE("not tried with a sanitizer or with " << limit << " mappings");
    return;
  }
  ChildProcess child([] {
    rt::StackPool pool(16'384, rt::Guard::Protect);
    rt::Stack& first = pool.take();
    try {
      for (;;) pool.take();
    } catch (const std::system_error& error) {
      std::printf("%zu %d %s\n", pool.made(), error.code().value(),
                  error.what());
    }
    pool.give(first);
    if (&pool.take() != &first) std::puts("the pool is broken");
  });
  CHECK(child.wait() == 0);
  std::istringstream words(child.output());
  std::size_t made = 0;
  int error = 0;
  std::string what;
  words >> made >> error;
  std::getline(words, what);
  CHECK(made > limit / 2 - 1'000);
  CHECK(made <= limit / 2);
  CHECK(error == ENOMEM);
  const std::string expected =
      " mprotect for stack " + std::to_string(made + 1) +
      " (vm.max_map_count is " + std::to_string(limit) + "): ";
  CHECK_MESSAGE(what.starts_with(expected), what);
  CHECK(words.peek() == EOF);
}

TEST_CASE("181: guards by MADV_GUARD_INSTALL are not limited by mappings") {
  if (sanitized || rt::best_guard() == rt::Guard::Protect) {
    MESSAGE("not tried with a sanitizer or without MADV_GUARD_INSTALL");
    return;
  }
  constexpr std::size_t number = 40'000;
  const auto numbers = found([] {
    const std::uint64_t before = mappings();
    rt::StackPool pool(16'384, rt::Guard::Install);
    for (std::size_t i = 0; i < number; ++i) pool.take();
    return std::vector{std::uint64_t{pool.made()}, mappings() - before};
  });
  REQUIRE(numbers.size() == 2);
  CHECK(numbers[0] == number);
  CHECK(numbers[1] < 100);
}

// What a line of RT_TRACE=1 says.
struct Trace {
  double seconds = 0;
  std::size_t goroutines = 0;
  std::size_t in_netpoll = 0;
  std::size_t timers = 0;
};

std::vector<Trace> traces_in(const std::string& text) {
  std::vector<Trace> traces;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    Trace trace;
    int end = 0;
    std::sscanf(line.c_str(),
                "rt %lf s: workers %*u, goroutines %zu, runnable %*u, "
                "in netpoll %zu, timers %zu, stacks %*u%n",
                &trace.seconds, &trace.goroutines, &trace.in_netpoll,
                &trace.timers, &end);
    if (end == static_cast<int>(line.size())) traces.push_back(trace);
  }
  return traces;
}

// Waits for two lines and for nothing else; the last one.
Trace second_trace(ChildProcess& child) {
  child.wait_until_errors("second line", [](const std::string& said) {
    return occurrences("\n", said) >= 2;
  });
  const std::vector<Trace> traces = traces_in(child.errors());
  INFO(child.errors());
  REQUIRE(traces.size() == 2);
  CHECK(traces[0].seconds >= 1);
  CHECK(traces[1].seconds - traces[0].seconds > 0.85);
  return traces[1];
}

TEST_CASE("RT_TRACE=1: a line a second, idle or busy; without it none") {
  const Signal stop;
  const auto idle = [&](const char* wanted) {
    return [&stop, wanted] {
      if (wanted != nullptr) ::setenv("RT_TRACE", wanted, 1);
      rt::run([&] {
        rt::go([] { rt::sleep(1h); });
        rt::go([] { rt::sleep(1h); });
        wait_for_byte(stop.file());
      });
    };
  };
  ChildProcess traced(idle("1"));
  ChildProcess silent(idle(nullptr));
  ChildProcess zero(idle("0"));
  ChildProcess busy([] {
    ::setenv("RT_TRACE", "1", 1);
    rt::run([] {
      for (;;) rt::yield();
    });
  });
  const Trace trace = second_trace(traced);
  CHECK(trace.goroutines == 3);
  CHECK(trace.in_netpoll == 1);
  CHECK(trace.timers == 2);
  CHECK(second_trace(busy).goroutines == 1);
  for (int i = 0; i < 3; ++i) stop.give();
  for (ChildProcess* child : {&traced, &silent, &zero}) {
    CHECK(child->wait() == 0);
  }
  CHECK(silent.errors().empty());
  CHECK(zero.errors().empty());
}

TEST_CASE("a parked goroutine takes at most 4.5 KiB of memory") {
  if (sanitized) {
    MESSAGE("memory is the sanitizer's: not measured");
    return;
  }
  const std::size_t number = goroutines(100'000);
  const auto numbers = found([number] {
    std::vector<std::uint64_t> figures;
    rt::run([&] {
      const auto spawn = [](std::size_t times) {
        for (std::size_t i = 0; i < times; ++i) rt::go([] { rt::sleep(1h); });
        rt::yield();
      };
      spawn(1'000);
      figures.push_back(resident());
      spawn(number);
      figures.push_back(resident());
      figures.push_back(rt::goroutine_count());
    });
    return figures;
  });
  REQUIRE(numbers.size() == 3);
  CHECK(numbers[2] == number + 1'001);
  const std::uint64_t each = (numbers[1] - numbers[0]) / number;
  CHECK(each > 4'096);
  CHECK(each <= 4'608);
}
