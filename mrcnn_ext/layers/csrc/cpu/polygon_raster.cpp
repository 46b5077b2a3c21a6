// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
#include "polygon_raster.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace mrcnn_ext {
namespace {

constexpr int64_t kFifths = 5;
// The middle of cell i, in both directions, is between its fifths 5 i + 2 and 5 i + 3.
constexpr int64_t kBeforeMiddle = 2;
// Edges of fewer fifths never skip one by rounding.
constexpr int64_t kShort = 1 << 20;
// More than the error, in steps, of where a short edge is thought to pass a column: 2^-52 times its
// steps times the fifths of the grid.
constexpr double kDoubt = 1e-3;

/// Nearest fifth, halves up, negative numbers towards zero. The COCO API's int ends at 2^31, which
/// is undefined there; here coordinates beyond 2^40 fifths, and what is not a number, are moved to that.
int64_t to_fifths(double coordinate) {
  constexpr double limit = static_cast<double>(int64_t(1) << 40);
  const double fifths = 5.0 * coordinate + 0.5;
  if (!(fifths > -limit)) return -static_cast<int64_t>(limit);
  return static_cast<int64_t>(std::min(fifths, limit));
}

/// The first cell whose middle is beyond a fifth: the smallest i >= 0 with 5 i + 2 >= fifth.
int64_t first_cell_beyond(int64_t fifth) {
  return (std::max(fifth, kBeforeMiddle) + kFifths - 1 - kBeforeMiddle) / kFifths;
}

/// Where an edge is on its minor axis, in the COCO API's order of operations; to be truncated.
double along(double start, double slope, double step) { return start + slope * step + 0.5; }

/// 16 columns at a time: a vector that every 64-bit processor has.
using Columns16 = uint64_t __attribute__((vector_size(16)));

/// Sums modulo 2 down `Block` columns of `cells`, written to `mask`; clears the cells. Returns the sums
/// of the columns with the last row, which `mask` does not have.
template <class Block>
Block sum_block_down(uint8_t* cells, uint8_t* mask, int64_t height, int64_t width) {
  Block sum{};
  for (int64_t y = 0; y <= height; ++y) {
    Block flips;
    std::memcpy(&flips, cells + y * width, sizeof flips);
    std::memset(cells + y * width, 0, sizeof flips);
    sum ^= flips;
    if (y < height) std::memcpy(mask + y * width, &sum, sizeof sum);
  }
  return sum;
}

/// target |= source; they do not overlap. (Bytes may alias anything, so that without __restrict no
/// vectors would be used.)
void or_into(uint8_t* __restrict target, const uint8_t* __restrict source, int64_t size) {
  for (int64_t i = 0; i < size; ++i) target[i] |= source[i];
}

}  // namespace

PolygonRaster::PolygonRaster(int64_t height, int64_t width)
    : height_(height),
      width_(width),
      cells_(static_cast<size_t>((height + 1) * width)),
      odd_(static_cast<size_t>(width)),
      part_(static_cast<size_t>(height * width)) {}

/// Where flips go. A copy, since a byte that is written may alias a member, which the compiler would
/// have to read again.
struct PolygonRaster::Flips {
  uint8_t* cells;
  int64_t height;
  int64_t width;

  /// A column flips from the first row on whose middle is beyond `y`, the lower end of the step that
  /// passes the middle of the column.
  void at(int64_t column, int64_t y) const {
    cells[std::min(first_cell_beyond(y), height) * width + column] ^= 1;
  }
};

PolygonRaster::Flips PolygonRaster::flips() { return {cells_.data(), height_, width_}; }

void PolygonRaster::draw(
    const double* points, const int64_t* part_begin, int64_t num_parts,
    const GridPlacement& placement, uint8_t* mask) {
  const int64_t size = height_ * width_;
  bool empty = true;
  for (int64_t k = 0; k < num_parts; ++k) {
    place(points + 2 * part_begin[k], part_begin[k + 1] - part_begin[k], placement);
    if (!flip_around()) continue;
    sum_down(empty ? mask : part_.data());
    if (!empty) or_into(mask, part_.data(), size);
    empty = false;
  }
  if (empty) std::memset(mask, 0, static_cast<size_t>(size));
}

/// Bring a polygon's vertices to the grid.
void PolygonRaster::place(const double* points, int64_t count, const GridPlacement& placement) {
  vertices_.resize(static_cast<size_t>(count + 1));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t x = to_fifths((points[2 * i] - placement.origin_x) * placement.ratio_x);
    const int64_t y = to_fifths((points[2 * i + 1] - placement.origin_y) * placement.ratio_y);
    vertices_[static_cast<size_t>(i)] = {x, y, std::min(first_cell_beyond(x), width_)};
  }
  vertices_[static_cast<size_t>(count)] = vertices_[0];
}

/// Flip where the edges pass the middle of a column; returns whether any does.
bool PolygonRaster::flip_around() {
  // Sorted by kind first, without branches: processors cannot foresee which kind comes next.
  flat_.resize(vertices_.size());
  steep_.resize(vertices_.size());
  size_t num_flat = 0, num_steep = 0;
  for (size_t i = 1; i < vertices_.size(); ++i) {
    const Vertex &from = vertices_[i - 1], &to = vertices_[i];
    const bool passes = from.column != to.column;
    const bool flat = std::llabs(to.x - from.x) >= std::llabs(to.y - from.y);
    flat_[num_flat] = i;
    num_flat += passes & flat;
    steep_[num_steep] = i;
    num_steep += passes & !flat;
  }
  for (size_t k = 0; k < num_flat; ++k) {
    const Vertex *from = &vertices_[flat_[k] - 1], *to = &vertices_[flat_[k]];
    if (from->x > to->x) std::swap(from, to);
    flip_flat(*from, *to);
  }
  for (size_t k = 0; k < num_steep; ++k) flip_steep(vertices_[steep_[k] - 1], vertices_[steep_[k]]);
  return num_flat + num_steep > 0;
}

/// An edge with no more rise than run: a step is a fifth of x, and y is what is rounded.
void PolygonRaster::flip_flat(const Vertex& left, const Vertex& right) {
  const double start = static_cast<double>(left.y);
  const double slope =
      static_cast<double>(right.y - left.y) / static_cast<double>(right.x - left.x);
  double step = static_cast<double>(kFifths * left.column + kBeforeMiddle - left.x);
  const Flips flips = this->flips();
  // Of the two ends of the step that passes a middle, the lower one. Rounding keeps their order.
  if (slope < 0) step += 1.0;
  for (int64_t column = left.column; column < right.column; ++column) {
    flips.at(column, static_cast<int64_t>(along(start, slope, step)));
    step += static_cast<double>(kFifths);
  }
}

/// An edge with more rise than run: a step is a fifth of y, and x is what is rounded. The step that
/// passes the middle of a column is guessed from the inverse slope, then looked for.
void PolygonRaster::flip_steep(const Vertex& from, const Vertex& to) {
  const bool backwards = from.y > to.y;
  const Vertex &low = backwards ? to : from, &high = backwards ? from : to;
  const bool rightwards = high.x > low.x;
  const int64_t column_begin = std::min(low.column, high.column);
  const int64_t column_end = std::max(low.column, high.column);
  const int64_t rise = high.y - low.y;
  const double start = static_cast<double>(low.x), run = static_cast<double>(high.x - low.x);
  const double slope = run / static_cast<double>(rise), inverse = static_cast<double>(rise) / run;
  const Flips flips = this->flips();

  for (int64_t column = column_begin; column < column_end; ++column) {
    const double after = static_cast<double>(kFifths * column + kBeforeMiddle + 1);
    // Whether the middle is passed after so many steps up: x is at `after` or right of it, or, on the
    // way to the left, left of it. Truncation does not matter here, since `after` is positive.
    const auto passed = [&](int64_t steps) {
      return (along(start, slope, static_cast<double>(steps)) >= after) == rightwards;
    };
    const double guess = (after - 0.5 - start) * inverse;
    int64_t step = static_cast<int64_t>(guess) + 1;
    const double fraction = guess - static_cast<double>(step - 1);
    if (rise > kShort || !(fraction > kDoubt && fraction < 1.0 - kDoubt)) {
      step = std::clamp<int64_t>(step, 1, rise);
      while (step > 1 && passed(step - 1)) --step;
      while (step < rise && !passed(step)) ++step;
    }
    if (rise > kShort) {
      // The COCO API sees a passage where its walk arrives next to the middle, and an edge of very
      // many fifths may skip that one by rounding.
      const int64_t arrival = backwards ? step - 1 : step;
      const int64_t x = static_cast<int64_t>(along(start, slope, static_cast<double>(arrival)));
      const int64_t next_to_middle = kFifths * column + kBeforeMiddle + (to.x > from.x ? 1 : 0);
      if (x != next_to_middle) continue;
    }
    flips.at(column, low.y + step - 1);
  }
}

/// Turn flips into the mask of a part, and clear them. A flip below the last row only counts for the next
/// column: the COCO API counts through all columns, one below the other, so that after an odd number of
/// flips in a column the next one starts inside.
void PolygonRaster::sum_down(uint8_t* mask) {
  const int64_t height = height_, width = width_;
  uint8_t* const cells = cells_.data();
  uint8_t* const odd = odd_.data();
  int64_t x = 0;
  const auto sum_blocks = [&](auto block) {
    for (; x + static_cast<int64_t>(sizeof block) <= width; x += sizeof block) {
      block = sum_block_down<decltype(block)>(cells + x, mask + x, height, width);
      std::memcpy(odd + x, &block, sizeof block);
    }
  };
  sum_blocks(Columns16{});
  sum_blocks(uint64_t{});
  sum_blocks(uint32_t{});
  sum_blocks(uint8_t{});
  if (std::memchr(odd, 1, static_cast<size_t>(width)) == nullptr) return;
  uint8_t inside = 0;
  for (x = 0; x < width; ++x) {
    for (int64_t y = 0; inside != 0 && y < height; ++y) mask[y * width + x] ^= 1;
    inside ^= odd[x];
  }
}

}  // namespace mrcnn_ext
