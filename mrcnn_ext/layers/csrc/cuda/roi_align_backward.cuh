// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The backward kernel. A block owns a tile of one gradient map for a slab of channels and adds up,
// in registers, what all RoIs give to it, in the order of their index: no atomics, and the same
// bits in every run. Each pixel is written once, also where no RoI is.
#pragma once

#include "roi_align_device.cuh"

namespace mrcnn_ext {

constexpr int kTile = 8;  // pixels, both ways; a warp has a row
static_assert(kTile * kWarp == kMaxThreads);

/// A thread keeps sums for kTile times as many channels, so that 16 bytes of float16 were too many.
template <class Element>
constexpr int kBackwardVector = sizeof(Element) == 8 ? 2 : 4;

/// How the work is shared out.
struct BackwardShape {
  int tiles;  // of all levels and images
  int batch;  // RoIs whose weights are in shared memory together
  int64_t blocks;
  int64_t shared_bytes;
};

/// Weights of the tile's rows, or columns, in one bin.
template <class T>
struct alignas(16) TileWeights {
  T of[kTile];
};

/// Bins that may reach into the tile.
struct BinRange {
  int begin;
  int end;
};

/// RoIs out of kMaxThreads that reach into the tile. Flags are bytes, counted eight at a time.
struct Hits {
  uint64_t flags[kMaxThreads / 8];
  int rois[kMaxThreads];
  int count;
};

/// Also numbers the tiles, in `args`.
template <class T>
BackwardShape make_backward_shape(Args& args, int vector) {
  int64_t tiles = 0;
  for (int l = 0; l < args.num_levels; ++l) {
    Level& level = args.levels[l];
    level.tiles_x = (level.width + kTile - 1) / kTile;
    level.first_tile = static_cast<int>(tiles);
    tiles += int64_t((level.height + kTile - 1) / kTile) * level.tiles_x * args.num_images;
  }
  const int64_t slab = int64_t(kWarp) * vector;
  const int bins = args.bins_y + args.bins_x;
  BackwardShape shape;
  shape.tiles = static_cast<int>(tiles);
  shape.batch = bins < kMaxThreads ? kMaxThreads / bins : 1;
  shape.blocks = tiles * ((args.channels + slab - 1) / slab);
  shape.shared_bytes = shape.batch * (bins * int64_t(sizeof(TileWeights<T>)) +
                                      2 * int64_t(sizeof(BinRange))) +
                       int64_t(sizeof(Hits));
  return shape;
}

template <class Element, int kVector>
class BackwardBlock {
 public:
  using T = accumulator_t<Element>;

  /// The sums of a thread: a row of the tile.
  struct Row {
    Sums<T, kVector> pixels[kTile];
  };

  MRCNN_EXT_HD BackwardBlock(
      const Args& args, const BackwardShape& shape, int block, void* shared)
      : args_(args), shape_(shape), bins_(args.bins_y + args.bins_x) {
    int tile = block % shape.tiles;
    slab_ = block / shape.tiles;
    level_ = 0;
    while (level_ + 1 < args.num_levels && tile >= args.levels[level_ + 1].first_tile) ++level_;
    const Level& level = args.levels[level_];
    tile -= level.first_tile;
    const int tiles_y = (level.height + kTile - 1) / kTile;
    tile_x_ = tile % level.tiles_x * kTile;
    tile_y_ = tile / level.tiles_x % tiles_y * kTile;
    image_ = tile / level.tiles_x / tiles_y;
    weights_ = static_cast<TileWeights<T>*>(shared);
    hits_ = reinterpret_cast<Hits*>(weights_ + shape.batch * bins_);
    ranges_ = reinterpret_cast<BinRange*>(hits_ + 1);
  }

  /// `row_of(thread)` is where a thread keeps its sums.
  template <class ForEachThread, class RowOf>
  MRCNN_EXT_HD void run(const ForEachThread& for_each_thread, const RowOf& row_of) const {
    for_each_thread([&](int thread) { clear(row_of(thread)); });
    for (int64_t first = 0; first < args_.num_rois; first += kMaxThreads) {
      for_each_thread([&](int thread) { find_hits(thread, first); });
      for_each_thread([&](int thread) { list_hits(thread, first); });
      const int count = hits_->count;
      for (int begin = 0; begin < count; begin += shape_.batch) {
        const int end = clamp(begin + shape_.batch, begin, count);
        for_each_thread([&](int thread) { weigh(thread, begin, end); });
        for_each_thread([&](int thread) { accumulate(thread, begin, end, row_of(thread)); });
      }
    }
    for_each_thread([&](int thread) { store(thread, row_of(thread)); });
  }

 private:
  MRCNN_EXT_HD static void clear(Row& row) {
    MRCNN_EXT_UNROLL
    for (int i = 0; i < kTile; ++i) row.pixels[i].clear();
  }

  /// Whether samples between two positions may give weight to kTile pixels from `tile` on. The
  /// margin is the rounding of the positions; a RoI or bin too many only costs time.
  MRCNN_EXT_HD static bool reaches(const Axis<T>& axis, T from, T size, int tile) {
    const T to = from + size;
    const T margin = T(2e-6) * (fabs(axis.start) + fabs(axis.bin_size * T(axis.bins)));
    const T low = size < T(0) ? to : from, high = size < T(0) ? from : to;
    return high + margin >= T(tile - 1) && low - margin <= T(tile + kTile);
  }

  MRCNN_EXT_HD static bool roi_reaches(const Axis<T>& axis, int tile) {
    return axis.grid > 0 && reaches(axis, axis.start, axis.bin_size * T(axis.bins), tile);
  }

  MRCNN_EXT_HD static bool bin_reaches(const Axis<T>& axis, int bin, int tile) {
    return reaches(axis, axis.start + T(bin) * axis.bin_size, axis.bin_size, tile);
  }

  MRCNN_EXT_HD const PlacedRoi<T>& roi(int64_t index) const {
    return static_cast<const PlacedRoi<T>*>(args_.placed)[index];
  }

  /// Each thread looks at one RoI.
  MRCNN_EXT_HD void find_hits(int thread, int64_t first) const {
    bool hit = false;
    if (first + thread < args_.num_rois) {
      const PlacedRoi<T>& candidate = roi(first + thread);
      hit = candidate.level == level_ && candidate.image == image_ &&
            roi_reaches(candidate.y, tile_y_) && roi_reaches(candidate.x, tile_x_);
    }
    reinterpret_cast<unsigned char*>(hits_->flags)[thread] = hit;
  }

  /// Each hit takes its place, which is the number of hits before it.
  MRCNN_EXT_HD void list_hits(int thread, int64_t first) const {
    const bool hit = reinterpret_cast<const unsigned char*>(hits_->flags)[thread];
    const bool last = thread == kMaxThreads - 1;
    if (!hit && !last) return;
    uint64_t counts = 0;  // one a byte, 32 at most
    for (int i = 0; i < thread / 8; ++i) counts += hits_->flags[i];
    // The thread's own word up to the thread; the first byte is the lowest.
    counts += hits_->flags[thread / 8] & ((uint64_t(1) << (thread % 8 * 8)) - 1);
    const int place = static_cast<int>((counts * UINT64_C(0x0101010101010101)) >> 56);
    if (hit) hits_->rois[place] = static_cast<int>(first + thread);
    if (last) hits_->count = place + hit;
  }

  MRCNN_EXT_HD TileWeights<T>* weights(int hit, int begin) const {
    return weights_ + (hit - begin) * bins_;
  }

  MRCNN_EXT_HD BinRange* ranges(int hit, int begin) const { return ranges_ + (hit - begin) * 2; }

  /// Each thread works out one bin of one RoI. The first of an axis also finds which bins matter.
  MRCNN_EXT_HD void weigh(int thread, int begin, int end) const {
    for (int i = thread; i < (end - begin) * bins_; i += kMaxThreads) {
      const int hit = begin + i / bins_;
      const int place = i % bins_;
      const bool is_y = place < args_.bins_y;
      const PlacedRoi<T>& hit_roi = roi(hits_->rois[hit]);
      const Axis<T> axis = is_y ? hit_roi.y : hit_roi.x;
      const int tile = is_y ? tile_y_ : tile_x_;
      const int bin = is_y ? place : place - args_.bins_y;
      if (bin == 0) ranges(hit, begin)[is_y ? 0 : 1] = bins_that_reach(axis, tile);
      if (!bin_reaches(axis, bin, tile)) continue;
      T* target = weights(hit, begin)[place].of;
      MRCNN_EXT_UNROLL
      for (int k = 0; k < kTile; ++k) target[k] = T(0);
      visit_bin(axis, bin, [&](int pixel, T weight) {
        const int k = pixel - tile;
        if (k >= 0 && k < kTile) target[k] += weight;
      });
    }
  }

  MRCNN_EXT_HD static BinRange bins_that_reach(const Axis<T>& axis, int tile) {
    BinRange range = {0, 0};
    while (range.begin < axis.bins && !bin_reaches(axis, range.begin, tile)) ++range.begin;
    range.end = range.begin;
    while (range.end < axis.bins && bin_reaches(axis, range.end, tile)) ++range.end;
    return range;
  }

  MRCNN_EXT_HD int64_t channel(int thread) const {
    return (int64_t(slab_) * kWarp + thread % kWarp) * int64_t(kVector);
  }

  MRCNN_EXT_HD void accumulate(int thread, int begin, int end, Row& row) const {
    if (channel(thread) >= args_.channels) return;
    const int y = thread / kWarp;
    for (int hit = begin; hit < end; ++hit) {
      const TileWeights<T>* y_weights = weights(hit, begin);
      const TileWeights<T>* x_weights = y_weights + args_.bins_y;
      const BinRange x_range = ranges(hit, begin)[1];
      BinRange y_range = ranges(hit, begin)[0];
      while (y_range.begin < y_range.end && y_weights[y_range.begin].of[y] == T(0)) ++y_range.begin;
      while (y_range.begin < y_range.end && y_weights[y_range.end - 1].of[y] == T(0)) --y_range.end;
      if (y_range.begin == y_range.end) continue;
      const Element* grad =
          static_cast<const Element*>(args_.pooled) +
          int64_t(hits_->rois[hit]) * args_.bins_y * args_.bins_x * args_.channels +
          channel(thread);
      const int64_t row_stride = args_.bins_x * args_.channels;
      for (int bin = x_range.begin; bin < x_range.end; ++bin) {
        Sums<T, kVector> column;
        column.clear();
        MRCNN_EXT_UNROLL_4
        for (int bin_y = y_range.begin; bin_y < y_range.end; ++bin_y) {
          column.add(
              y_weights[bin_y].of[y],
              load<kVector>(grad + bin_y * row_stride + bin * args_.channels));
        }
        const TileWeights<T> x = x_weights[bin];
        MRCNN_EXT_UNROLL
        for (int k = 0; k < kTile; ++k) {
          // Not for speed: an infinite gradient must not reach pixels that its cell did not read.
          if (x.of[k] != T(0)) row.pixels[k].add(x.of[k], column);
        }
      }
    }
  }

  MRCNN_EXT_HD void store(int thread, const Row& row) const {
    const Level& level = args_.levels[level_];
    const int y = tile_y_ + thread / kWarp;
    if (y >= level.height || channel(thread) >= args_.channels) return;
    const int64_t pixel = (int64_t(image_) * level.height + y) * level.width + tile_x_;
    Element* target = static_cast<Element*>(level.map) + pixel * args_.channels + channel(thread);
    MRCNN_EXT_UNROLL
    for (int k = 0; k < kTile; ++k) {
      if (tile_x_ + k < level.width) row.pixels[k].store_to(target + k * args_.channels);
    }
  }

  const Args& args_;
  const BackwardShape& shape_;
  int bins_;
  int level_;
  int image_;
  int tile_y_;
  int tile_x_;
  int slab_;
  TileWeights<T>* weights_;
  Hits* hits_;
  BinRange* ranges_;
};

}  // namespace mrcnn_ext
