#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

#define FASTSTEER_BACKWARD(isa) {backward_##isa, add_scaled_##isa, round_sums_##isa}

namespace faststeer {
namespace {

std::vector<Isa> supported() {
  std::vector<Isa> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    found.push_back({"avx512", steer_norm_avx512, moments_avx512, FASTSTEER_BACKWARD(avx512)});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    found.push_back({"avx2", steer_norm_avx2, moments_avx2, FASTSTEER_BACKWARD(avx2)});
  }
#endif
  found.push_back(
      {"portable", steer_norm_portable, moments_portable, FASTSTEER_BACKWARD(portable)});
  return found;
}

Isa choose() {
  const std::vector<Isa> found = supported();
  const char* wanted = std::getenv("FASTSTEER_ISA");
  if (wanted == nullptr || *wanted == '\0') return found.front();
  std::string names;
  for (const Isa& isa : found) {
    if (std::string(wanted) == isa.name) return isa;
    names += names.empty() ? isa.name : std::string(", ") + isa.name;
  }
  throw std::invalid_argument("FASTSTEER_ISA=" + std::string(wanted) +
                              " is not one that this build and processor have: " + names);
}

}  // namespace

const Isa& current_isa() {
  static const Isa isa = choose();
  return isa;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : supported()) names.push_back(isa.name);
  return names;
}

}  // namespace faststeer
