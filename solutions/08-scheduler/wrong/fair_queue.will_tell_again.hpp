// Belief: what is not taken now the kernel says again.
// Fails: the kernel has something while two wake each other for ever
// Message: whom the kernel reports runs once

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

  // So often in a row the turn is handed on through the slot: a request, its
  // answer, and one more.
  static constexpr int hand_ons_in_a_row = 3;

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
    vacate();
    next_ = &goroutine;
  }

  // Who has the next turn; null if the kernel has nobody either.
  Goroutine* next() {
    const bool idle = next_ == nullptr && queue_.empty();
    const bool due = ++turns_ >= turns_a_poll;
    if (due) poll_(false);
    if (due) turns_ = 0;
    if (idle) ask(true);
    if (hand_ons_ >= hand_ons_in_a_row) vacate();
    Goroutine* next = std::exchange(next_, nullptr);
    ++hand_ons_;
    if (next == nullptr) {
      if (queue_.empty()) return nullptr;
      next = queue_.front();
      queue_.pop_front();
      // What it begins now is a conversation of its own.
      hand_ons_ = 0;
    }
    next->runnable = false;
    return next;
  }

 private:
  void ask(bool sleep) {
    turns_ = 0;
    for (Goroutine* goroutine : poll_(sleep)) append(*goroutine);
  }

  void vacate() {
    if (next_ != nullptr) queue_.push_back(std::exchange(next_, nullptr));
  }

  Poll poll_;
  Goroutine* next_ = nullptr;     // the fast slot
  std::deque<Goroutine*> queue_;  // first in, first out
  int hand_ons_ = 0;  // through the slot, since the last from queue_
  int turns_ = 0;     // since the last poll
};
