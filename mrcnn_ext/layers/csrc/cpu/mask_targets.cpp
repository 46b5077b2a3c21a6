// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The CPU side of mrcnn_ext::_polygon_mask_targets and _bitmask_targets: what a mask head is to predict
// in each box, from polygons and from full masks. Schemas are in Python (layers/mask_targets/ops.py).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "../roi_align_checks.h"
#include "../tensors.h"
#include "bitmask_crop.h"
#include "polygon_raster.h"
#include "workers.h"

namespace mrcnn_ext {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const int64_t* longs(const Tensor& tensor) {
  return static_cast<const int64_t*>(tensor.const_data_ptr());
}

/// offsets[0] = 0 <= offsets[1] <= ... <= end: nothing is read out of bounds then.
void check_offsets(const Tensor& offsets, int64_t end, const char* name) {
  const int64_t* values = longs(offsets);
  const int64_t size = offsets.numel();
  STD_TORCH_CHECK(size > 0 && values[0] == 0, name, " must begin with 0");
  for (int64_t i = 1; i < size; ++i) {
    STD_TORCH_CHECK(values[i - 1] <= values[i], name, " must not fall");
  }
  STD_TORCH_CHECK(values[size - 1] == end, name, " must end with ", end);
}

void check_instances(const Tensor& instances, int64_t count, int64_t num_rois) {
  check_cpu_tensor(instances, "instances", ScalarType::Long, {num_rois});
  const int64_t* values = longs(instances);
  for (int64_t r = 0; r < num_rois; ++r) {
    STD_TORCH_CHECK(
        values[r] >= 0 && values[r] < count, "box ", r, " has instance ", values[r], " of ", count);
  }
}

void check_output(const Tensor& output) {
  check_cpu_tensor(output, "output", ScalarType::Bool, {kAny, kAny, kAny});
  STD_TORCH_CHECK(
      output.size(1) < kMaxOutputSide && output.size(2) < kMaxOutputSide,
      "output has a side of 2^15 cells or more");
}

template <class Box>
bool is_finite(const Box* box) {
  return std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) &&
         std::isfinite(box[3]);
}

// ---- Polygons ------------------------------------------------------------------------------------

/// Cells a pixel, as Detectron2's rasterize_polygons_within_box has it: a side of less than 0.1 counts
/// as 0.1. In NumPy 2 the quotient has the boxes' type, in NumPy 1 it is a double.
template <class Box>
double cells_per_pixel(int64_t cells, Box side, bool divide_in_double) {
  if (side < Box(0.1)) return static_cast<double>(cells) / 0.1;
  if (divide_in_double) return static_cast<double>(cells) / static_cast<double>(side);
  return static_cast<double>(static_cast<Box>(cells) / side);
}

/// Ask for memory that the next box needs: points of one instance are too few for the processor to see a
/// pattern in time.
void prefetch(const void* begin, int64_t bytes) {
  constexpr int64_t kLine = 64, kMost = 64 * kLine;
  for (int64_t offset = 0; offset < std::min(bytes, kMost); offset += kLine) {
    __builtin_prefetch(static_cast<const char*>(begin) + offset);
  }
}

template <class Box>
void draw_all(
    const double* points, const int64_t* part_begin, const int64_t* instance_begin,
    const int64_t* instances, const Box* boxes, bool divide_in_double, Tensor& output) {
  const int64_t height = output.size(1), width = output.size(2);
  uint8_t* const masks = static_cast<uint8_t*>(output.mutable_data_ptr());
  share_out(output.size(0), 8, [&] {
    return [&, raster = PolygonRaster(height, width)](int64_t r) mutable {
      if (r + 1 < output.size(0)) {
        const int64_t begin = part_begin[instance_begin[instances[r + 1]]];
        const int64_t end = part_begin[instance_begin[instances[r + 1] + 1]];
        prefetch(points + 2 * begin, 2 * (end - begin) * int64_t(sizeof(double)));
        prefetch(masks + (r + 1) * height * width, height * width);
      }
      const Box* box = boxes + 4 * r;
      int64_t first = instance_begin[instances[r]], last = instance_begin[instances[r] + 1];
      if (!is_finite(box)) last = first;
      // Differences and quotients in the boxes' type, as NumPy computes them.
      const Box side_x = box[2] - box[0], side_y = box[3] - box[1];
      const GridPlacement placement{
          static_cast<double>(box[0]), static_cast<double>(box[1]),
          cells_per_pixel(width, side_x, divide_in_double),
          cells_per_pixel(height, side_y, divide_in_double)};
      raster.draw(
          points, part_begin + first, last - first, placement, masks + r * height * width);
    };
  });
}

void polygon_mask_targets(
    const Tensor& points, const Tensor& part_begin, const Tensor& instance_begin,
    const Tensor& instances, const Tensor& boxes, bool divide_in_double, Tensor output) {
  check_output(output);
  check_cpu_tensor(points, "points", ScalarType::Double, {kAny, 2});
  check_cpu_tensor(part_begin, "part_begin", ScalarType::Long, {kAny});
  check_cpu_tensor(instance_begin, "instance_begin", ScalarType::Long, {kAny});
  const bool is_double = boxes.scalar_type() == ScalarType::Double;
  check_cpu_tensor(
      boxes, "boxes", is_double ? ScalarType::Double : ScalarType::Float, {output.size(0), 4});
  check_apart(output, "output", {&points, &part_begin, &instance_begin, &instances, &boxes});
  check_offsets(part_begin, points.size(0), "part_begin");
  check_offsets(instance_begin, part_begin.numel() - 1, "instance_begin");
  check_instances(instances, instance_begin.numel() - 1, output.size(0));
  if (output.numel() == 0) return;
  const auto draw = [&](auto box) {
    using Box = decltype(box);
    draw_all(
        static_cast<const double*>(points.const_data_ptr()), longs(part_begin),
        longs(instance_begin), longs(instances),
        static_cast<const Box*>(boxes.const_data_ptr()), divide_in_double, output);
  };
  if (is_double) {
    draw(double{});
  } else {
    draw(float{});
  }
}

// ---- Full masks ----------------------------------------------------------------------------------

void bitmask_targets(
    const Tensor& masks, const Tensor& instances, const Tensor& boxes, Tensor output) {
  check_output(output);
  check_cpu_tensor(masks, "masks", ScalarType::Bool, {kAny, kAny, kAny});
  check_cpu_tensor(boxes, "boxes", ScalarType::Float, {output.size(0), 4});
  check_apart(output, "output", {&masks, &instances, &boxes});
  check_instances(instances, masks.size(0), output.size(0));
  const int64_t image_height = masks.size(1), image_width = masks.size(2);
  STD_TORCH_CHECK(
      image_height < kMaxMapSide && image_width < kMaxMapSide, "masks have a side of 2^23 or more");
  const int64_t height = output.size(1), width = output.size(2);
  const uint8_t* const pixels = static_cast<const uint8_t*>(masks.const_data_ptr());
  const float* const corners = static_cast<const float*>(boxes.const_data_ptr());
  const int64_t* const numbers = longs(instances);
  uint8_t* const targets = static_cast<uint8_t*>(output.mutable_data_ptr());
  if (output.numel() == 0) return;
  if (image_height * image_width == 0) {
    std::fill_n(targets, output.numel(), uint8_t(0));
    return;
  }
  share_out(output.size(0), 4, [&] {
    return [&, crop = BitmaskCrop(
                   static_cast<int>(image_height), static_cast<int>(image_width),
                   static_cast<int>(height), static_cast<int>(width))](int64_t r) mutable {
      uint8_t* target = targets + r * height * width;
      const float* box = corners + 4 * r;
      if (is_finite(box)) {
        crop.run(pixels + numbers[r] * image_height * image_width, box, target);
      } else {
        std::fill_n(target, height * width, uint8_t(0));
      }
    };
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mrcnn_ext, CPU, m) {
  m.impl("_polygon_mask_targets", TORCH_BOX(&polygon_mask_targets));
  m.impl("_bitmask_targets", TORCH_BOX(&bitmask_targets));
}

}  // namespace mrcnn_ext
