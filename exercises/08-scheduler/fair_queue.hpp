// Repair: a run queue with a fast slot.

#pragma once

#include <deque>
#include <functional>
#include <utility>
#include <vector>

struct Goroutine {
  bool runnable = false;  // it stands in one of two places, see RunQueue
};

// However they wake each other: whoever is first in the queue waits for at most
// 20 turns, and nobody who can always run has over 20 times another's turns.
class RunQueue {
 public:
  // Asks the kernel for those who can go on. With `sleep` it waits for one.
  using Poll = std::function<std::vector<Goroutine*>(bool sleep)>;

  // As long as somebody can run, the kernel is asked after so many turns.
  static constexpr int turns_a_poll = 61;

  explicit RunQueue(Poll poll) : poll_(std::move(poll)) {}

  // To the end of the queue: one that is new, that yields, or that the kernel
  // has something for. Who can run already stays where it is.
  void append(Goroutine& goroutine) {
    if (std::exchange(goroutine.runnable, true)) return;
    queue_.push_back(&goroutine);
  }

  // The running goroutine has something for this one, which runs next, and may
  // answer as fast. Who stood in the slot goes to the end of the queue.
  void ready(Goroutine& goroutine) {
    if (std::exchange(goroutine.runnable, true)) return;
    if (next_ != nullptr) queue_.push_back(next_);
    next_ = &goroutine;
  }

  // Who has the next turn; null if the kernel has nobody either.
  Goroutine* next() {
    Goroutine* next = std::exchange(next_, nullptr);
    if (next == nullptr) {
      if (queue_.empty()) {
        for (Goroutine* reported : poll_(true)) append(*reported);
      }
      if (queue_.empty()) return nullptr;
      next = queue_.front();
      queue_.pop_front();
    }
    next->runnable = false;
    return next;
  }

 private:
  Poll poll_;
  Goroutine* next_ = nullptr;     // the fast slot
  std::deque<Goroutine*> queue_;  // first in, first out
};
