#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.hpp"
#include "common/testing/running_server.hpp"

namespace testing {

struct CallLog;

// A server beside a test that writes down its system calls: epoll_wait,
// epoll_ctl, accept4, recv, send, timerfd_settime and close. A program that
// links this has those functions in place of the C library's. They do the same;
// what the server calls they also write down, and lie about if they are asked
// to.
//
// A call is a line: its name, its descriptor, what it asks for, and its result:
//
//   epoll_wait -1 = 1          (the timeout; the list's own number is left out)
//   epoll_ctl ADD 4 IN RDHUP = 0
//   accept4 3 = EAGAIN
//   recv 4 = 5
//   send 4 = 5
//   close 4 = 0
class RecordedServer {
 public:
  explicit RecordedServer(void (*serve)(net::Fd listener));
  ~RecordedServer();

  const RunningServer& process() const { return *server_; }
  const net::Address& address() const { return server_->address(); }

  // Waits until it sleeps, and forgets what it has called.
  void settle();

  // Waits until it sleeps. What it has called since the last time, in order.
  std::vector<std::string> calls();

  // The same again and again, until so many of them begin with these words.
  std::vector<std::string> calls_until(std::string_view beginning,
                                       std::size_t times);

  // Its next calls of that name, so many, fail with the error and are not made.
  void lie(std::string_view name, int error, int times);

  // Waits until the last lie has been told and written down.
  void wait_until_believed() const;

  // Stops it (SIGSTOP) just before its next call of epoll_wait begins.
  void stop_before_wait();

  // Stops it where it is, which is asleep.
  void stop() const;
  void wait_until_stopped() const;
  void go_on() const;

 private:
  std::unique_ptr<CallLog, void (*)(CallLog*)> log_;
  std::unique_ptr<RunningServer> server_;
  std::size_t seen_ = 0;  // so many entries of the log have been given out
};

// How many of the calls begin with these words.
std::size_t count(const std::vector<std::string>& calls,
                  std::string_view beginning);

// The most calls that begin with these words between two waits.
std::size_t most_a_round(const std::vector<std::string>& calls,
                         std::string_view beginning);

}  // namespace testing

// A line each, so that a failed comparison can be read.
template <>
struct doctest::StringMaker<std::vector<std::string>> {
  static String convert(const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) text += '\n' + line;
    return text.c_str();
  }
};
