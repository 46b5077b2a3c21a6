// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
// Pasting masks on any processor. Without an instruction for it, a fused product is a call of the C
// library: right, and slow.
#include "mask_kernels.h"

namespace mrcnn_ext::generic {
#include "mask_kernels_impl.h"
}  // namespace mrcnn_ext::generic
