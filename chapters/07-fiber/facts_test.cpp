// What the kernel and the ABI say of a stack of one's own, one claim a test
// case; the lesson cites them by name.

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cfenv>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/error.hpp"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

// A switch that keeps what a called function must, the registers of the callee,
// and nothing else. The first step goes to the function that the forged frame
// holds, without a return address: there the unwinder finds its end. Hidden
// rather than local: not every linker has the address of a local label right.
extern "C" void naive_switch(void** from, void* to);
extern "C" void naive_first_step();
#if defined(__x86_64__)
asm(R"(
.pushsection .text
.globl naive_switch
.hidden naive_switch
naive_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.globl naive_first_step
.hidden naive_first_step
naive_first_step:
  push $0
  jmp *%rbx
.popsection
)");
constexpr std::size_t frame_words = 7;
constexpr std::size_t function_word = 4;
constexpr std::size_t return_word = 6;
#elif defined(__aarch64__)
asm(R"(
.pushsection .text
.globl naive_switch
.hidden naive_switch
naive_switch:
  stp x19, x20, [sp, #-160]!; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]; stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]
  ldp x25, x26, [sp, #48]; ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]
  ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]; ldp x19, x20, [sp], #160
  ret
.globl naive_first_step
.hidden naive_first_step
naive_first_step:
  mov x30, xzr
  mov x16, x19
  br x16
.popsection
)");
constexpr std::size_t frame_words = 20;
constexpr std::size_t function_word = 0;
constexpr std::size_t return_word = 11;
#endif

namespace {

std::size_t page_size() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// True from this release on.
bool linux_is(int major, int minor) {
  utsname name{};
  net::check(::uname(&name), "uname");
  std::pair<int, int> release;
  std::sscanf(name.release, "%d.%d", &release.first, &release.second);
  return release >= std::pair(major, minor);
}

// Memory.

// Pages reserved in one mapping, which go away with it.
class Area {
 public:
  explicit Area(std::size_t pages, int flags = MAP_STACK, void* at = nullptr)
      : size_(pages * page_size()) {
    void* memory =
        ::mmap(at, size_, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    if (memory == MAP_FAILED) net::throw_errno("mmap");
    begin_ = static_cast<std::byte*>(memory);
  }
  Area(const Area&) = delete;
  Area& operator=(const Area&) = delete;
  ~Area() { ::munmap(begin_, size_); }

  std::byte* begin() const { return begin_; }
  std::byte* end() const { return begin_ + size_; }
  std::byte* page(std::size_t number) const {
    return begin_ + number * page_size();
  }
  std::size_t size() const { return size_; }

 private:
  std::byte* begin_ = nullptr;
  std::size_t size_;
};

void touch(std::byte* at) { *const_cast<volatile std::byte*>(at) = {}; }

// How many pages from there to the end of the area are in memory.
std::size_t resident(const Area& area, std::size_t from = 0) {
  const std::size_t bytes = area.size() - from * page_size();
  std::vector<unsigned char> pages(bytes / page_size());
  net::check(::mincore(area.page(from), bytes, pages.data()), "mincore");
  return static_cast<std::size_t>(
      std::count_if(pages.begin(), pages.end(),
                    [](unsigned char page) { return (page & 1) != 0; }));
}

// Whether this line of maps or smaps begins a mapping with a part in there.
bool begins_mapping(const std::string& line, const std::byte* begin,
                    const std::byte* end) {
  unsigned long first = 0;
  unsigned long last = 0;
  return std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2 &&
         first < reinterpret_cast<std::uintptr_t>(end) &&
         last > reinterpret_cast<std::uintptr_t>(begin);
}

// How many mappings the kernel keeps for it.
std::size_t mappings(const Area& area) {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (begins_mapping(line, area.begin(), area.end())) ++count;
  }
  return count;
}

// " rd wr mr mw me nr ", of the mapping that the area begins in.
std::string flags_of(const Area& area) {
  const std::string name = "VmFlags:";
  std::ifstream smaps("/proc/self/smaps");
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    ours = ours || begins_mapping(line, area.begin(), area.page(1));
    if (ours && line.starts_with(name)) return line.substr(name.size()) + ' ';
  }
  return {};
}

enum class Guard { install, protect };

// 0, or the error as a negative number.
int guard(Guard how, std::byte* begin, std::size_t size) {
  const int result = how == Guard::install
                         ? ::madvise(begin, size, MADV_GUARD_INSTALL)
                         : ::mprotect(begin, size, PROT_NONE);
  return result < 0 ? -errno : 0;
}

// Processes.

// What a child leaves behind, in memory that it shares with the test.
struct Notes {
  std::byte* fault;  // si_addr
  std::size_t count;
  int error;
};

Notes* const notes = [] {
  void* memory = ::mmap(nullptr, sizeof(Notes), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) net::throw_errno("mmap");
  return static_cast<Notes*>(memory);
}();

// noexcept: a child that throws must not go on as a second test. Nor must the
// handlers that doctest has set.
template <typename Body>
[[noreturn]] void run_and_exit(const Body& body) noexcept {
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT}) {
    std::signal(signal, SIG_DFL);
  }
  ::_exit(body());
}

template <typename Body>
pid_t fork_child(const Body& body) {
  std::fflush(nullptr);
  *notes = {};
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) run_and_exit(body);
  return child;
}

// The function in a child: what it returns, or 128 plus the signal.
template <typename Body>
int status_of(const Body& body) {
  int status = 0;
  net::check(::waitpid(fork_child(body), &status, 0), "waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

constexpr int handled = 42;  // the status of a child whose handler ran

// In a child: SIGSEGV ends it, with a note.
void handle_faults(int flags = 0) {
  struct sigaction action {};
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    notes->fault = static_cast<std::byte*>(info->si_addr);
    ::_exit(handled);
  };
  action.sa_flags = SA_SIGINFO | flags;
  net::check(::sigaction(SIGSEGV, &action, nullptr), "sigaction");
}

// Lends the handlers of this thread a stack, or takes it away: SS_DISABLE.
void lend_signal_stack(int flags = 0) {
  static std::array<char, 65'536> memory;
  const stack_t stack{memory.data(), flags, memory.size()};
  net::check(::sigaltstack(&stack, nullptr), "sigaltstack");
}

// Where the function meets SIGSEGV in a child; null if it does not.
template <typename Body>
std::byte* fault_of(const Body& body) {
  const int status = status_of([&] {
    handle_faults();
    body();
    return 0;
  });
  CHECK((status == 0 || status == handled));
  return notes->fault;
}

// The kinds of guard that there are here; that one is missing is said aloud.
std::vector<Guard> guards() {
  const Area area(1);
  const int result = guard(Guard::install, area.begin(), area.size());
  // An emulator may say yes to an advice that it does not know.
  if (fault_of([&] { touch(area.begin()); }) == area.begin()) {
    return {Guard::install, Guard::protect};
  }
  MESSAGE("no MADV_GUARD_INSTALL here: only guards by mprotect are tried");
  CHECK((result == 0 || result == -EINVAL));
  return {Guard::protect};
}

// The system calls of a child; none where this system lets nobody trace.
struct Calls {
  int all = 0;
  int of_mask = 0;
};

// From the stop of the child to its end.
Calls trace(pid_t child) {
  Calls calls;
  int status = 0;
  net::check(::waitpid(child, &status, 0), "waitpid");
  if (WIFSTOPPED(status)) {
    net::check(::ptrace(PTRACE_SETOPTIONS, child, nullptr,
                        PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL),
               "ptrace");
  }
  while (WIFSTOPPED(status)) {
    __ptrace_syscall_info info{};
    if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
      ::ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof info, &info);
    }
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
      ++calls.all;
      if (info.entry.nr == SYS_rt_sigprocmask) ++calls.of_mask;
    }
    net::check(::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr), "ptrace");
    net::check(::waitpid(child, &status, 0), "waitpid");
  }
  return calls;
}

template <typename Body>
Calls calls_of(const Body& body) {
  return trace(fork_child([&] {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) < 0) return 1;
    ::raise(SIGSTOP);
    body();
    return 0;
  }));
}

// Switches.

// By the naive switch.
class Fiber {
 public:
  Fiber(std::byte* top, std::function<void()> body)
      : body_(std::move(body)),
        sp_(reinterpret_cast<void**>(top) - frame_words) {
    std::fill_n(sp_, frame_words, nullptr);
    sp_[function_word] = reinterpret_cast<void*>(&first_frame);
    sp_[return_word] = reinterpret_cast<void*>(&naive_first_step);
  }

  void resume() {
    running_ = this;
    naive_switch(&resumer_, sp_);
  }
  static void suspend() {
    naive_switch(reinterpret_cast<void**>(&running_->sp_), running_->resumer_);
  }

 private:
  [[noreturn]] static void first_frame() {
    running_->body_();
    for (;;) suspend();
  }

  static inline Fiber* running_ = nullptr;
  std::function<void()> body_;
  void** sp_;
  void* resumer_ = nullptr;
};

// By swapcontext.
class Context {
 public:
  Context(const Area& stack, void (*body)()) {
    net::check(::getcontext(&fiber_), "getcontext");
    fiber_.uc_stack.ss_sp = stack.begin();
    fiber_.uc_stack.ss_size = stack.size();
    ::makecontext(&fiber_, body, 0);
  }

  void resume() {
    running_ = this;
    ::swapcontext(&resumer_, &fiber_);
  }
  static void suspend() {
    ::swapcontext(&running_->fiber_, &running_->resumer_);
  }

 private:
  static inline Context* running_ = nullptr;
  ucontext_t fiber_{};
  ucontext_t resumer_{};
};

// What the fibers do.

// Goes down the stack to that place, in small frames.
[[gnu::noinline]] int go_down(const std::byte* to) {
  const volatile int kept = 0;
  return __builtin_frame_address(0) <= to ? 0 : go_down(to) + kept;
}

// What a compiler makes of it trusts the alignment: movaps, on x86-64.
[[gnu::noinline, gnu::no_sanitize_address, gnu::no_sanitize_thread]] void
use_sixteen_bytes() {
  using Sixteen [[gnu::vector_size(16)]] = float;
  volatile Sixteen local = {1, 2, 3, 4};
  local = local + local;
}

// A frame larger than any guard, of which the far end is used.
constexpr std::size_t large = 256 * 1'024;

#if defined(__clang__)
// It has -fstack-clash-protection for whole files only: by hand, then.
[[gnu::noinline]] void use_large_frame() {
  auto* sp = static_cast<std::byte*>(__builtin_frame_address(0));
  *const_cast<volatile std::byte*>(sp - large) = std::byte{'x'};
}

[[gnu::noinline]] void use_probed_frame() {
  auto* sp = static_cast<std::byte*>(__builtin_frame_address(0));
  for (std::size_t i = 4'096; i <= large; i += 4'096) touch(sp - i);
  *const_cast<volatile std::byte*>(sp - large) = std::byte{'x'};
}
#else
[[gnu::noinline, gnu::no_sanitize_address,
  gnu::optimize("no-stack-clash-protection")]] void
use_large_frame() {
  std::array<volatile std::byte, large> frame;
  frame[0] = std::byte{'x'};
}

[[gnu::noinline, gnu::no_sanitize_address,
  gnu::optimize("stack-clash-protection")]] void
use_probed_frame() {
  std::array<volatile std::byte, large> frame;
  frame[0] = std::byte{'x'};
}
#endif

}  // namespace

// What a stack costs.

TEST_CASE("a stack costs the pages it touches, not those it reserves") {
  const Area stack(16'384);
  CHECK(resident(stack) == 0);
  Fiber fiber(stack.end(), [&] {
    Fiber::suspend();
    go_down(stack.page(16'284));
  });
  fiber.resume();
  CHECK(resident(stack) > 0);
  CHECK(resident(stack) < 5);
  fiber.resume();
  // They stay, though the frames are gone.
  CHECK(resident(stack) >= 100);
  CHECK(resident(stack) < 105);
}

TEST_CASE("MAP_STACK asks the kernel for no huge pages") {
  const Area plain(100, 0);
  const Area stack(100, MAP_STACK);
  const bool heard = linux_is(6, 7) &&
                     ::access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0;
  if (!heard) MESSAGE("MAP_STACK means nothing to this kernel");
  REQUIRE(flags_of(plain).find(" rd ") != std::string::npos);
  CHECK(flags_of(plain).find(" nh ") == std::string::npos);
  CHECK((flags_of(stack).find(" nh ") != std::string::npos) == heard);
}

TEST_CASE("MAP_GROWSDOWN stops at its neighbour, so its size is luck") {
  const auto grown = [](std::size_t distance) {
    const std::byte* fault = fault_of([&] {
      std::byte* top = Area(2'000).page(1'500);  // there is room from now on
      const Area stack(1, MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, top);
      const Area neighbour(1, MAP_FIXED_NOREPLACE,
                           top - distance * page_size());
      for (std::byte* at = top; at > neighbour.begin(); at -= page_size()) {
        touch(at);
        ++notes->count;
      }
    });
    CHECK(fault != nullptr);
    return notes->count;
  };
  const std::size_t near = grown(512);
  CHECK(near < 512);  // stack_guard_gap stays free, 256 pages as a rule
  CHECK(grown(768) == near + 256);
}

// Guards.

TEST_CASE("a guard by MADV_GUARD_INSTALL is no mapping of its own") {
  const Area stacks(1'000);
  const int expected = linux_is(6, 13) ? 0 : -EINVAL;
  if (expected != 0) MESSAGE("no MADV_GUARD_INSTALL in this kernel: EINVAL");
  for (std::size_t i = 0; i < 100; ++i) {
    std::byte* const begin = stacks.page(10 * i);
    REQUIRE(guard(Guard::install, begin, page_size()) == expected);
  }
  CHECK(mappings(stacks) == 1);
}

TEST_CASE("a guard by mprotect makes two mappings more for each stack") {
  const Area stacks(1'000);
  CHECK(mappings(stacks) == 1);
  for (std::size_t i = 0; i < 100; ++i) {
    REQUIRE(guard(Guard::protect, stacks.page(10 * i), page_size()) == 0);
    REQUIRE(mappings(stacks) == 2 * (i + 1));
  }
}

TEST_CASE("guards by mprotect end at vm.max_map_count: ENOMEM") {
  std::size_t limit = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  REQUIRE(limit > 0);
  constexpr std::size_t most = 300'000;
  const std::size_t tries = std::min(limit, most) / 2 + 1;
  const Area stacks(2 * tries);
  const int status = status_of([&] {
    for (std::size_t& i = notes->count; i < tries; ++i) {
      notes->error = guard(Guard::protect, stacks.page(2 * i), page_size());
      if (notes->error != 0) break;
    }
    return 0;
  });
  CHECK(status == 0);
  if (limit > most) {
    MESSAGE("too many mappings to come to an end here: " << limit);
    CHECK(notes->count == tries);
    return;
  }
  CHECK(notes->error == -ENOMEM);
  CHECK(2 * notes->count < limit);
  CHECK(2 * notes->count > limit - 1'000);  // this program has some of its own
}

TEST_CASE("touching a guard is SIGSEGV and si_addr names the place") {
  for (const Guard how : guards()) {
    const Area stack(10);
    REQUIRE(guard(how, stack.begin(), page_size()) == 0);
    for (std::byte* place :
         {stack.begin(), stack.begin() + 1'234, stack.page(1) - 1}) {
      CHECK(fault_of([&] { touch(place); }) == place);
    }
    CHECK(fault_of([&] { touch(stack.page(1)); }) == nullptr);
  }
}

TEST_CASE("MADV_DONTNEED gives the pages back and leaves the guard") {
  for (const Guard how : guards()) {
    const Area stack(10);
    REQUIRE(guard(how, stack.begin(), page_size()) == 0);
    std::fill(stack.page(1), stack.end(), std::byte{'x'});
    CHECK(resident(stack, 1) == 9);
    CHECK(::madvise(stack.begin(), stack.size(), MADV_DONTNEED) == 0);
    CHECK(resident(stack, 1) == 0);
    std::byte* const last = stack.page(1) - 1;
    CHECK(fault_of([&] { touch(last); }) == last);
    CHECK(*stack.page(1) == std::byte{0});
  }
}

TEST_CASE(
    "a stack that is used up kills without a word unless the handler has a "
    "stack of its own") {
  const Area stack(16);
  REQUIRE(guard(guards().front(), stack.begin(), page_size()) == 0);
  const auto overflow = [&](int handler_flags, int signal_stack) {
    return status_of([&] {
      lend_signal_stack(signal_stack);
      handle_faults(handler_flags);
      Fiber(stack.end(), [] { go_down(nullptr); }).resume();
      return 0;
    });
  };
  // The kernel would write the handler's frame where there is no room.
  CHECK(overflow(0, 0) == 128 + SIGSEGV);
  CHECK(overflow(SA_ONSTACK, SS_DISABLE) == 128 + SIGSEGV);
  CHECK(overflow(SA_ONSTACK, 0) == handled);
  CHECK(notes->fault >= stack.begin());
  CHECK(notes->fault < stack.page(1));
}

TEST_CASE(
    "a frame larger than the guard steps over it, unless the compiler probes") {
  // GCC probes at every 4 KiB on x86-64, at every 64 KiB on AArch64.
  constexpr std::size_t guard_size = 64 * 1'024;
  const Area area((large + 2 * guard_size) / page_size());
  std::byte* const stack = area.end() - guard_size;
  std::byte* const neighbours_end = stack - guard_size;
  REQUIRE(guard(guards().front(), neighbours_end, guard_size) == 0);
  Fiber(area.end(), use_large_frame).resume();
  CHECK(std::find(area.begin(), neighbours_end, std::byte{'x'}) !=
        neighbours_end);

  const int status = status_of([&] {
    lend_signal_stack();
    handle_faults(SA_ONSTACK);
    Fiber(area.end(), use_probed_frame).resume();
    return 0;
  });
  CHECK(status == handled);
  CHECK(notes->fault >= neighbours_end);
  CHECK(notes->fault < stack);
}

// What is the thread's and not the stack's.

TEST_CASE(
    "swapcontext makes a system call for the signal mask, a switch of our own "
    "none") {
  const Area stack(64);
  const auto by_context = [&](int rounds) {
    return calls_of([&] {
      Context fiber(stack, [] {
        for (;;) Context::suspend();
      });
      for (int i = 0; i < rounds; ++i) fiber.resume();
    });
  };
  const auto by_ours = [&](int rounds) {
    return calls_of([&] {
      Fiber fiber(stack.end(), [] {});
      for (int i = 0; i < rounds; ++i) fiber.resume();
    });
  };
  const Calls one = by_context(1);  // a sanitizer has its say at the first
  if (one.all == 0) {
    MESSAGE("this system does not let us count calls");
    return;
  }
  const Calls many = by_context(101);
  CHECK(many.of_mask == one.of_mask + 200);
  CHECK(many.all == one.all + 200);
  CHECK(by_ours(101).all == by_ours(1).all);
}

TEST_CASE(
    "the rounding mode is the thread's: a switch that leaves it hands it on") {
  const Area stack(64);
  REQUIRE(std::fegetround() == FE_TONEAREST);
  Context(stack, [] {
    std::fesetround(FE_UPWARD);
    Context::suspend();
  }).resume();
  CHECK(std::fegetround() == FE_TONEAREST);  // swapcontext does not leave it
  Fiber(stack.end(), [] { std::fesetround(FE_UPWARD); }).resume();
  CHECK(std::fegetround() == FE_UPWARD);
  std::fesetround(FE_TONEAREST);
}

TEST_CASE(
    "the caught exceptions are the thread's: a switch within catch mixes them "
    "up") {
  const Area stack(64);
  const int rethrown = status_of([&] {
    Fiber fiber(stack.end(), [] {
      try {
        throw 'B';
      } catch (char) {
        Fiber::suspend();
      }
    });
    try {
      try {
        throw 'A';
      } catch (char) {
        fiber.resume();
        throw;
      }
    } catch (char which) {
      return static_cast<int>(which);
    }
  });
  CHECK(rethrown == 'B');
}

TEST_CASE("the count of uncaught exceptions is the thread's too") {
  const Area stack(64);
  int seen = -1;
  Fiber fiber(stack.end(), [&] {
    for (;; Fiber::suspend()) seen = std::uncaught_exceptions();
  });
  fiber.resume();
  CHECK(seen == 0);
  struct Resumes {
    Fiber& fiber;
    ~Resumes() { fiber.resume(); }
  };
  try {
    const Resumes during_the_throw{fiber};
    throw 'A';
  } catch (char) {
  }
  CHECK(seen == 1);
}

TEST_CASE(
    "an exception does not pass the first frame of a stack: std::terminate") {
  const Area stack(64);
  const int status = status_of([&] {
    std::set_terminate([] { ::_exit(handled); });
    try {
      Fiber(stack.end(), [] { throw 'A'; }).resume();
    } catch (char) {
      return 1;
    }
    return 0;
  });
  CHECK(status == handled);
}

TEST_CASE("errno is the thread's: another fiber's failing call changes it") {
  const Area stack(64);
  Fiber fiber(stack.end(), [] { ::close(-1); });
  errno = 0;
  fiber.resume();
  CHECK(errno == EBADF);
}

TEST_CASE("the stack is 16-byte aligned at a call, and code relies on it") {
  const Area stack(64);
  const auto run = [&](std::size_t off) {
    return status_of([&] {
      Fiber(stack.end() - off, use_sixteen_bytes).resume();
      return 0;
    });
  };
  CHECK(run(0) == 0);
  CHECK(run(16) == 0);
  const int misaligned = run(8);
#if defined(__x86_64__)
  CHECK(misaligned == 128 + SIGSEGV);
#else
  // There the processor looks at sp itself; an emulator may not.
  if (misaligned == 0) MESSAGE("nobody checks the stack pointer here");
  CHECK((misaligned == 128 + SIGBUS || misaligned == 0));
#endif
}
