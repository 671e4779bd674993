#pragma once

#include <sys/inotify.h>
#include <sys/types.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/fd.hpp"

namespace net {

// The parts of on-save, one for each kind of descriptor, and its loop. The
// parts do not wait: whoever has a loop watches fd() for input,
// level-triggered. All throw std::system_error for a call that fails.

// Tells when one of some files is saved: closed by somebody who could write
// it, or put in its place by a rename or a link. The file need not exist, its
// folder must. A symbolic link stands for itself and for all it leads to.
class FileWatch {
 public:
  // Throws UsageError for what is a folder or names no file.
  explicit FileWatch(const std::vector<std::string>& files);

  std::size_t size() const { return files_.size(); }
  int fd() const { return inotify_.get(); }

  // Call it when fd() is readable. True: one of the files was saved, or may
  // have been. Throws std::runtime_error if a folder is no longer there.
  bool saved();

 private:
  struct Folder {
    std::filesystem::path path;
    std::set<std::string> names;  // of the files in it
  };

  bool concerns(const inotify_event& event) const;
  void find_folders();
  void follow(std::filesystem::path file);
  int watch(const std::filesystem::path& folder);

  std::set<std::filesystem::path> files_;
  Fd inotify_;
  std::map<int, Folder> folders_;  // by watch; one for each, however named
};

// A command in a process group of its own, run by /bin/sh. Nothing of the group
// outlives it, nor this object.
class Command {
 public:
  Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  ~Command();

  // Starts it, with this signal mask, and standard input empty.
  void start(const std::string& text, const sigset_t& mask);

  bool running() const { return leader_ > 0; }
  int fd() const { return pidfd_.get(); }  // readable once it has ended

  // Kills the whole group. It has ended when fd() says so, not before.
  void kill() const;

  // Call it when fd() is readable. Kills what the leader has left behind, and
  // tells how the leader ended (si_code and si_status, waitid(2)).
  siginfo_t reap();

 private:
  pid_t leader_ = -1;  // and the number of its group
  Fd pidfd_;
};

// Takes signals from the process and gives them to a descriptor, but none that
// is ignored: whoever started us (nohup, say) wants it so.
class Signals {
 public:
  explicit Signals(std::initializer_list<int> numbers);
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  ~Signals() { release(); }

  const sigset_t& original() const { return original_; }
  int fd() const { return signalfd_.get(); }
  int take();  // call it when fd() is readable: the number of one

  void hold() const;     // they wait for take()
  void release() const;  // they have their usual effect

 private:
  sigset_t ours_;
  sigset_t original_;
  Fd signalfd_;
};

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
  Fd timer_;
  Fd epoll_;
  Clock::time_point first_save_;  // of those that the next run is for
  Clock::time_point began_;       // the run
  bool again_ = false;            // saved, and no run has begun since
  bool late_ = false;             // the run had not ended at its deadline
  int ending_ = 0;                // the signal, once it has come
};

}  // namespace net
