#pragma once

#include <sys/types.h>

#include <string>

namespace testing {

// Where each thread of a process is, from procfs: one line for each, ended by
// a newline, such as
//
//   thread 4711 asleep in recvfrom on descriptor 5 (socket:[1234],
//   127.0.0.1:80 <-> 127.0.0.1:99)
//
// (without the line break), "thread 4711 running", or why procfs does not say.
// Never throws.
std::string whereabouts(pid_t process) noexcept;

}  // namespace testing
