// The two-byte storage types. Arithmetic is always float32, so these are bits and nothing more.
#pragma once

#include <stdint.h>

namespace faststeer {

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

}  // namespace faststeer
