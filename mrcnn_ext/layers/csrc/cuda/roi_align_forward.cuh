// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The forward kernel. A block pools some rows of cells of one RoI for a slab of channels: first the
// sparse axes, one thread a bin, into shared memory; then the cells, where a thread has a few
// neighbouring channels, and one row of cells, which it goes through in the order of the columns.
#pragma once

#include "roi_align_device.cuh"

namespace mrcnn_ext {

/// A pixel of one axis that a bin reads.
template <class T>
struct Tap {
  int pixel;
  T weight;
};

/// The taps of one bin, in the order of their pixels.
struct Window {
  int begin;
  int count;
};

template <class Element>
constexpr int kForwardVector = 16 / static_cast<int>(sizeof(Element));

/// How the work is shared out.
struct ForwardShape {
  int lanes;   // threads along channels, neighbours in a warp
  int rows;    // rows of cells of a block
  int groups;  // blocks that share a RoI's rows
  int slabs;   // blocks that share a RoI's channels
  int y_taps;  // capacities
  int x_taps;
  int64_t blocks;
  int64_t shared_bytes;

  int threads() const { return lanes * rows; }
};

template <class T>
ForwardShape make_forward_shape(const Args& args, int vector) {
  ForwardShape shape;
  const int64_t vectors = (args.channels + vector - 1) / vector;
  shape.lanes = 1;
  while (shape.lanes < kWarp && shape.lanes < vectors) shape.lanes *= 2;
  // Equal shares, as far as possible: 14 rows are 7 + 7, not 8 + 6.
  const int most_rows = kMaxThreads / shape.lanes;
  shape.groups = (args.bins_y + most_rows - 1) / most_rows;
  shape.rows = (args.bins_y + shape.groups - 1) / shape.groups;
  shape.slabs = static_cast<int>((vectors + shape.lanes - 1) / shape.lanes);
  shape.blocks = int64_t(args.num_rois) * shape.groups * shape.slabs;
  int height = 0, width = 0;
  for (int l = 0; l < args.num_levels; ++l) {
    height = args.levels[l].height > height ? args.levels[l].height : height;
    width = args.levels[l].width > width ? args.levels[l].width : width;
  }
  const int64_t y_taps = max_taps(shape.rows, height), x_taps = max_taps(args.bins_x, width);
  shape.y_taps = static_cast<int>(y_taps);
  shape.x_taps = static_cast<int>(x_taps);
  shape.shared_bytes = (y_taps + x_taps) * int64_t(sizeof(Tap<T>)) +
                       (int64_t(shape.rows) + args.bins_x) * int64_t(sizeof(Window));
  return shape;
}

template <class Element, int kVector>
class ForwardBlock {
 public:
  using T = accumulator_t<Element>;

  MRCNN_EXT_HD ForwardBlock(const Args& args, const ForwardShape& shape, int block, void* shared)
      : args_(args), shape_(shape) {
    const int group = block % shape.groups;
    const int rest = block / shape.groups;
    roi_index_ = rest % args.num_rois;
    // Slabs come last, so that blocks that run together read the same part of the feature maps.
    slab_ = rest / args.num_rois;
    row_begin_ = group * shape.rows;
    row_end_ = clamp(row_begin_ + shape.rows, row_begin_, args.bins_y);
    roi_ = static_cast<const PlacedRoi<T>*>(args.placed) + roi_index_;
    y_taps_ = static_cast<Tap<T>*>(shared);
    x_taps_ = y_taps_ + shape.y_taps;
    y_windows_ = reinterpret_cast<Window*>(x_taps_ + shape.x_taps);
    x_windows_ = y_windows_ + shape.rows;
  }

  template <class ForEachThread>
  MRCNN_EXT_HD void run(const ForEachThread& for_each_thread) const {
    for_each_thread([&](int thread) { build_axes(thread); });
    for_each_thread([&](int thread) { pool_row(thread); });
  }

 private:
  MRCNN_EXT_HD void build_axes(int thread) const {
    if (roi_->level < 0) return;
    const int rows = row_end_ - row_begin_;
    for (int i = thread; i < rows + args_.bins_x; i += shape_.lanes * shape_.rows) {
      if (i < rows) {
        build_bin(roi_->y, row_begin_ + i, row_begin_, row_end_, y_taps_, y_windows_[i]);
      } else {
        build_bin(roi_->x, i - rows, 0, args_.bins_x, x_taps_, x_windows_[i - rows]);
      }
    }
  }

  /// Write the taps of `bin`, one of [bin_begin, bin_end) that share the array `taps`. The place of
  /// a bin follows from its first pixel, so that threads need not wait for each other: bins in
  /// ascending order are kMaxSharedPixels farther apart than their pixels.
  MRCNN_EXT_HD static void build_bin(
      const Axis<T>& axis, int bin, int bin_begin, int bin_end, Tap<T>* taps, Window& window) {
    const int place = axis.bin_size < T(0) ? bin_end - 1 - bin : bin - bin_begin;
    int begin = 0, count = 0;
    visit_bin(axis, bin, [&](int pixel, T weight) {
      if (weight == T(0)) return;
      if (count == 0) begin = pixel + kMaxSharedPixels * place;
      // Samples come in the order of their position: a pixel that is there already is one of the
      // last two.
      for (int k = begin + count - 1; k >= begin && k >= begin + count - 2; --k) {
        if (taps[k].pixel == pixel) {
          taps[k].weight += weight;
          return;
        }
      }
      taps[begin + count] = {pixel, weight};
      ++count;
    });
    window = {begin, count};
  }

  MRCNN_EXT_HD void pool_row(int thread) const {
    const int row = row_begin_ + thread / shape_.lanes;
    const int64_t channel =
        (int64_t(slab_) * shape_.lanes + thread % shape_.lanes) * int64_t(kVector);
    if (row >= row_end_ || channel >= args_.channels) return;
    const int64_t cell = (int64_t(roi_index_) * args_.bins_y + row) * args_.bins_x;
    Element* output = static_cast<Element*>(args_.pooled) + cell * args_.channels + channel;
    if (roi_->level < 0) {
      fill_row(output, roi_->level == kNoImage ? T(NAN) : T(0));
      return;
    }
    const Level& level = args_.levels[roi_->level];
    const int64_t image_size = int64_t(level.height) * level.width * args_.channels;
    const Element* map =
        static_cast<const Element*>(level.map) + roi_->image * image_size + channel;
    const int64_t row_stride = level.width * args_.channels;
    const Window y = y_windows_[row - row_begin_];

    // Bins in ascending order share two columns at most, save for rounding. The sums of the last
    // two columns stay in registers.
    Sums<T, kVector> recent, older;
    recent.clear();
    older.clear();
    int recent_column = -1, older_column = -1;
    const bool descending = roi_->x.bin_size < T(0);
    for (int i = 0; i < args_.bins_x; ++i) {
      const int bin = descending ? args_.bins_x - 1 - i : i;
      const Window x = x_windows_[bin];
      Sums<T, kVector> sums;
      sums.clear();
      for (int k = x.begin; k < x.begin + x.count; ++k) {
        const Tap<T> tap = x_taps_[k];
        if (tap.pixel != recent_column && tap.pixel != older_column) {
          older = recent;
          older_column = recent_column;
          recent = column_sum(map + tap.pixel * args_.channels, row_stride, y);
          recent_column = tap.pixel;
        }
        sums.add(tap.weight, select(tap.pixel == recent_column, recent, older));
      }
      sums.store_to(output + bin * args_.channels);
    }
  }

  MRCNN_EXT_HD Sums<T, kVector> column_sum(
      const Element* column, int64_t row_stride, const Window& y) const {
    Sums<T, kVector> sums;
    sums.clear();
    MRCNN_EXT_UNROLL_4
    for (int k = y.begin; k < y.begin + y.count; ++k) {
      const Tap<T> tap = y_taps_[k];
      sums.add(tap.weight, load<kVector>(column + tap.pixel * row_stride));
    }
    return sums;
  }

  MRCNN_EXT_HD void fill_row(Element* output, T value) const {
    Sums<T, kVector> sums;
    MRCNN_EXT_UNROLL
    for (int i = 0; i < kVector; ++i) sums.lane[i] = value;
    for (int bin = 0; bin < args_.bins_x; ++bin) sums.store_to(output + bin * args_.channels);
  }

  const Args& args_;
  const ForwardShape& shape_;
  const PlacedRoi<T>* roi_;
  int roi_index_;
  int slab_;
  int row_begin_;
  int row_end_;
  Tap<T>* y_taps_;
  Tap<T>* x_taps_;
  Window* y_windows_;
  Window* x_windows_;
};

}  // namespace mrcnn_ext
