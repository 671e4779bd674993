#include "common/options.hpp"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <span>
#include <utility>

#include "common/error.hpp"

namespace net {

std::uint64_t parse_number(std::string_view option, std::string_view text,
                           std::uint64_t least, std::uint64_t most) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stopped != end || value < least || value > most) {
    throw UsageError(std::string(option) + ": '" + std::string(text) +
                     "' is not a number from " + std::to_string(least) +
                     " to " + std::to_string(most));
  }
  return value;
}

namespace {

struct Unit {
  std::string_view name;
  std::uint64_t milliseconds;
};

constexpr Unit units[] = {
    {"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}};

}  // namespace

std::chrono::milliseconds parse_time(std::string_view option,
                                     std::string_view text,
                                     std::chrono::milliseconds least,
                                     std::chrono::milliseconds most) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  const std::string_view name(stopped, end);
  std::uint64_t factor = text == "0" ? 1 : 0;
  for (const Unit& unit : units) {
    if (name == unit.name) factor = unit.milliseconds;
  }
  const auto longest = static_cast<std::uint64_t>(most.count());
  if (error == std::errc{} && factor > 0 && value <= longest / factor) {
    const std::chrono::milliseconds time(value * factor);
    if (time >= least) return time;
  }
  throw UsageError(std::string(option) + ": '" + std::string(text) +
                   "' is not a time from " + text_of(least) + " to " +
                   text_of(most) + ", such as 500ms, 30s or 5m");
}

std::string text_of(std::chrono::milliseconds time) {
  const auto value = static_cast<std::uint64_t>(time.count());
  if (value == 0) return "0";
  const Unit* best = units;
  for (const Unit& unit : units) {
    if (value % unit.milliseconds == 0) best = &unit;
  }
  return std::to_string(value / best->milliseconds) + std::string(best->name);
}

Options::Options(std::string usage, std::string summary)
    : usage_(std::move(usage)), summary_(std::move(summary)) {
  flag("--help", "print this and exit", help_wanted_);
}

void Options::text(std::string name, std::string what, std::string& target) {
  if (!target.empty()) what += " (" + target + ')';
  add({std::move(name), std::move(what), true,
       [&target](std::string_view, std::string_view value) {
         target = value;
       }});
}

void Options::time(std::string name, std::string what,
                   std::chrono::milliseconds least,
                   std::chrono::milliseconds most,
                   std::chrono::milliseconds& target) {
  what += " (" + text_of(target) + ')';
  add({std::move(name), std::move(what), true,
       [=, &target](std::string_view option, std::string_view value) {
         target = parse_time(option, value, least, most);
       }});
}

void Options::flag(std::string name, std::string what, bool& target) {
  add({std::move(name), std::move(what), false,
       [&target](std::string_view, std::string_view) { target = true; }});
}

// --help stays last in the list, however many options are added.
void Options::add(Option option) {
  const auto place = options_.empty() ? options_.end() : options_.end() - 1;
  options_.insert(place, std::move(option));
}

const Options::Option& Options::find(std::string_view name) const {
  const auto found = std::find_if(
      options_.begin(), options_.end(),
      [name](const Option& option) { return option.name == name; });
  if (found == options_.end()) {
    throw UsageError("unknown option '" + std::string(name) + "'");
  }
  return *found;
}

std::vector<std::string> Options::parse(int argc, char** argv) const {
  const std::span<char*> arguments(argv, static_cast<std::size_t>(argc));
  std::size_t next = 1;
  while (next < arguments.size()) {
    const std::string_view argument = arguments[next];
    if (!argument.starts_with("--")) break;
    ++next;
    if (argument == "--") break;
    const auto equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    const Option& option = find(name);
    std::string_view value;
    if (equals != std::string_view::npos) {
      if (!option.takes_value) {
        throw UsageError(std::string(name) + " takes no value");
      }
      value = argument.substr(equals + 1);
    } else if (option.takes_value) {
      if (next == arguments.size()) {
        throw UsageError(std::string(name) + " needs a value");
      }
      value = arguments[next++];
    }
    option.set(name, value);
  }
  const auto rest = arguments.subspan(next);
  return {rest.begin(), rest.end()};
}

std::string Options::usage_line(std::string_view program) const {
  return "usage: " + std::string(program) + ' ' + usage_ + '\n';
}

std::string Options::help(std::string_view program) const {
  std::string text = usage_line(program) + summary_ + "\n\n";
  std::size_t width = 0;
  for (const Option& option : options_) {
    width = std::max(width, option.name.size());
  }
  for (const Option& option : options_) {
    text += "  " + option.name + std::string(width - option.name.size(), ' ') +
            "  " + option.what + '\n';
  }
  return text;
}

namespace {

// A program may be started with 0, 1 or 2 closed. The next file it opened would
// get that number, and what it says would be written there. Opened for reading
// only, the number is taken and writing fails.
void take_standard_descriptors() {
  for (int number = 0; number < 3; ++number) {
    if (::fcntl(number, F_GETFD) < 0) ::open("/dev/null", O_RDONLY);
  }
}

}  // namespace

int run_program(
    int argc, char** argv, const Options& options,
    const std::function<int(const std::vector<std::string>&)>& body) {
  std::string_view program = argc > 0 ? argv[0] : "program";
  program.remove_prefix(program.rfind('/') + 1);
  const int length = static_cast<int>(program.size());
  try {
    take_standard_descriptors();
    const std::vector<std::string> arguments = options.parse(argc, argv);
    if (options.help_wanted()) {
      if (std::fputs(options.help(program).c_str(), stdout) < 0 ||
          std::fflush(stdout) != 0) {
        throw_errno("write", "standard output");
      }
      return 0;
    }
    return body(arguments);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%.*s: %s\n%s", length, program.data(), error.what(),
                 options.usage_line(program).c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%.*s: %s\n", length, program.data(), error.what());
    return 1;
  }
}

}  // namespace net
