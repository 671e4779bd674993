#include "chapters/06-other-fds/file_watch.hpp"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "common/error.hpp"

FileWatch::FileWatch(const std::string& path)
    : fd_(net::check(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC),
                     "inotify_init1")) {
  const std::size_t slash = path.rfind('/');
  name_ = path.substr(slash + 1);
  std::string folder = ".";
  if (slash != std::string::npos) folder = path.substr(0, slash + 1);
  net::check(::inotify_add_watch(fd_.get(), folder.c_str(),
                                 IN_CLOSE_WRITE | IN_MOVED_TO | IN_ONLYDIR),
             "inotify_add_watch", folder);
}

bool FileWatch::take() {
  std::array<char, 4096> events;
  const ssize_t n = ::read(fd_.get(), events.data(), events.size());
  bool saved = false;
  for (ssize_t at = 0; at < n;) {
    inotify_event event;
    std::memcpy(&event, events.data() + at, sizeof event);
    at += static_cast<ssize_t>(sizeof event);
    // The name is filled up with zeros to the length that the event names.
    if (event.len > 0 && name_ == events.data() + at) saved = true;
    // Some were lost, maybe this one.
    if ((event.mask & IN_Q_OVERFLOW) != 0) saved = true;
    at += event.len;
  }
  return saved;
}
