// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Pasting masks on processors with AVX2 and FMA.
#include "mask_kernels.h"

#if defined(__x86_64__)

// Only what follows is compiled for this set, as in roi_align_avx2.cpp.
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace mrcnn_ext::avx2 {
#include "mask_kernels_impl.h"
}  // namespace mrcnn_ext::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
