// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Polygons to small bit grids, bit for bit as the COCO API (pycocotools, rleFrPoly and rleMerge)
// rasterises them; this code is our own, after that algorithm.
//
// The COCO API rounds vertices to fifths of a pixel, walks every edge in steps of a fifth, and notes
// where the walk passes the middle of a pixel column: there, from the row below the passage on, the
// mask flips. It sorts these places and reads run lengths off them. Here no edge is walked and nothing
// is sorted. An edge passes a column at one step, which is worked out directly (with the same floating
// point operations, so that rounding is the same), and a place is a flipped cell of the grid; a sum
// modulo 2 down the columns makes the mask. So an edge costs the columns of the grid that it passes,
// however long it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mrcnn_ext {

/// Where a box puts image coordinates on its grid: (coordinate - origin) * ratio.
struct GridPlacement {
  double origin_x;
  double origin_y;
  double ratio_x;
  double ratio_y;
};

/// Rasterises the polygons of one instance after another on grids of one size. Not to be shared
/// between threads.
class PolygonRaster {
 public:
  PolygonRaster(int64_t height, int64_t width);

  /// Write the union of polygons to `mask`, (height, width) bytes of 0 and 1.
  ///
  /// `points` holds (x, y) pairs; polygon k is points [part_begin[k], part_begin[k + 1]).
  void draw(
      const double* points, const int64_t* part_begin, int64_t num_parts,
      const GridPlacement& placement, uint8_t* mask);

 private:
  struct Vertex {
    int64_t x;  // in fifths of a cell
    int64_t y;
    int64_t column;  // the first column whose middle is right of it, at most the width
  };

  void place(const double* points, int64_t count, const GridPlacement& placement);
  bool flip_around();
  void flip_flat(const Vertex& left, const Vertex& right);
  void flip_steep(const Vertex& low, const Vertex& high);
  struct Flips;
  Flips flips();
  void sum_down(uint8_t* mask);

  int64_t height_;
  int64_t width_;
  std::vector<Vertex> vertices_;   // of the part at work, the first one again at the end
  std::vector<size_t> flat_;       // edges, by the vertex where they end
  std::vector<size_t> steep_;
  std::vector<uint8_t> cells_;     // flips, (height + 1, width); all zero between parts
  std::vector<uint8_t> odd_;       // by column, whether it has an odd number of flips
  std::vector<uint8_t> part_;      // the mask of one of several parts
};

}  // namespace mrcnn_ext
