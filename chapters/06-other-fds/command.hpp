#pragma once

#include <sys/types.h>
#include <sys/wait.h>

#include <csignal>
#include <string>

#include "common/fd.hpp"

// A command in a process group of its own, run by /bin/sh. Its end is
// something to wait for. Nothing of the group outlives it, nor this object.
class Command {
 public:
  Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  ~Command();

  // Starts it, with this signal mask or with ours, and standard input empty.
  // Throws std::system_error.
  void start(const std::string& text, const sigset_t* mask = nullptr);

  bool running() const { return leader_ > 0; }

  // Readable once it has ended.
  int fd() const { return pidfd_.get(); }

  // Sends the whole group a signal, if it is still there.
  void send_signal(int number) const;

  // Call it when fd() is readable. Kills what the leader has left behind, and
  // tells how the leader ended (si_code and si_status, waitid(2)).
  siginfo_t reap();

 private:
  pid_t leader_ = -1;  // and the number of its group
  net::Fd pidfd_;
};

// "exit status 3", "killed by SIGSEGV", or "ended" if the kernel did not say.
std::string text_of(const siginfo_t& end);
