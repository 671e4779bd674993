// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <switch_stacks.hpp>

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <sstream>
#include <string>

#include "common/error.hpp"
#include "exercises/07-fiber/given/probe.hpp"

namespace {

// What is known of two that have switched to each other, here and there.
struct Trip {
  Side here;
  Side there;
  int visits = 0;  // from here to there and back
  std::uint64_t top_of_there = 0;
  int status = 0;  // of the process in which they were, as of waitpid
};

struct Memory {
  Trip trip;
  alignas(16) std::array<std::byte, 16'384> stack{};
  // Whoever takes more from the stack than there is gets zeros.
  alignas(16) std::array<std::byte, 256> above{};
};

// Different in every register, and no address at which anything could be.
Registers values(std::uint64_t first) {
  Registers registers;
  for (std::uint64_t& value : registers) {
    value = 0x5afe'0000'0000'0000 + first++;
  }
  return registers;
}

// As the first switch to it expects it.
void prepare(Memory& memory) {
  Trip& trip = memory.trip;
  std::byte* top = memory.stack.data() + memory.stack.size();
  trip.top_of_there = reinterpret_cast<std::uint64_t>(top);
  auto* frame = new (top - sizeof(SavedFrame)) SavedFrame{};
  frame->return_address = probe_arrive_there;
  trip.here.put = values(0x100);
  trip.there.put = values(0x200);
  trip.here.other = &trip.there;
  trip.there.other = &trip.here;
  trip.there.stopped = frame;
  probe_here = &trip.here;
  probe_there = &trip.there;
}

// A wrong switch may go anywhere. It does so in a process of its own, which
// dies as if nobody had ever asked to be told.
[[noreturn]] void travel(Trip& trip) {
  const rlimit no_core{};
  ::setrlimit(RLIMIT_CORE, &no_core);
  for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGABRT}) {
    ::signal(fault, SIG_DFL);
  }
  const rlimit second{1, 1};  // of computing, if it goes round and round
  ::setrlimit(RLIMIT_CPU, &second);
  for (int i = 0; i < 3; ++i) {
    probe_visit_here();
    ++trip.visits;
  }
  ::_exit(0);
}

// From here to there, three times, and back.
Trip there_and_back() {
  void* shared = ::mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) net::throw_errno("mmap");
  auto* memory = new (shared) Memory{};
  prepare(*memory);
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) travel(memory->trip);
  int status = 0;
  net::check(::waitpid(child, &status, 0), "waitpid");
  Trip trip = memory->trip;
  trip.status = status;
  ::munmap(shared, sizeof(Memory));
  return trip;
}

std::string hex(std::uint64_t number) {
  std::ostringstream text;
  text << std::hex << "0x" << number;
  return text.str();
}

// The registers that a test case is about, by their places in register_names.
struct Places {
  std::size_t first;
  std::size_t count;
};
#if defined(__x86_64__)
constexpr Places of_rbx{0, 1}, of_rbp{1, 1};
constexpr Places of_r12{2, 1}, of_r13{3, 1}, of_r14{4, 1}, of_r15{5, 1};
#elif defined(__aarch64__)
constexpr Places of_rbx{0, 4}, of_rbp{10, 1};
constexpr Places of_r12{4, 2}, of_r13{6, 2}, of_r14{8, 2}, of_r15{11, 8};
#endif

// Those in which a side has not found what it had put in, a line each.
std::string lost(const char* name, const Side& side, Places places) {
  std::string text;
  for (std::size_t i = places.first; i < places.first + places.count; ++i) {
    if (side.found[i] == side.put[i]) continue;
    text += std::string("\n  ") + register_names[i] + " " + name + ": put in " +
            hex(side.put[i]) + ", found " + hex(side.found[i]);
  }
  return text;
}

// Not that of a program that has died: it may have found nothing yet.
bool are_kept(const Trip& trip, Places places) {
  return trip.visits > 0 && lost("", trip.here, places).empty() &&
         lost("", trip.there, places).empty();
}

std::string report(const Trip& trip, Places places = {0, 0}) {
  if (trip.visits == 3) {
    return lost("here", trip.here, places) + lost("there", trip.there, places);
  }
  const std::string end =
      WIFSIGNALED(trip.status) ? ::strsignal(WTERMSIG(trip.status)) : "exit";
  return "after " + std::to_string(trip.visits) +
         " of 3 visits the process ended: " + end;
}

}  // namespace

TEST_CASE("a new stack starts") {
  const Trip trip = there_and_back();
  INFO(report(trip));
  CHECK_MESSAGE(trip.there.sp_on_arrival != 0,
                "the first switch arrives: has SavedFrame a word for each "
                "push?");
  CHECK_MESSAGE(trip.there.sp_on_arrival == trip.top_of_there,
                "nothing of the frame is left on the new stack");
}

TEST_CASE("who stops is noted") {
  const Trip trip = there_and_back();
  INFO(report(trip));
  const std::uint64_t end = trip.here.sp_before;
  const auto noted = reinterpret_cast<std::uint64_t>(trip.here.stopped);
  CHECK_MESSAGE((noted <= end && noted > end - 4096),
                "*from points into the stack that stops");
}

TEST_CASE("who has stopped goes on") {
  const Trip trip = there_and_back();
  INFO(report(trip));
  CHECK_MESSAGE(trip.visits == 3, "the call returns when somebody comes back");
}

TEST_CASE("the caller's part of the stack is the caller's") {
  const Trip trip = there_and_back();
  INFO(report(trip));
  CHECK_MESSAGE(trip.here.intact == words_in_frame,
                "what the caller has on its stack is still there");
}

TEST_CASE("rbx is kept (AArch64: x19 to x22)") {
  const Trip trip = there_and_back();
  INFO(report(trip, of_rbx));
  CHECK_MESSAGE(are_kept(trip, of_rbx),
                "rbx is what it was (AArch64: x19 to x22)");
}

TEST_CASE("rbp is kept (AArch64: x29)") {
  const Trip trip = there_and_back();
  INFO(report(trip, of_rbp));
  CHECK_MESSAGE(are_kept(trip, of_rbp), "rbp is what it was (AArch64: x29)");
}

TEST_CASE("r12 is kept (AArch64: x23 and x24)") {
  const Trip trip = there_and_back();
  INFO(report(trip, of_r12));
  CHECK_MESSAGE(are_kept(trip, of_r12),
                "r12 is what it was (AArch64: x23 and x24)");
}

TEST_CASE("r13 is kept (AArch64: x25 and x26)") {
  const Trip trip = there_and_back();
  INFO(report(trip, of_r13));
  CHECK_MESSAGE(are_kept(trip, of_r13),
                "r13 is what it was (AArch64: x25 and x26)");
}

TEST_CASE("r14 is kept (AArch64: x27 and x28)") {
  const Trip trip = there_and_back();
  INFO(report(trip, of_r14));
  CHECK_MESSAGE(are_kept(trip, of_r14),
                "r14 is what it was (AArch64: x27 and x28)");
}

TEST_CASE("r15 is kept (AArch64: d8 to d15)") {
  const Trip trip = there_and_back();
  INFO(report(trip, of_r15));
  CHECK_MESSAGE(are_kept(trip, of_r15),
                "r15 is what it was (AArch64: d8 to d15)");
}
