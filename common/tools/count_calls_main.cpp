// count_calls: runs a program and counts its system calls by name.

#include <poll.h>
#include <sys/signalfd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/options.hpp"
#include "common/tools/count_calls.hpp"

namespace {

// How long the program may take to end after a signal has been passed on.
constexpr int patience_ms = 2000;

// Called when the program already runs, which so keeps the mask it inherited.
net::Fd catch_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    ::sigaddset(&signals, signal);
  }
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return net::Fd(net::check(::signalfd(-1, &signals, SFD_CLOEXEC), "signalfd"));
}

// Until the program has ended, or has been told to and takes too long, or has
// been told twice. Returns the signal that told it, or 0.
int run(const net::CallCounter& counter) {
  const net::Fd signals = catch_signals();
  int told = 0;
  for (;;) {
    std::array<pollfd, 2> entries{
        {{counter.ended_fd(), POLLIN, 0}, {signals.get(), POLLIN, 0}}};
    const int n =
        ::poll(entries.data(), entries.size(), told != 0 ? patience_ms : -1);
    if (n < 0 && errno == EINTR) continue;
    net::check(n, "poll");
    if (n == 0 || entries[0].revents != 0) return told;
    signalfd_siginfo info{};
    net::check(::read(signals.get(), &info, sizeof info), "read");
    if (told != 0) return told;
    told = static_cast<int>(info.ssi_signo);
    counter.signal(told);
  }
}

void report(const net::CallCounter& counter, const std::string& file) {
  const std::string text = net::table(counter.counts());
  if (file.empty()) {
    std::fputs(text.c_str(), stderr);
    return;
  }
  std::ofstream out(file);
  out << text << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file);
}

}  // namespace

int main(int argc, char** argv) {
  bool after_listen = false;
  std::string summary;
  net::Options options(
      "[--attach-after-listen] [--summary FILE] PROGRAM [ARGUMENT...]",
      "Runs a program and counts its system calls by name, those of its\n"
      "threads and child processes included. Exits with its status.");
  options.flag("--attach-after-listen",
               "count from the moment it prints 'listening on'", after_listen);
  options.text("--summary", "file for the table, else standard error", summary);
  return net::run_program(
      argc, argv, options, [&](const std::vector<std::string>& command) {
        if (command.empty()) throw net::UsageError("no program");
        const net::CallCounter counter(
            command, after_listen ? net::CallCounter::From::listening
                                  : net::CallCounter::From::start);
        if (!counter.refused().empty()) {
          std::fprintf(stderr, "count_calls: %s: running it uncounted\n",
                       counter.refused().c_str());
        }
        const int told = run(counter);
        if (counter.refused().empty()) report(counter, summary);
        const int status = counter.wait(std::chrono::milliseconds(0));
        return status >= 0 ? status : 128 + told;
      });
}
