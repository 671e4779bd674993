#pragma once

#include <sys/types.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>

#include "common/testing/process.hpp"

namespace testing {

// The beginning of a shell command that leads a process group: it writes the
// number of the group into a file, whole.
inline std::string notes_its_group(const std::string& file) {
  return "echo $$ > " + file + ".new && mv " + file + ".new " + file + "; ";
}

// Waits until such a command has written it. Throws TimedOut.
inline pid_t group_in(const std::string& file) {
  pid_t group = 0;
  wait_until("the command runs",
             [&] { return bool(std::ifstream(file) >> group); });
  return group;
}

// True if the group has no process left, not even one that waits to be reaped.
inline bool is_gone(pid_t group) {
  return ::kill(-group, 0) < 0 && errno == ESRCH;
}

}  // namespace testing
