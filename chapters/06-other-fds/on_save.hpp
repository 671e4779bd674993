#pragma once

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include "chapters/06-other-fds/command.hpp"
#include "chapters/06-other-fds/file_watch.hpp"
#include "chapters/06-other-fds/signals.hpp"
#include "common/fd.hpp"

// Runs a command whenever one of the files is saved.
class OnSave {
 public:
  // A timeout of 0: none.
  OnSave(std::string command, const std::vector<std::string>& files,
         std::chrono::milliseconds timeout);

  // Until a signal ends it: returns its number. Nothing is left running then.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  int loop();
  int wait();
  void watch(int fd);
  void set_timer(std::chrono::nanoseconds time);
  void files_changed();
  void settle();
  void time_is_up();
  void start();
  void command_ended();
  void signalled();
  std::string how(const siginfo_t& end) const;
  void say(const std::string& text) const;

  std::string text_;
  std::chrono::milliseconds timeout_;
  Signals signals_;  // first, so that none is lost
  FileWatch files_;
  Command command_;
  net::Fd timer_;
  net::Fd epoll_;
  Clock::time_point first_save_;  // of those that the next run is for
  Clock::time_point began_;       // the run
  bool again_ = false;            // saved, and no run has begun since
  bool late_ = false;             // the run had not ended at its deadline
  int ending_ = 0;                // the signal, once it has come
};
