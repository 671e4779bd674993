#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/error.hpp"

namespace testing {

// A folder that is gone with the test case.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::temp_directory_path() / "test-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) net::throw_errno("mkdtemp", name);
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }

  // The path of a file in it.
  std::string file(const std::string& name) const { return path_ / name; }

  // Writes that file, in place if it exists. Returns its path.
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream stream(path_ / name);
    stream << text << std::flush;
    if (!stream) net::throw_errno("write", file(name));
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace testing
