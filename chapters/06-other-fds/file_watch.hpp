#pragma once

#include <sys/inotify.h>

#include <cstddef>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/fd.hpp"

// Tells when one of some files is saved: closed by somebody who could write
// it, or put in its place by a rename or a link. The file need not exist, its
// folder must. A symbolic link stands for itself and for all it leads to.
class FileWatch {
 public:
  // Throws net::UsageError for what is a folder or names no file, and
  // std::system_error.
  explicit FileWatch(const std::vector<std::string>& files);

  std::size_t size() const { return files_.size(); }

  // Readable when something was done in one of the folders.
  int fd() const { return inotify_.get(); }

  // Call it when fd() is readable. True: one of the files was saved, or may
  // have been. Throws std::runtime_error if the
  // kernel says that a folder is no longer there.
  bool take();

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
  net::Fd inotify_;
  std::map<int, Folder> folders_;  // by watch; one for each, however named
};
