#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "common/error.hpp"

namespace {

long mapped = 0;  // bytes
int calls = 0;    // of the four functions below

// The how-manyth of the next calls fails; 0: none. And the one that did.
int to_fail = 0;
std::string failed;

bool fails(const char* name) {
  ++calls;
  if (to_fail == 0 || --to_fail > 0) return false;
  failed = name;
  errno = ENOMEM;
  return true;
}

void* map(void* place, std::size_t size, int protection, int flags, int fd,
          off_t offset) {
  const long address =
      ::syscall(SYS_mmap, place, size, protection, flags, fd, offset);
  return address == -1 ? MAP_FAILED : reinterpret_cast<void*>(address);
}

// The middle of a larger piece, which is shared: so nothing private will be
// joined to it, and get the huge pages of a large piece.
void* between(std::size_t size) {
  constexpr std::size_t margin = 131'072;
  void* all = map(nullptr, size + 2 * margin, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return all == MAP_FAILED ? nullptr : static_cast<std::byte*>(all) + margin;
}

}  // namespace

// The header below calls these in place of libc's.

// Maps it between two pieces that can be written: who steps out of it, over a
// guard that is not there, is not stopped by chance.
inline void* tried_mmap(void* place, std::size_t size, int protection,
                        int flags, int fd, off_t offset) {
  if (fails("mmap")) return MAP_FAILED;
  if (place == nullptr && (place = between(size)) != nullptr) {
    flags |= MAP_FIXED;
    mapped += static_cast<long>(size);
  }
  return map(place, size, protection, flags, fd, offset);
}

inline int tried_mprotect(void* place, std::size_t size, int protection) {
  if (fails("mprotect")) return -1;
  return static_cast<int>(::syscall(SYS_mprotect, place, size, protection));
}

inline int tried_madvise(void* place, std::size_t size, int advice) {
  if (fails("madvise")) return -1;
  return static_cast<int>(::syscall(SYS_madvise, place, size, advice));
}

// It may set errno also where it works, and here it does.
inline int tried_munmap(void* place, std::size_t size) {
  ++calls;
  const long result = ::syscall(SYS_munmap, place, size);
  if (result == 0) mapped -= static_cast<long>(size);
  errno = EINVAL;
  return static_cast<int>(result);
}

// Not by taking the names of libc's functions, as other tests do: sanitizers
// map memory by these names before anything of a program may run.
#define mmap tried_mmap
#define mprotect tried_mprotect
#define madvise tried_madvise
#define munmap tried_munmap

// Angle brackets: quotes would find the file beside this one first, also when
// the solution is to be tested.
#include <stack_pool.hpp>

namespace {

const auto page_size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
const std::size_t stack_size = 16 * page_size;

// Whether this byte can be written: asked of a child, which may die of it.
bool can_write(std::byte* byte) {
  const pid_t child = net::check(::fork(), "fork");
  if (child == 0) {
    const rlimit no_core{};
    ::setrlimit(RLIMIT_CORE, &no_core);
    ::signal(SIGSEGV, SIG_DFL);
    *static_cast<volatile std::byte*>(byte) = std::byte{1};
    ::_exit(0);
  }
  int status = 0;
  net::check(::waitpid(child, &status, 0), "waitpid");
  return status == 0;
}

// From the lowest byte to the highest one.
bool can_be_used(const Stack& stack) {
  return can_write(stack.low) && can_write(stack.top() - 1);
}

// Its highest pages, as a program does that runs on it.
void use(const Stack& stack, std::size_t pages) {
  for (std::size_t i = 1; i <= pages; ++i) {
    *static_cast<volatile std::byte*>(stack.top() - i * page_size) =
        std::byte{1};
  }
}

// Pages of it that are in memory.
long resident(const Stack& stack) {
  std::vector<unsigned char> pages(stack.size / page_size);
  if (::mincore(stack.low, stack.size, pages.data()) < 0) return -1;
  return std::count_if(pages.begin(), pages.end(),
                       [](unsigned char page) { return (page & 1) != 0; });
}

bool is_refused(StackPool& pool, const Stack& stack) {
  try {
    pool.give(stack);
  } catch (const std::logic_error&) {
    return true;
  }
  return false;
}

// What was wrong with takes of which one call has failed.
struct Failures {
  std::string untold;   // neither an exception nor a stack that is in order
  std::string unnamed;  // exceptions without the call and the error
  std::string left;     // bytes that are still mapped
};

// Takes a stack, and the how-manyth call fails.
void take_and_fail(int which, Failures& failures) {
  StackPool pool(stack_size);
  const long before = mapped;
  failed.clear();
  to_fail = which;
  try {
    const Stack stack = pool.take();
    to_fail = 0;
    if (!can_be_used(stack)) failures.untold += failed + ": no stack; ";
    if (can_write(stack.low - 1)) failures.untold += failed + ": no guard; ";
    pool.give(stack);
  } catch (const std::system_error& error) {
    if (error.code().value() != ENOMEM ||
        std::string(error.what()).find(failed) == std::string::npos) {
      failures.unnamed += failed + ": " + error.what() + "; ";
    }
    if (mapped != before) {
      failures.left += failed + ": " + std::to_string(mapped - before) + "; ";
    }
  }
  to_fail = 0;
}

}  // namespace

TEST_CASE("a stack is used up") {
  StackPool pool(stack_size);
  const Stack stack = pool.take();
  CHECK_MESSAGE((can_be_used(stack) && !can_write(stack.low - 1)),
                "all of the stack can be used, and no byte below it");
  CHECK_MESSAGE(!can_write(stack.low - guard_size), "all of the guard is one");
  pool.give(stack);
}

TEST_CASE("a stack is not used") {
  StackPool pool(stack_size);
  const Stack stack = pool.take();
  CHECK_MESSAGE(resident(stack) == 0, "a new stack has no memory");
  pool.give(stack);
}

TEST_CASE("a stack is taken again") {
  StackPool pool(stack_size);
  const Stack one = pool.take();
  const Stack other = pool.take();
  use(one, 3);
  use(other, 3);
  pool.give(one);
  pool.give(other);
  CHECK_MESSAGE(resident(other) == 3, "give leaves the memory as it is");
  const int before = calls;
  const Stack last = pool.take();
  CHECK_MESSAGE(last.low == other.low, "the stack given last is taken first");
  for (int i = 0; i < 1'000; ++i) {
    pool.give(pool.take());
  }
  CHECK_MESSAGE(calls == before, "who takes a free stack makes no call");
  pool.give(last);
}

TEST_CASE("a stack is given twice") {
  StackPool pool(stack_size);
  const Stack one = pool.take();
  const Stack other = pool.take();
  pool.give(one);
  pool.give(other);
  CHECK_MESSAGE(is_refused(pool, one), "a stack that is free is not out");
}

TEST_CASE("a stack is given to another pool") {
  StackPool pool(stack_size);
  StackPool other(stack_size);
  const Stack stack = pool.take();
  CHECK_MESSAGE(is_refused(other, stack), "a stack belongs to one pool");
  pool.give(stack);
}

TEST_CASE("a call fails") {
  Failures failures;
  for (int which = 1; which < 10; ++which) {
    take_and_fail(which, failures);
    if (failed.empty()) break;
  }
  CHECK_MESSAGE(failures.untold == "",
                "who gets a stack gets it with its guard");
  CHECK_MESSAGE(failures.unnamed == "",
                "the exception has the call and its error");
  CHECK_MESSAGE(failures.left == "", "a take that fails leaves nothing mapped");
}

TEST_CASE("stacks are free for a while") {
  StackPool pool(stack_size);
  const Stack idle = pool.take();
  const Stack busy = pool.take();
  use(idle, 5);
  use(busy, 5);
  pool.give(idle);
  pool.give(busy);
  pool.trim();
  pool.give(pool.take());
  pool.trim();
  CHECK_MESSAGE(resident(idle) == 0, "what was free all the time is returned");
  CHECK_MESSAGE(resident(busy) == 5, "what was needed for a moment is not");
  const Stack again = pool.take();
  const Stack trimmed = pool.take();
  CHECK_MESSAGE((trimmed.low == idle.low && can_be_used(trimmed) &&
                 !can_write(trimmed.low - 1)),
                "what was returned can be taken and used again");
  pool.give(trimmed);
  pool.give(again);
}

TEST_CASE("a stack is out for a while") {
  StackPool pool(stack_size);
  const Stack stack = pool.take();
  use(stack, 5);
  for (int i = 0; i < 3; ++i) pool.trim();
  CHECK_MESSAGE(resident(stack) == 5, "who is out keeps its memory");
  pool.give(stack);
}

TEST_CASE("the pool ends") {
  const long before = mapped;
  {
    StackPool pool(stack_size);
    const Stack one = pool.take();
    const Stack other = pool.take();
    pool.give(one);
    pool.give(other);
  }
  CHECK_MESSAGE(mapped == before, "nothing of it is mapped any more");
}
