#include "common/testing/recorded_server.hpp"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "common/error.hpp"
#include "common/testing/epoll_wait.hpp"
#include "common/testing/process.hpp"

namespace testing {
namespace {

struct Entry {
  const char* name;  // a literal: the child has the same program
  int operation;     // of epoll_ctl
  int fd;            // or the timeout of epoll_wait
  std::uint32_t events;
  long result;
  int error;
};

constexpr std::size_t most = 1 << 16;

std::string events_text(std::uint32_t events) {
  constexpr std::array<std::pair<std::uint32_t, const char*>, 5> known{
      {{EPOLLIN, " IN"},
       {EPOLLPRI, " PRI"},
       {EPOLLOUT, " OUT"},
       {EPOLLRDHUP, " RDHUP"},
       {EPOLLET, " ET"}}};
  std::string text;
  for (const auto& [bit, name] : known) {
    if ((events & bit) != 0) text += name;
  }
  return text;
}

std::string text_of(const Entry& entry) {
  std::string text = entry.name;
  if (entry.operation == EPOLL_CTL_ADD) text += " ADD";
  if (entry.operation == EPOLL_CTL_MOD) text += " MOD";
  if (entry.operation == EPOLL_CTL_DEL) text += " DEL";
  text += ' ' + std::to_string(entry.fd) + events_text(entry.events) + " = ";
  return text + (entry.error != 0 ? ::strerrorname_np(entry.error)
                                  : std::to_string(entry.result));
}

}  // namespace

// In memory that the test shares with the forked server.
struct CallLog {
  std::atomic<std::size_t> count;
  std::array<Entry, most> entries;
  // Wishes of the test. The name is written before the number.
  std::array<char, 16> lie_name;
  std::atomic<int> lie_error;
  std::atomic<int> lies;
  std::atomic<bool> stop_before_wait;

  template <typename Call>
  long make(Entry entry, Call call);
  bool lies_about(const char* name);

  // Set in the server's process only: the clients of the test call as well.
  static CallLog* here;
};

CallLog* CallLog::here = nullptr;

bool CallLog::lies_about(const char* name) {
  return lies > 0 && std::strcmp(name, lie_name.data()) == 0;
}

// The call comes back as from the C library: -1 and errno if it has failed.
template <typename Call>
long CallLog::make(Entry entry, Call call) {
  const bool lie = lies_about(entry.name);
  if (lie) errno = lie_error;
  entry.result = lie ? -1 : call();
  if (entry.result < 0) entry.error = errno;
  if (count < most) {
    entries[count] = entry;
    ++count;
  }
  if (lie) --lies;
  return entry.result;
}

RecordedServer::RecordedServer(void (*serve)(net::Fd))
    : log_(nullptr, [](CallLog* log) { ::munmap(log, sizeof *log); }) {
  void* memory = ::mmap(nullptr, sizeof(CallLog), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) net::throw_errno("mmap");
  log_.reset(new (memory) CallLog);  // zero: the mapping is new
  server_ = std::make_unique<RunningServer>([this, serve](net::Fd listener) {
    CallLog::here = log_.get();
    serve(std::move(listener));
    CallLog::here = nullptr;
  });
}

RecordedServer::~RecordedServer() = default;

void RecordedServer::settle() { calls(); }

std::vector<std::string> RecordedServer::calls() {
  wait_until_settled(server_->pid());
  std::vector<std::string> lines;
  const std::size_t end = log_->count;
  if (end == most) throw std::runtime_error("too many calls to be recorded");
  for (; seen_ < end; ++seen_) lines.push_back(text_of(log_->entries[seen_]));
  return lines;
}

std::vector<std::string> RecordedServer::calls_until(std::string_view beginning,
                                                     std::size_t times) {
  std::vector<std::string> all;
  wait_until(std::string(beginning), [&] {
    const std::vector<std::string> more = calls();
    all.insert(all.end(), more.begin(), more.end());
    return count(all, beginning) >= times;
  });
  return all;
}

void RecordedServer::lie(std::string_view name, int error, int times) {
  name.copy(log_->lie_name.data(), log_->lie_name.size() - 1);
  log_->lie_name.at(name.size()) = '\0';
  log_->lie_error = error;
  log_->lies = times;
}

void RecordedServer::wait_until_believed() const {
  wait_until("the lies are told", [&] { return log_->lies == 0; });
}

void RecordedServer::stop_before_wait() { log_->stop_before_wait = true; }

void RecordedServer::stop() const {
  wait_until_settled(server_->pid());
  server_->signal(SIGSTOP);
  wait_until_stopped();
}

void RecordedServer::wait_until_stopped() const {
  wait_until("stopped", [&] { return state(server_->pid()) == 'T'; });
}

void RecordedServer::go_on() const { server_->signal(SIGCONT); }

std::size_t count(const std::vector<std::string>& calls,
                  std::string_view beginning) {
  return static_cast<std::size_t>(std::count_if(
      calls.begin(), calls.end(),
      [=](const std::string& call) { return call.starts_with(beginning); }));
}

std::size_t most_a_round(const std::vector<std::string>& calls,
                         std::string_view beginning) {
  std::size_t most_yet = 0;
  std::size_t now = 0;
  for (const std::string& call : calls) {
    if (call.starts_with("epoll_wait")) now = 0;
    if (call.starts_with(beginning)) most_yet = std::max(most_yet, ++now);
  }
  return most_yet;
}

}  // namespace testing

namespace {

// Makes the call, and writes it down if it is the server's.
template <typename Call>
long recorded(const testing::Entry& entry, Call call) {
  testing::CallLog* log = testing::CallLog::here;
  return log == nullptr ? call() : log->make(entry, call);
}

}  // namespace

// These take the place of the C library's.

extern "C" int epoll_wait(int epoll, epoll_event* events, int room,
                          int timeout) {
  testing::CallLog* log = testing::CallLog::here;
  if (log != nullptr && log->stop_before_wait.exchange(false)) ::raise(SIGSTOP);
  return static_cast<int>(recorded({"epoll_wait", 0, timeout, 0, 0, 0}, [=] {
    return long{testing::system_epoll_wait(epoll, events, room, timeout)};
  }));
}

extern "C" int epoll_ctl(int epoll, int operation, int fd,
                         epoll_event* event) noexcept {
  const bool asks = operation != EPOLL_CTL_DEL && event != nullptr;
  return static_cast<int>(recorded(
      {"epoll_ctl", operation, fd, asks ? event->events : 0, 0, 0},
      [=] { return ::syscall(SYS_epoll_ctl, epoll, operation, fd, event); }));
}

extern "C" int accept4(int listener, sockaddr* address, socklen_t* length,
                       int flags) {
  return static_cast<int>(recorded({"accept4", 0, listener, 0, 0, 0}, [=] {
    return ::syscall(SYS_accept4, listener, address, length, flags);
  }));
}

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
  return recorded({"recv", 0, fd, 0, 0, 0}, [=] {
    return ::syscall(SYS_recvfrom, fd, buffer, size, flags, nullptr, nullptr);
  });
}

extern "C" ssize_t send(int fd, const void* bytes, std::size_t size,
                        int flags) {
  return recorded({"send", 0, fd, 0, 0, 0}, [=] {
    return ::syscall(SYS_sendto, fd, bytes, size, flags, nullptr, 0);
  });
}

extern "C" int timerfd_settime(int timer, int flags, const itimerspec* setting,
                               itimerspec* old) noexcept {
  return static_cast<int>(recorded({"timerfd_settime", 0, timer, 0, 0, 0}, [=] {
    return ::syscall(SYS_timerfd_settime, timer, flags, setting, old);
  }));
}

extern "C" int close(int fd) {
  return static_cast<int>(recorded({"close", 0, fd, 0, 0, 0},
                                   [=] { return ::syscall(SYS_close, fd); }));
}
