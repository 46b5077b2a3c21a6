// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The loops of mask_kernels.h for one instruction set; the compiler makes vectors of them. These files
// are compiled with -ffp-contract=off: what is fused is written so.

namespace {

/// a * b + c, rounded once or twice.
template <bool kFused>
inline float multiply_add(float a, float b, float c) {
  if constexpr (kFused) {
    return __builtin_fmaf(a, b, c);
  } else {
    return a * b + c;
  }
}

template <bool kFused>
void sample_axis_as(
    const AxisGeometry& axis, int32_t* __restrict cell, float* __restrict first,
    float* __restrict second) {
  const float low = axis.low;
  const float size = axis.high - low;
  const float half_cells = float(axis.cells) / 2;
  const float last_cell = float(axis.cells - 1);
  for (int i = 0; i < axis.count; ++i) {
    const float centre = float(axis.begin + i) + 0.5f;
    // From the image to the box's -1 … 1 as Detectron2 does, from there to the mask as ATen does.
    const float relative = (centre - low) / size * 2 - 1;
    const float position = multiply_add<kFused>(relative + 1, half_cells, -0.5f);
    const float corner = __builtin_floorf(position);
    second[i] = position - corner;
    first[i] = 1 - second[i];
    const bool inside = corner >= -1 && corner <= last_cell;
    const int32_t index = int32_t(inside ? corner : float(kOutside));
    cell[i] = second[i] == second[i] ? index : kNowhere;
  }
}

void sample_axis(
    const AxisGeometry& axis, bool fused, int32_t* cell, float* first, float* second) {
  return fused ? sample_axis_as<true>(axis, cell, first, second)
               : sample_axis_as<false>(axis, cell, first, second);
}

float largest(const float* values, int64_t count) {
  // Without their sign, the bits of floats are in the order of their values, NaN last.
  int32_t bits = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t own;
    __builtin_memcpy(&own, values + i, sizeof(own));
    own &= 0x7fffffff;
    bits = own > bits ? own : bits;
  }
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

/// The loops over a block have 32-bit results throughout, for vectors of one width; then these are
/// narrowed.
inline void narrow(const int32_t* __restrict block, uint8_t* __restrict bytes) {
  for (int j = 0; j < kBlock; ++j) bytes[j] = uint8_t(block[j]);
}

void classify(
    const float* line, const float* next, int count, float low, float high,
    uint8_t* __restrict classes) {
  for (int i = 0; i < count; i += kBlock) {
    int32_t block[kBlock];
    for (int j = 0; j < kBlock; ++j) {
      const float a = line[i + j], b = line[i + j + 1], c = next[i + j], d = next[i + j + 1];
      const float min_line = a < b ? a : b, max_line = a < b ? b : a;
      const float min_next = c < d ? c : d, max_next = c < d ? d : c;
      const float min = min_line < min_next ? min_line : min_next;
      const float max = max_line < max_next ? max_next : max_line;
      const int32_t not_below = min >= high ? kAbove : kMixed;
      block[j] = max < low ? int32_t(kBelow) : not_below;
    }
    narrow(block, classes + i);
  }
}

template <bool kFused>
void compare_as(const Strip& strip, float threshold, uint8_t* __restrict reached) {
  const float* const c0 = strip.corner[0];
  const float* const c1 = strip.corner[1];
  const float* const c2 = strip.corner[2];
  const float* const c3 = strip.corner[3];
  const float* const a0 = strip.along[0];
  const float* const a1 = strip.along[1];
  const float* const a2 = strip.along[2];
  const float* const a3 = strip.along[3];
  const float b0 = strip.across[0], b1 = strip.across[1];
  const float b2 = strip.across[2], b3 = strip.across[3];
  for (int i = 0; i < strip.count; i += kBlock) {
    int32_t block[kBlock];
    for (int j = 0; j < kBlock; ++j) {
      const int k = i + j;
      float value = c0[k] * (a0[k] * b0);
      value = multiply_add<kFused>(c1[k], a1[k] * b1, value);
      value = multiply_add<kFused>(c2[k], a2[k] * b2, value);
      value = multiply_add<kFused>(c3[k], a3[k] * b3, value);
      block[j] = value >= threshold;
    }
    narrow(block, reached + i);
  }
}

void compare(const Strip& strip, float threshold, bool fused, uint8_t* reached) {
  return fused ? compare_as<true>(strip, threshold, reached)
               : compare_as<false>(strip, threshold, reached);
}

}  // namespace

MaskKernels mask_kernels() { return {sample_axis, largest, classify, compare}; }
