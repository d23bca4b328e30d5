// Checks that the calls of several ops share; each throws std::invalid_argument.
#pragma once

#include "common/tensor_view.h"

namespace faststeer {

void require_on(const Device& device, const View& view);

// Returns R, the lines of `index`, which divide the tokens.
int64_t require_entries(const View& vectors, const View& index, const View& coefficient,
                        int64_t hidden, int64_t tokens);

}  // namespace faststeer
