#pragma once

#include <sys/types.h>

#include <csignal>
#include <string>

#include "common/fd.hpp"

// A shell command that runs beside a loop, in a process group of its own. Its
// end is an event: the pidfd becomes readable.
class Companion {
 public:
  // Starts it: standard input empty, output and errors ours, no signal blocked
  // or ignored. Throws std::system_error.
  explicit Companion(const std::string& command);
  Companion(const Companion&) = delete;
  Companion& operator=(const Companion&) = delete;

  // Kills the whole group and waits for the command's end.
  ~Companion();

  int fd() const { return pidfd_.get(); }

  // Asks the whole group to end. Throws nothing: it may have ended already.
  void terminate() const { signal(SIGTERM); }

  // How it ended, "exit status 0" or "signal 9". Waits for the end, then kills
  // what it left behind in its group.
  std::string reap();

 private:
  void signal(int number) const;

  pid_t process_ = -1;  // the command, and the number of its group
  net::Fd pidfd_;
};
