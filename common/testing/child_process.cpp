#include "common/testing/child_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <utility>

#include "common/error.hpp"
#include "common/testing/process.hpp"

namespace testing {
namespace {

struct Pipe {
  net::Fd read;
  net::Fd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  net::check(::pipe2(ends.data(), O_CLOEXEC), "pipe2");
  return {net::Fd(ends[0]), net::Fd(ends[1])};
}

net::Fd open_pidfd(pid_t process) {
  return net::Fd(net::check(
      static_cast<int>(::syscall(SYS_pidfd_open, process, 0)), "pidfd_open"));
}

// In the child: only calls that are safe between fork and exec.
void settle(int out, int err, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // It may have died before the line above: then no signal comes any more.
  if (::getppid() != parent) ::_exit(1);
  ::setpgid(0, 0);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::dup2(nothing, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
}

[[noreturn]] void become(const std::vector<char*>& words, int failure) {
  ::execvp(words[0], words.data());
  const int number = errno;
  [[maybe_unused]] const ssize_t told =
      ::write(failure, &number, sizeof number);
  ::_exit(127);
}

// Nothing may leave it: the caller is a copy of the test, which would go on.
[[noreturn]] void run_and_exit(const std::function<void()>& body) noexcept {
  for (int signal = 1; signal <= SIGSYS; ++signal) {
    if (signal != SIGKILL && signal != SIGSTOP) std::signal(signal, SIG_DFL);
  }
  int status = 1;
  try {
    body();
    status = 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  } catch (...) {
    std::fprintf(stderr, "not a std::exception\n");
  }
  std::fflush(nullptr);
  ::_exit(status);
}

// Appends what is there. False: end of file.
bool append(const net::Fd& from, std::string& to) {
  std::array<char, 4096> block;
  const ssize_t n = ::read(from.get(), block.data(), block.size());
  if (n > 0) to.append(block.data(), static_cast<std::size_t>(n));
  return n > 0 || (n < 0 && errno == EINTR);
}

std::chrono::milliseconds until(Clock::time_point deadline) {
  return std::max(
      std::chrono::milliseconds(0),
      std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()));
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command) {
  std::vector<char*> words;
  for (const std::string& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  Pipe failure = make_pipe();
  const pid_t parent = ::getpid();
  process_ = net::check(::fork(), "fork");
  if (process_ == 0) {
    settle(out.write.get(), err.write.get(), parent);
    become(words, failure.write.get());
  }
  ::setpgid(process_, process_);
  failure.write = net::Fd();
  int number = 0;
  if (::read(failure.read.get(), &number, sizeof number) > 0) {
    ::waitpid(std::exchange(process_, -1), nullptr, 0);
    errno = number;
    net::throw_errno("execvp", command.at(0));
  }
  pidfd_ = open_pidfd(process_);
  out_ = std::move(out.read);
  err_ = std::move(err.read);
}

ChildProcess::ChildProcess(const std::function<void()>& body) {
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  const pid_t parent = ::getpid();
  std::fflush(nullptr);  // or the child would write it once more
  process_ = net::check(::fork(), "fork");
  if (process_ == 0) {
    settle(out.write.get(), err.write.get(), parent);
    out = {};
    err = {};
    run_and_exit(body);
  }
  ::setpgid(process_, process_);
  pidfd_ = open_pidfd(process_);
  out_ = std::move(out.read);
  err_ = std::move(err.read);
}

ChildProcess::~ChildProcess() {
  if (process_ < 0 || status_ >= 0) return;
  ::kill(-process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

bool ChildProcess::pump(std::chrono::milliseconds limit) {
  if (!out_ && !err_ && status_ >= 0) return false;
  std::array<pollfd, 3> entries{{{out_ ? out_.get() : -1, POLLIN, 0},
                                 {err_ ? err_.get() : -1, POLLIN, 0},
                                 {status_ < 0 ? pidfd_.get() : -1, POLLIN, 0}}};
  const int n =
      ::poll(entries.data(), entries.size(), static_cast<int>(limit.count()));
  if (n < 0 && errno != EINTR) net::throw_errno("poll");
  if (n <= 0) return true;
  if (entries[0].revents != 0 && !append(out_, output_)) out_ = net::Fd();
  if (entries[1].revents != 0 && !append(err_, errors_)) err_ = net::Fd();
  if (entries[2].revents != 0) {
    // While it is not reaped, nobody else can have its number.
    ::kill(-process_, SIGKILL);
    int status = 0;
    net::check(::waitpid(process_, &status, 0), "waitpid");
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return out_ || err_ || status_ < 0;
}

net::Address ChildProcess::wait_until_listening(
    std::chrono::milliseconds limit) {
  constexpr std::string_view prefix = "listening on ";
  const auto deadline = Clock::now() + limit;
  while (output_.find('\n') == std::string::npos) {
    if (!pump(until(deadline))) {
      throw std::runtime_error("ended with status " + std::to_string(status_) +
                               " before it listened: " + output_ + errors_);
    }
    if (Clock::now() >= deadline) {
      throw TimedOut("no 'listening on' within " +
                     std::to_string(limit.count()) + " ms");
    }
  }
  const std::string line = output_.substr(0, output_.find('\n'));
  const std::size_t colon = line.rfind(':');
  if (!line.starts_with(prefix) || colon == std::string::npos) {
    throw std::runtime_error("expected 'listening on', got '" + line + "'");
  }
  std::uint16_t port = 0;
  std::from_chars(line.data() + colon + 1, line.data() + line.size(), port);
  std::string host = line.substr(prefix.size(), colon - prefix.size());
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  return net::resolve(host, port);
}

void ChildProcess::wait_until_complains(const std::string& words,
                                        std::chrono::milliseconds limit) {
  wait_until_errors(
      '\'' + words + '\'',
      [&](const std::string& errors) {
        return errors.find(words) != std::string::npos;
      },
      limit);
}

void ChildProcess::wait_until_errors(
    const std::string& what,
    const std::function<bool(const std::string& errors)>& hold,
    std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  while (!hold(errors_)) {
    if (!pump(until(deadline))) {
      throw std::runtime_error("ended with status " + std::to_string(status_) +
                               " before it said " + what + ": " + errors_);
    }
    if (Clock::now() >= deadline) {
      throw TimedOut("no " + what + " within " + std::to_string(limit.count()) +
                     " ms: " + errors_);
    }
  }
}

int ChildProcess::wait(std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  while (pump(until(deadline))) {
    if (Clock::now() >= deadline) {
      throw TimedOut("process " + std::to_string(process_) +
                     " has not ended within " + std::to_string(limit.count()) +
                     " ms");
    }
  }
  return status_;
}

void ChildProcess::signal(int number) const {
  net::check(::kill(process_, number), "kill");
}

}  // namespace testing
