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
#include <set>
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

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos;) {
    at += part.size();
    ++count;
  }
  return count;
}

// The numbers of an attribute, in the order in which they stand.
std::vector<double> numbers(const std::string& xml, const std::string& tag,
                            const std::string& attribute) {
  std::vector<double> found;
  for (const std::string& line : lines(xml)) {
    if (line.find('<' + tag + ' ') == std::string::npos) continue;
    const std::size_t at = line.find(' ' + attribute + "=\"");
    REQUIRE_MESSAGE(at != std::string::npos, line);
    found.push_back(std::atof(line.c_str() + at + attribute.size() + 3));
  }
  return found;
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
  row.second = {true, "epoll_pwait"};
  row.at_once = {1100, 1100, 0};
  row.calls_one = row.calls_many = 99.99;
  row.cpu_one = row.cpu_many = 999.9e3;
  row.idle_cost = 9999.9e3;
  row.bytes = 99999;
  row.idle = 1000;
  row.held = 5000;
  return row;
}

net::TourRow idle_row(const std::string& chapter,
                      std::vector<net::EchoCost> echoes) {
  net::TourRow row;
  row.chapter = chapter;
  row.echoes = std::move(echoes);
  return row;
}

// Figures as they are: two lines that lie on each other, and three below.
std::vector<net::TourRow> idle_rows() {
  return {idle_row("01-blocking", {}),
          idle_row("02-select", {{0, 3000}, {10, 4600}, {1000, 200e3}}),
          idle_row("03-poll",
                   {{0, 3000}, {10, 4500}, {1000, 199e3}, {9000, 3960e3}}),
          idle_row("04-epoll-level",
                   {{0, 2900}, {10, 2900}, {1000, 2950}, {9000, 3100}}),
          idle_row("05-epoll-edge",
                   {{0, 2800}, {10, 2800}, {1000, 2800}, {9000, 2900}}),
          idle_row("06-other-fds",
                   {{0, 3000}, {10, 3000}, {1000, 3100}, {9000, 3300}}),
          idle_row("08-scheduler",
                   {{0, 3100}, {10, 3100}, {1000, 3200}, {9000, 3600}})};
}

std::string without_escapes(std::string text) {
  for (std::size_t at; (at = text.find('\033')) != std::string::npos;) {
    text.erase(at, text.find('m', at) - at + 1);
  }
  return text;
}

}  // namespace

TEST_CASE("the tour names the servers that are built, in their order") {
  std::vector<std::string> built;
  constexpr std::string_view call = "add_subdirectory(";
  for (const auto& line : lines(content(SOURCE "chapters/CMakeLists.txt"))) {
    if (!line.starts_with(call)) continue;
    const std::string chapter =
        line.substr(call.size(), line.find(')') - call.size());
    const std::string server = SOURCE "chapters/" + chapter + "/server.cpp";
    if (std::filesystem::exists(server)) built.push_back(chapter);
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
    for (const std::string& line : printed) {
      const bool path = line.find(".svg") != std::string::npos;
      CHECK_MESSAGE((path || line.size() <= 80), line);
    }
    REQUIRE(printed.size() > 2);
    CHECK(printed[printed.size() - 2].ends_with(svg));
    CHECK(printed.back().ends_with(folder / "tour-idle.svg"));
  }
  CHECK(well_formed(content(svg)));
  const std::string idle = content(folder / "tour-idle.svg");
  CHECK(well_formed(idle));
  CHECK(count_of(idle, "<polyline ") == chapters.size() - 1);
  CHECK(idle.find("idle clients: 01-blocking.") != std::string::npos);
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

TEST_CASE("the picture of idle clients names its axes and every line") {
  const std::string svg = net::idle_picture(idle_rows(), {});
  CHECK(well_formed(svg));
  for (const char* text :
       {">0<", ">10<", ">1,000<", ">9,000<", ">1<", ">100<", ">10,000<",
        ">clients that are idle<", "CPU of the server in microseconds",
        ">02-select: 200 us<", ">03-poll: 3,960 us<",
        ">04-epoll-level: 3.1 us<", ">05-epoll-edge: 2.9 us<",
        ">06-other-fds: 3.3 us<", ">08-scheduler: 3.6 us<",
        "idle clients: 01-blocking."}) {
    CHECK_MESSAGE(svg.find(text) != std::string::npos, text);
  }
  CHECK(count_of(svg, "<polyline ") == 6);
  CHECK(count_of(svg, "<circle ") == 23);
}

TEST_CASE("every point of the picture lies within its frame, in order") {
  auto rows = idle_rows();
  rows[4].echoes.back().cpu = 0.4;  // and the scale follows
  const std::string svg = net::idle_picture(rows, {});
  const auto x = numbers(svg, "circle", "cx");
  const auto y = numbers(svg, "circle", "cy");
  const auto across = numbers(svg, "line", "y1");
  REQUIRE(x.size() == 23);
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(x[i] >= numbers(svg, "line", "x1").front());
    CHECK(x[i] <= 570);  // from there on stand the names
    CHECK(y[i] >= *std::min_element(across.begin(), across.end()));
    CHECK(y[i] <= *std::max_element(across.begin(), across.end()));
  }
  CHECK(std::is_sorted(x.begin(), x.begin() + 3));
  CHECK(y[0] > y[1]);  // a greater cost stands higher
  CHECK(y[1] > y[2]);
  const auto highest = std::min_element(y.begin(), y.end());
  CHECK(x[static_cast<std::size_t>(highest - y.begin())] == x.back());
  CHECK(*highest < y[2]);
}

TEST_CASE("no two chapters have the same colour") {
  std::vector<net::TourRow> rows;
  for (const std::string_view chapter : chapters) {
    rows.push_back(idle_row(std::string(chapter), {{0, 1000}, {10, 2000}}));
  }
  std::set<std::string> colours;
  for (const std::string& line : lines(net::idle_picture(rows, {}))) {
    if (line.find("<polyline ") == std::string::npos) continue;
    const std::size_t at = line.find("stroke=\"");
    colours.insert(line.substr(at, line.find(' ', at) - at));
  }
  CHECK(colours.size() == chapters.size());
}

TEST_CASE("names of lines that meet stand apart, and all on the page") {
  for (const double cpu : {2.0, 2900.0, 9.99e6}) {
    auto rows = idle_rows();
    for (net::TourRow& row : rows) {
      for (net::EchoCost& cost : row.echoes) cost.cpu = cpu;
    }
    const std::string svg = net::idle_picture(rows, {});
    std::vector<double> names;
    for (const std::string& line : lines(svg)) {
      if (line.find("class=\"value\"") == std::string::npos) continue;
      names.push_back(numbers(line, "text", "y").at(0));
    }
    REQUIRE(names.size() == 5);
    for (std::size_t i = 1; i < names.size(); ++i) {
      CHECK(names[i] - names[i - 1] >= 16);
    }
    CHECK(names.front() > 70);
    CHECK(names.back() < numbers(svg, "svg", "height").at(0));
  }
}

TEST_CASE("the picture of idle clients can be drawn with few figures or none") {
  CHECK(well_formed(net::idle_picture({}, {})));
  CHECK(well_formed(net::idle_picture({idle_row("01-blocking", {})}, {})));
  const std::string zero =
      net::idle_picture({idle_row("x<y", {{0, 1000}})}, {});
  CHECK(well_formed(zero));
  CHECK(zero.find("nan") == std::string::npos);
  const std::string one =
      net::idle_picture({idle_row("x", {{0, 1000}, {10, 2000}})}, {});
  CHECK(count_of(one, "<circle ") == 2);
  CHECK(one.find("nan") == std::string::npos);
}
