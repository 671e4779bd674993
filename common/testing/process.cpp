#include "common/testing/process.hpp"

#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>

#include "common/error.hpp"

namespace testing {
namespace {

using namespace std::chrono_literals;

std::string proc(pid_t process, const char* file) {
  return "/proc/" + std::to_string(process) + '/' + file;
}

// The number behind "NAME:" in a file of procfs.
std::uint64_t field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  if (!file) net::throw_errno("open", path);
  std::string word;
  while (file >> word) {
    std::uint64_t value = 0;
    if (word == name && file >> value) return value;
    file.clear();
  }
  throw std::runtime_error("no " + name + " in " + path);
}

}  // namespace

void wait_until(const std::string& what, const std::function<bool()>& holds,
                std::chrono::milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  while (!holds()) {
    if (Clock::now() > deadline) {
      throw TimedOut("not within " + std::to_string(limit.count()) +
                     " ms: " + what);
    }
    std::this_thread::sleep_for(1ms);
  }
}

std::chrono::nanoseconds cpu_time(pid_t process) {
  clockid_t clock{};
  errno = ::clock_getcpuclockid(process, &clock);
  if (errno != 0) net::throw_errno("clock_getcpuclockid");
  timespec time{};
  net::check(::clock_gettime(clock, &time), "clock_gettime");
  return std::chrono::seconds(time.tv_sec) +
         std::chrono::nanoseconds(time.tv_nsec);
}

std::uint64_t resident_bytes(pid_t process) {
  return 1024 * field(proc(process, "smaps_rollup"), "Rss:");
}

std::uint64_t voluntary_switches(pid_t process) {
  return field(proc(process, "status"), "voluntary_ctxt_switches:");
}

char state(pid_t process) {
  const std::string path = proc(process, "stat");
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) net::throw_errno("read", path);
  return line.at(line.rfind(')') + 2);
}

bool has_ended(pid_t process) {
  try {
    return state(process) == 'Z';
  } catch (const std::system_error&) {
    return true;
  }
}

std::size_t open_descriptors(pid_t process) {
  const std::filesystem::directory_iterator entries(proc(process, "fd"));
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

void wait_until_settled(pid_t process, std::chrono::milliseconds calm) {
  auto since = Clock::now();
  std::uint64_t last = voluntary_switches(process);
  wait_until("process " + std::to_string(process) + " goes to sleep", [&] {
    const std::uint64_t now = voluntary_switches(process);
    if (state(process) != 'S' || now != last) since = Clock::now();
    last = now;
    return Clock::now() - since >= calm;
  });
}

std::uint64_t raise_descriptor_limit() {
  rlimit limit{};
  net::check(::getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  limit.rlim_cur = limit.rlim_max;
  net::check(::setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  return limit.rlim_cur;
}

}  // namespace testing
