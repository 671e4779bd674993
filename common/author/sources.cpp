#include "common/author/sources.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>
#include <utility>

namespace author {
namespace {

// Calls of this course, and some that it must not make in passing.
constexpr std::array<std::string_view, 69> system_calls{"accept",
                                                        "accept4",
                                                        "bind",
                                                        "chdir",
                                                        "clone",
                                                        "close",
                                                        "connect",
                                                        "dup",
                                                        "dup2",
                                                        "dup3",
                                                        "epoll_create1",
                                                        "epoll_ctl",
                                                        "epoll_pwait",
                                                        "epoll_pwait2",
                                                        "epoll_wait",
                                                        "eventfd",
                                                        "execve",
                                                        "fcntl",
                                                        "fork",
                                                        "fstat",
                                                        "getpeername",
                                                        "getpid",
                                                        "getrandom",
                                                        "getrlimit",
                                                        "getsockname",
                                                        "getsockopt",
                                                        "inotify_add_watch",
                                                        "inotify_init1",
                                                        "inotify_rm_watch",
                                                        "ioctl",
                                                        "kill",
                                                        "listen",
                                                        "madvise",
                                                        "mmap",
                                                        "mprotect",
                                                        "munmap",
                                                        "open",
                                                        "pipe",
                                                        "pipe2",
                                                        "poll",
                                                        "ppoll",
                                                        "pselect",
                                                        "read",
                                                        "readv",
                                                        "recv",
                                                        "recvfrom",
                                                        "recvmmsg",
                                                        "recvmsg",
                                                        "select",
                                                        "send",
                                                        "sendfile",
                                                        "sendmmsg",
                                                        "sendmsg",
                                                        "sendto",
                                                        "setsockopt",
                                                        "shutdown",
                                                        "sigaction",
                                                        "signal",
                                                        "sigaltstack",
                                                        "signalfd",
                                                        "sigprocmask",
                                                        "socket",
                                                        "socketpair",
                                                        "syscall",
                                                        "timerfd_create",
                                                        "timerfd_settime",
                                                        "waitid",
                                                        "write",
                                                        "writev"};

bool is_system_call(std::string_view name) {
  return std::find(system_calls.begin(), system_calls.end(), name) !=
         system_calls.end();
}

bool is_word(char c) {
  return c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0;
}

// The end of the literal that opens at `at`, beyond its closing quote.
std::size_t literal_end(std::string_view source, std::size_t at) {
  const char quote = source[at];
  for (std::size_t i = at + 1; i < source.size(); ++i) {
    if (source[i] == '\\') {
      ++i;
    } else if (source[i] == quote || source[i] == '\n') {
      return i + 1;
    }
  }
  return source.size();
}

// The end of the comment or literal that opens at `at`; `at` if none does.
std::size_t opaque_end(std::string_view source, std::size_t at) {
  const std::string_view rest = source.substr(at);
  if (rest.starts_with("//"))
    return std::min(source.find('\n', at), source.size());
  if (rest.starts_with("/*")) {
    const std::size_t close = source.find("*/", at + 2);
    return close == std::string_view::npos ? source.size() : close + 2;
  }
  // 65'536 is a number.
  const bool separator = at > 0 && is_word(source[at - 1]);
  if (rest.starts_with('"') || (rest.starts_with('\'') && !separator)) {
    return literal_end(source, at);
  }
  return at;
}

std::string unescaped(std::string_view literal) {
  std::string text;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] == '\\' && i + 1 < literal.size()) ++i;
    text += literal[i];
  }
  return text;
}

// The string literals from `at` on, joined; ends at anything else.
std::string joined_literals(std::string_view source, std::size_t at) {
  std::string text;
  for (;;) {
    at = std::min(source.find_first_not_of(" \n\t", at), source.size());
    if (at == source.size() || source[at] != '"') return text;
    const std::size_t end = literal_end(source, at);
    text += unescaped(source.substr(at + 1, end - at - 2));
    at = end;
  }
}

// The word that ends before `at`, white space aside.
std::string_view word_before(std::string_view code, std::size_t at) {
  while (at > 0 &&
         std::isspace(static_cast<unsigned char>(code[at - 1])) != 0) {
    --at;
  }
  std::size_t first = at;
  while (first > 0 && is_word(code[first - 1])) --first;
  return code.substr(first, at - first);
}

// What is wrong with the call of `name` that begins at `at`; empty if nothing.
std::string_view fault(std::string_view code, std::size_t at,
                       std::string_view name) {
  const std::string_view before = code.substr(0, at);
  if (before.ends_with("::")) {
    const std::size_t colons = at - 2;
    const bool global =
        colons == 0 || (!is_word(code[colons - 1]) && code[colons - 1] != '>');
    return global && !is_system_call(name) ? "is no system call" : "";
  }
  if (!is_system_call(name)) return "";
  if (before.ends_with('.') || before.ends_with("->")) return "";
  const std::string_view word = word_before(code, at);
  const bool declared = !word.empty() && word != "return" &&
                        word != "co_return" && word != "co_await";
  return declared ? "" : "is a system call without its leading ::";
}

// Where the lines stand without a gap, from a place on; npos if nowhere.
std::size_t find_block(const Lines& file, const Lines& block,
                       std::size_t from) {
  if (from > file.size()) return std::string::npos;
  const auto start = file.begin() + static_cast<std::ptrdiff_t>(from);
  const auto found = std::search(start, file.end(), block.begin(), block.end());
  if (found == file.end() && !block.empty()) return std::string::npos;
  return static_cast<std::size_t>(found - file.begin());
}

// Blank lines beside what is left out say nothing about the file.
Lines without_blank_ends(Lines block) {
  const auto is_text = [](const std::string& line) {
    return !trimmed(line).empty();
  };
  block.erase(block.begin(), std::find_if(block.begin(), block.end(), is_text));
  block.erase(std::find_if(block.rbegin(), block.rend(), is_text).base(),
              block.end());
  return block;
}

std::vector<Lines> split(const Lines& lines,
                         bool (*separates)(std::string_view)) {
  std::vector<Lines> parts(1);
  for (const std::string& line : lines) {
    if (separates(line)) {
      parts.emplace_back();
    } else {
      parts.back().push_back(line);
    }
  }
  return parts;
}

// The lines of one side of a hunk must stand in its file, in this order.
std::optional<std::string> not_in_order(const Lines& hunk, char sign,
                                        const Lines& file, std::size_t& from) {
  for (const std::string& line : hunk) {
    const char kind = line.empty() ? ' ' : line[0];
    if (kind != sign && kind != ' ') continue;
    const std::string text = line.empty() ? line : line.substr(1);
    const std::size_t found = find_block(file, {text}, from);
    if (found == std::string::npos) return text;
    from = found + 1;
  }
  return std::nullopt;
}

}  // namespace

std::string code_only(std::string_view source) {
  std::string code(source);
  for (std::size_t at = 0; at < source.size();) {
    const std::size_t end = opaque_end(source, at);
    for (std::size_t i = at; i < end; ++i) {
      if (code[i] != '\n') code[i] = ' ';
    }
    at = std::max(end, at + 1);
  }
  return code;
}

std::vector<std::string> test_names(const std::filesystem::path& path) {
  std::string source;
  for (const std::string& line : read_lines(path)) source += line + '\n';
  constexpr std::string_view opening = "\nTEST_CASE(";
  std::vector<std::string> names;
  for (std::size_t at = source.find(opening); at != std::string::npos;
       at = source.find(opening, at + 1)) {
    names.push_back(joined_literals(source, at + opening.size()));
  }
  return names;
}

std::vector<std::string> unmarked_system_calls(std::string_view source) {
  const std::string code = code_only(source);
  std::vector<std::string> faults;
  for (std::size_t at = 0; at < code.size();) {
    std::size_t end = at;
    while (end < code.size() && is_word(code[end])) ++end;
    const std::string_view name = std::string_view(code).substr(at, end - at);
    const bool call = end < code.size() && code[end] == '(';
    const std::string_view why = call ? fault(code, at, name) : "";
    if (!why.empty()) {
      const auto place = code.begin() + static_cast<std::ptrdiff_t>(at);
      const auto line = std::count(code.begin(), place, '\n') + 1;
      faults.push_back("line " + std::to_string(line) + ": " +
                       std::string(name) + ' ' + std::string(why));
    }
    at = std::max(end, at + 1);
  }
  return faults;
}

std::optional<std::string> not_quoted_from(const Lines& quotation,
                                           const Lines& file) {
  const auto left_out = [](std::string_view line) {
    return trimmed(line) == "// ...";
  };
  std::size_t from = 0;
  for (const Lines& part : split(quotation, left_out)) {
    const Lines block = without_blank_ends(part);
    if (block.empty()) continue;
    const std::size_t found = find_block(file, block, from);
    if (found == std::string::npos) {
      return "these " + std::to_string(block.size()) +
             " lines do not stand there: " + block[0];
    }
    from = found + block.size();
  }
  return std::nullopt;
}

std::optional<std::string> not_a_diff(const Lines& diff, const Lines& before,
                                      const Lines& after) {
  const auto separator = [](std::string_view line) {
    return line.starts_with("@@");
  };
  std::size_t from_before = 0;
  std::size_t from_after = 0;
  for (const Lines& hunk : split(diff, separator)) {
    if (auto line = not_in_order(hunk, '-', before, from_before)) {
      return "not in the first file, or not in this order: " + *line;
    }
    if (auto line = not_in_order(hunk, '+', after, from_after)) {
      return "not in the second file, or not in this order: " + *line;
    }
  }
  return std::nullopt;
}

}  // namespace author
