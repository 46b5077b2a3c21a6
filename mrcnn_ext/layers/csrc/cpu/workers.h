// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Threads and memory for the ops on the CPU.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mrcnn_ext {

/// Scratch memory without the zeroes that std::vector would write.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t size) {
    if (size > size_) {
      data_.reset(new T[static_cast<size_t>(size)]);
      size_ = size;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0;
};

/// Ask for huge pages for memory that is about to be written: a fresh allocation costs a page fault per
/// page, which for the gradient of a pyramid is as long as computing it.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) /
                        kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

inline void prefer_huge_pages(const torch::stable::Tensor& tensor) {
  prefer_huge_pages(
      tensor.mutable_data_ptr(),
      tensor.numel() * static_cast<int64_t>(tensor.element_size()));
}

/// Call make_worker()(i) for all i < count. Threads take `chunk` items at a time, whoever is free; each
/// has a worker of its own. Results must not depend on who does what.
template <class MakeWorker>
void share_out(int64_t count, int64_t chunk, const MakeWorker& make_worker) {
  if (count == 0) return;
  const int64_t num_chunks = (count + chunk - 1) / chunk;
  const int64_t num_threads =
      std::min<int64_t>(num_chunks, static_cast<int64_t>(torch::stable::get_num_threads()));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, num_threads, 1, [&](int64_t, int64_t) {
    auto worker = make_worker();
    for (int64_t begin = next.fetch_add(chunk); begin < count; begin = next.fetch_add(chunk)) {
      const int64_t end = std::min(begin + chunk, count);
      for (int64_t i = begin; i < end; ++i) worker(i);
    }
  });
}

}  // namespace mrcnn_ext
