#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace net {

// Thrown for a command line that cannot be meant: exit status 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The whole text as a decimal number in [least, most]; throws UsageError
// naming the option: "--port: '70000' is not a number from 0 to 65535".
std::uint64_t parse_number(std::string_view option, std::string_view text,
                           std::uint64_t least, std::uint64_t most);

// The whole text as a time in [least, most]: a whole number and one of the
// units ms, s, m and h, or 0. Throws UsageError naming the option:
// "--grace: '5' is not a time from 0 to 24h, such as 500ms, 30s or 5m".
std::chrono::milliseconds parse_time(std::string_view option,
                                     std::string_view text,
                                     std::chrono::milliseconds least,
                                     std::chrono::milliseconds most);

// The same in reverse, in the largest unit that leaves a whole number.
std::string text_of(std::chrono::milliseconds time);

// The options of a program, declared once and used to parse and to explain.
// Values are given as "--name value" or "--name=value"; "--" ends the options,
// and so does the first argument that is none.
class Options {
 public:
  // usage: what follows the program's name, e.g. "[--port N]".
  Options(std::string usage, std::string summary);
  Options(const Options&) = delete;  // its options point into it
  Options& operator=(const Options&) = delete;

  // Each keeps a reference to its target, whose value is the default.
  void text(std::string name, std::string what, std::string& target);
  template <typename Unsigned>
  void number(std::string name, std::string what, std::uint64_t least,
              std::uint64_t most, Unsigned& target) {
    what += " (" + std::to_string(target) + ')';
    add({std::move(name), std::move(what), true,
         [=, &target](std::string_view option, std::string_view value) {
           target =
               static_cast<Unsigned>(parse_number(option, value, least, most));
         }});
  }
  void time(std::string name, std::string what, std::chrono::milliseconds least,
            std::chrono::milliseconds most, std::chrono::milliseconds& target);
  void flag(std::string name, std::string what, bool& target);

  // Returns the arguments that are not options. Throws UsageError.
  std::vector<std::string> parse(int argc, char** argv) const;

  // True if --help was among the options parsed.
  bool help_wanted() const { return help_wanted_; }

  std::string usage_line(std::string_view program) const;
  std::string help(std::string_view program) const;

 private:
  struct Option {
    std::string name;
    std::string what;
    bool takes_value;
    std::function<void(std::string_view option, std::string_view value)> set;
  };

  void add(Option option);
  const Option& find(std::string_view name) const;

  std::string usage_;
  std::string summary_;
  std::vector<Option> options_;
  mutable bool help_wanted_ = false;
};

// Runs the body of a program's main and turns what it throws into the house's
// errors: UsageError gives "PROGRAM: reason", the usage line and exit status
// 2; any other exception "PROGRAM: what()" and 1; --help goes to standard
// output and gives 0. The body gets the arguments that are not options.
int run_program(
    int argc, char** argv, const Options& options,
    const std::function<int(const std::vector<std::string>&)>& body);

}  // namespace net
