#pragma once

#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>

namespace net {

// Throws std::system_error for the current errno. what() reads
// "CALL: Reason" or, with an address, "CALL ADDRESS: Reason".
[[noreturn]] inline void throw_errno(const std::string& call,
                                     const std::string& address = {}) {
  const int number = errno;
  throw std::system_error(number, std::system_category(),
                          address.empty() ? call : call + ' ' + address);
}

// Passes on the result of a system call, or throws if it is negative.
template <typename Integer>
Integer check(Integer result, const std::string& call,
              const std::string& address = {}) {
  if (result < 0) throw_errno(call, address);
  return result;
}

// After select, poll or epoll_wait has failed. EINTR: nothing, a round without
// work. What passes, such as ENOMEM: pauses 100 ms, as at once would spin. What
// repeating the call cannot mend: throws as throw_errno does.
inline void rest_or_throw(const std::string& call) {
  switch (errno) {
    case EINTR:
      return;
    case EBADF:
    case EFAULT:
    case EINVAL:
    case EIO:
      throw_errno(call);
    default:
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

// The current errno as a value, for calls whose failure is a result.
inline std::error_code last_error() { return {errno, std::system_category()}; }

// End of stream as an error value of its own, as io.EOF is in Go (io/io.go):
// whoever reads must handle it, and cannot take it for "nothing yet".
class EofCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "stream"; }
  std::string message(int) const override { return "end of stream"; }
};

inline std::error_code eof() {
  static const EofCategory category;
  return {1, category};
}

}  // namespace net
