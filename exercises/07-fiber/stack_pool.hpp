// Write: a pool of stacks, which cost memory only while they need it.

#pragma once

#include <cstddef>

#include "common/testing/todo.hpp"

// So many bytes below each stack belong to nobody: to touch one is SIGSEGV.
inline constexpr std::size_t guard_size = 65'536;

// Memory for one stack. It grows from top() down to `low`.
struct Stack {
  std::byte* low = nullptr;  // the lowest byte that may be used
  std::size_t size = 0;

  std::byte* top() const { return low + size; }
};

// Makes stacks with mmap and keeps them for the next one who needs one. Not for
// use by several threads.
class StackPool {
 public:
  // size: usable bytes of each stack, a multiple of the page size.
  explicit StackPool(std::size_t size) { TODO("remember the size"); }
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  // All that was mapped is unmapped, the guards too. No stack may be out.
  ~StackPool() {}

  // The free stack that was given last, as it is: no system call is made. Else
  // a new one, whose pages come when they are touched. Throws
  // std::system_error with the error and the name of the call that has failed,
  // and then nothing is left mapped of what this take has mapped.
  Stack take() { TODO("a free one, or mmap and a guard"); }

  // Keeps it for the next take. Its memory is neither touched nor returned: the
  // caller may stand on it. Throws std::logic_error if it is not out: given
  // already, or not of this pool.
  void give(const Stack& stack) { TODO("keep it, if it is out"); }

  // To be called once in a period. Of those that have been free ever since the
  // last call the memory goes back to the kernel, at once; their addresses stay
  // with the pool. All others keep what they have.
  void trim() { TODO("return what was not needed"); }
};
