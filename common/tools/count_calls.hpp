#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "common/fd.hpp"

namespace net {

struct CallCount {
  std::string name;
  std::uint64_t calls;
};

struct SharedCounts;  // the memory shared with the tracing process

// Runs a program and counts its system calls by name, those of its threads and
// of the processes it starts included (ptrace(2), so no privilege is needed;
// the exec that starts it is not counted). The counting is done by a process
// of its own, since ptrace ties a tracee to the thread that traces it; the
// counts lie in memory shared with it. The program gets a session of its own,
// so Ctrl-C does not reach it: pass that on with signal().
//
// The program dies with the CallCounter and with the thread that made it.
class CallCounter {
 public:
  enum class From { start, listening };
  enum class Output { inherited, captured };

  // From::listening: counting starts once a write to standard output that
  // begins with "listening on" has been made.
  // Output::captured: its standard output comes through read_line().
  // Throws std::system_error, "exec PROGRAM: Reason" if it cannot be run.
  explicit CallCounter(const std::vector<std::string>& command,
                       From from = From::start,
                       Output output = Output::inherited);
  CallCounter(const CallCounter&) = delete;
  CallCounter& operator=(const CallCounter&) = delete;
  ~CallCounter();  // kills whoever is left of it

  // Empty if calls are counted, else the reason: the program then runs
  // without being traced.
  std::string refused() const;

  // The program's process; a stranger may have the number once it has ended.
  pid_t pid() const { return program_; }

  // The next line of a captured output, without its end; empty if none has
  // come within the limit or the output has ended.
  std::string read_line(std::chrono::milliseconds limit);

  // Counting goes on while these run: to count a phase, have the program
  // asleep on both ends of it.
  void reset();
  std::vector<CallCount> counts() const;  // most calls first, then by name

  // False if there is no program left to take it.
  bool signal(int number) const;

  // Becomes readable when the program and all it started have ended.
  int ended_fd() const { return tracer_pidfd_.get(); }

  // Waits for that: the program's exit status, or 128 plus the signal that
  // ended it; -1 if the limit passed before.
  int wait(std::chrono::milliseconds limit) const;

 private:
  void start(const std::vector<std::string>& command, From from, Output output);
  void end();

  SharedCounts& shared_;
  pid_t tracer_ = -1;   // our child, not reaped before end()
  pid_t program_ = -1;  // the tracer's child
  Fd tracer_pidfd_;
  Fd program_pidfd_;
  Fd output_;
  std::string unread_;
};

// A line for each name, with a heading and the sum.
std::string table(const std::vector<CallCount>& counts);

}  // namespace net
