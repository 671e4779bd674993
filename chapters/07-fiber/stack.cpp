#include "chapters/07-fiber/stack.hpp"

#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "chapters/07-fiber/sanitizers.hpp"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102  // include/uapi/asm-generic/mman-common.h
#endif

namespace rt {
namespace {

// A frame larger than the guard can step over it without touching it. The one
// above is a page. (64 KiB is the largest page there is on our machines.)
constexpr std::size_t guard_below = 65'536;

// So many give-backs are one period: who was not needed in it, is cold.
constexpr int gives_a_trim = 1024;

constexpr std::size_t colours = 16;
constexpr std::size_t colour_step = 128;

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// MAP_STACK: no huge pages (Linux 6.7), or one stack would bring in 2 MiB.
std::byte* map(std::size_t size) {
  void* memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

bool protect(Guard guard, std::byte* place, std::size_t size) {
  return (guard == Guard::Install ? ::madvise(place, size, MADV_GUARD_INSTALL)
                                  : ::mprotect(place, size, PROT_NONE)) == 0;
}

// Most often it is this limit, and the error alone does not say so.
std::string map_limit() {
  std::string most = "unknown";
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  return "vm.max_map_count is " + most;
}

std::string address_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
    return map_limit();
  }
  return "RLIMIT_AS is " + std::to_string(limit.rlim_cur);
}

[[noreturn]] void fail(const std::string& call, std::size_t number,
                       const std::string& limit) {
  const int error = errno;
  throw std::system_error(
      error, std::system_category(),
      call + " for stack " + std::to_string(number) + " (" + limit + ')');
}

}  // namespace

// Advice may be ignored (qemu-user says 0 to any), so whether the page can
// still be written is asked as well: by the kernel, which does not fault.
Guard best_guard() {
  static const Guard best = [] {
    std::byte* page = map(page_size());
    if (page == nullptr) return Guard::Protect;
    const bool works = ::madvise(page, page_size(), MADV_GUARD_INSTALL) == 0 &&
                       ::getrandom(page, 1, 0) < 0 && errno == EFAULT;
    ::munmap(page, page_size());
    return works ? Guard::Install : Guard::Protect;
  }();
  return best;
}

bool Stack::holds(const void* address) const {
  const auto* place = static_cast<const std::byte*>(address);
  return place >= low && place < low + size;
}

bool Stack::guards(const void* address) const {
  const auto* place = static_cast<const std::byte*>(address);
  return place >= low - guard_below && place < low + size + page_size() &&
         !holds(address);
}

StackPool::StackPool(std::size_t size, Guard guard)
    : size_((size + page_size() - 1) / page_size() * page_size()),
      guard_(guard) {
  if (size_ == 0 || mapped() < size_) {  // either may have overflowed
    throw std::invalid_argument("a stack of no size");
  }
}

std::size_t StackPool::mapped() const {
  return guard_below + size_ + page_size();
}

StackPool::~StackPool() {
  for (Stack& stack : stacks_) {
    destroy_tsan_fiber(stack.tsan_fiber);
    ::munmap(stack.low - guard_below, mapped());
  }
}

Stack& StackPool::take() {
  if (free_.empty()) free_.push_back(&make());
  Stack& stack = *free_.back();
  free_.pop_back();
  cold_ = std::min(cold_, free_.size());
  idle_ = std::min(idle_, free_.size());
  stack.taken = true;
  unpoison(stack.low, stack.size);  // of the frames of the last user
  return stack;
}

Stack& StackPool::make() {
  const std::size_t number = stacks_.size() + 1;
  // So that give cannot fail: there is room for all of them.
  if (free_.capacity() < number) free_.reserve(2 * number);
  std::byte* memory = map(mapped());
  if (memory == nullptr) fail("mmap", number, address_limit());
  std::byte* low = memory + guard_below;
  if (!protect(guard_, memory, guard_below) ||
      !protect(guard_, low + size_, page_size())) {
    const int error = errno;
    ::munmap(memory, mapped());
    errno = error;
    fail(guard_ == Guard::Install ? "madvise" : "mprotect", number,
         map_limit());
  }
  return stacks_.emplace_back(Stack{low, size_, number % colours * colour_step,
                                    false, create_tsan_fiber()});
}

void StackPool::give(Stack& stack) {
  if (!stack.taken) throw std::logic_error("a stack was given back twice");
  stack.taken = false;
  free_.push_back(&stack);
  if (++given_ == gives_a_trim) trim();
}

// Age is counted in give-backs and not in time: a process without work must
// not wake up to tidy. What lies so low that it was not needed for a whole
// period goes back to the kernel; never the last one, on which we may stand.
void StackPool::trim() {
  const std::size_t idle = std::min(idle_, free_.size() - 1);
  for (std::size_t i = cold_; i < idle; ++i) {
    ::madvise(free_[i]->low, free_[i]->size, MADV_DONTNEED);
  }
  cold_ = std::max(cold_, idle);
  idle_ = free_.size();
  given_ = 0;
}

}  // namespace rt
