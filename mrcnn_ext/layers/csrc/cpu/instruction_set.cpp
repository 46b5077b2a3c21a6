// Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "roi_align_kernels.h"

namespace mrcnn_ext {
namespace {

bool processor_has(const std::string& name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (name == "avx2") return avx2;
  if (name == "avx512") {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  }
#endif
  return name == "generic";
}

InstructionSet make(const std::string& name) {
#if defined(__x86_64__)
  if (name == "avx512") return avx512::instruction_set();
  if (name == "avx2") return avx2::instruction_set();
#endif
  return generic::instruction_set();
}

InstructionSet choose() {
  const char* wanted = std::getenv("MRCNN_EXT_CPU_CAPABILITY");
  if (wanted != nullptr && *wanted != '\0') {
    const std::string name = wanted;
    if (name != "generic" && name != "avx2" && name != "avx512") {
      throw std::runtime_error(
          "MRCNN_EXT_CPU_CAPABILITY is '" + name + "'; it can be generic, avx2 or avx512.");
    }
    if (!processor_has(name)) {
      throw std::runtime_error(
          "MRCNN_EXT_CPU_CAPABILITY asks for " + name + ", which this processor does not have.");
    }
    return make(name);
  }
  for (const char* name : {"avx512", "avx2"}) {
    if (processor_has(name)) return make(name);
  }
  return make("generic");
}

}  // namespace

const InstructionSet& active_instruction_set() {
  static const InstructionSet active = choose();
  return active;
}

}  // namespace mrcnn_ext
