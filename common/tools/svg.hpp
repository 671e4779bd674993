#pragma once

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

}  // namespace net
