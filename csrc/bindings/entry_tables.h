// Steering arguments that are given once and named by a number from then on.
//
// A call that names four tensors costs more than its kernel where everything around it is cold: in
// an engine's compiled step each of them takes 2 us of reading what it is.
#pragma once

#include "bindings/stable_tensors.h"

namespace faststeer {

// Keeps the tensors under that number, in place of those that it had. Throws std::invalid_argument
// for tensors that no call could read.
void set_entry_table(int64_t table, const Tensor& vectors, const Tensor& index,
                     const Tensor& coefficient, const Tensor& modes);
void drop_entry_table(const Tensor& index, int64_t table);

// A call in place: `x` becomes the norm and `residual` the steered sum, each token by a line of the
// table's index. Throws std::invalid_argument for a table that is not there or has too few lines.
SteerNormArgs args_by_table(const Tensor& x, const Tensor& residual, const Tensor& weight,
                            double eps, double weight_offset, int64_t table);

}  // namespace faststeer
