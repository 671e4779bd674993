#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "common/fd.hpp"
#include "common/socket.hpp"

namespace testing {

// A built program run by a test or a tool, or a function in a copy of the test,
// in a process group of its own, its standard output and error read through
// pipes, standard input empty. The whole group is killed at the end of the
// scope, and the child dies with us.
class ChildProcess {
 public:
  // The first word is the program's path. Throws std::system_error,
  // "execvp PROGRAM: Reason" if it cannot be run.
  explicit ChildProcess(const std::vector<std::string>& command);

  // The function in a forked child: how it dies is nobody's business, so each
  // signal does what it does by default, though doctest or a sanitizer had it.
  // Status 0 when it returns; 1, with what() on standard error, when it throws.
  // It has copies of our descriptors. Its checks would be counted by nobody.
  explicit ChildProcess(const std::function<void()>& body);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  pid_t pid() const { return process_; }

  // Waits for the line "listening on ADDRESS" and returns the address.
  // Throws TimedOut, or std::runtime_error with what the program said instead.
  net::Address wait_until_listening(
      std::chrono::milliseconds limit = std::chrono::seconds(20));

  // Waits until it has said these words on standard error. Throws as above.
  void wait_until_complains(
      const std::string& words,
      std::chrono::milliseconds limit = std::chrono::seconds(20));

  // Waits until the predicate holds of all that it has said on standard error,
  // which is asked again whenever it says more. Throws as above.
  void wait_until_errors(
      const std::string& what,
      const std::function<bool(const std::string& errors)>& hold,
      std::chrono::milliseconds limit = std::chrono::seconds(20));

  // Waits until it ends: its exit status, or 128 plus the signal that ended
  // it. Throws TimedOut.
  int wait(std::chrono::milliseconds limit = std::chrono::seconds(20));

  void signal(int number) const;

  // What it has printed so far.
  const std::string& output() const { return output_; }
  const std::string& errors() const { return errors_; }

 private:
  // Reads what there is, waiting at most so long. False: it has ended and all
  // has been read.
  bool pump(std::chrono::milliseconds limit);

  pid_t process_ = -1;
  int status_ = -1;
  net::Fd out_;
  net::Fd err_;
  net::Fd pidfd_;
  std::string output_;
  std::string errors_;
};

}  // namespace testing
