// Belief: the next user must not find what the last one has left.
// Fails: a stack is taken again
// Message: who takes a free stack makes no call

#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <map>
#include <stdexcept>
#include <system_error>
#include <vector>

// So many bytes below each stack belong to nobody: to touch one is SIGSEGV.
inline constexpr std::size_t guard_size = 65'536;

// Memory for one stack. It grows from top() down to `low`.
struct Stack {
  std::byte* low = nullptr;  // the lowest byte that may be used
  std::size_t size = 0;

  std::byte* top() const { return low + size; }
};

class StackPool {
 public:
  // size: usable bytes of each stack, a multiple of the page size.
  explicit StackPool(std::size_t size) : size_(size) {}
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  ~StackPool() {
    for (const auto& [low, is_out] : stacks_) {
      ::munmap(low - guard_size, guard_size + size_);
    }
  }

  Stack take() {
    if (free_.empty()) free_.push_back(make());
    std::byte* low = free_.back();
    free_.pop_back();
    idle_ = std::min(idle_, free_.size());
    ::madvise(low, size_, MADV_DONTNEED);
    stacks_[low] = true;
    return {low, size_};
  }

  void give(const Stack& stack) {
    const auto found = stacks_.find(stack.low);
    if (found == stacks_.end() || !found->second) {
      throw std::logic_error("this stack is not out");
    }
    found->second = false;
    free_.push_back(stack.low);
  }

  void trim() {
    for (std::size_t i = 0; i < idle_; ++i) {
      ::madvise(free_[i], size_, MADV_DONTNEED);
    }
    idle_ = free_.size();
  }

 private:
  std::byte* make() {
    free_.reserve(stacks_.size() + 1);  // so that give has room for all
    void* memory =
        ::mmap(nullptr, guard_size + size_, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) fail(errno, "mmap");
    if (::mprotect(memory, guard_size, PROT_NONE) < 0) {
      const int error = errno;  // munmap may set another one
      ::munmap(memory, guard_size + size_);
      fail(error, "mprotect");
    }
    std::byte* low = static_cast<std::byte*>(memory) + guard_size;
    stacks_[low] = false;
    return low;
  }

  [[noreturn]] static void fail(int error, const char* call) {
    throw std::system_error(error, std::system_category(), call);
  }

  std::size_t size_;
  std::map<std::byte*, bool> stacks_;  // by low: all; true while it is out
  // The last one is taken first. The lowest idle_ of them have been free since
  // the last trim.
  std::vector<std::byte*> free_;
  std::size_t idle_ = 0;
};
