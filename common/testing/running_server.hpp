#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>

#include "common/fd.hpp"
#include "common/socket.hpp"

namespace testing {

// A server function running beside a test, in a forked child: as a thread it
// would share descriptor numbers, limits and memory with its clients.
//
// The child's descriptors are 0, 1, 2 and the listener, 3. A handler that does
// nothing stands behind SIGUSR1, without SA_RESTART, so that a test can make
// calls fail with EINTR. The child dies with the test.
class RunningServer {
 public:
  struct Exit {
    bool ended;  // before the limit had passed
    bool clean;  // returned, and left no descriptor and no memory behind
    std::chrono::nanoseconds cpu;  // user and system time of its whole life
  };

  explicit RunningServer(const std::function<void(net::Fd)>& serve,
                         const char* host = "127.0.0.1");
  RunningServer(const RunningServer&) = delete;
  RunningServer& operator=(const RunningServer&) = delete;

  // Stops it, if need be, and fails the test case unless its exit is clean.
  ~RunningServer();

  const net::Address& address() const { return address_; }
  pid_t pid() const { return process_; }

  // Lowers or raises its soft limit of descriptors (setrlimit(2): one more
  // than the highest number it may open).
  void limit_descriptors(std::uint64_t limit) const;

  // Sends it a signal. Throws std::system_error.
  void signal(int number) const;

  // Shuts the listener down and waits for the child to end. Fails the test
  // case unless the exit is clean; kills a child that has not ended when the
  // limit has passed, and says where it hung.
  Exit stop(std::chrono::milliseconds limit = std::chrono::seconds(20));

 private:
  net::Fd listener_;
  net::Address address_;
  pid_t process_ = -1;
};

}  // namespace testing
