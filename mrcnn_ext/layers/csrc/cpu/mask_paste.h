// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// One mask in its box, pasted into the image line by line without looking at every pixel.
//
// A bilinear value lies between the values at the four corners of its cell. A cell whose corners are
// all on one side of the threshold, with a margin for rounding, is decided as a whole; only pixels of
// the other cells are computed, with the arithmetic of ATen's grid_sample.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mask_kernels.h"

namespace mrcnn_ext {

/// Lines are the image's columns (as COCO's run lengths go) or its rows (as tensors lie in memory).
enum class Lines { kColumns, kRows };

struct ImageSize {
  int height;
  int width;
};

/// What all masks of a call have in common.
struct PasteSettings {
  int mask_height;
  int mask_width;
  ImageSize image;
  float threshold;
  bool fused;
};

/// Pixels [begin, end), counted from an axis' first, with the same cell.
struct CellRun {
  int begin;
  int end;
  int32_t cell;
};

/// One axis of a box in the image. Buffers are kept when it is built again.
class PasteAxis {
 public:
  /// Detectron2 looks at the pixels from floor(low) - 1 to ceil(high); none if one of them is NaN.
  void build(
      const MaskKernels& kernels, float low, float high, int cells, int image_side, bool fused);

  int begin() const { return begin_; }
  int count() const { return count_; }
  const int32_t* cell() const { return cell_.data(); }
  const float* first() const { return first_.data(); }
  const float* second() const { return second_.data(); }
  const std::vector<CellRun>& runs() const { return runs_; }

  /// Make ready for first_pixel().
  void find_first_pixels(int cells);

  /// Whether cells ascend, with pixels outside of the mask at the ends only: so it is but for boxes
  /// that are inverted or have no size. Then the pixels of cells [a, b) are [first_pixel(a),
  /// first_pixel(b)), for -1 <= a <= b <= cells.
  bool is_ascending() const { return is_ascending_; }
  int first_pixel(int cell) const { return first_pixel_[static_cast<size_t>(cell + 1)]; }

 private:
  void find_runs();

  bool is_ascending_ = false;
  std::vector<int> first_pixel_;
  int begin_ = 0;
  int count_ = 0;
  std::vector<int32_t> cell_;
  std::vector<float> first_;
  std::vector<float> second_;
  std::vector<CellRun> runs_;
};

/// Pixels [begin, end) of a line, of one class.
struct Segment {
  int begin;
  int end;
  uint8_t kind;
};

/// Pastes masks one after the other; one for each thread.
class MaskPaster {
 public:
  MaskPaster(const PasteSettings& settings, Lines lines);

  /// Take a mask (mask_height x mask_width) and its box (x0, y0, x1, y1).
  void load(const float* mask, const float* box);

  /// Hand the lines that the box touches to `sink`, in ascending order. It has
  ///   start(line, begin, end)       pixels [begin, end) of this line follow, the others are 0
  ///   fill(begin, end, value)       these pixels are `value`, 0 or 1
  ///   pixels(begin, end, values)    these pixels are the bytes at `values`, 0 or 1 each
  template <class Sink>
  void paste(Sink& sink) {
    if (along_.count() == 0) return;
    const int begin = along_.begin();
    for (const CellRun& run : across_.runs()) {
      make_segments(run.cell);
      for (int line = run.begin; line < run.end; ++line) {
        sink.start(across_.begin() + line, begin, begin + along_.count());
        for (const Segment& segment : segments_) {
          const int first = begin + segment.begin, last = begin + segment.end;
          if (segment.kind != kMixed) {
            sink.fill(first, last, segment.kind);
          } else {
            kernels_.compare(
                strip(segment, line), settings_.threshold, settings_.fused, reached_.data());
            sink.pixels(first, last, reached_.data());
          }
        }
      }
    }
  }

 private:
  void load_mask(const float* mask);
  void add_segment(int begin, int end, uint8_t kind);
  void make_segments(int32_t cell);
  void add_classes();
  void spread_corners(const Segment& segment, const float* line, const float* next);

  /// ATen adds up north-west, north-east, south-west, south-east. The corners after the first, that is
  /// the line's second and the next line's first, are south-west and north-east down a column, and the
  /// other way round along a row.
  Strip strip(const Segment& segment, int line) const {
    const float* first = along_.first() + segment.begin;
    const float* second = along_.second() + segment.begin;
    const float* const corners[4] = {
        corners_[0].data() + segment.begin, corners_[1].data() + segment.begin,
        corners_[2].data() + segment.begin, corners_[3].data() + segment.begin};
    const float line_weight = across_.first()[line], next_weight = across_.second()[line];
    const int count = segment.end - segment.begin;
    if (lines_ == Lines::kColumns) {
      return {{corners[0], corners[2], corners[1], corners[3]},
              {first, first, second, second},
              {line_weight, next_weight, line_weight, next_weight},
              count};
    }
    return {{corners[0], corners[1], corners[2], corners[3]},
            {first, second, first, second},
            {line_weight, line_weight, next_weight, next_weight},
            count};
  }

  const MaskKernels& kernels_;
  const PasteSettings settings_;
  const Lines lines_;
  const int cells_along_;
  const int cells_across_;
  const uint8_t kind_of_zero_;

  PasteAxis along_;
  PasteAxis across_;
  const int padded_line_;      // cells_along_ + 2, and room for whole blocks
  std::vector<float> padded_;  // cells_across_ + 2 lines of the mask with a rim of zeros
  float low_ = 0;              // the threshold with a margin
  float high_ = 0;
  std::vector<uint8_t> classes_;
  std::vector<Segment> segments_;
  std::vector<float> corners_[4];  // per pixel of a line: this line's first and second, the next's
  std::vector<uint8_t> reached_;
};

}  // namespace mrcnn_ext
