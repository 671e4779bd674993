#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace rt {

// How a stack's ends are guarded: touching a guard is SIGSEGV.
enum class Guard {
  Install,  // MADV_GUARD_INSTALL (Linux 6.13): a mark in the page table
  Protect,  // mprotect: two more mappings a stack, and their number is limited
};

// What the kernel we run on has: Install where madvise(2) knows it.
Guard best_guard();

// Memory for one stack. From low to high: a guard, size bytes, a guard. The
// pages are touched lazily: an unused stack costs addresses, not memory.
struct Stack {
  std::byte* low = nullptr;  // the lowest byte that may be used
  std::size_t size = 0;
  std::size_t colour = 0;  // bytes left unused at the top
  bool taken = false;
  void* tsan_fiber = nullptr;  // what ThreadSanitizer knows it by
  int users = 0;               // as far as ThreadSanitizer wants to know

  // Where the first frame goes, aligned to 16 bytes. Stacks begin at different
  // offsets in their pages: with all at the same, the frames of a thousand
  // fibers would compete for a few of the processor's cache sets.
  std::byte* top() const { return low + size - colour; }

  bool holds(const void* address) const;
  bool guards(const void* address) const;
};

// Owns all stacks it has ever handed out: their addresses stay valid, though
// not what they hold. Not for use by several threads.
class StackPool {
 public:
  // size: usable bytes of each stack, rounded up to whole pages. Throws
  // std::invalid_argument if that is 0.
  explicit StackPool(std::size_t size, Guard guard = best_guard());
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  ~StackPool();  // no stack may be in use

  // The one that was given back last, else a new one. Throws std::system_error
  // with the call that failed and the limit that was met.
  Stack& take();

  // Keeps it for the next. Throws std::logic_error if it was not taken. May be
  // called on the very stack: its memory is not touched before the next take.
  void give(Stack& stack);

  std::size_t made() const { return stacks_.size(); }
  std::size_t free() const { return free_.size(); }

  // Free stacks that still hold memory.
  std::size_t warm() const { return free_.size() - cold_; }

 private:
  Stack& make();
  std::size_t mapped() const;
  void trim();

  std::size_t size_;
  Guard guard_;
  std::deque<Stack> stacks_;
  // The last one is taken first. The lowest cold_ hold no memory, and the
  // lowest idle_ were not needed since the last trim.
  std::vector<Stack*> free_;
  std::size_t cold_ = 0;
  std::size_t idle_ = 0;
  int given_ = 0;  // since the last trim
};

}  // namespace rt
