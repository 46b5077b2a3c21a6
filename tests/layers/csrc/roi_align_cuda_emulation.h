// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of RoIAlign on a CPU: all blocks one after the other, of each block the phases,
// and of each phase the threads. What it cannot show is what only a GPU has: its own log2, how it
// contracts multiplications and additions, warps, and the launch itself.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "../../../mrcnn_ext/layers/csrc/cuda/roi_align_backward.cuh"
#include "../../../mrcnn_ext/layers/csrc/cuda/roi_align_forward.cuh"

namespace mrcnn_ext::emulation {

enum class Order { kAscending, kDescending, kShuffled };

/// Runs a phase for all threads of a block. The order must not matter: where it does, threads race.
class EmulatedThreads {
 public:
  EmulatedThreads(int count, Order order) : threads_(count), order_(order) {
    std::iota(threads_.begin(), threads_.end(), 0);
    if (order == Order::kDescending) std::reverse(threads_.begin(), threads_.end());
  }

  template <class Phase>
  void operator()(const Phase& phase) const {
    if (order_ == Order::kShuffled) std::shuffle(threads_.begin(), threads_.end(), generator_);
    for (int thread : threads_) phase(thread);
  }

 private:
  mutable std::vector<int> threads_;
  mutable std::mt19937 generator_;
  Order order_;
};

/// A block's shared memory: of the exact size, and of no defined content.
class SharedMemory {
 public:
  explicit SharedMemory(int64_t size)
      : size_(static_cast<size_t>(size)), data_(std::malloc(size_), &std::free) {}

  void* get() {
    std::memset(data_.get(), 0xff, size_);
    return data_.get();
  }

 private:
  size_t size_;
  std::unique_ptr<void, decltype(&std::free)> data_;
};

template <class Element, int kVector>
void run_forward(const Args& args, Order order) {
  const ForwardShape shape = make_forward_shape<accumulator_t<Element>>(args, kVector);
  const EmulatedThreads threads(shape.threads(), order);
  SharedMemory shared(shape.shared_bytes);
  for (int64_t block = 0; block < shape.blocks; ++block) {
    const ForwardBlock<Element, kVector> emulated(
        args, shape, static_cast<int>(block), shared.get());
    emulated.run(threads);
  }
}

template <class Element, int kVector>
void run_backward(Args& args, Order order) {
  using Block = BackwardBlock<Element, kVector>;
  const BackwardShape shape = make_backward_shape<accumulator_t<Element>>(args, kVector);
  const EmulatedThreads threads(kMaxThreads, order);
  SharedMemory shared(shape.shared_bytes);
  std::vector<typename Block::Row> rows(kMaxThreads);
  for (int64_t block = 0; block < shape.blocks; ++block) {
    const Block emulated(args, shape, static_cast<int>(block), shared.get());
    emulated.run(threads, [&](int thread) -> typename Block::Row& { return rows[thread]; });
  }
}

/// Runs the kernels; returns the size of the vectors that were used.
template <class Element>
int run(Args& args, bool backward, Order order) {
  using T = accumulator_t<Element>;
  constexpr int kForward = kForwardVector<Element>, kBackward = kBackwardVector<Element>;
  for (int i = 0; i < args.num_rois; ++i) place_roi<T>(args, i);
  const int vector = backward ? kBackward : kForward;
  const bool vectors = can_use_vectors(args, vector, sizeof(Element));
  if (backward) {
    vectors ? run_backward<Element, kBackward>(args, order) : run_backward<Element, 1>(args, order);
  } else {
    vectors ? run_forward<Element, kForward>(args, order) : run_forward<Element, 1>(args, order);
  }
  return vectors ? vector : 1;
}

}  // namespace mrcnn_ext::emulation
