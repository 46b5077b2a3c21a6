// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Random problems for the emulated CUDA kernels, in buffers of the exact size: to be built with
// AddressSanitizer and UndefinedBehaviorSanitizer, which report accesses out of range.
#include <cmath>
#include <cstdio>
#include <limits>

#include "roi_align_cuda_emulation.h"

namespace mrcnn_ext::emulation {
namespace {

class Draw {
 public:
  explicit Draw(unsigned seed) : generator_(seed) {}
  int64_t whole(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator_);
  }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[whole(0, static_cast<int64_t>(values.size()) - 1)];
  }
  double real(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(generator_);
  }

 private:
  std::mt19937 generator_;
};

double coordinate(Draw& draw) {
  switch (draw.whole(0, 19)) {
    case 0:
      return draw.one_of(
          {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()});
    case 1:
      return draw.real(-1e7, 1e7);
    case 2:
      return draw.one_of({-3e38, 3e38, 0.0, -4.0});
    case 3:
      return static_cast<double>(draw.whole(-8, 130));
    default:
      return draw.real(-30, 150);
  }
}

template <class Element, class R>
int64_t check(Draw& draw) {
  Args args = {};
  args.num_levels = draw.one_of({1, 2, 3, kMaxLevels});
  args.num_images = static_cast<int>(draw.whole(1, 2));
  args.channels = draw.one_of({1, 3, 4, 8, 33, 64, 130});
  args.num_rois = draw.one_of({0, 1, 5, 300});
  args.sampling_ratio = draw.one_of({0, 1, 2, 5});
  args.aligned = draw.whole(0, 1) == 1;
  args.canonical_box_size = draw.one_of({224.0, 32.0});
  args.canonical_level = 4;
  args.min_level = 2;
  args.bins_y = draw.one_of({1, 2, 7, 9, 14, 33});
  args.bins_x = draw.one_of({1, 3, 7, 14, 60});
  std::vector<std::unique_ptr<Element[]>> maps;
  for (int l = 0; l < args.num_levels; ++l) {
    Level& level = args.levels[l];
    level.height = static_cast<int>(draw.whole(0, 24));
    level.width = static_cast<int>(draw.whole(0, 24));
    level.scale = std::ldexp(1.0, -2 - l);
    maps.emplace_back(
        new Element[args.num_images * level.height * level.width * args.channels]());
    level.map = maps.back().get();
  }
  const std::unique_ptr<R[]> rois(new R[args.num_rois * 5]);
  const std::unique_ptr<int64_t[]> levels(new int64_t[args.num_rois]);
  for (int64_t r = 0; r < args.num_rois; ++r) {
    rois[5 * r] = static_cast<R>(draw.whole(-1, args.num_images));
    for (int i = 1; i < 5; ++i) rois[5 * r + i] = static_cast<R>(coordinate(draw));
    levels[r] = draw.whole(-1, args.num_levels);
  }
  args.rois = rois.get();
  args.rois_are_double = sizeof(R) == 8;
  args.given_levels = draw.whole(0, 1) ? levels.get() : nullptr;
  const std::unique_ptr<Element[]> pooled(
      new Element[args.num_rois * args.bins_y * args.bins_x * args.channels]());
  args.pooled = pooled.get();
  std::vector<PlacedRoi<accumulator_t<Element>>> placed(args.num_rois);
  args.placed = placed.data();
  run<Element>(args, false, static_cast<Order>(draw.whole(0, 2)));
  run<Element>(args, true, static_cast<Order>(draw.whole(0, 2)));
  return args.num_rois;
}

}  // namespace
}  // namespace mrcnn_ext::emulation

int main(int argc, char** argv) {
  using namespace mrcnn_ext;
  using emulation::check;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 10;
  emulation::Draw draw(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 0);
  int64_t rois = 0;
  for (int i = 0; i < rounds; ++i) {
    rois += check<float, float>(draw) + check<float, double>(draw) + check<double, double>(draw) +
            check<Half, float>(draw) + check<BFloat16, float>(draw);
  }
  std::printf("%lld RoIs without a report\n", static_cast<long long>(rois));
  return 0;
}
