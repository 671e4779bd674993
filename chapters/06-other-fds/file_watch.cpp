#include "chapters/06-other-fds/file_watch.hpp"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "common/error.hpp"
#include "common/options.hpp"

namespace filesystem = std::filesystem;

namespace {

constexpr int most_links = 40;  // as many as the kernel follows

// A link that is put in place is created, and not written.
constexpr std::uint32_t saves = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE;
constexpr std::uint32_t losses = IN_DELETE_SELF | IN_MOVE_SELF;

// A symbolic link, or one more name of a file.
bool is_link(const filesystem::path& path) {
  std::error_code gone;
  if (filesystem::is_symlink(path, gone)) return true;
  return filesystem::is_regular_file(path, gone) &&
         filesystem::hard_link_count(path, gone) > 1;
}

}  // namespace

FileWatch::FileWatch(const std::vector<std::string>& files)
    : files_(files.begin(), files.end()),
      inotify_(
          net::check(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC), "inotify_init1",
                     "(limits: fs.inotify.max_user_instances, ulimit -n)")) {
  for (const filesystem::path& file : files_) {
    std::error_code unknown;
    if (filesystem::is_directory(file, unknown) || !file.has_filename()) {
      throw net::UsageError("'" + file.string() +
                            "' is not the name of a file");
    }
  }
  find_folders();
}

// One read and no loop: reported level-triggered, what it leaves or cannot read
// now is reported again.
bool FileWatch::take() {
  alignas(inotify_event) std::array<char, 4096> events;
  const ssize_t n = ::read(fd(), events.data(), events.size());
  bool any = false;
  for (std::ptrdiff_t at = 0; at < n;) {
    const auto* event =
        reinterpret_cast<const inotify_event*>(events.data() + at);
    at += static_cast<std::ptrdiff_t>(sizeof *event + event->len);
    if (concerns(*event)) any = true;
  }
  if (any) find_folders();  // a link may lead elsewhere now
  return any;
}

bool FileWatch::concerns(const inotify_event& event) const {
  // More has happened than the kernel keeps: a save may be among it.
  if ((event.mask & IN_Q_OVERFLOW) != 0) return true;
  const auto found = folders_.find(event.wd);
  if (found == folders_.end()) return false;  // one we no longer watch
  if ((event.mask & (losses | IN_UNMOUNT | IN_IGNORED)) != 0) {
    // A link on the way to it may lead to another by now.
    std::error_code gone;
    if (filesystem::is_directory(found->second.path, gone)) return true;
    throw std::runtime_error("the folder " + found->second.path.string() +
                             " is no longer there");
  }
  if ((event.mask & IN_ISDIR) != 0 || event.len == 0) return false;
  if (!found->second.names.contains(event.name)) return false;
  // A file that was created is still to be written; a link is whole.
  return (event.mask & IN_CREATE) == 0 ||
         is_link(found->second.path / event.name);
}

void FileWatch::find_folders() {
  const auto before = std::exchange(folders_, {});
  for (const filesystem::path& file : files_) follow(file);
  for (const auto& [number, folder] : before) {
    // It fails if the folder has gone, and its watch with it.
    if (!folders_.contains(number)) ::inotify_rm_watch(fd(), number);
  }
}

// The folder is watched and not the file: an editor that renames a new file
// over the old one leaves a watch on a file that nobody writes any more.
void FileWatch::follow(filesystem::path file) {
  for (int i = 0; i <= most_links; ++i) {
    const filesystem::path path =
        file.has_parent_path() ? file.parent_path() : ".";
    Folder& folder = folders_[watch(path)];
    folder.path = path;
    folder.names.insert(file.filename());
    // A link on the way to the folder may be made to lead elsewhere, too.
    std::error_code unknown;
    for (filesystem::path way = path; way.has_relative_path();
         way = way.parent_path()) {
      if (!filesystem::is_symlink(way, unknown)) continue;
      follow(way);  // and those on the way to it
      break;
    }
    // Asked after the watch began: a link changed before is read, one changed
    // later is reported.
    std::error_code no_link;
    const filesystem::path target = filesystem::read_symlink(file, no_link);
    if (no_link) return;
    file = path / target;
  }
  errno = ELOOP;
  net::throw_errno("readlink", file.string());
}

int FileWatch::watch(const filesystem::path& folder) {
  const int number =
      ::inotify_add_watch(fd(), folder.c_str(), saves | losses | IN_ONLYDIR);
  // "No space left on device" would send the reader to his disk.
  const bool limit = number < 0 && errno == ENOSPC;
  return net::check(
      number, "inotify_add_watch",
      folder.string() + (limit ? " (limit: fs.inotify.max_user_watches)" : ""));
}
