#include "chapters/06-other-fds/limits.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/options.hpp"

namespace {

using std::chrono::milliseconds;

constexpr std::size_t longest_file = 65536;

// Opening a FIFO would wait for a writer, so it is opened without waiting and
// then refused.
std::string contents(const std::string& path) {
  const net::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) net::throw_errno("open", path);
  struct stat status {};
  net::check(::fstat(file.get(), &status), "fstat", path);
  if (!S_ISREG(status.st_mode)) {
    throw std::runtime_error(path + " is not a regular file");
  }
  std::string text(longest_file + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const auto n =
        net::check(::read(file.get(), text.data() + size, text.size() - size),
                   "read", path);
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > longest_file) throw std::runtime_error(path + " is too long");
  text.resize(size);
  return text;
}

}  // namespace

Limits read_limits(const std::string& path, Limits base) {
  std::istringstream lines(contents(path));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::istringstream words(line);
    std::string name;
    std::string value;
    std::string more;
    if (!(words >> name) || name.starts_with('#')) continue;
    words >> value;
    const std::string place = path + ':' + std::to_string(number) + ": ";
    if (words >> more) throw std::runtime_error(place + "one word too many");
    if (name == "idle-timeout") {
      base.idle_timeout =
          net::parse_time(place + name, value, milliseconds(0), longest_limit);
    } else if (name == "grace") {
      base.grace =
          net::parse_time(place + name, value, milliseconds(0), longest_limit);
    } else {
      throw std::runtime_error(place + "no limit is called '" + name + "'");
    }
  }
  return base;
}

LimitsReader::LimitsReader(std::string path, Limits base)
    : path_(std::move(path)), base_(base), thread_([this] { work(); }) {}

LimitsReader::~LimitsReader() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void LimitsReader::ask() {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = true;
  }
  changed_.notify_one();
}

LimitsReader::Result LimitsReader::attempt() const {
  Result result;
  try {
    result.limits = read_limits(path_, base_);
  } catch (const std::exception& error) {
    result.error = error.what();
  }
  return result;
}

void LimitsReader::work() {
  while (true) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return wanted_ || over_; });
    if (over_) return;
    wanted_ = false;
    lock.unlock();
    try {
      results_.put(attempt());
    } catch (const std::exception&) {
      // No memory for a result: there is none. SIGHUP asks again.
    }
  }
}
