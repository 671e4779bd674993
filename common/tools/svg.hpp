#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace net {

// A chart of small multiples: panels side by side, each with the same bars.

struct Bar {
  std::string label;
  std::optional<double> value;  // none: there is no figure, and no bar
  std::string text;             // stands at the end of the bar, or instead
};

// Bars are drawn to the scale of the longest in their panel.
struct Panel {
  std::string title;
  std::string note;
  std::vector<Bar> bars;
};

struct Chart {
  std::string title;
  std::string subtitle;
  std::vector<Panel> panels;
};

// The chart as an SVG document, 760 wide. All texts may hold any characters.
std::string draw(const Chart& chart);

// Lines over two logarithmic axes, each named at its end.

struct Point {
  double x;  // zero stands to the left of where the axis begins
  double y;  // positive
};

struct Line {
  std::string label;
  std::size_t colour;         // as that of a bar: by its place
  std::vector<Point> points;  // at least one; from left to right
};

struct Plot {
  std::string title;
  std::string subtitle;
  std::string unit;  // of y
  std::vector<Line> lines;
  std::string x_name;
  std::vector<std::string> notes;  // one a line, below the axis
};

// The plot as an SVG document, 760 wide.
std::string draw(const Plot& plot);

}  // namespace net
