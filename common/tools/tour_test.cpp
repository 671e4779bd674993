#include <doctest/doctest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "common/testing/child_process.hpp"
#include "common/testing/process.hpp"
#include "common/tools/svg.hpp"
#include "common/tools/tour_report.hpp"

namespace {

using namespace std::chrono_literals;
using testing::ChildProcess;

const std::string tour_program = BIN "tour";
constexpr std::array chapters{TOUR_CHAPTERS};

// A folder for files of a test, removed at the end of the scope.
class Folder {
 public:
  Folder() {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const {
    return path_ + '/' + name;
  }

 private:
  std::string path_ = std::filesystem::temp_directory_path() / "tour-XXXXXX";
};

std::string content(const std::string& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file, path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> found;
  for (std::string line; std::getline(stream, line);) found.push_back(line);
  return found;
}

std::vector<std::string> words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> found;
  for (std::string word; stream >> word;) found.push_back(word);
  return found;
}

// Every tag that is opened is closed in its turn, and no text holds a bare
// '<' or '&': all that well-formed means for what we write.
bool well_formed(const std::string& xml) {
  std::vector<std::string> open;
  std::size_t at = 0;
  while ((at = xml.find_first_of("<&", at)) != std::string::npos) {
    const std::size_t end = xml.find(xml[at] == '<' ? '>' : ';', at);
    if (end == std::string::npos) return false;
    const std::string inside = xml.substr(at + 1, end - at - 1);
    const bool entity = xml[at] == '&';
    at = end + 1;
    if (inside.find_first_of("<&") != std::string::npos) return false;
    if (entity || inside.ends_with('/')) continue;
    const std::string name = inside.substr(0, inside.find(' '));
    if (!name.starts_with('/')) {
      open.push_back(name);
    } else if (open.empty() || '/' + open.back() != name) {
      return false;
    } else {
      open.pop_back();
    }
  }
  return open.empty();
}

// From here on whoever loses its parent below us becomes our child, so that
// nobody can be overlooked.
void adopt_orphans() { REQUIRE(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); }

// True once we have no child any more; false if one is still there in the end.
bool nobody_left() {
  try {
    testing::wait_until("all have ended", [] {
      while (::waitpid(-1, nullptr, WNOHANG) > 0) continue;
      return ::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD;
    });
    return true;
  } catch (const testing::TimedOut&) {
    return false;
  }
}

struct Process {
  std::string name;
  pid_t parent;
};

std::optional<Process> process(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/stat");
  std::string stat;
  if (!std::getline(file, stat)) return {};
  const std::size_t start = stat.find('(');
  const std::size_t end = stat.rfind(')');
  return Process{stat.substr(start + 1, end - start - 1),
                 std::atoi(stat.c_str() + end + 4)};
}

// True if the program runs as the tour's child, or as its tracer's.
bool runs_below(pid_t tour, const std::string& name, bool traced) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename();
    if (std::isdigit(static_cast<unsigned char>(pid[0])) == 0) continue;
    const auto found = process(pid);
    if (!found || found->name != name) continue;
    pid_t ancestor = found->parent;
    if (traced) {
      const auto tracer = process(std::to_string(ancestor));
      ancestor = tracer ? tracer->parent : -1;
    }
    if (ancestor == tour) return true;
  }
  return false;
}

// Starts a tour, interrupts it once that server runs, and returns its status.
int interrupted(const std::string& chapter, bool traced, int signal) {
  const Folder folder;
  ChildProcess tour({tour_program, "--only", chapter.substr(0, 2), "--svg",
                     folder / "tour.svg"});
  testing::wait_until(
      chapter + " runs",
      [&] { return runs_below(tour.pid(), chapter, traced); }, 60s);
  tour.signal(signal);
  return tour.wait();
}

net::TourRow full_row() {
  net::TourRow row;
  row.chapter = "10-work-stealing";
  row.second = {true, "epoll_wait"};
  row.at_once = {1100, 1100, 0};
  row.calls_one = row.calls_many = 99.99;
  row.cpu_one = row.cpu_many = 999.9e3;
  row.idle_cost = 9999.9e3;
  row.bytes = 99999;
  row.idle = 1000;
  row.held = 5000;
  return row;
}

std::string without_escapes(std::string text) {
  for (std::size_t at; (at = text.find('\033')) != std::string::npos;) {
    text.erase(at, text.find('m', at) - at + 1);
  }
  return text;
}

}  // namespace

TEST_CASE("the tour names the chapters that are built, in their order") {
  std::vector<std::string> built;
  constexpr std::string_view call = "add_subdirectory(";
  for (const auto& line : lines(content(SOURCE "chapters/CMakeLists.txt"))) {
    if (!line.starts_with(call)) continue;
    built.push_back(line.substr(call.size(), line.find(')') - call.size()));
  }
  CHECK(built == std::vector<std::string>(chapters.begin(), chapters.end()));
}

TEST_CASE("a quick tour has a row for each chapter and leaves no process") {
  adopt_orphans();
  const Folder folder;
  const std::string svg = folder / "tour.svg";
  {
    ChildProcess tour({tour_program, "--quick", "--svg", svg});
    CHECK(tour.wait(100s) == 0);
    CHECK(tour.errors().empty());
    const auto printed = lines(tour.output());
    for (const std::string_view chapter : chapters) {
      CHECK_MESSAGE(std::any_of(printed.begin(), printed.end(),
                                [&](const std::string& line) {
                                  const auto row = words(line);
                                  return row.size() >= 9 && row[0] == chapter;
                                }),
                    chapter);
    }
    for (const std::string& line : printed)
      CHECK_MESSAGE(line.size() <= 80, line);
    REQUIRE(!printed.empty());
    CHECK(printed.back().ends_with(svg));
  }
  CHECK(well_formed(content(svg)));
  CHECK(nobody_left());
}

TEST_CASE("Ctrl-C at any moment leaves no process behind") {
  adopt_orphans();
  for (const std::string_view chapter : chapters) {
    CAPTURE(chapter);
    CHECK(interrupted(std::string(chapter), false, SIGINT) == 130);
    CHECK(nobody_left());
  }
  CHECK(interrupted("03-poll", false, SIGTERM) == 143);
  CHECK(nobody_left());
}

TEST_CASE("Ctrl-C while calls are counted leaves no process behind") {
  adopt_orphans();
  CHECK(interrupted("02-select", true, SIGINT) == 130);
  CHECK(nobody_left());
}

TEST_CASE("a server that fails is left, and the tour goes on") {
  const Folder folder;
  std::filesystem::copy_file(tour_program, folder / "tour");
  std::filesystem::create_symlink("/bin/false", folder / "01-blocking");
  std::filesystem::create_symlink(BIN "02-select", folder / "02-select");
  ChildProcess tour({folder / "tour", "--quick", "--svg", folder / "tour.svg"});
  CHECK(tour.wait(100s) == 1);
  CHECK(tour.output().find("01-blocking: ended with status 1") !=
        std::string::npos);
  CHECK(tour.output().find("\n01-blocking      failed\n") != std::string::npos);
  CHECK(tour.output().find("\n02-select        ") != std::string::npos);
  CHECK(tour.output().find("03-poll: execvp") != std::string::npos);
  CHECK(well_formed(content(folder / "tour.svg")));
}

TEST_CASE("a picture that cannot be written ends the tour with its name") {
  ChildProcess tour(
      {tour_program, "--quick", "--only", "01", "--svg", "/no/x"});
  CHECK(tour.wait(100s) == 1);
  CHECK(tour.errors() == "tour: cannot write /no/x\n");
}

TEST_CASE("the table's columns hold the widest figures") {
  const std::vector<net::TourRow> rows{full_row(), full_row()};
  const auto table = lines(net::tour_table(rows, {}, false));
  REQUIRE(table.size() == 5);
  for (const std::string& line : table) CHECK_MESSAGE(line.size() <= 80, line);
  CHECK(words(table[3]).size() == 10);
}

TEST_CASE("colours change no column") {
  const std::vector<net::TourRow> rows{full_row()};
  const std::string coloured = net::tour_table(rows, {}, true);
  CHECK(coloured != net::tour_table(rows, {}, false));
  CHECK(without_escapes(coloured) == net::tour_table(rows, {}, false));
}

TEST_CASE("a chart is well-formed whatever its texts hold") {
  net::Chart chart{"a < b & \"c\"", "</svg>", {}};
  chart.panels = {{"<", "&", {{"<x>", 3.0, "&"}, {"y", {}, "<none>"}}}};
  CHECK(well_formed(net::draw(chart)));
  CHECK(!well_formed("<a><b></a></b>"));
  CHECK(!well_formed("<a>x < y</a>"));
}
