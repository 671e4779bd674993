#pragma once

#include <string>

#include "common/fd.hpp"

// Tells when a file has been saved. Watched is its folder: editors write a new
// file and put it in the place of the old one, and a watch on the old one would
// stay with what nobody can open any more.
class FileWatch {
 public:
  // Throws std::system_error.
  explicit FileWatch(const std::string& path);

  // Readable when something was written in the folder.
  int fd() const { return fd_.get(); }

  // Reads what was reported. True: the file may have been saved.
  bool take();

 private:
  std::string name_;  // in its folder
  net::Fd fd_;
};
