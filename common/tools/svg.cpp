#include "common/tools/svg.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>
#include <utility>

namespace net {
namespace {

constexpr int width = 760;
constexpr int margin = 24;
constexpr int panel_width = 344;
constexpr int panel_gap = 24;
constexpr int label_width = 128;
constexpr int bar_width = 136;  // of the longest; its text follows
constexpr int bar_pitch = 28;
constexpr int bars_top = 62;  // below the panel's title and note
constexpr int header = 84;

// In turn: a colour belongs to a label's place. The last is for text, which
// needs more contrast.
struct Colour {
  std::string_view fill;
  std::string_view stroke;
  std::string_view ink;
};
constexpr std::array colours{
    Colour{"#fdecec", "#cf4b4b", "#b13a3a"},
    Colour{"#fff4dc", "#d9a21b", "#8f6508"},
    Colour{"#e8f1fb", "#3b7dd8", "#2b63b3"},
    Colour{"#eaf6ec", "#3c9d58", "#2a7541"},
    Colour{"#f2ebfb", "#8250c4", "#6b3fae"},
    Colour{"#eceff2", "#52606d", "#3e4c59"},
    Colour{"#e3f6f5", "#12908e", "#0d6f6d"},
};

const Colour& colour_of(const Line& line) {
  return colours[line.colour % colours.size()];
}

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '&':
        safe += "&amp;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string text_at(int x, int y, const std::string& style,
                    const std::string& text) {
  return "  <text x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) +
         "\" class=\"" + style + "\">" + escaped(text) + "</text>\n";
}

int height_of(const Panel& panel) {
  return bars_top + static_cast<int>(panel.bars.size()) * bar_pitch + 18;
}

std::string draw_bar(const Bar& bar, int x, int y, double most,
                     const Colour& colour) {
  std::string svg = text_at(x, y + 15, "label", bar.label);
  if (!bar.value) {
    return svg + text_at(x + label_width, y + 15, "muted", bar.text);
  }
  const double share = most > 0 ? std::max(0.0, *bar.value) / most : 0;
  const int length =
      std::max(2, static_cast<int>(std::lround(share * bar_width)));
  svg += "  <rect x=\"" + std::to_string(x + label_width) + "\" y=\"" +
         std::to_string(y) + "\" width=\"" + std::to_string(length) +
         "\" height=\"20\" rx=\"3\" fill=\"" + std::string(colour.fill) +
         "\" stroke=\"" + std::string(colour.stroke) + "\"/>\n";
  return svg + text_at(x + label_width + length + 8, y + 15, "value", bar.text);
}

std::string draw_panel(const Panel& panel, int x, int y) {
  std::string svg = text_at(x, y + 20, "head", panel.title) +
                    text_at(x, y + 42, "muted", panel.note);
  double most = 0;
  for (const Bar& bar : panel.bars)
    most = std::max(most, bar.value.value_or(0));
  for (std::size_t i = 0; i < panel.bars.size(); ++i) {
    svg += draw_bar(panel.bars[i], x,
                    y + bars_top + static_cast<int>(i) * bar_pitch, most,
                    colours[i % colours.size()]);
  }
  return svg;
}

constexpr std::string_view style =
    "  <style>\n"
    "    text { font-family: Inter, Helvetica, Arial, sans-serif;"
    " font-size: 14px; fill: #1f2933 }\n"
    "    .title { font-size: 20px; font-weight: 600 }\n"
    "    .head { font-size: 15px; font-weight: 600 }\n"
    "    .value { font-weight: 600 }\n"
    "    .muted { font-size: 13px; fill: #6b7785 }\n"
    "    .middle { text-anchor: middle }\n"
    "    .end { text-anchor: end }\n"
    "  </style>\n";

std::string open_document(const std::string& title, const std::string& subtitle,
                          int height) {
  const std::string w = std::to_string(width);
  const std::string h = std::to_string(height);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + w + ' ' +
         h + "\" width=\"" + w + "\" height=\"" + h +
         "\" role=\"img\" aria-labelledby=\"t d\">\n  <title id=\"t\">" +
         escaped(title) + "</title>\n  <desc id=\"d\">" + escaped(subtitle) +
         "</desc>\n" + std::string(style) + "  <rect x=\"1\" y=\"1\" width=\"" +
         std::to_string(width - 2) + "\" height=\"" +
         std::to_string(height - 2) +
         "\" rx=\"12\" fill=\"#ffffff\" stroke=\"#d5dbe1\"/>\n" +
         text_at(margin, 42, "title", title) +
         text_at(margin, 66, "muted", subtitle);
}

// Where the lines of a plot stand on the page.
constexpr double plot_left = 74;
constexpr double plot_right = 560;  // the names of the lines follow
constexpr double plot_top = 96;
constexpr double plot_bottom = 416;
constexpr double zero_x = plot_left + 22;  // of the points with no idle client
constexpr double axis_left = zero_x + 58;  // where the logarithmic part begins
constexpr double label_pitch = 19;

// The powers of ten that all values lie between, and the least of x but zero.
struct Scale {
  double x_least;
  double x_most;
  int low;
  int high;

  double x(double value) const {
    if (value <= 0) return zero_x;
    if (x_most <= x_least) return axis_left;
    const double share = std::log(value / x_least) / std::log(x_most / x_least);
    return axis_left + share * (plot_right - axis_left);
  }
  double y(double value) const {
    const double share = (std::log10(value) - low) / (high - low);
    return plot_bottom - share * (plot_bottom - plot_top);
  }
};

std::vector<Point> all_points(const Plot& plot) {
  std::vector<Point> points;
  for (const Line& line : plot.lines) {
    points.insert(points.end(), line.points.begin(), line.points.end());
  }
  return points;
}

Scale scale_of(const std::vector<Point>& points) {
  Scale scale{0, 0, 0, 1};
  if (points.empty()) return scale;
  double least = points[0].y;
  double most = points[0].y;
  for (const Point& point : points) {
    least = std::min(least, point.y);
    most = std::max(most, point.y);
    if (point.x <= 0) continue;
    scale.x_most = std::max(scale.x_most, point.x);
    scale.x_least =
        scale.x_least > 0 ? std::min(scale.x_least, point.x) : point.x;
  }
  scale.low = static_cast<int>(std::floor(std::log10(least)));
  scale.high =
      std::max(scale.low + 1, static_cast<int>(std::ceil(std::log10(most))));
  return scale;
}

std::string grouped_whole(double value) {
  std::string text = std::to_string(std::lround(value));
  for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

// "0.01", "10" or "1,000"
std::string tick_text(double value) {
  if (value <= 0 || value >= 1) return grouped_whole(value);
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

std::string place(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

std::string stroke(double x1, double y1, double x2, double y2,
                   const std::string& look) {
  return "  <line x1=\"" + place(x1) + "\" y1=\"" + place(y1) + "\" x2=\"" +
         place(x2) + "\" y2=\"" + place(y2) + "\" " + look + "/>\n";
}

int rounded(double value) { return static_cast<int>(std::lround(value)); }

// A line across at each power of ten, the last one with the axis below it.
std::string draw_axes(const Plot& plot, const Scale& scale) {
  const std::string grid = "stroke=\"#e6eaee\"";
  const std::string axis = "stroke=\"#9aa5b1\"";
  std::string svg;
  for (int power = scale.low; power <= scale.high; ++power) {
    const double value = std::pow(10, power);
    const double y = scale.y(value);
    if (power > scale.low) svg += stroke(plot_left, y, plot_right, y, grid);
    svg += text_at(rounded(plot_left) - 10, rounded(y) + 5, "muted end",
                   tick_text(value));
  }
  // From zero no logarithm leads to the first number: the axis is broken.
  const double gap = (zero_x + axis_left) / 2;
  svg += stroke(plot_left, plot_bottom, gap - 4, plot_bottom, axis);
  svg += stroke(gap + 4, plot_bottom, plot_right, plot_bottom, axis);
  for (const double x : {gap - 4, gap + 4}) {
    svg += stroke(x - 3, plot_bottom + 6, x + 3, plot_bottom - 6, axis);
  }
  std::vector<double> ticks;
  for (const Point& point : all_points(plot)) ticks.push_back(point.x);
  std::sort(ticks.begin(), ticks.end());
  ticks.erase(std::unique(ticks.begin(), ticks.end()), ticks.end());
  for (const double tick : ticks) {
    const double x = scale.x(tick);
    svg += stroke(x, plot_bottom, x, plot_bottom + 5, axis);
    svg += text_at(rounded(x), rounded(plot_bottom) + 22, "muted middle",
                   tick_text(tick));
  }
  return svg + text_at(rounded((plot_left + plot_right) / 2),
                       rounded(plot_bottom) + 46, "muted middle", plot.x_name);
}

// Of three neighbours that lie on each other all are seen: they have these
// looks in turn, and the wider ones are drawn first.
struct Look {
  std::string_view line;
  std::string_view dot;
};
constexpr std::array looks{
    Look{"stroke-width=\"16\" stroke-opacity=\"0.3\"",
         "r=\"8\" fill-opacity=\"0.5\""},
    Look{"stroke-width=\"7\" stroke-opacity=\"0.7\"", "r=\"5\""},
    Look{"stroke-width=\"2\"", "r=\"2.4\""},
};

std::string draw_line(const Line& line, const Scale& scale, const Look& look) {
  const std::string colour(colour_of(line).stroke);
  std::string path;
  std::string dots;
  for (const Point& point : line.points) {
    const std::string x = place(scale.x(point.x));
    const std::string y = place(scale.y(point.y));
    path += (path.empty() ? "" : " ") + x + ',' + y;
    dots += "  <circle cx=\"" + x + "\" cy=\"" + y + "\" " +
            std::string(look.dot) + " fill=\"" + colour + "\"/>\n";
  }
  return "  <polyline points=\"" + path + "\" fill=\"none\" stroke=\"" +
         colour + "\" stroke-linejoin=\"round\" stroke-linecap=\"round\" " +
         std::string(look.line) + "/>\n" + dots;
}

// The names of the lines that go on to the right end stand there, in the
// lines' order; where they would touch, they move apart.
struct Label {
  const Line* line;
  double y;
};

void move_apart(std::vector<Label>& labels) {
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) {
    return std::pair(a.y, a.line) < std::pair(b.y, b.line);
  });
  for (std::size_t i = 1; i < labels.size(); ++i) {
    double& y = labels[i].y;
    const double short_of = labels[i - 1].y + label_pitch - y;
    if (short_of <= 0) continue;
    y += short_of / 2;
    labels[i - 1].y -= short_of / 2;
  }
  for (std::size_t i = labels.size(); i > 0; --i) {
    const double below =
        i == labels.size() ? plot_bottom + label_pitch : labels[i].y;
    labels[i - 1].y = std::min(labels[i - 1].y, below - label_pitch);
  }
  double above = plot_top - label_pitch;
  for (Label& label : labels) {
    label.y = std::max(label.y, above + label_pitch);
    above = label.y;
  }
}

std::string value_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return value < 9.95 ? text : grouped_whole(value);
}

std::string name_at(double x, double y, const std::string& kind,
                    const Line& line, const std::string& unit) {
  return "  <text x=\"" + place(x) + "\" y=\"" + place(y) + "\" class=\"" +
         kind + "\" style=\"fill: " + std::string(colour_of(line).ink) + "\">" +
         escaped(line.label + ": " + value_text(line.points.back().y) + ' ' +
                 unit) +
         "</text>\n";
}

std::string draw_names(const Plot& plot, const Scale& scale) {
  std::string svg;
  std::vector<Label> labels;
  for (const Line& line : plot.lines) {
    const Point& last = line.points.back();
    if (scale.x(last.x) >= plot_right - 1) {
      labels.push_back({&line, scale.y(last.y) + 5});
    } else {
      svg += name_at(scale.x(last.x) - 12, scale.y(last.y) - 10, "value end",
                     line, plot.unit);
    }
  }
  move_apart(labels);
  for (const Label& label : labels) {
    svg += name_at(plot_right + 14, label.y, "value", *label.line, plot.unit);
  }
  return svg;
}

}  // namespace

std::string draw(const Chart& chart) {
  std::string body;
  int y = header;
  for (std::size_t i = 0; i < chart.panels.size(); i += 2) {
    int row = 0;
    for (std::size_t j = i; j < std::min(i + 2, chart.panels.size()); ++j) {
      const int column = static_cast<int>(j - i);
      body += draw_panel(chart.panels[j],
                         margin + column * (panel_width + panel_gap), y);
      row = std::max(row, height_of(chart.panels[j]));
    }
    y += row;
  }
  return open_document(chart.title, chart.subtitle, y) + body + "</svg>\n";
}

std::string draw(const Plot& plot) {
  const Scale scale = scale_of(all_points(plot));
  std::string body = draw_axes(plot, scale);
  for (std::size_t look = 0; look < looks.size(); ++look) {
    for (std::size_t i = look; i < plot.lines.size(); i += looks.size()) {
      body += draw_line(plot.lines[i], scale, looks[look]);
    }
  }
  body += draw_names(plot, scale);
  int y = rounded(plot_bottom) + 80;
  for (const std::string& note : plot.notes) {
    body += text_at(margin, y, "muted", note);
    y += 20;
  }
  return open_document(plot.title, plot.subtitle, y + 4) + body + "</svg>\n";
}

}  // namespace net
