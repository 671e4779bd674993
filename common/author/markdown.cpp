#include "common/author/markdown.hpp"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>
#include <utility>

#include "common/error.hpp"

namespace author {
namespace {

// Inside code spans these characters mean themselves; until the links have been
// found they are replaced by control characters, in this order from 1 on.
constexpr std::string_view marks = "[]()\\<>";

char hidden(char c) {
  const std::size_t place = marks.find(c);
  return place == std::string_view::npos ? c : static_cast<char>(place + 1);
}

char shown(char c) {
  const auto place = static_cast<std::size_t>(static_cast<unsigned char>(c));
  return place >= 1 && place <= marks.size() ? marks[place - 1] : c;
}

void hide_code_spans(std::string& text) {
  std::size_t at = text.find('`');
  while (at != std::string::npos) {
    const std::size_t open_end =
        std::min(text.find_first_not_of('`', at), text.size());
    const std::string ticks = text.substr(at, open_end - at);
    const std::size_t paragraph_end = text.find("\n\n", open_end);
    const std::size_t close = text.find(ticks, open_end);
    if (close == std::string::npos || close > paragraph_end) {
      at = text.find('`', open_end);
      continue;
    }
    for (std::size_t i = open_end; i < close; ++i) text[i] = hidden(text[i]);
    at = text.find('`', close + ticks.size());
  }
}

// What a reader sees: escapes undone, white space collapsed.
std::string plain(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '\\' && i + 1 < text.size() &&
        std::ispunct(static_cast<unsigned char>(text[i + 1])) != 0) {
      c = text[++i];
    }
    const bool blank = c == ' ' || c == '\n' || c == '\t';
    if (!blank) {
      result += shown(c);
    } else if (!result.empty() && result.back() != ' ') {
      result += ' ';
    }
  }
  return std::string(trimmed(result));
}

// Where the bracket opens that closes at `close`; npos if it does not.
std::size_t opening(std::string_view text, std::size_t close) {
  int depth = 0;
  for (std::size_t i = close + 1; i-- > 0;) {
    if (text[i] == ']') ++depth;
    if (text[i] == '[' && --depth == 0) return i;
  }
  return std::string_view::npos;
}

std::vector<Link> find_links(const Lines& prose) {
  std::string text;
  for (const std::string& line : prose) text += line + '\n';
  hide_code_spans(text);
  std::vector<Link> links;
  for (std::size_t at = text.find("]("); at != std::string::npos;
       at = text.find("](", at + 1)) {
    const std::size_t open = opening(text, at);
    const std::size_t end = text.find(')', at);
    if (open == std::string::npos || end == std::string::npos) continue;
    const auto lines = std::count(
        text.begin(), text.begin() + static_cast<std::ptrdiff_t>(open), '\n');
    links.push_back(
        {static_cast<std::size_t>(lines) + 1,
         plain(std::string_view(text).substr(open + 1, at - open - 1)),
         text.substr(at + 2, end - at - 2), open > 0 && text[open - 1] == '!'});
  }
  return links;
}

std::vector<Heading> find_headings(const Lines& prose) {
  std::vector<Heading> headings;
  for (std::size_t i = 0; i < prose.size(); ++i) {
    const std::string& line = prose[i];
    const std::size_t depth =
        std::min(line.find_first_not_of('#'), line.size());
    if (depth == 0 || depth > 6 || depth == line.size()) continue;
    if (line[depth] != ' ') continue;
    headings.push_back({i + 1, depth, plain(line.substr(depth))});
  }
  return headings;
}

Fence open_fence(std::size_t line, std::string_view opening_line) {
  std::istringstream words(std::string(opening_line.substr(3)));
  Fence fence{line, {}, {}, {}};
  words >> fence.language;
  for (std::string word; words >> word;) fence.files.push_back(word);
  return fence;
}

}  // namespace

Lines read_lines(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) net::throw_errno("open", path.string());
  Lines lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

Page read_page(const std::filesystem::path& path) {
  Lines lines = read_lines(path);
  Page page{path, lines.size(), {}, {}, {}, {}};
  bool inside = false;
  std::size_t indent = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = trimmed(lines[i]);
    const bool border = line.starts_with("```");
    if (border && !inside) {
      page.fences.push_back(open_fence(i + 1, line));
      indent = lines[i].find('`');
    } else if (inside && !border) {
      const std::size_t cut = std::min(lines[i].find_first_not_of(' '), indent);
      page.fences.back().body.push_back(
          lines[i].substr(std::min(cut, lines[i].size())));
    }
    page.prose.push_back(inside || border ? "" : std::move(lines[i]));
    if (border) inside = !inside;
  }
  page.links = find_links(page.prose);
  page.headings = find_headings(page.prose);
  return page;
}

std::string anchor(std::string_view heading) {
  std::string result;
  for (std::size_t i = 0; i < heading.size(); ++i) {
    const char c = heading[i];
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0xC2 && i + 1 < heading.size()) {
      ++i;  // U+0080 to U+00BF: signs, such as the middle dot
    } else if (byte == 0xE2 && i + 2 < heading.size()) {
      i += 2;  // U+2000 to U+2FFF: dashes, quotation marks, arrows
    } else if (byte >= 0x80 || std::isalnum(byte) != 0 || c == '-' ||
               c == '_') {
      result += static_cast<char>(byte < 0x80 ? std::tolower(byte) : byte);
    } else if (c == ' ') {
      result += '-';
    }
  }
  return result;
}

}  // namespace author
