// Judges answers that are meant to fail, and the files of the exercises.
//
// An answer that fails is not enough: it has to fail for its own reason, in the
// test case and with the message it names. Else a test whose assertion has been
// deleted would still see its wrong answer fail, by accident.

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/testing/child_process.hpp"

namespace {

namespace fs = std::filesystem;

using Strings = std::vector<std::string>;

struct Complaint : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string read_file(const fs::path& path) {
  std::ifstream file(path);
  if (!file) net::throw_errno("open", path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

Strings split(const std::string& text, char separator) {
  Strings parts;
  std::size_t from = 0;
  while (from < text.size()) {
    const std::size_t to = std::min(text.find(separator, from), text.size());
    parts.push_back(text.substr(from, to - from));
    from = to + 1;
  }
  return parts;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

// What a wrong answer says of itself in its first three lines.
struct Claim {
  std::string belief;
  std::string fails;
  std::string message;
};

Claim read_claim(const fs::path& header) {
  const Strings lines = split(read_file(header), '\n');
  const auto field = [&](std::size_t i, const std::string& prefix) {
    if (i >= lines.size() || !lines[i].starts_with(prefix)) {
      throw Complaint(header.string() + ": line " + std::to_string(i + 1) +
                      " does not start with '" + prefix + "'");
    }
    return lines[i].substr(prefix.size());
  };
  return {field(0, "// Belief: "), field(1, "// Fails: "),
          field(2, "// Message: ")};
}

// The end of a test program's life.
struct Outcome {
  int status;
  std::string text;  // all it printed
};

// Throws Complaint unless the program ended in an orderly way, as doctest does
// when test cases failed: no crash, no deadline, no finding of a sanitizer.
Outcome run_failing(const Strings& command) {
  testing::ChildProcess child(command);
  const int status = child.wait(std::chrono::minutes(5));
  Outcome outcome{status, child.output() + child.errors()};
  const std::string text = '\n' + outcome.text;
  if (status == 0) throw Complaint("passes" + text);
  if (status == 124) throw Complaint("hangs until the deadline" + text);
  if (status != 1) {
    throw Complaint("ends with status " + std::to_string(status) + text);
  }
  if (contains(text, "Sanitizer") || contains(text, "runtime error:")) {
    throw Complaint("fails by a sanitizer" + text);
  }
  return outcome;
}

void judge_starter(const Strings& command) {
  const Outcome outcome = run_failing(command);
  if (!contains(outcome.text, ": TODO: ")) {
    throw Complaint("fails, but not by TODO\n" + outcome.text);
  }
}

void judge_repair(const Strings& command) {
  const Outcome outcome = run_failing(command);
  if (!contains(outcome.text, " is NOT correct!")) {
    throw Complaint("fails, but not by an assertion\n" + outcome.text);
  }
}

// What doctest prints of each test case that says anything: it puts a line of
// such signs before it.
Strings blocks(const std::string& text) {
  const std::string border = std::string(79, '=') + '\n';
  Strings found;
  std::size_t from = 0;
  while (from < text.size()) {
    const std::size_t to = std::min(text.find(border, from), text.size());
    found.push_back(text.substr(from, to - from));
    from = to + border.size();
  }
  return found;
}

// The option that makes doctest run this test case only. It takes a list, so
// a comma in the name has to match as "any character".
std::string only(std::string test_case) {
  std::replace(test_case.begin(), test_case.end(), ',', '?');
  return "--test-case=" + test_case;
}

void judge_wrong(const fs::path& header, Strings command) {
  const Claim claim = read_claim(header);
  command.push_back(only(claim.fails));
  const Outcome outcome = run_failing(command);
  const std::string& text = outcome.text;
  bool failed = false;
  for (const std::string& report : blocks(text)) {
    if (!contains(report, "TEST CASE:  " + claim.fails + '\n')) continue;
    failed = true;
    if (contains(report, claim.message)) return;
  }
  throw Complaint(
      (failed ? "'" + claim.fails + "' fails without '" + claim.message + "'\n"
              : "'" + claim.fails + "' does not fail\n") +
      text);
}

// An assertion of a test, or the name of a test case.
struct Call {
  std::string macro;
  std::string text;  // the string literal; empty if there is none
};

// Where a string or character literal that starts at `at` ends.
std::size_t skip_literal(const std::string& text, std::size_t at) {
  const char quote = text[at++];
  while (at < text.size() && text[at] != quote)
    at += text[at] == '\\' ? 2U : 1U;
  return at;
}

bool starts_literal(const std::string& text, std::size_t at) {
  if (text[at] == '"') return true;
  // Not the quotation mark that parts the digits of a number.
  return text[at] == '\'' &&
         !std::isalnum(static_cast<unsigned char>(text[at - 1]));
}

// The adjacent string literals at this place, joined; empty if there are none.
std::string literals_at(const std::string& text, std::size_t at) {
  std::string joined;
  for (;;) {
    at = text.find_first_not_of(" \n", at);
    if (at == std::string::npos || text[at] != '"') return joined;
    const std::size_t end = skip_literal(text, at);
    joined += text.substr(at + 1, end - at - 1);
    at = end + 1;
  }
}

// Behind the first comma of the arguments that start at `at`, or their end.
std::size_t second_argument(const std::string& text, std::size_t at) {
  int depth = 0;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (starts_literal(text, at)) {
      at = skip_literal(text, at);
    } else if (contains("([{", std::string_view(&c, 1))) {
      ++depth;
    } else if (c == ',' && depth == 0) {
      return at + 1;
    } else if (contains(")]}", std::string_view(&c, 1)) && depth-- == 0) {
      return at;
    }
  }
  return at;
}

// The name of the macro that is called with the parenthesis at `open`, if it
// starts with one of these; else nothing.
std::string macro_before(const std::string& text, std::size_t open,
                         const Strings& starts) {
  std::size_t from = open;
  const auto in_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  while (from > 0 && in_name(text[from - 1])) --from;
  const std::string name = text.substr(from, open - from);
  const auto fits = [&](const std::string& start) {
    return name.starts_with(start);
  };
  return std::any_of(starts.begin(), starts.end(), fits) ? name : "";
}

// All calls of macros whose names start so in the source of a test.
std::vector<Call> calls(const std::string& source, const Strings& starts) {
  std::vector<Call> found;
  std::size_t open = source.find('(');
  for (; open != std::string::npos; open = source.find('(', open + 1)) {
    const std::string macro = macro_before(source, open, starts);
    if (macro.empty()) continue;
    std::size_t at = open + 1;
    if (macro.ends_with("_MESSAGE")) at = second_argument(source, at);
    std::string text = literals_at(source, at);
    // A colon at the end announces a value.
    text.erase(text.find_last_not_of(": ") + 1);
    found.push_back({macro, text});
  }
  return found;
}

struct Exercise {
  std::string name;
  Strings wrong;
  Strings variants;
};

// From NAME:WRONG,...:VARIANT,...
Exercise parse_exercise(const std::string& text) {
  Strings parts = split(text, ':');
  parts.resize(3);
  return {parts[0], split(parts[1], ','), split(parts[2], ',')};
}

// Checks the files of one chapter's exercises and collects what is amiss.
class Files {
 public:
  Files(fs::path exercises, fs::path solutions)
      : exercises_(std::move(exercises)), solutions_(std::move(solutions)) {}

  void check(const Exercise& exercise);
  void check_nothing_unlisted();
  const Strings& complaints() const { return complaints_; }

 private:
  void complain(const std::string& what) { complaints_.push_back(what); }
  std::string expect(const fs::path& path);
  void check_starter(const std::string& name);
  void check_hints(const std::string& name);
  void check_assertions(const Exercise& exercise);

  fs::path exercises_;
  fs::path solutions_;
  std::set<fs::path> listed_;
  Strings complaints_;
};

// The text of a file that has to be there.
std::string Files::expect(const fs::path& path) {
  listed_.insert(path);
  if (fs::exists(path)) return read_file(path);
  complain(path.string() + " is missing");
  return {};
}

void Files::check(const Exercise& exercise) {
  const std::string& name = exercise.name;
  check_starter(name);
  check_hints(name);
  expect(solutions_ / (name + ".hpp"));
  expect(solutions_ / (name + ".md"));
  for (const std::string& variant : exercise.variants) {
    expect(solutions_ / "variants" / (name + '.' + variant + ".hpp"));
  }
  if (exercise.wrong.size() < 3) complain(name + " has under 3 wrong answers");
  if (exercise.variants.empty()) complain(name + " has no variant");
  if (!contains(expect(exercises_ / "README.md"), "check-" + name)) {
    complain("README.md does not say how to check " + name);
  }
  check_assertions(exercise);
}

void Files::check_starter(const std::string& name) {
  const std::string text = expect(exercises_ / (name + ".hpp"));
  const auto lines = std::count(text.begin(), text.end(), '\n');
  if (lines < 15 || lines > 60) {
    complain(name + ".hpp has " + std::to_string(lines) +
             " lines, not 15 to 60");
  }
}

void Files::check_hints(const std::string& name) {
  const std::string text = expect(exercises_ / (name + ".hints.md"));
  int hints = 0;
  std::size_t at = text.find("<details>");
  while (at != std::string::npos) {
    ++hints;
    const std::size_t next = text.find("<details>", at + 1);
    if (!contains(text.substr(at, next - at), "?")) {
      complain(name + ": a hint asks nothing");
    }
    at = next;
  }
  if (hints < 3 || hints > 4) {
    complain(name + " has " + std::to_string(hints) + " hints, not 3 or 4");
  }
}

// Every assertion says in words of its own what it asserts, and some wrong
// answer names these words: without the assertion that answer would be judged
// wrongly, so no assertion can get lost.
void Files::check_assertions(const Exercise& exercise) {
  const std::string& name = exercise.name;
  const std::string source = expect(exercises_ / (name + "_test.cpp"));
  if (!contains(source, "#include <" + name + ".hpp>")) {
    complain(name + "_test.cpp does not include its subject in <>");
  }
  std::set<std::string> cases;
  for (const Call& test : calls(source, {"TEST_CASE"})) cases.insert(test.text);
  Strings messages;
  for (const std::string& belief : exercise.wrong) {
    const std::string file = name + '.' + belief + ".hpp";
    expect(solutions_ / "wrong" / file);
    const Claim claim = read_claim(solutions_ / "wrong" / file);
    messages.push_back(claim.message);
    if (!cases.contains(claim.fails)) {
      complain(file + " names no test case: '" + claim.fails + "'");
    }
  }
  Strings texts;
  for (const Call& call : calls(source, {"CHECK", "REQUIRE", "WARN", "FAIL"})) {
    const std::string where = name + "_test.cpp: " + call.macro;
    const auto starts = [&](const std::string& message) {
      return message.starts_with(call.text);
    };
    const auto close = [&](const std::string& text) {
      return starts(text) || call.text.starts_with(text);
    };
    if (call.text.empty()) {
      complain(where + " has no literal message");
    } else if (std::none_of(messages.begin(), messages.end(), starts)) {
      complain(where + ": no wrong answer names '" + call.text + "'");
    } else if (std::any_of(texts.begin(), texts.end(), close)) {
      complain(where + ": another message starts like '" + call.text + "'");
    }
    texts.push_back(call.text);
  }
}

void Files::check_nothing_unlisted() {
  for (const fs::path& folder : {exercises_, solutions_, solutions_ / "wrong",
                                 solutions_ / "variants"}) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const fs::path& path = entry.path();
      if (entry.is_directory() || path.filename() == "CMakeLists.txt") continue;
      if (listed_.contains(path)) continue;
      complain(path.string() + " belongs to no exercise that CMake lists");
    }
  }
}

void judge_files(const Strings& arguments) {
  Files files(arguments.at(0), arguments.at(1));
  for (std::size_t i = 2; i < arguments.size(); ++i) {
    files.check(parse_exercise(arguments[i]));
  }
  files.check_nothing_unlisted();
  std::string all;
  for (const std::string& what : files.complaints()) all += what + '\n';
  if (!all.empty()) throw Complaint(all);
}

void judge(const std::string& kind, const Strings& arguments) {
  if (kind == "files") return judge_files(arguments);
  const Strings command(arguments.begin() + 1, arguments.end());
  if (kind == "starter") return judge_starter(command);
  if (kind == "repair") return judge_repair(command);
  if (kind == "wrong") return judge_wrong(arguments[0], command);
  throw Complaint("cannot judge '" + kind + "'");
}

}  // namespace

// judge starter|repair|wrong HEADER COMMAND...
// judge files EXERCISES SOLUTIONS NAME:WRONG,...:VARIANT,... ...
int main(int argc, char** argv) {
  const Strings words(argv + 1, argv + argc);
  try {
    if (words.size() < 3) throw Complaint("judge KIND ARGUMENT...");
    judge(words[0], Strings(words.begin() + 1, words.end()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "judge: %s: %s\n", argc > 2 ? argv[2] : "",
                 error.what());
    return 1;
  }
  return 0;
}
