// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
#include "roi_align_plan.h"

#include <tuple>

namespace mrcnn_ext {
namespace {

template <class R>
Placement place(const Geometry& geometry, const R* roi, int64_t index) {
  Placement placement{roi_image(roi, geometry.num_images), -1, false, 0, 0};
  placement.bad_image = placement.image < 0;
  if (placement.bad_image || !roi_is_finite(roi)) return placement;
  const int num_levels = static_cast<int>(geometry.levels.size());
  int64_t level = 0;
  if (geometry.given_levels != nullptr) {
    level = geometry.given_levels[index];
    if (level < 0 || level >= num_levels) return placement;
  } else if (num_levels > 1) {
    level = pyramid_level(
        roi, num_levels, geometry.min_level, R(geometry.canonical_box_size),
        geometry.canonical_level);
    if (level < 0) return placement;
  }
  const LevelShape& shape = geometry.levels[level];
  if (shape.height == 0 || shape.width == 0) return placement;
  placement.level = static_cast<int>(level);
  placement.y = static_cast<float>(clamp(roi[2] * shape.scale, 0.0, double(shape.height)));
  placement.x = static_cast<float>(clamp(roi[1] * shape.scale, 0.0, double(shape.width)));
  return placement;
}

template <class T, class R>
void build(
    const Geometry& geometry, const R* roi, int level, AxisTable<T>& y, AxisTable<T>& x) {
  const LevelShape& shape = geometry.levels[level];
  const T scale = T(shape.scale);
  y.build(make_axis(
      T(roi[2]), T(roi[4]), scale, geometry.aligned, geometry.bins_y, geometry.sampling_ratio,
      shape.height));
  x.build(make_axis(
      T(roi[1]), T(roi[3]), scale, geometry.aligned, geometry.bins_x, geometry.sampling_ratio,
      shape.width));
}

}  // namespace

Placement place_roi(const Geometry& geometry, int64_t index) {
  if (geometry.rois_are_double) {
    return place(geometry, static_cast<const double*>(geometry.rois) + 5 * index, index);
  }
  return place(geometry, static_cast<const float*>(geometry.rois) + 5 * index, index);
}

template <class T>
void build_axes(
    const Geometry& geometry, int64_t index, int level, AxisTable<T>& y, AxisTable<T>& x) {
  if (geometry.rois_are_double) {
    build(geometry, static_cast<const double*>(geometry.rois) + 5 * index, level, y, x);
  } else {
    build(geometry, static_cast<const float*>(geometry.rois) + 5 * index, level, y, x);
  }
}

template void build_axes(const Geometry&, int64_t, int, AxisTable<float>&, AxisTable<float>&);
template void build_axes(const Geometry&, int64_t, int, AxisTable<double>&, AxisTable<double>&);

std::vector<int64_t> locality_order(const std::vector<Placement>& placements) {
  std::vector<int64_t> order;
  order.reserve(placements.size());
  for (size_t i = 0; i < placements.size(); ++i) {
    if (placements[i].level >= 0) order.push_back(static_cast<int64_t>(i));
  }
  const auto key = [&](int64_t i) {
    const Placement& p = placements[i];
    // Strips of 32 rows, each from left to right.
    return std::make_tuple(p.image, p.level, static_cast<int>(p.y / 32), p.x, i);
  };
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
  return order;
}

}  // namespace mrcnn_ext
