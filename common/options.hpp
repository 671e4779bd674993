#pragma once

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
