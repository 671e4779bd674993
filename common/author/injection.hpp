#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/fd.hpp"
#include "common/testing/child_process.hpp"

namespace author {

struct Complaint : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The system does not let strace attach: a container or a security module.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Fault {
  std::string call;   // as the server's source names it, recv as "recvfrom"
  std::string error;  // "ENOMEM"
  std::string when;   // strace's when=: "3+3" is every third call
  // Only calls of this descriptor: what its link in /proc/PID/fd says.
  std::string of{};
};

// strace, attached to a process for as long as this lives.
class Injection {
 public:
  Injection(pid_t process, const Fault& fault);

  // Lets go of the process; returns how many calls were made to fail.
  std::size_t end();

 private:
  std::string log_name() const;

  std::uint64_t switches_;
  net::Fd log_;  // in memory, so that nothing is left behind
  testing::ChildProcess strace_;
};

// What has come of the runs of one server with one call.
struct Tally {
  std::size_t runs = 0;
  std::size_t faults = 0;
  std::size_t visits = 0;
  std::size_t whole = 0;
  std::size_t early = 0;
  std::size_t no_end = 0;  // got everything but the end of the stream
  std::size_t ended = 0;   // runs in which the server ended, as it should
  std::string lie{};       // what one false EAGAIN does
};

}  // namespace author
