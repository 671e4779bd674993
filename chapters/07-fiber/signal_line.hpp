#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rt {

// A line on standard error, written when it goes out of scope. For signal
// handlers: they may have interrupted malloc or printf, so nothing here
// allocates or locks. What is beyond 200 bytes is cut.
class SignalLine {
 public:
  SignalLine() = default;
  SignalLine(const SignalLine&) = delete;
  SignalLine& operator=(const SignalLine&) = delete;
  ~SignalLine() {
    text_[size_] = '\n';
    if (::write(STDERR_FILENO, text_.data(), size_ + 1) < 0) return;
  }

  SignalLine& operator<<(std::string_view text) {
    const std::size_t n = std::min(text.size(), text_.size() - 1 - size_);
    std::copy_n(text.begin(), n, text_.begin() + size_);
    size_ += n;
    return *this;
  }

  SignalLine& operator<<(std::uint64_t number) { return put(number, 10); }

  SignalLine& operator<<(const std::byte* address) {
    return (*this << "0x").put(reinterpret_cast<std::uintptr_t>(address), 16);
  }

 private:
  SignalLine& put(std::uint64_t number, int base) {
    std::array<char, 20> digits;
    const auto end =
        std::to_chars(digits.begin(), digits.end(), number, base).ptr;
    return *this << std::string_view(digits.begin(), end);
  }

  std::array<char, 200> text_;
  std::size_t size_ = 0;
};

}  // namespace rt
