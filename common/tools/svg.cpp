#include "common/tools/svg.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

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

// The bars' fills and strokes, in turn: a colour belongs to a label's place.
struct Colour {
  std::string_view fill;
  std::string_view stroke;
};
constexpr std::array colours{
    Colour{"#fdecec", "#cf4b4b"},
    Colour{"#fff4dc", "#d9a21b"},
    Colour{"#e8f1fb", "#3b7dd8"},
    Colour{"#eaf6ec", "#3c9d58"},
};

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
    "  </style>\n";

std::string open_document(const Chart& chart, int height) {
  const std::string w = std::to_string(width);
  const std::string h = std::to_string(height);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + w + ' ' +
         h + "\" width=\"" + w + "\" height=\"" + h +
         "\" role=\"img\" aria-labelledby=\"t d\">\n  <title id=\"t\">" +
         escaped(chart.title) + "</title>\n  <desc id=\"d\">" +
         escaped(chart.subtitle) + "</desc>\n" + std::string(style) +
         "  <rect x=\"1\" y=\"1\" width=\"" + std::to_string(width - 2) +
         "\" height=\"" + std::to_string(height - 2) +
         "\" rx=\"12\" fill=\"#ffffff\" stroke=\"#d5dbe1\"/>\n" +
         text_at(margin, 42, "title", chart.title) +
         text_at(margin, 66, "muted", chart.subtitle);
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
  return open_document(chart, y) + body + "</svg>\n";
}

}  // namespace net
