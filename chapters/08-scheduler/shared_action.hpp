#pragma once

#include <signal.h>

#include <mutex>

#include "common/error.hpp"

namespace rt {

// What a signal does while at least one of these lives, on whatever thread. An
// action is the process's: the first sets it, and the last puts back what was.
template <int number>
class SharedAction {
 public:
  // Throws std::system_error.
  explicit SharedAction(const struct sigaction& wanted) {
    const std::lock_guard lock(mutex_);
    if (alive_ == 0) {
      net::check(::sigaction(number, &wanted, &old_), "sigaction");
    }
    ++alive_;
  }
  SharedAction(const SharedAction&) = delete;
  SharedAction& operator=(const SharedAction&) = delete;
  ~SharedAction() {
    const std::lock_guard lock(mutex_);
    if (--alive_ == 0) ::sigaction(number, &old_, nullptr);
  }

 private:
  static inline std::mutex mutex_;
  static inline int alive_ = 0;
  static inline struct sigaction old_ {};
};

}  // namespace rt
