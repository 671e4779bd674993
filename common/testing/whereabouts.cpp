#include "common/testing/whereabouts.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/socket.hpp"
#include "common/syscall_names.hpp"

namespace testing {
namespace {

// Calls whose first argument is a descriptor, among those that may sleep.
constexpr auto descriptor_calls = std::to_array<std::string_view>({
    "accept",     "accept4",        "close",     "connect",  "epoll_pwait",
    "epoll_wait", "fcntl",          "fdatasync", "flock",    "fsync",
    "getdents64", "io_uring_enter", "ioctl",     "pread64",  "preadv",
    "preadv2",    "pwrite64",       "pwritev",   "pwritev2", "read",
    "readv",      "recvfrom",       "recvmmsg",  "recvmsg",  "sendfile",
    "sendmmsg",   "sendmsg",        "sendto",    "shutdown", "splice",
    "tee",        "vmsplice",       "write",     "writev",   "epoll_pwait2",
});

// Throws std::system_error.
std::string read_file(const std::string& path) {
  const net::Fd file(
      net::check(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open", path));
  std::string text;
  std::array<char, 4096> block{};
  for (;;) {
    const ssize_t n = net::check(::read(file.get(), block.data(), block.size()),
                                 "read", path);
    if (n == 0) return text;
    text.append(block.data(), static_cast<std::size_t>(n));
  }
}

// "0100007F:1F90" or, with four times the digits, IPv6: each group of eight is
// one 32-bit word of the address as it lies in memory.
std::string address_text(const std::string& hex) {
  const auto colon = hex.find(':');
  std::array<std::uint32_t, 4> words{};
  for (std::size_t i = 0; i < colon / 8 && i < words.size(); ++i) {
    words[i] = static_cast<std::uint32_t>(
        std::strtoul(hex.substr(i * 8, 8).c_str(), nullptr, 16));
  }
  const auto port = htons(static_cast<std::uint16_t>(
      std::strtoul(hex.substr(colon + 1).c_str(), nullptr, 16)));
  net::Address address;
  if (colon == 8) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = port;
    v4.sin_addr.s_addr = words[0];
    std::memcpy(&address.storage, &v4, sizeof v4);
  } else {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = port;
    std::memcpy(&v6.sin6_addr, words.data(), sizeof words);
    std::memcpy(&address.storage, &v6, sizeof v6);
  }
  return address.text();
}

// States of a TCP socket as the kernel numbers them (tcp_states.h).
std::string state_text(unsigned long state) {
  constexpr auto names = std::to_array<const char*>(
      {"", "", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
       "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"});
  return state < names.size() ? names[state] : "";
}

// One line of net/tcp, if it is about the socket with this inode.
std::optional<std::string> tcp_text(const std::string& line,
                                    const std::string& inode) {
  std::istringstream in(line);
  std::array<std::string, 10> field;
  for (std::string& text : field) in >> text;
  if (field[9] != inode) return std::nullopt;
  const std::string state =
      state_text(std::strtoul(field[3].c_str(), nullptr, 16));
  if (state == "LISTEN") return "listening on " + address_text(field[1]);
  return address_text(field[1]) + " <-> " + address_text(field[2]) +
         (state.empty() ? "" : ", " + state);
}

std::string socket_text(const std::string& process, const std::string& inode) {
  for (const char* table : {"/net/tcp", "/net/tcp6"}) {
    std::istringstream lines(read_file(process + table));
    std::string line;
    while (std::getline(lines, line)) {
      if (const auto text = tcp_text(line, inode)) return ", " + *text;
    }
  }
  return "";
}

std::string watched_text(const std::string& process, const std::string& fd) {
  std::istringstream lines(read_file(process + "/fdinfo/" + fd));
  std::string line;
  int watched = 0;
  while (std::getline(lines, line)) watched += line.starts_with("tfd:") ? 1 : 0;
  return ", watching " + std::to_string(watched);
}

std::string descriptor_text(const std::string& process, unsigned long fd) {
  // The kernel takes an int; what stands above it in the register is nothing.
  const std::string number = std::to_string(static_cast<int>(fd));
  std::error_code error;
  const std::string link =
      std::filesystem::read_symlink(process + "/fd/" + number, error).string();
  if (error) return "descriptor " + number + " (" + error.message() + ')';
  std::string what = link;
  constexpr std::string_view socket = "socket:[";
  if (link.starts_with(socket)) {
    what += socket_text(
        process, link.substr(socket.size(), link.size() - socket.size() - 1));
  } else if (link == "anon_inode:[eventpoll]") {
    what += watched_text(process, number);
  }
  return "descriptor " + number + " (" + what + ')';
}

// The first descriptor of an array of poll in another process's memory.
std::optional<int> first_polled(const std::string& process,
                                unsigned long array) {
  const net::Fd memory(
      ::open((process + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory) return std::nullopt;
  pollfd entry{};
  const ssize_t n =
      ::pread(memory.get(), &entry, sizeof entry, static_cast<off_t>(array));
  if (n != sizeof entry) return std::nullopt;
  return entry.fd;
}

std::string polled_text(const std::string& process, unsigned long array,
                        unsigned long count) {
  if (count != 1) return "over " + std::to_string(count) + " descriptors";
  const std::optional<int> fd = first_polled(process, array);
  if (!fd) return "over 1 descriptor";
  return "on " + descriptor_text(process, static_cast<unsigned long>(*fd));
}

// What procfs says about a thread in a system call: "NUMBER ARGUMENT... SP PC"
// (proc(5), /proc/pid/syscall).
std::string call_text(const std::string& process, const std::string& line) {
  std::istringstream in(line);
  long number = -1;
  std::array<std::string, 2> argument;
  in >> number >> argument[0] >> argument[1];
  if (number < 0) return "asleep outside of system calls";
  const std::string name = net::syscall_name(number);
  std::string text = "asleep in " + name;
  const unsigned long first = std::strtoul(argument[0].c_str(), nullptr, 16);
  if (name == "poll" || name == "ppoll") {
    const unsigned long count = std::strtoul(argument[1].c_str(), nullptr, 16);
    return text + ' ' + polled_text(process, first, count);
  }
  if (name == "select" || name == "pselect6") {
    return text + " over descriptors below " +
           std::to_string(static_cast<int>(first));
  }
  if (std::find(descriptor_calls.begin(), descriptor_calls.end(), name) ==
      descriptor_calls.end()) {
    return text;
  }
  return text + " on " + descriptor_text(process, first);
}

std::string thread_text(const std::string& process, const std::string& thread) {
  try {
    const std::string folder = process + "/task/" + thread;
    const std::string stat = read_file(folder + "/stat");
    // The name before it stands in parentheses and may hold anything.
    const char state = stat.at(stat.rfind(')') + 2);
    if (state == 'Z' || state == 'X') return "ended";
    if (state == 'T') return "stopped by a signal";
    if (state == 't') return "stopped by its tracer";
    const std::string line = read_file(folder + "/syscall");
    return line.starts_with("running") ? "running" : call_text(process, line);
  } catch (const std::exception& error) {
    return std::string("somewhere; procfs does not say: ") + error.what();
  }
}

std::string process_text(const std::string& folder) {
  std::vector<std::string> threads;
  for (const auto& entry :
       std::filesystem::directory_iterator(folder + "/task")) {
    threads.push_back(entry.path().filename());
  }
  std::string lines;
  for (const std::string& thread : threads) {
    lines += "thread " + thread + ' ' + thread_text(folder, thread) + '\n';
  }
  return lines;
}

}  // namespace

std::string whereabouts(pid_t process) noexcept try {
  const std::string folder = "/proc/" + std::to_string(process);
  try {
    return process_text(folder);
  } catch (const std::filesystem::filesystem_error& error) {
    return "nowhere to be seen: " + folder + ": " + error.code().message() +
           '\n';
  }
} catch (...) {
  return "out of memory\n";  // short enough to need none itself
}

}  // namespace testing
