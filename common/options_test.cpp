#include "common/options.hpp"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <initializer_list>

#include "common/error.hpp"
#include "common/fd.hpp"

namespace {

// A command line whose words live as long as it does.
class Command {
 public:
  Command(std::initializer_list<std::string> words) : words_(words) {
    for (std::string& word : words_) pointers_.push_back(word.data());
    pointers_.push_back(nullptr);
  }
  int argc() const { return static_cast<int>(words_.size()); }
  char** argv() { return pointers_.data(); }

 private:
  std::vector<std::string> words_;
  std::vector<char*> pointers_;
};

// A program with an option of each kind.
struct Program {
  Program() {
    options.text("--host", "address to listen on", host);
    options.number("--port", "port to listen on", 0, 65535, port);
    options.flag("--once", "stop after one client", once);
  }

  std::vector<std::string> parse(Command command) const {
    return options.parse(command.argc(), command.argv());
  }

  // What the usage error for this command line says.
  std::string complaint(Command command) const {
    try {
      options.parse(command.argc(), command.argv());
    } catch (const net::UsageError& error) {
      return error.what();
    }
    return "none";
  }

  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;
  bool once = false;
  net::Options options{"[--host ADDRESS] [--port NUMBER]", "Serves."};
};

using Words = std::vector<std::string>;

// Takes what is written to a standard stream while it lives.
class Captured {
 public:
  explicit Captured(std::FILE* stream)
      : stream_(stream),
        saved_(net::check(::dup(::fileno(stream)), "dup")),
        file_(net::check(::memfd_create("captured", MFD_CLOEXEC), "memfd")) {
    redirect(file_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  ~Captured() { redirect(saved_); }

  std::string text() {
    std::fflush(stream_);
    std::string bytes(4096, '\0');
    const ssize_t n = ::pread(file_.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(static_cast<std::size_t>(net::check(n, "pread")));
    return bytes;
  }

 private:
  void redirect(const net::Fd& to) {
    std::fflush(stream_);
    ::dup2(to.get(), ::fileno(stream_));
  }

  std::FILE* stream_;
  net::Fd saved_;
  net::Fd file_;
};

struct Outcome {
  int status;
  std::string output;
  std::string errors;
};

Outcome run(Command command, const std::function<int(const Words&)>& body) {
  const Program program;
  Captured output(stdout);
  Captured errors(stderr);
  const int status =
      net::run_program(command.argc(), command.argv(), program.options, body);
  return {status, output.text(), errors.text()};
}

int must_not_run(const Words&) { throw std::logic_error("the body ran"); }

}  // namespace

TEST_CASE("without options the defaults stand") {
  const Program program;
  CHECK(program.parse({"serve"}).empty());
  CHECK(program.host == "127.0.0.1");
  CHECK(program.port == 8080);
  CHECK_FALSE(program.once);
  CHECK_FALSE(program.options.help_wanted());
}

TEST_CASE("a value follows its option or an equals sign") {
  const Program program;
  program.parse({"serve", "--host", "::1", "--port=0", "--once"});
  CHECK(program.host == "::1");
  CHECK(program.port == 0);
  CHECK(program.once);
}

TEST_CASE("a value may be empty, hold an equals sign or look like an option") {
  const Program program;
  program.parse({"serve", "--host="});
  CHECK(program.host.empty());
  program.parse({"serve", "--host=a=b"});
  CHECK(program.host == "a=b");
  program.parse({"serve", "--host", "--once"});
  CHECK(program.host == "--once");
  CHECK_FALSE(program.once);
}

TEST_CASE("the first argument that is no option ends the options") {
  const Program program;
  CHECK(program.parse({"serve", "--once", "ls", "--port", "1"}) ==
        Words{"ls", "--port", "1"});
  CHECK(program.once);
  CHECK(program.port == 8080);
  CHECK(program.parse({"serve", "-p", "1"}) == Words{"-p", "1"});
}

TEST_CASE("two dashes end the options and are not handed on") {
  const Program program;
  CHECK(program.parse({"serve", "--", "--once", "--"}) ==
        Words{"--once", "--"});
  CHECK_FALSE(program.once);
}

TEST_CASE("a number is parsed whole and its range is checked") {
  const Program program;
  for (const std::string text :
       {"", "x", "80x", "x80", " 80", "80 ", "+80", "-1", "0x50", "1e3", "8.0",
        "65536", "70000", "18446744073709551616"}) {
    CAPTURE(text);
    CHECK(program.complaint({"serve", "--port", text}) ==
          "--port: '" + text + "' is not a number from 0 to 65535");
  }
  CHECK(program.port == 8080);
  program.parse({"serve", "--port", "65535"});
  CHECK(program.port == 65535);
  program.parse({"serve", "--port", "0080"});
  CHECK(program.port == 80);
}

TEST_CASE("a range has two ends") {
  CHECK(net::parse_number("--n", "5", 5, 6) == 5);
  CHECK(net::parse_number("--n", "6", 5, 6) == 6);
  CHECK_THROWS_AS(net::parse_number("--n", "4", 5, 6), net::UsageError);
  CHECK_THROWS_AS(net::parse_number("--n", "7", 5, 6), net::UsageError);
}

TEST_CASE("a time is a whole number and its unit") {
  using namespace std::chrono_literals;
  const auto parse = [](std::string_view text) {
    return net::parse_time("--grace", text, 0ms, 24h);
  };
  CHECK(parse("0") == 0ms);
  CHECK(parse("0s") == 0ms);
  CHECK(parse("1500ms") == 1500ms);
  CHECK(parse("30s") == 30s);
  CHECK(parse("5m") == 5min);
  CHECK(parse("24h") == 24h);
}

TEST_CASE("a time without unit, with another, or out of range is refused") {
  using namespace std::chrono_literals;
  for (const std::string text :
       {"", "s", "5", "00", "5 s", "5S", "5us", "5sec", "1m30s", "-1s", "1.5s",
        "25h", "86400001ms", "18446744073709551616ms",
        "18446744073709551615h"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(
        net::parse_time("--grace", text, 0ms, 24h),
        ("--grace: '" + text +
         "' is not a time from 0 to 24h, such as 500ms, 30s or 5m")
            .c_str(),
        net::UsageError);
  }
  CHECK_THROWS_AS(net::parse_time("--grace", "0", 1ms, 1h), net::UsageError);
  CHECK(net::parse_time("--grace", "1ms", 1ms, 1h) == 1ms);
}

TEST_CASE("a time is written in the largest unit that leaves a whole number") {
  using namespace std::chrono_literals;
  CHECK(net::text_of(0ms) == "0");
  CHECK(net::text_of(1500ms) == "1500ms");
  CHECK(net::text_of(90s) == "90s");
  CHECK(net::text_of(120s) == "2m");
  CHECK(net::text_of(24h) == "24h");
}

TEST_CASE("an option that takes a time explains its default") {
  using namespace std::chrono_literals;
  std::chrono::milliseconds grace = 5s;
  net::Options options("", "Serves.");
  options.time("--grace", "how long", 0ms, 1h, grace);
  Command command{"serve", "--grace", "2m"};
  options.parse(command.argc(), command.argv());
  CHECK(grace == 2min);
  CHECK(options.help("serve").find("--grace  how long (5s)") !=
        std::string::npos);
}

TEST_CASE("what cannot be meant is refused with its name") {
  const Program program;
  CHECK(program.complaint({"serve", "--hots", "::1"}) ==
        "unknown option '--hots'");
  CHECK(program.complaint({"serve", "--hots=::1"}) ==
        "unknown option '--hots'");
  CHECK(program.complaint({"serve", "--host"}) == "--host needs a value");
  CHECK(program.complaint({"serve", "--once=yes"}) == "--once takes no value");
}

TEST_CASE("--help goes to standard output, and the body does not run") {
  const Outcome outcome = run({"/usr/bin/serve", "--help"}, must_not_run);
  CHECK(outcome.status == 0);
  CHECK(outcome.errors.empty());
  CHECK(outcome.output ==
        "usage: serve [--host ADDRESS] [--port NUMBER]\n"
        "Serves.\n"
        "\n"
        "  --host  address to listen on (127.0.0.1)\n"
        "  --port  port to listen on (8080)\n"
        "  --once  stop after one client\n"
        "  --help  print this and exit\n");
}

TEST_CASE("bad usage is a reason and a usage line on standard error, and 2") {
  const Outcome outcome = run({"./serve", "--port", "http"}, must_not_run);
  CHECK(outcome.status == 2);
  CHECK(outcome.output.empty());
  CHECK(outcome.errors ==
        "serve: --port: 'http' is not a number from 0 to 65535\n"
        "usage: serve [--host ADDRESS] [--port NUMBER]\n");
}

TEST_CASE("a usage error of the body counts as bad usage") {
  const Outcome outcome = run({"serve"}, [](const Words&) -> int {
    throw net::UsageError("unexpected argument 'x'");
  });
  CHECK(outcome.status == 2);
  CHECK(outcome.errors.starts_with("serve: unexpected argument 'x'\nusage: "));
}

TEST_CASE("a failing call is one line on standard error, and 1") {
  const Outcome outcome = run({"bin/serve"}, [](const Words&) -> int {
    errno = EADDRINUSE;
    net::throw_errno("bind", "127.0.0.1:80");
  });
  CHECK(outcome.status == 1);
  CHECK(outcome.output.empty());
  CHECK(outcome.errors == "serve: bind 127.0.0.1:80: Address already in use\n");
}

TEST_CASE("the body gets the arguments, and its result is the exit status") {
  Words seen;
  const Outcome outcome =
      run({"serve", "--once", "a", "b"}, [&](const Words& arguments) {
        seen = arguments;
        return 7;
      });
  CHECK(outcome.status == 7);
  CHECK(seen == Words{"a", "b"});
  CHECK(outcome.output.empty());
  CHECK(outcome.errors.empty());
}
