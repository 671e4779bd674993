#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "chapters/06-other-fds/mailbox.hpp"

// What a running server can be told anew.
struct Limits {
  std::chrono::milliseconds idle_timeout{0};  // 0: clients may stay silent
  std::chrono::milliseconds grace{5000};      // for what a stop finds under way

  bool operator==(const Limits&) const = default;
};

inline constexpr std::chrono::milliseconds longest_limit{24 * 3'600'000};

// Reads a file of lines such as "idle-timeout 30s" and "grace 5s"; blank lines
// and lines that start with # say nothing. What it does not name is taken from
// base. Throws std::runtime_error with file, line and reason.
Limits read_limits(const std::string& path, Limits base);

// A thread that reads the limits file for a loop. A regular file is always
// ready, whether its bytes are in memory or on a disk that has to be woken up:
// reading cannot be waited for, only be left to somebody else.
class LimitsReader {
 public:
  struct Result {
    Limits limits;
    std::string error;  // empty if the file was understood
  };

  LimitsReader(std::string path, Limits base);
  LimitsReader(const LimitsReader&) = delete;
  LimitsReader& operator=(const LimitsReader&) = delete;
  ~LimitsReader();  // waits for a read that is under way

  // Have the file read. Two wishes that come before it is read are one.
  void ask();

  // Readable when there is a result to take.
  int fd() const { return results_.fd(); }
  std::vector<Result> take() { return results_.take(); }

 private:
  void work();
  Result attempt() const;

  std::string path_;
  Limits base_;
  Mailbox<Result> results_;
  std::mutex mutex_;  // guards the next two
  bool wanted_ = false;
  bool over_ = false;
  std::condition_variable changed_;
  std::thread thread_;  // last: it uses all the others
};
