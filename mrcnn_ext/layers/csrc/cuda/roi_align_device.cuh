// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of RoIAlign share: arguments, vectors of channels, and where RoIs are.
//
// A kernel is a class for one block of threads. Its phases are functions of one thread, and threads
// meet between phases only; `run` names the phases in order. So any C++ compiler can build a kernel
// and a loop over threads can run it, which is how it is tested without a GPU.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../roi_align_geometry.h"

#ifdef __CUDACC__
#define MRCNN_EXT_UNROLL _Pragma("unroll")
#define MRCNN_EXT_UNROLL_4 _Pragma("unroll 4")
#else
#define MRCNN_EXT_UNROLL
#define MRCNN_EXT_UNROLL_4
#endif

namespace mrcnn_ext {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kMaxLevels = 16;
constexpr int kMaxThreads = 256;
constexpr int kWarp = 32;

/// One feature map, or its gradient: (num_images, height, width, channels), dense.
struct Level {
  void* map;
  int height;
  int width;
  double scale;
  int tiles_x;     // for the gradient, which is computed tile by tile
  int first_tile;  // number of tiles of the levels before
};

/// What is the same for all blocks.
struct Args {
  Level levels[kMaxLevels];
  int num_levels;
  int num_images;
  int64_t channels;
  const void* rois;  // (num_rois, 5)
  bool rois_are_double;
  int num_rois;
  const int64_t* given_levels;  // (num_rois,), or null
  int64_t sampling_ratio;
  bool aligned;
  double canonical_box_size;
  int canonical_level;
  int min_level;
  int bins_y;
  int bins_x;
  void* pooled;  // output or its gradient: (num_rois, bins_y, bins_x, channels), dense
  void* placed;  // PlacedRoi<T> of each RoI, written by place_roi
};

// ---- Vectors of channels ------------------------------------------------------------------------

/// Values that one instruction loads or stores; they are aligned to their common size.
template <class Value, int kSize>
struct alignas(kSize * sizeof(Value)) Pack {
  Value lane[kSize];
};

template <int kSize, class Element>
MRCNN_EXT_HD Pack<Element, kSize> load(const Element* source) {
  return *reinterpret_cast<const Pack<Element, kSize>*>(source);
}

template <int kSize, class Element>
MRCNN_EXT_HD void store(Element* target, const Pack<Element, kSize>& pack) {
#ifdef __CUDA_ARCH__
  // The compiler makes one store for each element of an assignment. Nobody reads the result soon,
  // so it need not stay in a cache.
  if constexpr (sizeof(pack) == 16) {
    uint4 bits;
    memcpy(&bits, &pack, sizeof(bits));
    __stcs(reinterpret_cast<uint4*>(target), bits);
    return;
  } else if constexpr (sizeof(pack) == 8 && kSize > 1) {
    uint2 bits;
    memcpy(&bits, &pack, sizeof(bits));
    __stcs(reinterpret_cast<uint2*>(target), bits);
    return;
  }
#endif
  *reinterpret_cast<Pack<Element, kSize>*>(target) = pack;
}

/// Sums of some channels.
template <class T, int kSize>
struct Sums {
  T lane[kSize];

  MRCNN_EXT_HD void clear() {
    MRCNN_EXT_UNROLL
    for (int i = 0; i < kSize; ++i) lane[i] = T(0);
  }

  template <class Values>
  MRCNN_EXT_HD void add(T weight, const Values& values) {
    MRCNN_EXT_UNROLL
    for (int i = 0; i < kSize; ++i) lane[i] += weight * static_cast<T>(values.lane[i]);
  }

  template <class Element>
  MRCNN_EXT_HD void store_to(Element* target) const {
    Pack<Element, kSize> pack;
    MRCNN_EXT_UNROLL
    for (int i = 0; i < kSize; ++i) pack.lane[i] = static_cast<Element>(lane[i]);
    store(target, pack);
  }
};

/// Lane by lane, since a choice between addresses would take them out of registers.
template <class T, int kSize>
MRCNN_EXT_HD Sums<T, kSize> select(bool first, const Sums<T, kSize>& a, const Sums<T, kSize>& b) {
  Sums<T, kSize> chosen;
  MRCNN_EXT_UNROLL
  for (int i = 0; i < kSize; ++i) chosen.lane[i] = first ? a.lane[i] : b.lane[i];
  return chosen;
}

/// Whether all pixels and cells can be read and written as vectors of `size` elements.
inline bool can_use_vectors(const Args& args, int size, int element_bytes) {
  const auto is_aligned = [&](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size * element_bytes) == 0;
  };
  if (args.channels % size != 0 || !is_aligned(args.pooled)) return false;
  for (int l = 0; l < args.num_levels; ++l) {
    if (!is_aligned(args.levels[l].map)) return false;
  }
  return true;
}

// ---- Where RoIs are -----------------------------------------------------------------------------

/// Instead of a level: nothing to read (zeros), no such image (NaN).
constexpr int kNoLevel = -1;
constexpr int kNoImage = -2;

/// A RoI in pixels of its feature map. It is worked out once, since many blocks need it.
template <class T>
struct PlacedRoi {
  Axis<T> y;
  Axis<T> x;
  int image;
  int level;
};

template <class R>
MRCNN_EXT_HD int level_of(const Args& args, const R* roi, int index) {
  if (roi_image(roi, args.num_images) < 0) return kNoImage;
  if (!roi_is_finite(roi)) return kNoLevel;
  int64_t level = 0;
  if (args.given_levels != nullptr) {
    level = args.given_levels[index];
    if (level < 0 || level >= args.num_levels) return kNoLevel;
  } else if (args.num_levels > 1) {
    level = pyramid_level(
        roi, args.num_levels, args.min_level, R(args.canonical_box_size), args.canonical_level);
    if (level < 0) return kNoLevel;
  }
  const Level& map = args.levels[level];
  return map.height == 0 || map.width == 0 ? kNoLevel : static_cast<int>(level);
}

template <class T, class R>
MRCNN_EXT_HD void place_roi(const Args& args, int index) {
  const R* roi = static_cast<const R*>(args.rois) + int64_t(5) * index;
  PlacedRoi<T> placed = {};
  placed.level = level_of(args, roi, index);
  if (placed.level >= 0) {
    placed.image = static_cast<int>(roi_image(roi, args.num_images));
    const Level& map = args.levels[placed.level];
    const T scale = T(map.scale);
    placed.y = make_axis(
        T(roi[2]), T(roi[4]), scale, args.aligned, args.bins_y, args.sampling_ratio, map.height);
    placed.x = make_axis(
        T(roi[1]), T(roi[3]), scale, args.aligned, args.bins_x, args.sampling_ratio, map.width);
  }
  static_cast<PlacedRoi<T>*>(args.placed)[index] = placed;
}

template <class T>
MRCNN_EXT_HD void place_roi(const Args& args, int index) {
  args.rois_are_double ? place_roi<T, double>(args, index) : place_roi<T, float>(args, index);
}

}  // namespace mrcnn_ext
