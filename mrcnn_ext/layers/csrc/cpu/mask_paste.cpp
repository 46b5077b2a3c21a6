// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
#include "mask_paste.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "roi_align_kernels.h"

namespace mrcnn_ext {
namespace {

MaskKernels kernels_for(const std::string& name) {
#if defined(__x86_64__)
  if (name == "avx512") return avx512::mask_kernels();
  if (name == "avx2") return avx2::mask_kernels();
#endif
  (void)name;
  return generic::mask_kernels();
}

/// How many bytes from the first on are equal to it.
int run_length(const uint8_t* bytes, int count) {
  const uint64_t same = bytes[0] * uint64_t(0x0101010101010101);
  int length = 1;
  while (length + 8 <= count) {
    uint64_t eight;
    std::memcpy(&eight, bytes + length, sizeof(eight));
    if (eight != same) break;
    length += 8;
  }
  while (length < count && bytes[length] == bytes[0]) ++length;
  return length;
}

}  // namespace

const MaskKernels& active_mask_kernels() {
  static const MaskKernels active = kernels_for(active_instruction_set().name);
  return active;
}

void PasteAxis::build(
    const MaskKernels& kernels, float low, float high, int cells, int image_side, bool fused) {
  begin_ = count_ = 0;
  runs_.clear();
  float first = std::floor(low) - 1;
  float last = std::ceil(high) + 1;
  if (first < 0) first = 0;
  if (last > float(image_side)) last = float(image_side);
  if (!(first < last)) return;  // beside the image, inverted, or NaN
  begin_ = static_cast<int>(first);
  count_ = static_cast<int>(last) - begin_;
  const size_t count = static_cast<size_t>(count_ + kBlock);
  if (cell_.size() < count) {
    cell_.resize(count);
    first_.resize(count);
    second_.resize(count);
  }
  kernels.sample_axis(
      {low, high, cells, begin_, count_}, fused, cell_.data(), first_.data(), second_.data());
  find_runs();
}

void PasteAxis::find_runs() {
  for (int i = 0; i < count_; ++i) {
    if (i > 0 && cell_[i] == cell_[i - 1]) {
      runs_.back().end = i + 1;
    } else {
      runs_.push_back({i, i + 1, cell_[i]});
    }
  }
}

void PasteAxis::find_first_pixels(int cells) {
  first_pixel_.clear();
  int end = 0;  // of the pixels inside
  is_ascending_ = true;
  for (size_t r = 0; r < runs_.size() && is_ascending_; ++r) {
    const CellRun& run = runs_[r];
    const bool at_an_end = r == 0 || r + 1 == runs_.size();
    if (run.cell == kOutside && at_an_end) {
      if (r == 0) end = run.end;
      continue;
    }
    const int known = static_cast<int>(first_pixel_.size()) - 1;  // up to this cell, exclusively
    is_ascending_ = run.cell >= known;  // false for kNowhere and kOutside
    if (is_ascending_) {
      first_pixel_.resize(static_cast<size_t>(run.cell + 2), run.begin);
      end = run.end;
    }
  }
  first_pixel_.resize(static_cast<size_t>(cells + 2), end);
}

MaskPaster::MaskPaster(const PasteSettings& settings, Lines lines)
    : kernels_(active_mask_kernels()),
      settings_(settings),
      lines_(lines),
      cells_along_(lines == Lines::kColumns ? settings.mask_height : settings.mask_width),
      cells_across_(lines == Lines::kColumns ? settings.mask_width : settings.mask_height),
      kind_of_zero_(0 >= settings.threshold ? kAbove : kBelow),
      padded_line_(whole_blocks(cells_along_ + 1) + kBlock),
      padded_(static_cast<size_t>(padded_line_) * static_cast<size_t>(cells_across_ + 2), 0.0f),
      classes_(static_cast<size_t>(whole_blocks(cells_along_ + 1))) {
  const int side = lines == Lines::kColumns ? settings.image.height : settings.image.width;
  for (std::vector<float>& corner : corners_) corner.resize(static_cast<size_t>(side + kBlock));
  reached_.resize(static_cast<size_t>(whole_blocks(side)));
}

void MaskPaster::load(const float* mask, const float* box) {
  PasteAxis& x = lines_ == Lines::kColumns ? across_ : along_;
  PasteAxis& y = lines_ == Lines::kColumns ? along_ : across_;
  x.build(
      kernels_, box[0], box[2], settings_.mask_width, settings_.image.width, settings_.fused);
  y.build(
      kernels_, box[1], box[3], settings_.mask_height, settings_.image.height, settings_.fused);
  if (along_.count() == 0 || across_.count() == 0) return;
  along_.find_first_pixels(cells_along_);
  load_mask(mask);
}

void MaskPaster::load_mask(const float* mask) {
  float* inner = padded_.data() + padded_line_ + 1;
  if (lines_ == Lines::kRows) {
    for (int64_t line = 0; line < cells_across_; ++line) {
      std::copy_n(mask + line * cells_along_, cells_along_, inner + line * padded_line_);
    }
  } else {  // transposed; some columns at a time, so that what is read stays in the cache
    for (int first = 0; first < cells_across_; first += kBlock) {
      const int last = std::min(first + kBlock, cells_across_);
      for (int i = 0; i < cells_along_; ++i) {
        const float* row = mask + int64_t(i) * cells_across_;
        for (int line = first; line < last; ++line) {
          inner[int64_t(line) * padded_line_ + i] = row[line];
        }
      }
    }
  }
  const float largest = kernels_.largest(mask, int64_t(cells_along_) * cells_across_);
  if (!(largest <= FLT_MAX / 2)) {  // 0 * inf and overflows: nothing is certain
    low_ = high_ = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  // Weights and sums are rounded seven times, by 2^-24 each: 2^-19 of the largest value is on the safe
  // side, FLT_MIN covers products that are too small for that.
  const double margin = double(largest) * 0x1p-19 + double(FLT_MIN);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  low_ = std::nextafter(static_cast<float>(settings_.threshold - margin), -kInfinity);
  high_ = std::nextafter(static_cast<float>(settings_.threshold + margin), kInfinity);
}

void MaskPaster::add_segment(int begin, int end, uint8_t kind) {
  if (begin == end) return;
  if (!segments_.empty() && segments_.back().kind == kind) {
    segments_.back().end = end;
  } else {
    segments_.push_back({begin, end, kind});
  }
}

void MaskPaster::make_segments(int32_t cell) {
  segments_.clear();
  if (cell == kNowhere) return add_segment(0, along_.count(), kBelow);
  if (cell == kOutside) {
    for (const CellRun& run : along_.runs()) {
      add_segment(run.begin, run.end, run.cell == kNowhere ? uint8_t(kBelow) : kind_of_zero_);
    }
    return;
  }
  const float* line = padded_.data() + int64_t(cell + 1) * padded_line_;
  const float* next = line + padded_line_;
  kernels_.classify(line, next, cells_along_ + 1, low_, high_, classes_.data());
  add_classes();
  for (const Segment& segment : segments_) {
    if (segment.kind == kMixed) spread_corners(segment, line, next);
  }
}

void MaskPaster::add_classes() {
  if (!along_.is_ascending()) {
    for (const CellRun& run : along_.runs()) {
      uint8_t kind = kBelow;  // NaN reaches no threshold
      if (run.cell != kNowhere) kind = run.cell == kOutside ? kind_of_zero_ : classes_[run.cell + 1];
      add_segment(run.begin, run.end, kind);
    }
    return;
  }
  // From one change of class to the next; classes_[0] is that of cell -1.
  const int count = cells_along_ + 1;
  add_segment(0, along_.first_pixel(-1), kind_of_zero_);
  for (int begin = 0; begin < count;) {
    const uint8_t kind = classes_[begin];
    const int end = begin + run_length(classes_.data() + begin, count - begin);
    add_segment(along_.first_pixel(begin - 1), along_.first_pixel(end - 1), kind);
    begin = end;
  }
  add_segment(along_.first_pixel(count - 1), along_.count(), kind_of_zero_);
}

void MaskPaster::spread_corners(const Segment& segment, const float* line, const float* next) {
  const int32_t* cells = along_.cell();
  for (int i = segment.begin; i < segment.end; ++i) {
    const int place = cells[i] + 1;
    corners_[0][i] = line[place];
    corners_[1][i] = line[place + 1];
    corners_[2][i] = next[place];
    corners_[3][i] = next[place + 1];
  }
}

}  // namespace mrcnn_ext
