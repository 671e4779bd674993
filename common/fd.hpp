#pragma once

#include <unistd.h>

#include <utility>

namespace net {

// Owns one file descriptor and closes it. Holds -1 when it owns none.
//
// close() is never retried: Linux has released the number even when close
// reports EINTR, and by then it may be somebody else's (close(2), NOTES).
class Fd {
 public:
  Fd() = default;
  explicit Fd(int number) : number_(number) {}
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    Fd old(std::exchange(number_, std::exchange(other.number_, -1)));
    return *this;
  }
  ~Fd() {
    if (number_ >= 0) ::close(number_);
  }

  // The number; still owned here.
  int get() const { return number_; }

  // The number; owned by the caller from now on.
  int release() { return std::exchange(number_, -1); }

  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

}  // namespace net
