// on-save: runs a command whenever one of the files is saved.
//
// Four kinds of descriptor tell one thread all it waits for: a file was saved
// (inotify), a time has passed (timerfd), the command has ended (pidfd), the
// user wants no more (signalfd). The thread sleeps in epoll_wait. The price:
// what was one story, "wait for a save, run, wait for the end", is told in
// pieces, one for each descriptor, and flags carry it from piece to piece.

#include "chapters/06-other-fds/on_save.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <utility>

#include "common/error.hpp"
#include "common/options.hpp"

namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// Saves closer together than this are one: an editor writes twice, or saves
// all its files.
constexpr milliseconds settling{50};

// Saves that never pause are run for all the same.
constexpr milliseconds longest_settling{500};

}  // namespace

OnSave::OnSave(std::string command, const std::vector<std::string>& files,
               milliseconds timeout)
    : text_(std::move(command)),
      timeout_(timeout),
      signals_({SIGINT, SIGTERM, SIGHUP, SIGQUIT}),
      files_(files),
      timer_(net::check(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC),
                        "timerfd_create")),
      epoll_(net::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  for (const int fd : {files_.fd(), timer_.get(), signals_.fd()}) watch(fd);
}

int OnSave::run() {
  say("watching " + std::to_string(files_.size()) +
      (files_.size() == 1 ? " file" : " files"));
  try {
    return loop();
  } catch (...) {
    signals_.release();  // whoever tells of it may have to wait for a reader
    throw;
  }
}

int OnSave::loop() {
  while (ending_ == 0 || command_.running()) {
    const int fd = wait();
    if (fd == files_.fd()) {
      files_changed();
    } else if (fd == timer_.get()) {
      time_is_up();
    } else if (fd == command_.fd()) {
      command_ended();
    } else if (fd == signals_.fd()) {
      signalled();
    }
  }
  return ending_;
}

// The only place where the thread sleeps. One event a round: a second one
// could be out of date, its timer set anew, when its turn came.
int OnSave::wait() {
  epoll_event event{};
  while (::epoll_wait(epoll_.get(), &event, 1, -1) < 1) {
    net::rest_or_throw("epoll_wait");
  }
  return event.data.fd;
}

void OnSave::watch(int fd) {
  epoll_event event{EPOLLIN, {.fd = fd}};
  net::check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

// One timer has two meanings, never both at once: before a run the end of the
// pause, in a run the deadline. 0: none. What had passed unseen is forgotten.
void OnSave::set_timer(nanoseconds time) {
  const auto whole = floor<std::chrono::seconds>(time);
  const itimerspec once{{}, {whole.count(), (time - whole).count()}};
  net::check(::timerfd_settime(timer_.get(), 0, &once, nullptr),
             "timerfd_settime");
}

void OnSave::files_changed() {
  if (!files_.take()) return;
  if (command_.running()) {
    again_ = true;  // once more is enough, however often it was saved
  } else {
    settle();
  }
}

// Puts the run off until the saves pause.
void OnSave::settle() {
  const auto now = Clock::now();
  if (!std::exchange(again_, true)) first_save_ = now;
  const nanoseconds left = first_save_ + longest_settling - now;
  set_timer(std::clamp<nanoseconds>(left, nanoseconds(1), settling));
}

void OnSave::time_is_up() {
  std::uint64_t times = 0;
  net::check(::read(timer_.get(), &times, sizeof times), "read", "timerfd");
  if (!command_.running()) {
    start();
  } else {
    late_ = true;
    command_.send_signal(SIGKILL);
  }
}

void OnSave::start() {
  again_ = false;  // a save from here on is for the next run
  late_ = false;
  began_ = Clock::now();
  command_.start(text_, &signals_.original());
  watch(command_.fd());
  set_timer(timeout_);
}

void OnSave::command_ended() {
  const siginfo_t end = command_.reap();
  set_timer(nanoseconds(0));
  if (ending_ != 0) return;
  say(how(end));
  if (std::exchange(again_, false)) settle();
}

void OnSave::signalled() {
  if (const int number = signals_.take()) ending_ = number;
  command_.send_signal(SIGKILL);
}

std::string OnSave::how(const siginfo_t& end) const {
  const std::chrono::duration<double> time = Clock::now() - began_;
  std::array<char, 32> after{};
  std::snprintf(after.data(), after.size(), " after %.1f s", time.count());
  if (end.si_code != CLD_EXITED && late_) {
    return "killed after " + net::text_of(timeout_) + ", it had not ended";
  }
  return text_of(end) + after.data();
}

// A pipe that is full stops us here, so no line is written while a command
// runs: no deadline can be missed, and a signal may have its usual effect.
void OnSave::say(const std::string& text) const {
  const std::string line = "on-save: " + text + '\n';
  signals_.release();
  // Nobody may be there to read it; the work is done all the same.
  [[maybe_unused]] const ssize_t n =
      ::write(STDERR_FILENO, line.data(), line.size());
  signals_.hold();
}
